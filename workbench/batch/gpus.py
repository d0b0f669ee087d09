"""Give each of several processes on one machine a GPU of its own."""

import os
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from filelock import FileLock, Timeout


def visible() -> list[str]:
    """The GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(k) for k in range(torch.cuda.device_count())]


@contextmanager
def claim(devices: Sequence[str]) -> Generator[str, None, None]:
    """Set CUDA_VISIBLE_DEVICES to one of these GPUs that no other process claims; wait for one."""
    device, lock = _acquire(devices)
    with lock, patch.dict(os.environ, CUDA_VISIBLE_DEVICES=device):
        yield device


def _acquire(devices: Sequence[str]) -> tuple[str, Any]:
    """A GPU and its file lock, which the operating system frees when the process dies."""
    folder = Path(tempfile.gettempdir()) / f"semlib-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    is_said = False
    while True:
        for device in devices:
            with suppress(Timeout):
                lock = FileLock(folder / f"{device}.lock", fallback_to_soft=False)
                return device, lock.acquire(timeout=0)
        if not is_said:
            said = f"waiting for GPU {' or '.join(devices)}: other processes hold them"
            print(said, file=sys.stderr, flush=True)
            is_said = True
        time.sleep(0.2)
