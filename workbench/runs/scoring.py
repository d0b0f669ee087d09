"""A network's scores of all test images, as a run keeps them.

Users' scores can do anything: they are given copies, so that neither the network nor other scores
change, and what they raise becomes a ScoreError.
"""

import copy
import inspect
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semlib import metrics
from semlib.datasets import Dataset, augmentation
from semlib.metrics import Features
from semlib.randomness import seeded
from workbench import own
from workbench.files import one_line
from workbench.runs import plan
from workbench.runs.plan import Run, array_name

# Every record has it: learning curves show it, and it costs nothing
MSP = {"msp": {"score": "msp", "version": plan.VERSIONS["msp"]}}


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


def guarded(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same score for `metrics.score`: ScoreError if it fails or isn't one number an image."""
    wanted = inspect.signature(function).parameters

    def compute(**given: Any) -> Tensor:
        count = len(given["logits"])
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled()):  # which a function may change
                if ":" in name:
                    given = _copies(given, wanted)
                values = function(**{key: given[key] for key in given if key in wanted})
        except Exception as error:  # a user's function can raise any
            raise ScoreError(name, error) from error
        if not isinstance(values, Tensor):
            raise ScoreError(name, f"should be a tensor, not a {type(values).__name__}")
        _check_shape(name, values.shape, count)
        return values.clone()

    # metrics.score gives what the parameters name, and with images logits that have a graph
    given = ["net", "logits", *({"images"} & wanted.keys())]
    parameters = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in given]
    compute.__signature__ = inspect.Signature(parameters)  # ty: ignore[missing-attribute]
    return compute


def _copies(given: dict[str, Any], wanted: Container[str]) -> dict[str, Any]:
    copies = {"net": given["net"], "logits": given["logits"].clone()}
    if "net" in wanted:
        copies["net"] = copy.deepcopy(given["net"])
    if "images" in given:
        images = given["images"]
        copies["images"] = images.detach().clone().requires_grad_(images.requires_grad)
        if "logits" in wanted:
            copies["logits"] = copies["net"](copies["images"])
    return copies


def fit(
    name: str,
    function: Callable,
    train: Features,
    labels: np.ndarray,
    net: nn.Module,
    test: Features,
) -> np.ndarray:
    """Fit a score on training features; its values (N,) for the test images. ScoreError."""
    if ":" in name:
        train, labels, net, test = copy.deepcopy((train, labels, net, test))
    try:
        with seeded(0, next(net.parameters()).device):
            values = np.array(function(train=train, labels=labels, net=net)(test), np.float64)
    except Exception as error:  # a user's function can raise any
        raise ScoreError(name, error) from error
    _check_shape(name, values.shape, len(test.logits))
    return values


def _check_shape(name: str, shape: tuple[int, ...], count: int) -> None:
    if tuple(shape) != (count,):
        raise ScoreError(name, f"should be ({count},), one number an image, not {tuple(shape)}")


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
