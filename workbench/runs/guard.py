"""Users' scores can do anything: here they are kept from changing the network and other scores."""

import inspect
from collections.abc import Callable, Container
from copy import deepcopy
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from semlib import metrics


class ScoreError(ValueError):
    """A score that can't be computed; `name` says which."""

    def __init__(self, name: str, what: object) -> None:
        colon = "" if isinstance(what, str) else ":"
        super().__init__(f"score {name}{colon} {failure(what)}")
        self.name = name


def failure(error: object) -> str:
    """What a user's function raised, or a sentence, in one line."""
    said = error if isinstance(error, str | ValueError) else f"{type(error).__name__}: {error}"
    return " ".join(str(said).split())[:500]


def guarded(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same score for `metrics.score`, which raises ScoreError if it fails.

    Also if it isn't one number an image. A user's function is given copies, of logits with a graph.
    """
    wanted = inspect.signature(function).parameters
    own = getattr(function, "func", function) not in (metrics.max_softmax, metrics.odin)
    # Logits tell the batch's length; those of copied images are computed anew by the network.
    asked = {*wanted, "logits"} | ({"net"} if {"images", "logits"} <= {*wanted} else set())

    @wraps(function)
    def guard(**given: Any) -> Tensor:
        shape = given["logits"].shape[:1]
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled()):  # which a function may change
                if own:
                    given = _copies(given, wanted)
                values = function(**{key: given[key] for key in given if key in wanted})
        except Exception as error:  # a user's function can raise any
            raise ScoreError(name, error) from error
        if not isinstance(values, Tensor):
            raise ScoreError(name, f"should be a tensor, not a {type(values).__name__}")
        if values.shape != shape:
            found = f"({shape[0]},), one number an image, not {tuple(values.shape)}"
            raise ScoreError(name, f"should be {found}")
        return values.clone()

    kind = inspect.Parameter.KEYWORD_ONLY
    names = sorted(asked & {"net", "images", "logits"})
    parameters = [inspect.Parameter(name, kind) for name in names]
    guard.__signature__ = inspect.Signature(parameters)  # ty: ignore[missing-attribute]
    return guard


def _copies(given: dict[str, Any], wanted: Container[str]) -> dict[str, Any]:
    net: Any = given.get("net")
    images = given.get("images")
    logits = given["logits"].clone()
    if "net" in wanted:
        net = deepcopy(net)
    if images is not None:
        images = images.detach().clone().requires_grad_(images.requires_grad)
        if "logits" in wanted:
            logits = net(images)
    return {"net": net, "images": images, "logits": logits}
