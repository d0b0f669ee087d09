"""Sec. 2: hold out a class, train on the others, score how well it is found in the test set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from semlib import metrics, models
from semlib.auxiliary import Loss
from semlib.datasets import Dataset, Split, augmentation, hold_out
from semlib.randomness import seeded
from semlib.training import Recipe, train

SCORES: Mapping[str, Callable] = {"msp": metrics.max_softmax, "odin": metrics.odin}


@dataclass(frozen=True)
class Result:
    """scores: (N,) float64 of the test images, higher = more anomalous; measures are fractions."""

    net: nn.Module
    history: list[dict[str, float]]
    scores: dict[str, np.ndarray]
    average_precision: dict[str, float]
    accuracy: float


def run(
    data: Dataset,
    anomaly: str,
    recipe: Recipe,
    loss: Loss | None = None,
    architecture: str | Callable[..., nn.Module] = "wrn-28-10",
    seed: int = 0,
    scores: Mapping[str, Callable] = SCORES,
    device: str = "cpu",
    **settings: Any,
) -> Result:
    """Train without the class `anomaly`, then find it among all test images (Eq. 4).

    loss: an auxiliary loss, (net, images) -> scalar. settings: of the network, such as dropout.
    """
    split = hold_out(data, anomaly)
    net = network(split, architecture, loss, seed, recipe.crop_side, **settings)
    history = []
    for state in train(net, split.train, recipe, loss, seed=seed, device=device):
        history.append({"epoch": state.epoch, "loss": state.loss})
    test = augmentation.centre(split.test.images, recipe.crop_side)
    predicted, found = metrics.score(net, test, scores)
    precision = {
        name: metrics.average_precision(split.is_anomaly, values) for name, values in found.items()
    }
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
    """The untrained network. The trunk's weights are the same for every loss of a seed."""
    build = partial(models.build, architecture) if isinstance(architecture, str) else architecture
    mean, std = pixel_statistics(split.train.images)
    shape = augmentation.centre(split.train.images[:1], crop_side).shape[1:]
    heads = dict(getattr(loss, "heads", None) or {})
    with seeded(seed):
        return build(
            classes=len(split.classes),
            image_shape=shape,
            heads=heads,
            mean=mean,
            std=std,
            **settings,
        )


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), in [0, 1]."""
    means, deviations = [], []
    values = np.arange(256) / 255
    for channel in images.swapaxes(0, 1):
        # from the histogram: exact, and without a float copy of the images
        parts = np.array_split(channel, 64)
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
        share = counts / channel.size
        mean = float(share @ values)
        means.append(mean)
        deviations.append(max(1e-3, float(np.sqrt(share @ values**2 - mean**2))))
    return means, deviations
