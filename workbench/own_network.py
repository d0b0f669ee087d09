"""What a user's own network must be: a module with heads, features(images) and forward."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def check(net: Any, heads: Mapping[str, int], images: Tensor) -> None:
    """ValueError, one line, unless net has these heads and takes images (N, C, H, W) in [0, 1].

    heads: the number of outputs of each. features(images) should be (N, D), forward(images, head)
    (N, outputs), classification's without `head`.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"should return a torch.nn.Module, not a {type(net).__name__}")
    found = getattr(net, "heads", None)
    if not isinstance(found, nn.ModuleDict) or not set(heads) <= set(found):
        raise ValueError(f"its heads should be a torch.nn.ModuleDict with {', '.join(heads)}")
    if any(isinstance(weights, nn.UninitializedParameter) for weights in net.parameters()):
        raise ValueError("its parameters should have their shapes from the start: no Lazy modules")
    for training in (True, False):
        net.train(training)
        with torch.no_grad():
            _matrix("features(images)", net.features(images), len(images), "D")
            _matrix("forward(images)", net(images), len(images), heads["classification"])
            for name, outputs in heads.items():
                call = f"forward(images, head={name!r})"
                _matrix(call, net(images, head=name), len(images), outputs)


def _matrix(call: str, values: Tensor, rows: int, columns: int | str) -> None:
    shape = tuple(getattr(values, "shape", ()))
    if len(shape) != 2 or shape[0] != rows or columns not in ("D", shape[1]):
        raise ValueError(f"{call} should be ({rows}, {columns}), not {shape or values!r:.80}")
    if not values.is_floating_point() or not values.isfinite().all():
        raise ValueError(f"{call} should be finite floats")
