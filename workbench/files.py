"""Where files lie, and writing them whole or not at all."""

import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

RESULTS = "SEMLIB_RESULTS"  # the folder of tables and figures, for `run -o` and `make lab`
_above = Path(__file__).resolve().parents[1]
CHECKOUT = (_above / "pyproject.toml").exists()  # else installed: no notebooks/, params/, workflow/
# JupyterLab and Papermill start kernels in different folders, so paths in notebooks and parameter
# files count from the checkout.
ROOT = _above if CHECKOUT else Path.cwd()


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one counts from the checkout's root, ~ is the home folder."""
    # Path.expanduser raises where there is no such user
    return ROOT / os.path.expanduser(path)  # noqa: PTH111


def short(path: Path) -> str:
    """A path counted from the checkout's root: executed notebooks name no machine's folders."""
    path = path.absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def folder_name(path: str | Path) -> str:
    """birds for /data/birds, data for /data/birds/.., "" for /."""
    path = resolve(path)
    return path.name if path.name != ".." else path.resolve().name


def file_name(*words: str) -> str:
    """The words joined by -, as a short file name that differs for different words.

    If a character had to be changed or the name cut, it ends in a digest of the words.
    """
    text = "-".join(words)
    tidy = re.sub(r"[^\w.-]+", "_", text).encode()[:120].decode(errors="ignore")
    if tidy == text and not any("-" in word for word in words):
        return text
    return f"{tidy}-{hashlib.sha256(repr(words).encode(errors='surrogatepass')).hexdigest()[:8]}"


def one_line(error: object, most: int = 500) -> str:
    """An error's text on one line, in characters that any terminal can write."""
    return " ".join(str(error).split())[:most].encode(errors="backslashreplace").decode()


def fingerprint(path: Path) -> tuple[int, int, int, int] | None:
    """Size, times and inode: one of them changes when a file is edited or replaced."""
    with suppress(OSError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return None


def result(path: Path) -> Path:
    """Where a notebook's table or figure goes: beside the executed notebook, with `run -o` too."""
    folder = os.environ.get(RESULTS)
    return Path(folder) / path.name if folder else path


def check_writable(folder: Path, needed: int = 0) -> None:
    """Make the folder; OSError if it can't be written to or has less than `needed` bytes free."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    if needed > (free := shutil.disk_usage(folder).free):
        lack = f"{needed / 1e9:,.1f} GB are needed and {free / 1e9:,.1f} GB free"
        raise OSError(errno.ENOSPC, lack, str(folder))


def save_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file): afterwards path is whole or as before, however this process ends.

    The temporary file is .<name>-<machine>-<process>-<random>.part; an OSError names the path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    mine = f".{path.name}-{socket.gethostname()}-{os.getpid()}-"
    handle, part = tempfile.mkstemp(prefix=mine, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        with suppress(OSError):  # exFAT, CIFS
            Path(part).chmod(0o644)
        Path(part).replace(path)
    except Exception as error:
        # torch.save hides a full disk behind an error of its own
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno:
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise
    finally:
        Path(part).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes: of this machine's at once, of others' in a day.

    A container has another machine's name after each start.
    """
    here = re.escape(socket.gethostname())
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError, PermissionError):  # removed meanwhile, or another user's
            dead = time.time() - part.stat().st_mtime > 86400
            if mine := re.search(rf"-{here}-(\d+)-\w+\.part$", part.name):
                dead = not psutil.pid_exists(int(mine[1]))
            if dead:
                part.unlink()
