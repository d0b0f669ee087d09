"""A network's scores of all test images, as a run keeps them."""

import copy
import inspect
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from semlib import datasets, metrics
from semlib.datasets import augmentation
from semlib.metrics import Features
from semlib.randomness import seeded
from workbench import own
from workbench.runs import plan
from workbench.runs.guard import ScoreError, guarded
from workbench.runs.plan import Run

# every record has it: learning curves show it, and it costs nothing
MSP = {"msp": {"score": "msp", "version": plan.VERSIONS["msp"]}}
FEW, MANY = (
    16,
    2000,
)  # images on which a user's functions are tried, and made-up features to fit a score to


def score(
    run: Run,
    net: torch.nn.Module,
    data: datasets.Dataset,
    split: datasets.Split,
    wanted: dict[str, dict],
    functions: dict[str, Callable],
    statistics: Iterable[str] = tuple(plan.STATISTICS),
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of scores.npz: of the functions, scored as `wanted` says, with these batch-norm
    statistics.

    And the scores that are left out because they failed, with the reason.
    """
    usable, broken = dict(functions), {}
    while True:
        try:
            return _arrays(run, net, data, split, wanted, usable, statistics), broken
        except ScoreError as error:
            broken[error.name] = str(error)
            del usable[error.name]


def _arrays(
    run: Run,
    net: torch.nn.Module,
    data: datasets.Dataset,
    split: datasets.Split,
    wanted: dict[str, dict],
    functions: dict[str, Callable],
    statistics: Iterable[str],
) -> dict[str, np.ndarray]:
    plain = {name: guarded(name, f) for name, f in functions.items() if not _is_fitted(f)}
    train, test = (
        augmentation.centre(part.images, run.experiment.crop_side)
        for part in (split.train, split.test)
    )
    arrays = {"label": data.test.labels.astype(np.int16), "is_anomaly": split.is_anomaly}
    for name in statistics:
        end = plan.STATISTICS[name]
        with metrics.upright(net, train) if name == "upright" else nullcontext():
            predicted, scores = metrics.score(net, test, plain, run.experiment.score_batch)
            if fitted := {
                name: function for name, function in functions.items() if name not in plain
            }:
                scores |= _fitted(
                    net, split.train.labels, train, test, fitted, run.experiment.score_batch
                )
        arrays[f"predicted{end}"] = split.kept[predicted].astype(np.int16)
        for score, values in scores.items():
            _check_numbers(score, values)
            arrays[f"{score}{end}"] = (
                ranks(values) if wanted[score].get("stored") == "ranks" else values
            )
    return arrays


def attempt(run: Run, net: torch.nn.Module, split: datasets.Split, name: str) -> None:
    """ScoreError if a user's score doesn't work: on a few test images, or fitted to made-up
    features of the training images.
    """
    function = own.function(name)
    images = augmentation.centre(
        split.test.images[:: max(1, len(split.test) // FEW)][:FEW], run.experiment.crop_side
    )
    if not _is_fitted(function):
        scores = {name: guarded(name, function)}
        _check_numbers(name, metrics.score(net, images, scores)[1][name])
        return
    of_test, rng = metrics.features(net, images), np.random.default_rng(0)
    each = max(
        MANY // len(split.classes), 8
    )  # of a class, so that covariances can be inverted as those of a whole data set
    chosen = np.concatenate(
        [np.flatnonzero(split.train.labels == k)[:each] for k in range(len(split.classes))]
    )
    shapes = ((len(chosen), part.shape[1]) for part in of_test)
    train = Features(*(np.abs(rng.standard_normal(shape)).astype(np.float32) for shape in shapes))
    _check_numbers(name, _fit(name, function, train, split.train.labels[chosen], net, of_test))


def _check_numbers(name: str, values: np.ndarray) -> None:
    """Infinite ones are numbers too: they have a rank."""
    if np.isnan(values).any():
        raise ScoreError(name, f"is NaN for {np.isnan(values).sum()} of {len(values)} test images")


def functions(wanted: dict[str, dict]) -> dict[str, Callable]:
    """The function of each score. They are taken when their sources are, before training: a file
    may be edited meanwhile.
    """
    return {name: _function(how) for name, how in wanted.items()}


def _function(how: dict[str, Any]) -> Callable:
    name = how["score"]
    if name in ("msp", "odin"):
        settings = {key: value for key, value in how.items() if key in ("temperature", "epsilon")}
        return partial(metrics.odin, **settings) if name == "odin" else metrics.max_softmax
    return partial(metrics.fit, name) if name in metrics.DETECTORS else own.function(name)


def _is_fitted(function: Callable) -> bool:
    """Whether a score is fitted on training features, or is one of the network, images or logits."""
    return "train" in inspect.signature(function).parameters


def _fitted(
    net: torch.nn.Module,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    fits: dict[str, Callable],
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Scores of the test images by detectors fitted on the training images: one pass over each for
    all of them.
    """
    of_train, of_test = (metrics.features(net, images, batch_size) for images in (train, test))
    return {name: _fit(name, fit, of_train, labels, net, of_test) for name, fit in fits.items()}


def _fit(
    name: str,
    fit: Callable,
    train: Features,
    labels: np.ndarray,
    net: torch.nn.Module,
    test: Features,
) -> np.ndarray:
    """The scores of the test images. A user's own function is given copies, as `metrics.score`
    does.
    """
    if not isinstance(fit, partial):
        train, test = (Features(*map(np.copy, part)) for part in (train, test))
        labels, net = labels.copy(), copy.deepcopy(net)
    try:
        with seeded(0, next(net.parameters()).device):
            values = np.array(fit(train=train, labels=labels, net=net)(test), np.float64)
    except Exception as error:  # a user's function can raise any
        raise ScoreError(name, error) from error
    if values.shape != (len(test.logits),):
        raise ScoreError(
            name, f"should be ({len(test.logits)},), one number an image, not {values.shape}"
        )
    return values


def ranks(values: np.ndarray) -> np.ndarray:
    """Dense ranks from 0, equal ones for equal values."""
    ranks = np.unique(values, return_inverse=True)[1]
    return ranks.astype(np.uint16 if ranks.max(initial=0) < 2**16 else np.uint32)


def measures(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy over normal test images and, if a class is held out, the average precision of each
    score.
    """
    label, is_anomaly, measures = arrays["label"], arrays["is_anomaly"], {}
    for name, values in arrays.items():
        kind, at, statistics = name.partition("@")
        if kind == "predicted":
            measures[f"accuracy{at}{statistics}"] = metrics.accuracy(label, values, is_anomaly)
        elif name not in ("label", "is_anomaly") and is_anomaly.any():
            measures[name] = metrics.average_precision(is_anomaly, values)
    return measures
