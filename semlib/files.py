"""Where files lie, and writing them whole or not at all."""

import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import psutil

_package = Path(__file__).resolve().parent
# Relative paths count from the checkout, not from the kernel's folder: Lab and Papermill start kernels in different ones.
ROOT = _package.parent if (_package.parent / "pyproject.toml").exists() else Path.cwd()


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one counts from the checkout's root, ~ is the home folder."""
    return ROOT / os.path.expanduser(path)  # noqa: PTH111 - Path's raises where there is no such user


def one_line(error: object) -> str:
    """An error's text as part of a message of one line."""
    return " ".join(str(error).split())[:500]


def short(path: Path) -> str:
    """A path as seen from the checkout's root: executed notebooks keep it, and should name no machine's folders."""
    path = path.absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def save_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) so that path holds the whole of it or is as before, however this process ends.

    OSError names the path. The temporary file is this process's own: .<name>-<machine>-<process>-<random>.part
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f".{path.name}-{socket.gethostname()}-{os.getpid()}-"
    handle, part = tempfile.mkstemp(prefix=mine, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except Exception as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save hides a full disk behind its own
        if isinstance(cause, OSError) and cause.errno:
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise
    finally:
        Path(part).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of save_atomically whose process was killed; those of other machines stay."""
    for part in folder.glob(".*.part"):
        owner = re.search(r"-(\d+)-\w+\.part$", part.name)
        if owner is None or (f"-{socket.gethostname()}-" in part.name and not _alive(int(owner[1]))):
            part.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
