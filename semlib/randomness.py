"""The global random generators of Python, NumPy and PyTorch, from which dropout and users' functions draw."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def state(device: torch.device) -> dict[str, Any]:
    """All that these generators will draw, of plain values and tensors."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "cpu_generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy_generator": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python_generator": random.getstate(),
    }


def set_state(state: dict[str, Any], device: torch.device) -> None:
    """Set them to what `state` said; a checkpoint of earlier days knows only PyTorch's."""
    torch.set_rng_state(state["cpu_generator"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_generator"], device)
    if "numpy_generator" in state:
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
