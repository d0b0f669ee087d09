"""A training's state on disk: written whole, and checked when it is read."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
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
    stamp: dict[str, Any]
    machine: dict[str, Any]

    def save(self, state: Mapping[str, Any]) -> None:
        whole = {"stamp": self.stamp, "machine": self.machine, **state}
        save_atomically(self.path, lambda file: torch.save(whole, file))

    def load(self) -> dict[str, Any] | None:
        """The state, if it can be read and has the same stamp; None if training begins anew."""
        if not self.path.exists():
            return None
        run = self.path.parent.name
        try:
            state = read(self.path)
            of_this_run = state["stamp"] == self.stamp
            reason = "was made by other settings or on other data"
        except (ValueError, KeyError, TypeError) as error:
            of_this_run = False
            reason = f"can't be read ({type(error.__cause__ or error).__name__})"
        if not of_this_run:
            tqdm.write(f"{self.path.name} in {run} {reason}; training begins anew")
            return None
        if (was := state["machine"]) != self.machine:
            now = f"goes on with {self.machine}, was begun with {was}"
            tqdm.write(f"{run} {now}: last digits may differ")
        return state


def read(path: Path) -> Any:
    """What torch.save wrote; ValueError if it is damaged, for torch.load compares no checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and zipfile raise many kinds
        raise ValueError(f"{path} can't be read ({one_line(error)})") from error
