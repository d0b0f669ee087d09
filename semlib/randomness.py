"""The global random generators of Python, NumPy and PyTorch, from which dropout and users' functions draw."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def state(device: torch.device) -> dict[str, Any]:
    """What these generators will draw next, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "cpu_generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy_generator": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python_generator": random.getstate(),
    }


def set_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["cpu_generator"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_generator"], device)
    kind, keys, *rest = state["numpy_generator"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python_generator"])


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Generator[None, None, None]:
    """All of them begin anew from the seed; afterwards they are as they were."""
    before = state(torch.device(device))
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield
    finally:
        set_state(before, torch.device(device))


@contextmanager
def continuing(drawn: dict[str, Any], device: torch.device) -> Generator[None, None, None]:
    """All of them go on from `drawn`, which is brought up to date; afterwards they are as they were."""
    before = state(device)
    try:
        set_state(drawn, device)
        yield
        drawn.update(state(device))
    finally:
        set_state(before, device)
