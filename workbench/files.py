"""Where files lie, and writing them whole or not at all."""

import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

_package = Path(__file__).resolve().parent
CHECKOUT = (
    _package.parent / "pyproject.toml"
).exists()  # else an installed package: no notebooks, params or workflow
# Relative paths count from the checkout, not from the kernel's folder: Lab and Papermill start
# kernels in different ones.
ROOT = _package.parent if CHECKOUT else Path.cwd()


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one counts from the checkout's root, ~ is the home folder."""
    return ROOT / os.path.expanduser(path)  # noqa: PTH111 - Path's raises where there is no such user


def from_here(path: str, new: bool = False) -> str:
    """A path on the command line: a relative one counts from the current folder, or from the root
    if it is there alone.

    new: one that is in neither place is to be made here; otherwise it stays as it is.
    """
    here = Path.cwd() / path
    if path.startswith("~") or not (here.exists() or (new and not (ROOT / path).exists())):
        return path
    return (
        short(here) if os.sep in short(here) else f".{os.sep}{short(here)}"
    )  # no name of a data set


def folder_name(path: str | Path) -> str:
    """What a folder is called: birds for /data/birds, data for /data/birds/..; "" for the root of
    all.
    """
    path = resolve(path)
    return path.name if path.name != ".." else path.resolve().name


def file_name(*words: str) -> str:
    """Words joined by - as a file's name: another one for other words, and short.

    Words of letters, digits, _ and . alone stay as they are; if any had to be changed or cut, a
    digest of all is at the end.
    """
    text = "-".join(words)
    tidy = re.sub(r"[^\w.-]+", "_", text).encode()[:120].decode(errors="ignore")
    if tidy == text and not any("-" in word for word in words):
        return text
    return f"{tidy}-{hashlib.sha256(repr(words).encode(errors='surrogatepass')).hexdigest()[:8]}"


def stamp(path: Path) -> tuple[int, int, int, int] | None:
    """Size, times and inode, unlike before if a file was edited or replaced (a copy may bring size
    and time along).

    None if it isn't there.
    """
    with suppress(OSError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return None


def check_writable(folder: Path, needed: int = 0) -> None:
    """Make the folder; OSError if no file can be written into it, or if less than `needed` bytes
    are free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(
            errno.ENOSPC,
            f"{needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB free",
            str(folder),
        )


def one_line(error: object, most: int = 500) -> str:
    """An error's text as part of a message of one line, of characters that can be written."""
    return " ".join(str(error).split())[:most].encode(errors="backslashreplace").decode()


def short(path: Path) -> str:
    """A path as seen from the checkout's root: executed notebooks keep it, and should name no
    machine's folders.
    """
    path = path.absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def save_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) so that path holds the whole of it or is as before, however this process
    ends.

    OSError names the path. The temporary file is this process's own:
    .<name>-<machine>-<process>-<random>.part
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
        cause = (
            error if isinstance(error, OSError) else error.__context__
        )  # torch.save hides a full disk behind its own
        if isinstance(cause, OSError) and cause.errno:
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise
    finally:
        Path(part).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of save_atomically whose process was killed; those of other
    machines stay.
    """
    for part in folder.glob(".*.part"):
        owner = re.search(r"-(\d+)-\w+\.part$", part.name)
        if owner is None or (
            f"-{socket.gethostname()}-" in part.name and not _alive(int(owner[1]))
        ):
            part.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
