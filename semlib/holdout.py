"""Sec. 2: hold out a class, train on the others, measure how well it is detected."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from semlib import metrics, models
from semlib.auxiliary import Loss
from semlib.batches import pixel_statistics
from semlib.datasets import Dataset, Split, augmentation, hold_out
from semlib.randomness import seeded
from semlib.training import Recipe, train

SCORES: Mapping[str, Callable] = {"msp": metrics.max_softmax, "odin": metrics.odin}


@dataclass(frozen=True)
class Result:
    """A trained network and how well it detects the held-out class; measures are fractions."""

    net: nn.Module
    history: list[dict[str, float | None]]  # of each epoch: epoch, loss, auxiliary_loss
    scores: dict[str, np.ndarray]  # (N,) float64 of the test images, higher = more anomalous
    average_precision: dict[str, float]  # of each score; the anomaly is positive
    accuracy: float  # of the normal test images


def run(
    data: Dataset,
    anomaly: str | None,
    recipe: Recipe,
    loss: Loss | None = None,
    architecture: str | Callable[..., nn.Module] = "wrn-28-10",
    seed: int = 0,
    scores: Mapping[str, Callable] = SCORES,
    device: str = "cpu",
    **settings: Any,
) -> Result:
    """Train without the class `anomaly`, then score all test images.

    anomaly: None holds no class out (Table 2), and then there is no average precision.
    loss: the auxiliary loss; None: classification alone. scores: as of metrics.score.
    architecture and settings, such as dropout: see `network`.
    """
    split = hold_out(data, anomaly)
    net = network(split, architecture, loss, seed, recipe.crop_side, **settings)
    history = []
    for state in train(net, split.train, recipe, loss, seed=seed, device=device):
        losses = {"loss": state.loss, "auxiliary_loss": state.auxiliary_loss}
        history.append({"epoch": state.epoch, **losses})
    test = augmentation.centre(split.test.images, recipe.crop_side)
    predicted, found = metrics.score(net, test, scores)
    precision = {}
    if anomaly is not None:
        for name, values in found.items():
            precision[name] = metrics.average_precision(split.is_anomaly, values)
    accuracy = metrics.accuracy(split.test.labels, predicted, split.is_anomaly)
    return Result(net, history, found, precision, accuracy)


def network(
    split: Split,
    architecture: str | Callable[..., nn.Module],
    loss: Loss | None = None,
    seed: int = 0,
    crop_side: int | None = None,
    **settings: Any,
) -> nn.Module:
    """The untrained network of a split and a seed, with the heads that the loss names.

    architecture: a name and settings of `models.build`, or a function of the same arguments. The
    shared weights of named networks are the same for every loss.
    """
    build = partial(models.build, architecture) if isinstance(architecture, str) else architecture
    mean, std = pixel_statistics(split.train.images)
    shape = augmentation.centre(split.train.images, crop_side).shape[1:]
    heads = dict(getattr(loss, "heads", None) or {})
    given: dict[str, Any] = {"image_shape": shape, "heads": heads, "mean": mean, "std": std}
    with seeded(seed):
        return build(classes=len(split.classes), **given, **settings)
