"""What is checked before images are decoded or trained on: class names, labels, memory."""

import unicodedata
from contextlib import suppress
from pathlib import Path

import psutil

from semlib.datasets import DataError, Dataset

RESERVED = ("all", "none", "", ".", "..")  # words of `hold_out`, and names that no folder can have


def class_name(name: str, where: object) -> str:
    """The name in Unicode's composed form (NFC). DataError if no class can be called that.

    A class's runs lie in a folder of its name.
    """
    composed = unicodedata.normalize("NFC", name)
    is_short = len(composed.encode(errors="replace")) <= 255
    is_plain = composed.isprintable() and composed == composed.strip() and "/" not in composed
    if composed in RESERVED or not is_plain or not is_short:
        raise DataError(
            f"{where}: {name!a} can't be a class's name, which is one line of printable text "
            "without / or outer spaces, and neither all nor none; rename it"
        )
    return composed


def check_parts(data: Dataset) -> None:
    """DataError if a class has no training image or no test image."""
    for which, part in (("training", data.train), ("test", data.test)):
        present = set(part.labels.tolist())
        absent = [name for k, name in enumerate(data.classes) if k not in present]
        if absent:
            raise DataError(f"{data.name} has no {which} image of {', '.join(absent)}")


def check_memory(needed: int, what: str) -> None:
    """DataError if fewer than `needed` bytes are free."""
    free = free_memory()
    if needed > free:
        sizes = f"{needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free"
        raise DataError(f"{what} take {sizes}")


def free_memory(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes free on this machine and in this process's control groups (version 2, as in Docker)."""
    free = [psutil.virtual_memory().available]
    with suppress(OSError):
        for line in of.read_text().splitlines():
            if line.startswith("0::/"):
                group = root / line.removeprefix("0::/")
                free += [_free_in(folder) for folder in (group, *group.parents)]
    return min(free)


def _free_in(group: Path) -> int | float:
    """Bytes below a control group's limit, where cached files count as free."""
    with suppress(OSError, ValueError):  # ValueError: the limit is "max"
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - used + int(held["active_file"]) + int(held["inactive_file"])
    return float("inf")
