"""A training's state on disk: written whole, checked when read, the one before it kept too."""

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from workbench.files import one_line, save_atomically


@dataclass(frozen=True)
class Checkpoint:
    """stamp: what is trained; a file with another one isn't loaded. machine: what only the last
    digits depend on; if a file has another one, `load` says so.
    """

    path: Path
    stamp: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, Path]:
        """The newest and the one before."""
        return self.path, self.path.with_suffix(f".before{self.path.suffix}")

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state. The last file is kept: the new one may turn out to be damaged."""
        whole = {"stamp": self.stamp, "machine": self.machine, **state}
        newest, before = self.files
        with suppress(FileNotFoundError):  # the first, or another process's where locks do nothing
            newest.replace(before)
        save_atomically(newest, lambda file: torch.save(whole, file))

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read and has the same stamp; None if there is none."""
        run = self.path.parent.name
        for file in filter(Path.exists, self.files):
            try:
                state = read(file)
                if state["stamp"] == self.stamp:
                    if (was := state["machine"]) != self.machine:
                        now = f"goes on with {self.machine}, was begun with {was}"
                        tqdm.write(f"{run} {now}: last digits may differ")
                    return state
                reason = "was made by other settings or on other data"
            except (ValueError, KeyError, TypeError) as error:
                reason = f"can't be read ({type(error.__cause__ or error).__name__})"
                if not isinstance(error.__cause__, OSError | MemoryError):
                    file.unlink()  # or the next save would keep it as the one before
            tqdm.write(f"{file.name} in {run} {reason}; training goes on from the last, or anew")
        return None

    def remove(self) -> None:
        for file in self.files:
            file.unlink(missing_ok=True)


def read(path: Path) -> Any:
    """What torch.save wrote; ValueError if it is damaged, for torch.load compares no checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and zipfile raise many kinds
        raise ValueError(f"{path} can't be read ({one_line(error)})") from error
