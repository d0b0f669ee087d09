"""A GPU of its own for each of several processes on one machine."""

import os
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE = 5.0  # seconds until it is said that all are taken


def visible() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(k) for k in range(torch.cuda.device_count())]


@contextmanager
def claim(devices: Sequence[str]) -> Generator[str, None, None]:
    """One of these GPUs for this process: the first that no other process of this user holds,
    waiting until one is free.

    It is named in CUDA_VISIBLE_DEVICES, for this process and those that it starts. Held by a file
    lock on this machine, which is freed when the process dies.
    """
    folder = Path(tempfile.gettempdir()) / f"semlib-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    locks = {
        device: FileLock(folder / f"{device}.lock", fallback_to_soft=False) for device in devices
    }
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    begun, told = time.monotonic(), False
    while not (held := next((device for device, lock in locks.items() if _taken(lock)), None)):
        time.sleep(0.2)
        if not told and time.monotonic() - begun > PATIENCE:
            print(
                f"waiting for GPU {' or '.join(devices)}: other processes hold them",
                file=sys.stderr,
                flush=True,
            )
            told = True
    os.environ["CUDA_VISIBLE_DEVICES"] = held
    try:
        yield held
    finally:
        locks[held].release()
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _taken(lock: FileLock) -> bool:
    with suppress(Timeout):
        lock.acquire(timeout=0)
    return lock.is_locked
