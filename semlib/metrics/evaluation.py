"""How networks are evaluated: in evaluation mode, in float32, with which batch-norm statistics."""

from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semlib.datasets import augmentation

UPRIGHT_BATCH = 256  # images


def as_floats(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (N, C, H, W) -> float32 in [0, 1], channels last, on the device."""
    return augmentation.to_float(torch.from_numpy(images).to(device))


@contextmanager
def evaluating(net: nn.Module) -> Generator[None, None, None]:
    """In evaluation mode and full float32; afterwards every module's mode is restored."""
    modes = [(module, module.training) for module in net.modules()]
    device = next(net.parameters()).device.type
    net.eval()
    try:
        with torch.autocast(device, enabled=False), full_float32():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def full_float32() -> Generator[None, None, None]:
    """No TF32 in matrix products and convolutions; afterwards the settings are restored."""
    cuda = torch.backends.cuda
    cudnn = torch.backends.cudnn
    places = (cuda.matmul, cudnn)
    name = "allow_tf32"
    full = False
    if hasattr(cudnn, "conv"):  # torch >= 2.9 doesn't allow the older settings beside its own
        places = (cuda.matmul, cudnn.conv, cudnn.rnn)
        name = "fp32_precision"
        full = "ieee"
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, full)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


@contextmanager
def upright(net: nn.Module, images: np.ndarray) -> Generator[nn.Module, None, None]:
    """The network with batch-norm statistics re-estimated on uint8 training images (N, C, H, W).

    Training mixes an auxiliary task's images (turned ones, say) into the running averages. Here
    each training image counts once, without dropout and augmentation; afterwards everything is
    restored. Statistics that no image reaches, such as CPC's own, stay.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms: list[Any] = [norm for norm in norms if norm.track_running_stats]
    before = [
        (deepcopy(norm.state_dict()), norm.momentum, getattr(norm, "norm_batch", None))
        for norm in norms
    ]
    device = next(net.parameters()).device
    # Each batch takes every k-th image: all are alike, even if images are sorted by class.
    batches = -(-len(images) // UPRIGHT_BATCH) if norms else 0
    try:
        with evaluating(net), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
                norm.momentum = None  # the mean over all batches
                norm.norm_batch = None  # each batch as a whole
            for k in range(batches):
                net(as_floats(images[k::batches], device))
        for norm, (state, _, _) in zip(norms, before, strict=True):
            if not norm.num_batches_tracked:
                norm.load_state_dict(state)
        yield net
    finally:
        for norm, (state, momentum, norm_batch) in zip(norms, before, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum
            norm.norm_batch = norm_batch
