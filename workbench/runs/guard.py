"""Users' scores can do anything: here they are kept from changing the network and other scores."""

import inspect
from collections.abc import Callable, Container
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from semlib import metrics
from workbench.files import one_line


class ScoreError(ValueError):
    """A score that can't be computed; `name` says which."""

    def __init__(self, name: str, what: object) -> None:
        colon = "" if isinstance(what, str) else ":"
        super().__init__(f"score {name}{colon} {failure(what)}")
        self.name = name


def failure(error: object) -> str:
    """What a user's function raised, or a sentence, in one line."""
    said = error if isinstance(error, str | ValueError) else f"{type(error).__name__}: {error}"
    return one_line(said)


def guarded(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same score for `metrics.score`, which raises ScoreError if it fails.

    Also if it isn't one number an image. A user's function is given copies, of logits with a graph.
    """
    wanted = inspect.signature(function).parameters
    is_users = getattr(function, "func", function) not in (metrics.max_softmax, metrics.odin)

    def compute(given: dict[str, Any]) -> Tensor:
        count = len(given["logits"])
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled()):  # which a function may change
                if is_users:
                    given = _copies(given, wanted)
                values = function(**{key: given[key] for key in given if key in wanted})
        except Exception as error:  # a user's function can raise any
            raise ScoreError(name, error) from error
        if not isinstance(values, Tensor):
            raise ScoreError(name, f"should be a tensor, not a {type(values).__name__}")
        check_shape(name, values.shape, count)
        return values.clone()

    def of_images(net: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
        return compute({"net": net, "images": images, "logits": logits})

    def of_logits(net: nn.Module, logits: Tensor) -> Tensor:
        return compute({"net": net, "logits": logits})

    return of_images if "images" in wanted else of_logits


def _copies(given: dict[str, Any], wanted: Container[str]) -> dict[str, Any]:
    copies = {"net": given["net"], "logits": given["logits"].clone()}
    if "net" in wanted:
        copies["net"] = deepcopy(given["net"])
    if "images" in given:
        images = given["images"]
        copies["images"] = images.detach().clone().requires_grad_(images.requires_grad)
        if "logits" in wanted:
            copies["logits"] = copies["net"](copies["images"])
    return copies


def check_shape(name: str, shape: tuple[int, ...], count: int) -> None:
    """ScoreError unless values of this shape are one number for each of `count` images."""
    if tuple(shape) != (count,):
        wanted = f"({count},), one number an image"
        raise ScoreError(name, f"should be {wanted}, not {tuple(shape)}")
