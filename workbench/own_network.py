"""What a user's own network must be: a module with `heads`, `features(images)` and `forward(images,
head)`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def check(net: Any, heads: Mapping[str, int], images: Tensor) -> None:
    """ValueError, one line, unless net gives of float images (N, C, H, W) in [0, 1] features (N, D)
    and each head's outputs.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"should return a torch.nn.Module, not a {type(net).__name__}")
    found = getattr(net, "heads", None)
    if not isinstance(found, nn.ModuleDict) or not set(heads) <= set(found):
        raise ValueError(f"its heads should be a torch.nn.ModuleDict with {', '.join(heads)}")
    if any(
        isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in net.parameters()
    ):
        raise ValueError("its parameters should have their shapes from the start: no Lazy modules")
    for training in (True, False):
        net.train(training)
        with torch.no_grad():
            _one(net.features(images), "features(images)", (len(images), None))
            _one(net(images), "forward(images)", (len(images), heads["classification"]))
            for name, outputs in heads.items():
                _one(
                    net(images, head=name),
                    f"forward(images, head={name!r})",
                    (len(images), outputs),
                )


def _one(values: Tensor, what: str, shape: tuple[int, int | None]) -> None:
    found = tuple(getattr(values, "shape", ()))
    if len(found) != 2 or any(
        wanted not in (None, n) for n, wanted in zip(found, shape, strict=True)
    ):
        raise ValueError(
            f"{what} should be ({shape[0]}, {shape[1] or 'D'}), not {found or type(values).__name__}"
        )
    if not values.is_floating_point() or not values.isfinite().all():
        raise ValueError(f"{what} should be finite floats")
