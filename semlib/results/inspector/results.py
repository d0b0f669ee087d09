"""Curves, counts, confusions and images behind finished runs, each computed once: no drawing, no widgets.

Every score: higher = more anomalous. A threshold flags the images whose score is at least as high. Fractions, not percent,
but for the tables.
"""

import json
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from semlib import config, datasets
from semlib.config import Data, Experiment
from semlib.datasets import DataError, ImageSet
from semlib.results import tables
from semlib.results.names import average_row, label
from semlib.runs import plan
from semlib.runs.store import Record

# settings that only some methods have
OWN = {"auxiliary_weight", "auxiliary_augment", "mask_fill", "cpc_negatives", "cpc_augment"}
WHICH = ("hold_out", "method", "score")  # what a mean over trials is of
POINTS = 120  # drawn of a curve: a panel of ten is some 200 pixels wide


class Choice(NamedTuple):
    """What is looked at: held-out classes, methods, scores (as Results names them) and trials."""

    classes: tuple[str, ...]
    methods: tuple[str, ...]
    scores: tuple[str, ...]
    trials: tuple[int, ...]


class Point(NamedTuple):
    """What a threshold does. precision is NaN where nothing is flagged; missed: anomalies that are not flagged."""

    threshold: float
    precision: float
    recall: float
    flagged: int
    missed: int


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall at every threshold that differs.

    thresholds: every distinct score, highest first (T,). flagged, found: images and anomalies at or above it (T,).
    """

    thresholds: np.ndarray
    flagged: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, is_anomaly: np.ndarray, scores: np.ndarray) -> "Curve":
        """The curve of scores (N,) and is_anomaly, bool (N,). Equal scores are one threshold."""
        order = np.argsort(-scores)
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        return cls(ranked[last], last + 1, is_anomaly[order].cumsum()[last])

    def at(self, threshold: float) -> Point:
        k = np.searchsorted(-self.thresholds, -threshold, side="right")
        flagged, found = (int(counts[k - 1]) if k else 0 for counts in (self.flagged, self.found))
        anomalies = int(self.found[-1])
        return Point(threshold, found / flagged if flagged else math.nan, found / anomalies, flagged, anomalies - found)

    def threshold(self, share: float) -> float:
        """The highest threshold that flags at least this share of the images."""
        wanted = math.ceil(share * self.flagged[-1] - 1e-9)  # 0.07 * 100 is a little more than 7
        return float(self.thresholds[np.searchsorted(self.flagged, wanted)])

    def precision(self, found: np.ndarray) -> np.ndarray:
        """Precision at the highest threshold that finds so many anomalies: the steps whose area is Eq. 4."""
        k = np.searchsorted(self.found, found)
        return self.found[k] / self.flagged[k]


class Mean(NamedTuple):
    """A curve's mean over trials on a grid of recalls (P,), and its sample std; None for one trial."""

    recall: np.ndarray
    precision: np.ndarray
    std: np.ndarray | None

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """The band of one std around the mean."""
        return (self.precision - self.std).clip(0, 1), (self.precision + self.std).clip(0, 1)


def grouped(records: Iterable[Record], experiment: Experiment) -> dict[str, list[Record]]:
    """The records with a held-out class by table: one data set, one digest of it, one set of settings but a method's own.

    Imported scores stand in every table of their images. Runs on data that is here in another version say so, and come last.
    """
    groups = defaultdict(list)
    for record in sorted(records, key=lambda record: record.external is not None):  # semlib's own first
        if record.hold_out is not None:
            beside = [members for members in groups.values() if record.external and _images(members[0]) == _images(record)]
            for members in beside or [groups[record.dataset, _key(_shared(record))]]:
                members.append(record)
    titles, other = {}, {}
    for (dataset, _), members in groups.items():
        rivals = [_shared(others[0]) for (name, _), others in groups.items() if name == dataset]
        title, here = dataset + _apart(_shared(members[0]), rivals), data_here(members[0], experiment)
        if here in (None, members[0].data):
            titles[title] = members
        else:
            other[f"{title}, on other data ({members[0].data}) than is here ({here})"] = members
    return titles | other


def _shared(record: Record) -> dict[str, Any]:
    return {name: value for name, value in _settings(record).items() if name not in OWN} | {
        "data": str(record.data),
        "network": record.sources.get(record.settings.get("architecture")),
    }


def _images(record: Record) -> tuple:
    """What training and test images a run is of."""
    return record.dataset, record.data, {name: value for name, value in _settings(record).items() if name in Data.model_fields}


def _own(record: Record) -> dict[str, Any]:
    """What tells two runs of one method apart within a table."""
    own = {name: value for name, value in _settings(record).items() if name in OWN}
    return own | {"source": record.sources.get(record.method)}


def _settings(record: Record) -> dict[str, Any]:
    """A record's settings; one that is younger than the record is at its default."""
    return {name: field.default for name, field in Experiment.model_fields.items()} | record.settings


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _apart(settings: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> str:
    """What tells these settings from the others, " (epochs 10)"; empty if nothing does."""
    names = [name for name in settings if len({_key({name: other.get(name)}) for other in among}) > 1]
    return f" ({', '.join(f'{name} {settings[name]}' for name in names)})" if names else ""


class Results:
    """A table's runs by (held-out class, method, trial), with their scores in memory, of mixed or upright statistics.

    methods and scores are named as shown; where one was run with several settings of its own, those are in its name.
    """

    def __init__(self, records: Sequence[Record], statistics: str = "mixed"):
        self.statistics, self._end = statistics, plan.STATISTICS[statistics]
        self.runs, self.arrays, self._curves = {}, {}, {}
        names = _names(records, lambda record: record.method, _own)
        for record in sorted(records, key=lambda record: record.finished):
            try:
                arrays = record.scores()
            except ValueError as error:
                warnings.warn(f"not shown: {error}", stacklevel=2)
                continue
            key = (record.hold_out, names(record), record.trial)
            if key in self.runs:
                warnings.warn(f"not shown: {self.runs[key].home}, of which {record.home.name} is a newer run", stacklevel=2)
            self.runs[key], self.arrays[key] = record, arrays
        used = list(self.runs.values())
        self.dataset, self.known = (used[0].dataset, used[0].classes) if used else ("", ())
        self.classes = tuple(name for name in self.known if name in {hold_out for hold_out, _, _ in self.runs})
        self.base = {names(record): record.method for record in sorted(used, key=lambda r: (_order(r), names(r)))}
        self.trials = tuple(sorted({trial for _, _, trial in self.runs}))

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self.base)

    @cached_property
    def _scorings(self) -> dict[str, dict[str, Any]]:
        hows = list({_key(how): how for record in self.runs.values() for how in record.scoring.values()}.values())
        named = _names(hows, lambda how: how["score"], lambda how: how)
        return {named(how): how for how in hows}

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(self._scorings)

    def how(self, score: str) -> dict[str, Any]:
        return self._scorings[score]

    def values(self, hold_out: str, method: str, score: str, trial: int) -> np.ndarray | None:
        """The scores of all test images (N,), or None if there is no such run or it was not scored so."""
        record = self.runs.get((hold_out, method, trial))
        key = record and record.key(self.how(score))
        return self.arrays[hold_out, method, trial][key + self._end].astype(float) if key else None

    def predicted(self, hold_out: str, method: str, trial: int) -> np.ndarray:
        """The predicted class of all test images (N,), as a number of `known`."""
        return self.arrays[hold_out, method, trial][f"predicted{self._end}"]

    def curve(self, hold_out: str, method: str, score: str, trial: int) -> Curve | None:
        which = (hold_out, method, score, trial)
        if which not in self._curves:
            scores = self.values(*which)
            made = None if scores is None else Curve.of(self.arrays[hold_out, method, trial]["is_anomaly"], scores)
            self._curves[which] = made
        return self._curves[which]

    def curves(self, hold_out: str, method: str, score: str, trials: Sequence[int]) -> dict[int, Curve]:
        """The curves that there are, by trial."""
        return {trial: curve for trial in trials if (curve := self.curve(hold_out, method, score, trial)) is not None}

    def mean(self, hold_out: str, method: str, score: str, trials: Sequence[int]) -> Mean | None:
        """The mean curve of these trials at up to POINTS recalls; None where nothing was run."""
        curves = list(self.curves(hold_out, method, score, trials).values())
        if not curves:
            return None
        anomalies = curves[0].found[-1]
        found = np.unique(np.linspace(1, anomalies, POINTS).round().astype(int))  # (P,)
        precisions = np.stack([curve.precision(found) for curve in curves])  # (trials, P)
        std = precisions.std(0, ddof=1) if len(curves) > 1 else None
        return Mean(found / anomalies, precisions.mean(0), std)

    def skew(self, hold_out: str) -> float:
        """The share of anomalies among the test images: a guess's average precision."""
        return next(record.skew for key, record in self.runs.items() if key[0] == hold_out)

    @cached_property
    def paper(self) -> dict[str, dict[str, float]]:
        """The paper's table, a row a held-out class; empty if it has none."""
        settings = max((record.settings for record in self.runs.values()), key=len, default={})  # imported ones have few
        of = settings.get("architecture", ""), settings.get("train_per_class")
        return tables.paper(self.dataset, self.known, *of).to_dict("index")

    def published(self, hold_out: str, method: str, score: str) -> tuple[float, float]:
        """The paper's mean and std in percent, NaN where it has none or scored otherwise."""
        how, row = self.how(score), self.paper.get(hold_out, {})
        if any(how[name] != Experiment.model_fields[name].default for name in how if name in Experiment.model_fields):
            return math.nan, math.nan
        column = f"{self.base[method]}_{how['score']}"
        return row.get(column, math.nan), row.get(f"{column}_std", math.nan)

    def average_precision(self, hold_out: str, method: str, score: str, trials: Sequence[int]) -> tuple[float, float]:
        """Mean and sample std over trials of the recorded average precision, in percent."""
        values = pd.Series([self._recorded(hold_out, method, score, trial) for trial in trials], dtype=float)
        return values.mean(), values.std()

    def selection(self, choice: Choice, share: float) -> pd.DataFrame:
        """A row for each curve: its average precision (%) as recorded, and what the threshold of this share does."""
        rows = []
        for hold_out, method, score, trial, curve in self._each(choice):
            record = self.runs[hold_out, method, trial]
            which = dict(zip((*WHICH, "trial"), (hold_out, method, score, trial), strict=True))
            ap = {"average_precision": self._recorded(hold_out, method, score, trial), "skew": 100 * record.skew}
            paper = dict(zip(("paper", "paper_std"), self.published(hold_out, method, score), strict=True))
            point = curve.at(curve.threshold(share))._asdict() | {"anomalies": curve.found[-1]}
            rows.append(which | {"statistics": self.statistics} | ap | paper | point)
        return pd.DataFrame(rows)

    def _each(self, choice: Choice) -> Iterable[tuple[str, str, str, int, Curve]]:
        """Every chosen curve that there is."""
        for hold_out in choice.classes:
            for method in choice.methods:
                for score in choice.scores:
                    for trial, curve in self.curves(hold_out, method, score, choice.trials).items():
                        yield hold_out, method, score, trial, curve

    def average_precisions(self, choice: Choice) -> pd.DataFrame:
        """Percent by held-out class, then the average (within a trial first, over the trials that have all classes).

        Columns (score, method, statistic): mean, std, paper, paper_std, and, where it is chosen too, difference: to
        plain classification.
        """
        columns, average = {}, average_row(choice.classes)
        for score in choice.scores:
            for method in choice.methods:
                ap = pd.DataFrame(
                    {t: [self._recorded(c, method, score, t) for c in choice.classes] for t in choice.trials}, choice.classes
                )
                ap.loc[average] = ap.mean(skipna=False)
                columns[score, method, "mean"], columns[score, method, "std"] = ap.mean(axis=1), ap.std(axis=1, ddof=1)
                plain = next((name for name in choice.methods if self.base[name] == "classification"), None)
                if plain is not None and plain != method:
                    columns[score, method, "difference"] = columns[score, method, "mean"] - columns[score, plain, "mean"]
                whole = set(choice.classes) == set(self.known)
                paper = [self.published(c, method, score) if whole or c != average else (math.nan,) * 2 for c in ap.index]
                columns[score, method, "paper"], columns[score, method, "paper_std"] = zip(*paper, strict=True)
        return pd.DataFrame(columns, [*choice.classes, average]).dropna(axis=1, how="all")

    def _recorded(self, hold_out: str, method: str, score: str, trial: int) -> float:
        record = self.runs.get((hold_out, method, trial))
        key = record and record.key(self.how(score))
        return 100 * record.metrics[key + self._end] if key else math.nan

    def taken_for(self, hold_out: str, methods: Sequence[str], trials: Sequence[int]) -> pd.DataFrame:
        """Which known classes the held-out class's images are predicted as: shares that add up to 1 for each method.

        Rows: the known classes that any is taken for, the most frequent first; the mean over trials.
        """
        shares = {}
        for method in methods:
            there = [key for t in trials if (key := (hold_out, method, t)) in self.arrays]
            if there:
                predicted = np.concatenate([self.predicted(*key)[self.arrays[key]["is_anomaly"]] for key in there])
                shares[method] = np.bincount(predicted, minlength=len(self.known)) / len(predicted)
        table = pd.DataFrame(shares, self.known)
        table = table[table.sum(axis=1) > 0]
        return table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index]

    def ranked(self, hold_out: str, method: str, score: str, trial: int, share: float) -> dict[str, np.ndarray]:
        """Test images behind the threshold of this share: indices, those that say most first. The run has this score."""
        scores, curve = self.values(hold_out, method, score, trial), self.curve(hold_out, method, score, trial)
        assert scores is not None and curve is not None
        is_anomaly = self.arrays[hold_out, method, trial]["is_anomaly"]
        flagged = scores >= curve.threshold(share)
        rising = np.argsort(scores, kind="stable")
        return {
            "Anomalies missed": rising[(is_anomaly & ~flagged)[rising]],
            "Normal images flagged": rising[(~is_anomaly & flagged)[rising]][::-1],
            "Most anomalous": rising[::-1],
            "Least anomalous": rising,
        }


def _names(items: Sequence[Any], base: Callable[[Any], str], settings: Callable[[Any], dict]) -> Callable[[Any], str]:
    """How each item is shown: its base's label, and the settings in which items of that base differ."""
    among = defaultdict(list)
    for item in items:
        among[base(item)].append(settings(item))
    return lambda item: label(base(item), among) + _apart(settings(item), among[base(item)])


def _order(record: Record) -> int:
    return config.METHODS.index(record.method) if record.method in config.METHODS else len(config.METHODS)


def _source(record: Record, experiment: Experiment) -> tuple:
    """How `datasets.load` is to be asked for the data of a record."""
    name, settings = experiment.dataset if experiment.dataset_name == record.dataset else record.dataset, record.settings
    validation = settings.get("evaluate_on") == "validation"
    return name, experiment.data_root, settings.get("image_side"), settings.get("fold"), validation


def data_here(record: Record, experiment: Experiment) -> datasets.Digests | None:
    """The digests that the record's data set has on this machine now; None if it isn't here."""
    try:
        return datasets.digests(*_source(record, experiment))
    except (DataError, OSError):
        return None


def images_of(record: Record, experiment: Experiment) -> ImageSet | str:
    """The images that the record's scores are of, or a sentence that says what is absent. Downloads nothing."""
    source = _source(record, experiment)
    if not datasets.prepared(*source[:3]):
        return f"The data set {record.dataset} is not prepared here, so its images can't be shown; everything else works."
    try:
        data = datasets.load(*source)
    except DataError as error:
        return f"The images can't be shown: {error}"
    if data.digests.test != record.test_digest:
        return f"The images of {record.dataset} that are here are not those that were scored, so they are not shown."
    return data.test
