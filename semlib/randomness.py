"""The global random generators of Python, NumPy and PyTorch, which dropout draws from."""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def state(device: str | torch.device) -> dict[str, Any]:
    """What decides the numbers that they draw next, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.device(device).type == "cuda"
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if cuda else None,
        "numpy": (kind, keys.tolist(), *rest),  # ty: ignore[missing-attribute]
        "python": random.getstate(),
    }


def set_state(state: dict[str, Any], device: str | torch.device) -> None:
    """Let them draw on from there."""
    torch.set_rng_state(state["cpu"])
    if torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Generator[None, None, None]:
    """All of them begin anew from the seed; afterwards they are as before."""
    before = state(device)
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield
    finally:
        set_state(before, device)


@contextmanager
def continuing(generators: dict[str, Any], device: str) -> Generator[None, None, None]:
    """All draw on from that state, which is kept up to date; afterwards they are as before."""
    with seeded(0, device):
        set_state(generators, device)
        yield
        generators.update(state(device))
