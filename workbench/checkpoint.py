"""A training's state on disk: written whole, of the same run on the same data, and the one before
it kept.
"""

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
    """stamp: what is trained; another one's is not used. machine: what last digits depend on;
    another one is only named.
    """

    path: Path
    stamp: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, Path]:
        """The newest and the one before."""
        return self.path, self.path.with_suffix(f".before{self.path.suffix}")

    def save(self, state: Mapping[str, Any]) -> None:
        """The checkpoint before is kept too: the newer may turn out to be damaged."""
        whole = {"stamp": self.stamp, "machine": self.machine, **state}
        newest, before = self.files
        with suppress(FileNotFoundError):  # the first, or another process's where locks do nothing
            newest.replace(before)
        save_atomically(newest, lambda file: torch.save(whole, file))

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read and is of the same run; None if there is none."""
        run = self.path.parent.name
        for file in filter(Path.exists, self.files):
            try:
                state = read(file)
                if state["stamp"] == self.stamp:
                    if state["machine"] != self.machine:
                        begun = f"was begun with {state['machine']}"
                        tqdm.write(
                            f"{run} goes on with {self.machine}, {begun}: last digits may differ"
                        )
                    return state
                reason = "was made by other settings or on other data"
            except (ValueError, KeyError, TypeError) as error:
                reason = f"can't be read ({type(error.__cause__ or error).__name__})"
                if not isinstance(error.__cause__, OSError | MemoryError):
                    file.unlink()  # or it would be kept as the one before
            tqdm.write(
                f"{file.name} in {run} {reason}; training goes on from the one before, or anew"
            )
        return None

    def remove(self) -> None:
        for file in self.files:
            file.unlink(missing_ok=True)


def read(path: Path) -> Any:
    """What torch.save wrote into a file; ValueError names one that is damaged. torch.load compares
    no checksum itself.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and zipfile raise many kinds
        raise ValueError(f"{path} can't be read ({one_line(error)})") from error
