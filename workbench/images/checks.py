"""What is checked before images are decoded or trained on: class names, labels, memory."""

import re
import unicodedata
from contextlib import suppress
from pathlib import Path

import psutil

from semlib.datasets import DataError, Dataset

# Words of `hold_out`, a row of tables, and names that no folder can have
RESERVED = ("all", "none", "average", "", ".", "..")


def class_name(name: str, where: object) -> str:
    """The name in Unicode's composed form (NFC). DataError unless a folder of runs can have it."""
    composed = unicodedata.normalize("NFC", name)
    is_plain = composed.isprintable() and composed == composed.strip() and "/" not in composed
    if composed.lower() in RESERVED or not is_plain or len(composed.encode()) > 255:
        raise DataError(
            f"{where}: {name!a} can't be a class's name, which is one line of printable text "
            "without / or outer spaces, and not all, none or average; rename it"
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
    """Bytes free on this machine and in this process's control groups; cached files are free."""
    free = [psutil.virtual_memory().available]
    mine = re.search("^0::/(.*)", of.read_text(), re.MULTILINE) if of.exists() else None
    for group in (root / mine[1], *(root / mine[1]).parents) if mine else ():
        with suppress(OSError, ValueError):  # ValueError: the limit is "max"
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            free.append(limit - used + int(held["active_file"]) + int(held["inactive_file"]))
    return min(free)
