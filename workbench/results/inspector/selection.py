"""Finished runs sorted into tables, and the curves, counts and confusions of one table's runs.

Nothing is drawn here. Fractions, but average precision, AUROC, FPR95 and skew are in percent.
"""

import itertools
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from semlib.datasets import DataError, Digests, ImageSet
from workbench.experiment import METHODS, Data, Experiment
from workbench.results import stats, tables
from workbench.results.curves import Point
from workbench.results.names import average_row, label
from workbench.runs import plan
from workbench.runs.store import Record

# Settings that only some methods read: runs that differ in nothing else are in the same table.
OWN = ("auxiliary_weight", "auxiliary_augment", "mask_fill", "cpc_negatives", "cpc_augment")
DEFAULTS = {name: field.default for name, field in Experiment.model_fields.items()}
WHICH = ["hold_out", "method", "score"]  # a mean over trials is of these
MEASURES = ["average_precision", "auroc", "fpr95"]
POINTS = 120  # drawn of each curve: one panel of ten is some 200 pixels wide


class Choice(NamedTuple):
    """The selected held-out classes, methods, scores (as Results names them) and trials."""

    classes: tuple[str, ...]
    methods: tuple[str, ...]
    scores: tuple[str, ...]
    trials: tuple[int, ...]


# --- tables


def grouped(records: Iterable[Record], experiment: Experiment) -> dict[str, list[Record]]:
    """Records with a held-out class by table: one data set, one value of each setting but OWN.

    Imported scores are in every table of their images. Tables on another version of the data
    than this machine has say so, and come last.
    """
    tables: dict[str, dict[str, Any]] = {}  # the settings of each
    placed = []
    for record in sorted(records, key=lambda record: record.external is not None):
        if record.hold_out is None:
            continue
        own = _shared(record)
        same = [table for table in tables.values() if _images(table) == _images(own)]
        for settings in same if record.external and same else [own]:
            tables[json.dumps(settings)] = settings
            placed.append((record, settings))
    groups = defaultdict(list)
    titles = _names([(record.dataset, settings) for record, settings in placed])
    for title, (record, _) in zip(titles, placed, strict=True):
        groups[title].append(record)
    notes = {title: _other_data(group[0], experiment) for title, group in groups.items()}
    return {title + notes[title]: groups[title] for title in sorted(groups, key=notes.get)}


def overview(tables: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """One row per table: how much has run, and the settings in which the tables differ."""
    settings = {title: _shared(records[0]) for title, records in tables.items()}
    differing = _differing(list(settings.values()))
    rows = {}
    for title, records in tables.items():
        row = {"runs": len(records), "trained elsewhere": sum(bool(r.external) for r in records)}
        for field in ("hold_out", "method", "trial"):
            row[f"{field}s"] = len({getattr(record, field) for record in records})
        rows[title] = row | {name: str(settings[title][name]) for name in differing}
    return pd.DataFrame.from_dict(rows, "index")


def _shared(record: Record) -> dict[str, Any]:
    """What all runs of a table have in common; a setting that is younger is at its default."""
    settings = {n: value for n, value in (DEFAULTS | record.settings).items() if n not in OWN}
    network = record.sources.get(record.settings.get("architecture"))
    return settings | {"dataset": record.dataset, "data": str(record.data), "network": network}


def _images(shared: Mapping[str, Any]) -> list:
    return [shared[name] for name in (*Data.model_fields, "dataset", "data")]


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings that are not the same in all of these."""
    names = dict.fromkeys(itertools.chain(*settings))
    return [name for name in names if len({json.dumps(s.get(name)) for s in settings}) > 1]


def _names(items: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """How data sets, methods or scores are shown, where several of one differ with the settings.

    items: each with its settings. ODIN (epsilon 0.001).
    """
    among = defaultdict(list)
    for item, settings in items:
        among[item].append(settings)
    differing = {item: _differing(settings) for item, settings in among.items()}
    names = []
    for item, settings in items:
        texts = [f"{name} {settings[name]}" for name in differing[item] if name in settings]
        names.append(label(item, among) + (f" ({', '.join(texts)})" if texts else ""))
    return names


# --- the data of a record


def _with_data(record: Record, experiment: Experiment) -> tuple[Experiment, Digests | None]:
    """An experiment on the record's data set, and the digests of that here; None: it isn't here."""
    own = {name: record.settings.get(name) for name in ("image_side", "fold", "evaluate_on")}
    known = experiment.dataset_name == record.dataset  # its folder, if it is one of images
    own["dataset"] = experiment.dataset if known else record.dataset
    with_data = experiment.model_copy(update=own)
    with suppress(DataError, OSError):
        return with_data, plan.here(with_data)
    return with_data, None


def _other_data(record: Record, experiment: Experiment) -> str:
    _, here = _with_data(record, experiment)
    if here in (None, record.data):
        return ""
    return f", on other data ({record.data}) than is here ({here})"


def images_of(record: Record, experiment: Experiment) -> ImageSet | str:
    """The test images of a record, or a sentence that says why there are none. No download."""
    with_data, here = _with_data(record, experiment)
    if here is None:
        return f"{record.dataset} is not prepared here, so its images can't be shown."
    if here.test != record.test_digest:
        return f"The images of {record.dataset} here are not those that were scored."
    return plan.load(with_data).test


# --- one table


class Results:
    """The runs of a table by (held-out class, method, trial), with one kind of statistics.

    methods and scores are named as they are shown, with the settings in which several runs of one
    differ. beside: another table of the same classes; its title is part of its methods' names.
    """

    def __init__(self, records, statistics="mixed", beside=(), title=""):
        self.statistics = statistics
        self._ending = plan.STATISTICS[statistics]
        self.array, self.ranking = cache(self._array), cache(self._ranking)
        self.curves, self.average_precisions = cache(self._curves), cache(self._average_precisions)
        self.runs = _undamaged(records, beside, title)
        self.first: dict[str, Record] = {}  # one run of each method
        for (_, method, _), record in self.runs.items():
            self.first.setdefault(method, record)
        self.methods = tuple(self.first)
        self.dataset, self.known = "", ()
        for record in self.first.values():
            self.dataset, self.known = record.dataset, record.classes
        # the share of anomalies, which is the average precision of a guess
        self.skew = {hold_out: record.skew for (hold_out, _, _), record in self.runs.items()}
        self.classes = tuple(name for name in self.known if name in self.skew)
        self.trials = tuple(sorted({trial for _, _, trial in self.runs}))
        scorings = {}
        for record in self.runs.values():
            scorings |= {json.dumps(scoring): scoring for scoring in record.scoring.values()}
        names = _names([(scoring["score"], scoring) for scoring in scorings.values()])
        self._scorings = dict(zip(names, scorings.values(), strict=True))
        self.scores = tuple(names)

    def _array(self, name: str, *run: Any) -> np.ndarray:
        return self.runs[run].scores(name)[name]

    def predicted(self, *run: Any) -> np.ndarray:
        """The predicted class of each test image (N,)."""
        return self.array(f"predicted{self._ending}", *run)

    def _ranking(self, hold_out: str, method: str, score: str, trial: int) -> Any:
        """The test images (N,) of a run ranked by a score; None: there is no such run or score."""
        run = (hold_out, method, trial)
        key = run in self.runs and self.runs[run].key(self._scorings[score])
        if not key:
            return None
        key += self._ending
        ranking = stats.Ranking(self.array("is_anomaly", *run), self.array(key, *run))
        measures = (self.runs[run].metrics[key], ranking.auroc(), ranking.fpr95())
        ranking.percent = [100 * measure for measure in measures]
        return ranking

    def published(self, hold_out: str, method: str, score: str) -> tuple[float, float]:
        """The paper's mean and std in percent; NaN where it has none, or other settings."""
        record, scoring = self.first[method], self._scorings[score]
        network = record.settings.get("architecture", "")
        few = record.settings.get("train_per_class")
        paper = tables.paper(self.dataset, self.known, network, few)
        column = f"{record.method}_{scoring['score']}"
        usual = all(scoring[name] == DEFAULTS[name] for name in scoring.keys() & DEFAULTS.keys())
        if not usual or hold_out not in paper.index or column not in paper:
            return math.nan, math.nan
        return paper[column][hold_out], paper[f"{column}_std"][hold_out]

    def _curves(self, choice: Choice) -> pd.DataFrame:
        """One row per curve: its ranking, its measures, and the paper's average precision."""
        rows = []
        for hold_out, method, score, trial in itertools.product(*choice):
            ranking = self.ranking(hold_out, method, score, trial)
            if ranking:
                row = [hold_out, method, score, trial, self.statistics, 100 * self.skew[hold_out]]
                paper = self.published(hold_out, method, score)
                rows.append([*row, *ranking.percent, *paper, ranking.anomalies, ranking])
        columns = [*WHICH, "trial", "statistics", "skew", *MEASURES, "paper", "paper_std"]
        return pd.DataFrame(rows, columns=[*columns, "anomalies", "ranking"])

    def selection(self, choice: Choice, share: float) -> pd.DataFrame:
        """The curves with what the thresholds do that flag this share of the images."""
        curves = self.curves(choice)
        points = [at(ranking, share) for ranking in curves.ranking]
        return curves.drop(columns="ranking").join(pd.DataFrame(points, columns=Point._fields))

    def _average_precisions(self, choice: Choice) -> pd.DataFrame:
        """Percent by held-out class, then the average over them; columns (score, method, kind).

        mean and std are over trials, of the average over the averages of the trials that have all
        classes. difference is to the first plain classification.
        """
        curves = self.curves(choice)
        trials = curves.groupby(["method", "score", "trial"], sort=False)
        complete = trials.hold_out.transform("nunique") == len(choice.classes)
        averages = curves[complete].groupby(["method", "score", "trial"], as_index=False)
        averages = (
            averages[MEASURES].mean().assign(hold_out=average_row(choice.classes), paper=None)
        )
        if set(choice.classes) == set(self.known):  # the paper's average is over all classes
            which = averages[WHICH].itertuples(index=False)
            averages["paper"] = [self.published(*one)[0] for one in which]
        rows = pd.concat([curves, averages]).groupby(WHICH)
        table = rows[MEASURES].mean().set_axis(["mean", "AUROC", "FPR95"], axis=1)
        table = table.assign(std=rows.average_precision.std(), paper=rows.paper.first())
        plain = [name for name in choice.methods if self.first[name].method == "classification"]
        if plain:
            reference = table["mean"].xs(plain[0], level="method")
            others = table["mean"].drop(plain[0], level="method")
            table["difference"] = others - reference.reindex(others.index.droplevel("method")).array
        kinds = ("mean", "std", "difference", "paper", "AUROC", "FPR95")
        table = table.unstack(["score", "method"]).reorder_levels([1, 2, 0], axis=1)
        table = table.reindex([*choice.classes, average_row(choice.classes)])
        columns = itertools.product(choice.scores, choice.methods, kinds)
        return table[[column for column in columns if column in table]].dropna(axis=1, how="all")

    def confusions(
        self, classes: Sequence[str], method: str, trials: Sequence[int]
    ) -> pd.DataFrame:
        """What held-out images (rows: classes) are predicted as (columns), shares; NaN: not run."""
        counts = pd.DataFrame(0, index=list(classes), columns=list(self.known))
        for hold_out, trial in itertools.product(classes, trials):
            run = (hold_out, method, trial)
            if run in self.runs:
                predicted = self.predicted(*run)[self.array("is_anomaly", *run)]
                counts.loc[hold_out] += np.bincount(predicted, minlength=len(self.known))
        return counts.div(counts.sum(axis=1), axis=0)


def _undamaged(
    records: Sequence[Record], beside: Sequence[Record], title: str
) -> dict[tuple, Record]:
    """The runs by (held-out class, name of the method, trial), in the methods' order."""
    items = []
    for record in (*records, *beside):
        settings = DEFAULTS | record.settings
        own = {name: settings[name] for name in OWN} | {"source": record.sources.get(record.method)}
        items.append((record.method, own))
    named = list(zip(_names(items), (*records, *beside), strict=True))
    own, others = named[: len(records)], named[len(records) :]
    runs = {}
    for pairs, end in ((own, ""), (others, f" [{title}]")):
        for name, record in sorted(pairs, key=_order):
            try:
                record.check()
                runs[record.hold_out, name + end, record.trial] = record
            except ValueError as error:
                warnings.warn(f"not shown: {error}", stacklevel=3)
    return runs


def _order(named: tuple[str, Record]) -> tuple:
    """The known methods first, and of equal runs the newest last."""
    name, record = named
    return [*METHODS, record.method].index(record.method), name, record.finished


def at(ranking: stats.Ranking, share: float) -> Point:
    """What the threshold does that flags this share of the images."""
    return ranking.curve.at(ranking.curve.threshold(share))


def steps(curves: pd.DataFrame) -> pd.DataFrame:
    """Points of several trials' curves below each other; the recall, equal in all, is the index."""
    trials = []
    for trial, ranking in zip(curves.trial, curves.ranking, strict=True):
        found = np.unique(np.linspace(1, ranking.anomalies, POINTS).round().astype(int))  # (P,)
        points = ranking.curve.steps(found).assign(trial=trial)
        trials.append(points.set_axis(found / ranking.anomalies))
    return pd.concat(trials)


def examples(ranking: stats.Ranking, share: float) -> dict[str, np.ndarray]:
    """Indices of the images that this threshold gets wrong and of the extremes, the worst first."""
    flagged = ranking.scores >= at(ranking, share).threshold
    rising = np.argsort(ranking.scores, kind="stable")
    return {
        "Anomalies missed": rising[(ranking.is_anomaly & ~flagged)[rising]],
        "Normal images flagged": rising[(~ranking.is_anomaly & flagged)[rising]][::-1],
        "Most anomalous": rising[::-1],
        "Least anomalous": rising,
    }
