"""A network's scores of all test images, as a run keeps them."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from semlib import metrics
from semlib.datasets import Dataset, augmentation
from semlib.metrics import Features
from semlib.randomness import seeded
from workbench import own
from workbench.runs import plan
from workbench.runs.guard import ScoreError, check_shape, guarded
from workbench.runs.plan import Run, array_name

# Every record has it: learning curves show it, and it costs nothing
MSP = {"msp": {"score": "msp", "version": plan.VERSIONS["msp"]}}


class Scorer:
    """Computes a run's scores. One that fails is left out from then on: `failed` says why.

    scores: how each is computed, by name. The user's functions are taken when the Scorer is made,
    like the digests of their sources: their files may be edited while the run trains.
    """

    def __init__(self, run: Run, data: Dataset, scores: Mapping):
        self.data = data
        self.split = run.split(data)
        self.scores = dict(scores)
        self.crop_side = run.experiment.crop_side
        self.batch = run.experiment.score_batch
        self.keys = {name: plan.score_key(how) for name, how in scores.items()}
        self.functions = {name: function(how) for name, how in scores.items()}
        self.failed: dict[str, str] = {}
        self.arrays: dict[str, np.ndarray] = {}

    @property
    def scored(self) -> dict[str, dict[str, Any]]:
        """`scoring` of the record: how each score that did not fail is computed, by its key."""
        return {self.keys[name]: self.scores[name] for name in self.functions}

    def check(self) -> None:
        """FloatingPointError if a score failed."""
        if self.failed:
            raise FloatingPointError("; ".join(self.failed.values()))

    def score(
        self, net: nn.Module, statistics: Iterable[str] = tuple(plan.STATISTICS), only: str = ""
    ) -> dict[str, float]:
        """Score the test images with these batch-norm statistics, or compute one score only.

        The measures; `arrays` then holds what belongs into scores.npz. FloatingPointError for MSP.
        """
        while True:
            names = [name for name in self.functions if only in ("", name)]
            try:
                self.arrays = self._arrays(net, statistics, names)
                return measures(self.arrays)
            except ScoreError as error:
                self.failed[error.name] = str(error)
                del self.functions[error.name]
                if error.name == "msp":
                    raise FloatingPointError(str(error)) from None

    def _arrays(self, net: nn.Module, statistics: Iterable[str], names: list[str]) -> dict:
        arrays = {"label": self.data.test.labels.astype(np.int16)}
        arrays["is_anomaly"] = self.split.is_anomaly
        train = augmentation.centre(self.split.train.images, self.crop_side)
        for which in statistics:
            with metrics.upright(net, train) if which == "upright" else nullcontext():
                predicted, scores = self._scores(net, train, names)
            arrays[array_name("predicted", which)] = self.split.kept[predicted].astype(np.int16)
            for name in names:
                check_numbers(name, scores[name])
                stored = self.scores[name].get("stored")
                values = ranks(scores[name]) if stored == "ranks" else scores[name]
                arrays[array_name(self.keys[name], which)] = values
        return arrays

    def _scores(self, net: nn.Module, train: np.ndarray, names: list[str]) -> tuple:
        """Predicted classes (N,) of the test images, and their scores (N,) by name."""
        test = augmentation.centre(self.split.test.images, self.crop_side)
        fitted = [name for name in names if is_fitted(self.functions[name])]
        plain = {name: guarded(name, self.functions[name]) for name in names if name not in fitted}
        predicted, scores = metrics.score(net, test, plain, self.batch)
        if fitted:  # one pass over the training and one over the test images serves all of them
            of_train, of_test = (metrics.features(net, x, self.batch) for x in (train, test))
            labels = self.split.train.labels
            for name in fitted:
                scores[name] = fit(name, self.functions[name], of_train, labels, net, of_test)
        return predicted, scores


def function(how: Mapping[str, Any]) -> Callable:
    """The function of a score with its settings."""
    name = how["score"]
    if name == "msp":
        return metrics.max_softmax
    if name == "odin":
        return partial(metrics.odin, temperature=how["temperature"], epsilon=how["epsilon"])
    return partial(metrics.fit, name) if name in metrics.DETECTORS else own.function(name)


def is_fitted(function: Callable) -> bool:
    """Whether a score is fitted on training features, or computed of net, images or logits."""
    return "train" in inspect.signature(function).parameters


def fit(
    name: str,
    function: Callable,
    train: Features,
    labels: np.ndarray,
    net: nn.Module,
    test: Features,
) -> np.ndarray:
    """Fit a score on training features; its values (N,) for the test images. ScoreError."""
    if not isinstance(function, partial):  # a user's function gets copies, as from metrics.score
        train, test = (Features(*map(np.copy, part)) for part in (train, test))
        labels = labels.copy()
        net = copy.deepcopy(net)
    try:
        with seeded(0, next(net.parameters()).device):
            values = np.array(function(train=train, labels=labels, net=net)(test), np.float64)
    except Exception as error:  # a user's function can raise any
        raise ScoreError(name, error) from error
    check_shape(name, values.shape, len(test.logits))
    return values


def check_numbers(name: str, values: np.ndarray) -> None:
    """ScoreError for NaN; infinite ones have a rank."""
    if np.isnan(values).any():
        raise ScoreError(name, f"is NaN for {np.isnan(values).sum()} of {len(values)} test images")


def ranks(values: np.ndarray) -> np.ndarray:
    """Dense ranks from 0, equal ones for equal values."""
    ranks = np.unique(values, return_inverse=True)[1]
    return ranks.astype(np.uint16 if ranks.max(initial=0) < 2**16 else np.uint32)


def measures(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Accuracy over normal test images; if a class is held out, each score's average precision."""
    label = arrays["label"]
    is_anomaly = arrays["is_anomaly"]
    measures = {}
    for name, values in arrays.items():
        key, statistics = plan.key_and_statistics(name)
        if key == "predicted":
            accuracy = metrics.accuracy(label, values, is_anomaly)
            measures[array_name("accuracy", statistics)] = accuracy
        elif key not in ("label", "is_anomaly") and is_anomaly.any():
            measures[name] = metrics.average_precision(is_anomaly, values)
    return measures
