"""A network's scores of all test images, as a run keeps them."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from semlib import datasets, metrics, user_code
from semlib.datasets import augmentation
from semlib.files import one_line
from semlib.runs import plan
from semlib.runs.plan import Run

# every record has it: learning curves show it, and it costs nothing
MSP = {"msp": {"score": "msp", "version": plan.VERSIONS["msp"]}}


def score(
    run: Run,
    net: torch.nn.Module,
    data: datasets.Dataset,
    split: datasets.Split,
    wanted: dict[str, dict],
    functions: dict[str, Callable],
    statistics: Iterable[str] = tuple(plan.STATISTICS),
) -> dict[str, np.ndarray]:
    """The arrays of scores.npz: of the functions, scored as `wanted` says, with these batch-norm statistics."""
    plain = {name: function for name, function in functions.items() if not _is_fitted(function)}
    train, test = (augmentation.centre(part.images, run.experiment.crop_side) for part in (split.train, split.test))
    arrays = {"label": data.test.labels.astype(np.int16), "is_anomaly": split.is_anomaly}
    for name in statistics:
        end = plan.STATISTICS[name]
        with metrics.upright(net, train) if name == "upright" else nullcontext():
            predicted, scores = metrics.score(net, test, plain, run.experiment.score_batch)
            if fitted := {name: function for name, function in functions.items() if name not in plain}:
                scores |= _fitted(net, split.train.labels, train, test, fitted, run.experiment.score_batch)
        arrays[f"predicted{end}"] = split.kept[predicted].astype(np.int16)
        for score, values in scores.items():
            if np.isnan(values).any():
                raise FloatingPointError(f"score {score} is NaN for {np.isnan(values).sum()} of {len(values)} test images")
            arrays[f"{score}{end}"] = _ranks(values) if wanted[score].get("stored") == "ranks" else values
    return arrays


def functions(wanted: dict[str, dict]) -> dict[str, Callable]:
    """The function of each score. They are taken when their sources are, before training: a file may be edited meanwhile."""
    return {name: _function(how) for name, how in wanted.items()}


def _function(how: dict[str, Any]) -> Callable:
    name = how["score"]
    if name in ("msp", "odin"):
        settings = {key: value for key, value in how.items() if key in ("temperature", "epsilon")}
        return partial(metrics.odin, **settings) if name == "odin" else metrics.max_softmax
    return partial(metrics.fit, name) if name in metrics.DETECTORS else user_code.function(name)


def _is_fitted(function: Callable) -> bool:
    """Whether a score is fitted on training features, or is one of the network, images or logits."""
    return "train" in inspect.signature(function).parameters


def _fitted(
    net: torch.nn.Module, labels: np.ndarray, train: np.ndarray, test: np.ndarray, fits: dict[str, Callable], batch_size: int
) -> dict[str, np.ndarray]:
    """Scores of the test images by detectors fitted on the training images: one pass over each for all of them."""
    of_train, of_test = (metrics.features(net, images, batch_size) for images in (train, test))
    scores = {}
    for name, fit in fits.items():
        try:
            scores[name] = np.asarray(fit(train=of_train, labels=labels, net=net)(of_test), np.float64)
        except ValueError as error:
            raise FloatingPointError(f"score {name}: {one_line(error)}") from error
        if scores[name].shape != (len(test),):
            raise FloatingPointError(f"score {name} should be ({len(test)},), one number an image, not {scores[name].shape}")
    return scores


def _ranks(values: np.ndarray) -> np.ndarray:
    """Dense ranks from 0, equal ones for equal values."""
    ranks = np.unique(values, return_inverse=True)[1]
    return ranks.astype(np.uint16 if ranks.max(initial=0) < 2**16 else np.uint32)


def measures(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy over normal test images and, if a class is held out, the average precision of each score."""
    label, is_anomaly, measures = arrays["label"], arrays["is_anomaly"], {}
    for name, values in arrays.items():
        kind, at, statistics = name.partition("@")
        if kind == "predicted":
            measures[f"accuracy{at}{statistics}"] = metrics.accuracy(label, values, is_anomaly)
        elif name not in ("label", "is_anomaly") and is_anomaly.any():
            measures[name] = metrics.average_precision(is_anomaly, values)
    return measures
