"""Curves, counts, confusions and images behind finished runs: no drawing, no widgets. Fractions; only tables are in percent."""

import itertools
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from semlib import config, datasets
from semlib.config import Data, Experiment
from semlib.datasets import DataError, ImageSet
from semlib.results import stats, tables
from semlib.results.curves import Curve
from semlib.results.names import average_row, label
from semlib.runs import plan
from semlib.runs.store import Record

# settings that only some methods have
OWN = {"auxiliary_weight", "auxiliary_augment", "mask_fill", "cpc_negatives", "cpc_augment"}
WHICH = ("hold_out", "method", "score")  # what a mean over trials is of
MEASURES = ("average_precision", "auroc", "fpr95")
POINTS = 120  # drawn of a curve: a panel of ten is some 200 pixels wide


class Choice(NamedTuple):
    """What is looked at: held-out classes, methods, scores (as Results names them) and trials."""

    classes: tuple[str, ...]
    methods: tuple[str, ...]
    scores: tuple[str, ...]
    trials: tuple[int, ...]


class Mean(NamedTuple):
    """A curve's mean over trials on a grid of recalls (P,), its sample std (NaN for one trial), and its trials' steps."""

    recall: np.ndarray
    precision: np.ndarray
    std: np.ndarray
    trials: dict[int, pd.DataFrame]


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


def overview(tables: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """A row for each table: what has run, and the settings in which the tables differ."""
    counted, rows = ("hold_out", "method", "trial"), {}
    for title, records in tables.items():
        settings = {name: str(_shared(records[0]).get(name)) for name in (*records[0].settings, "data")}
        has = {f"{of}s": len({getattr(record, of) for record in records}) for of in counted}
        rows[title] = {"runs": len(records)} | has | settings
    table = pd.DataFrame.from_dict(rows, "index")
    table = table[[name for k, name in enumerate(table) if k < 4 or table[name].nunique(dropna=False) > 1]]
    if any(imported := [sum(record.external is not None for record in records) for records in tables.values()]):
        table.insert(1, "trained elsewhere", imported)
    return table


class Results:
    """A table's runs by (held-out class, method, trial), with their scores in memory, of mixed or upright statistics.

    methods and scores are named as shown; where one was run with several settings of its own, those are in its name.
    beside: another table of the same classes to compare with, whose methods have its title in their names.
    """

    def __init__(self, records: Sequence[Record], statistics: str = "mixed", beside: Sequence[Record] = (), title: str = ""):
        self.statistics, self._end = statistics, plan.STATISTICS[statistics]
        self.runs, self.arrays, self._curves, self._rankings, self._tables = {}, {}, {}, {}, {}
        every, others = [*records, *beside], {record.home for record in beside}
        named = _names(every, lambda record: record.method, _own)
        names = {record.home: named(record) + (f" [{title}]" if record.home in others else "") for record in every}
        for record in sorted(every, key=lambda record: record.finished):
            try:
                arrays = record.scores()
            except ValueError as error:
                warnings.warn(f"not shown: {error}", stacklevel=2)
                continue
            key = (record.hold_out, names[record.home], record.trial)
            if key in self.runs:
                warnings.warn(f"not shown: {self.runs[key].home}, of which {record.home.name} is a newer run", stacklevel=2)
            self.runs[key], self.arrays[key] = record, arrays
        used = list(self.runs.values())
        self.dataset, self.known = (used[0].dataset, used[0].classes) if used else ("", ())
        self.classes = tuple(name for name in self.known if name in {hold_out for hold_out, _, _ in self.runs})
        used.sort(key=lambda record: (record.home in others, _order(record), names[record.home]))
        self._first = {names[record.home]: record for record in reversed(used)}
        self.methods = tuple(dict.fromkeys(names[record.home] for record in used))
        self.trials = tuple(sorted({trial for _, _, trial in self.runs}))
        hows = list({_key(how): how for record in self.runs.values() for how in record.scoring.values()}.values())
        score = _names(hows, lambda how: how["score"], lambda how: how)
        self._scorings = {score(how): how for how in hows}
        self.scores = tuple(self._scorings)

    def _column(self, hold_out: str, method: str, score: str, trial: int) -> str | None:
        """Under which name the record has this score; None if there is no such run or it was not scored so."""
        record = self.runs.get((hold_out, method, trial))
        key = record and record.key(self._scorings[score])
        return key and key + self._end

    def values(self, hold_out: str, method: str, score: str, trial: int) -> np.ndarray | None:
        """The scores of all test images (N,), None if they are not there."""
        column = self._column(hold_out, method, score, trial)
        return self.arrays[hold_out, method, trial][column].astype(float) if column else None

    def predicted(self, hold_out: str, method: str, trial: int) -> np.ndarray:
        """The predicted class of all test images (N,), as a number of `known`."""
        return self.arrays[hold_out, method, trial][f"predicted{self._end}"]

    def is_anomaly(self, hold_out: str, method: str, trial: int) -> np.ndarray:
        """Of all test images, bool (N,)."""
        return self.arrays[hold_out, method, trial]["is_anomaly"]

    def curve(self, hold_out: str, method: str, score: str, trial: int) -> Curve | None:
        which = (hold_out, method, score, trial)
        if which not in self._curves:
            scores = self.values(*which)
            self._curves[which] = None if scores is None else Curve.of(self.is_anomaly(hold_out, method, trial), scores)
        return self._curves[which]

    def curves(self, hold_out: str, method: str, score: str, trials: Sequence[int]) -> dict[int, Curve]:
        """The curves that there are, by trial."""
        return {trial: curve for trial in trials if (curve := self.curve(hold_out, method, score, trial)) is not None}

    def mean(self, hold_out: str, method: str, score: str, trials: Sequence[int]) -> Mean | None:
        """The mean curve of these trials at up to POINTS recalls; None where nothing was run."""
        curves = self.curves(hold_out, method, score, trials)
        if not curves:
            return None
        anomalies = next(iter(curves.values())).found[-1]
        found = np.unique(np.linspace(1, anomalies, POINTS).round().astype(int))  # (P,)
        steps = {trial: curve.steps(found) for trial, curve in curves.items()}
        precisions = pd.DataFrame({trial: points.precision for trial, points in steps.items()})  # (P, trials)
        return Mean(found / anomalies, precisions.mean(axis=1).to_numpy(), precisions.std(axis=1).to_numpy(), steps)

    def skew(self, hold_out: str) -> float:
        """The share of anomalies among the test images: a guess's average precision."""
        return next(record.skew for key, record in self.runs.items() if key[0] == hold_out)

    @cached_property
    def _papers(self) -> dict[str, dict[str, dict[str, float]]]:
        """For each method the paper's table for its settings, a row a held-out class; empty if it has none."""
        of = {name: record.settings for name, record in self._first.items()}
        how = {name: (settings.get("architecture", ""), settings.get("train_per_class")) for name, settings in of.items()}
        return {name: tables.paper(self.dataset, self.known, *which).to_dict("index") for name, which in how.items()}

    def published(self, hold_out: str, method: str, score: str) -> tuple[float, float]:
        """The paper's mean and std in percent, NaN where it has none or scored otherwise."""
        how, row = self._scorings[score], self._papers[method].get(hold_out, {})
        if any(how[name] != Experiment.model_fields[name].default for name in how if name in Experiment.model_fields):
            return math.nan, math.nan
        column = f"{self._first[method].method}_{how['score']}"
        return row.get(column, math.nan), row.get(f"{column}_std", math.nan)

    def selection(self, choice: Choice, share: float) -> pd.DataFrame:
        """A row for each curve: its average precision (%) as recorded, and what the threshold of this share does."""
        rows = []
        for name, method, score in itertools.product(*choice[:3]):
            paper = dict(zip(("paper", "paper_std"), self.published(name, method, score), strict=True))
            for trial, curve in self.curves(name, method, score, choice.trials).items():
                which = dict(zip((*WHICH, "trial"), (name, method, score, trial), strict=True))
                numbers = {measure: self._number(measure, name, method, score, trial) for measure in MEASURES}
                about = {"statistics": self.statistics, "skew": 100 * self.runs[name, method, trial].skew}
                point = curve.at(curve.threshold(share))._asdict() | {"anomalies": curve.found[-1]}
                rows.append(which | about | numbers | paper | point)
        return pd.DataFrame(rows)

    def _number(self, measure: str, *which: Any) -> float:
        """In percent, as recorded or of the ranking; NaN where it was not run."""
        column, (hold_out, method, _, trial) = self._column(*which), which
        if column is None:
            return math.nan
        if measure == "average_precision":
            return 100 * self.runs[hold_out, method, trial].metrics[column]
        if which not in self._rankings:
            scores = self.values(*which)
            assert scores is not None  # it has the column
            self._rankings[which] = stats.Ranking(self.is_anomaly(hold_out, method, trial), scores)
        return 100 * getattr(self._rankings[which], measure)()

    def average_precisions(self, choice: Choice) -> pd.DataFrame:
        """Percent by held-out class, then the average (within a trial first, over the trials that have all classes).

        Columns (score, method, statistic): mean and std over trials; low and high, the 95 % interval of a class over other
        test images, given the networks, and of the average over other classes (t); difference, to the first plain
        classification; paper and paper std; AUROC and FPR95.
        """
        if choice in self._tables:
            return self._tables[choice]
        columns = {}
        plain = next((name for name in choice.methods if self._first[name].method == "classification"), None)
        whole, average = set(choice.classes) == set(self.known), average_row(choice.classes)
        for score, method in itertools.product(choice.scores, choice.methods):
            ap, auroc, fpr95 = (self._over_trials(measure, choice, method, score) for measure in MEASURES)
            mean = ap.mean(axis=1)
            paper = [self.published(c, method, score) if whole or c != average else (math.nan,) * 2 for c in ap.index]
            kinds: dict[str, Any] = {"mean": mean, "std": ap.std(axis=1, ddof=1)} | self._interval(mean)
            if plain is not None and plain != method:
                kinds["difference"] = mean - self._over_trials(MEASURES[0], choice, plain, score).mean(axis=1)
            kinds |= dict(zip(("paper", "paper std"), zip(*paper, strict=True), strict=True))
            kinds |= {"AUROC": auroc.mean(axis=1), "FPR95": fpr95.mean(axis=1)}
            columns |= {(score, method, kind): values for kind, values in kinds.items()}
        self._tables[choice] = pd.DataFrame(columns, [*choice.classes, average]).dropna(axis=1, how="all")
        return self._tables[choice]

    def _over_trials(self, measure: str, choice: Choice, method: str, score: str) -> pd.DataFrame:
        """A row a held-out class and then their average, a column a trial."""
        by_trial = {t: [self._number(measure, c, method, score, t) for c in choice.classes] for t in choice.trials}
        table = pd.DataFrame(by_trial, choice.classes, dtype=float)
        table.loc[average_row(choice.classes)] = table.mean(skipna=False)
        return table

    def _interval(self, mean: pd.Series) -> dict[str, list[float]]:
        from scipy.stats import t  # slow to import

        classes = mean.iloc[:-1]
        anomalies = {key[0]: int(arrays["is_anomaly"].sum()) for key, arrays in self.arrays.items()}
        rows = [100 * np.array(stats.logit_interval(ap / 100, anomalies[name])) for name, ap in classes.items()]
        half = t.ppf(0.975, len(classes) - 1) * classes.std() / math.sqrt(len(classes))
        return dict(zip(("low", "high"), np.transpose([*rows, mean.iloc[-1] + half * np.array([-1, 1])]).tolist(), strict=True))

    def confusions(self, classes: Sequence[str], method: str, trials: Sequence[int]) -> pd.DataFrame:
        """A row for each held-out class: the shares of its images that are predicted as each known class; NaN: not run."""
        rows = {}
        for name in classes:
            there = [key for t in trials if (key := (name, method, t)) in self.arrays]
            predicted = [self.predicted(*key)[self.is_anomaly(*key)] for key in there]
            counts = np.bincount(np.concatenate([*predicted, np.empty(0, int)]), minlength=len(self.known))
            rows[name] = counts / (counts.sum() or math.nan)
        return pd.DataFrame(rows, self.known, dtype=float).T

    def ranked(self, hold_out: str, method: str, score: str, trial: int, share: float) -> dict[str, np.ndarray]:
        """Test images behind the threshold of this share: indices, those that say most first. The run has this score."""
        scores, curve = self.values(hold_out, method, score, trial), self.curve(hold_out, method, score, trial)
        assert scores is not None and curve is not None
        is_anomaly = self.is_anomaly(hold_out, method, trial)
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
