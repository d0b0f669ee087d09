"""Finished runs sorted into tables, and the curves, counts and confusions of one table's runs.

Nothing is drawn here. Fractions, but average precision, AUROC, FPR95 and skew are in percent.
"""

import itertools
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from semlib.datasets import DataError
from workbench.experiment import METHODS, Data, Experiment
from workbench.files import one_line, resolve
from workbench.images import folder, prepared
from workbench.images.digests import Digests
from workbench.results import tables
from workbench.results.names import AVERAGE, label
from workbench.results.ranking import Ranking
from workbench.runs import plan
from workbench.runs.store import Record

# Settings that only some methods read: runs that differ in nothing else are in the same table.
OWN = ("auxiliary_weight", "auxiliary_augment", "mask_fill", "cpc_negatives", "cpc_augment")
DEFAULTS = {name: field.default for name, field in Experiment.model_fields.items()}
IMAGES = (*Data.model_fields, "dataset", "data")  # what the images of a run depend on
WHICH = ["hold_out", "method", "score"]  # a mean over trials is of these
MEASURES = ["average_precision", "auroc", "fpr95"]
Side = tuple[str, str, int]  # a method, a score and a trial, to set beside another
POINTS = 120  # drawn of each curve: one panel of ten is some 200 pixels wide
_paper = cache(tables.paper)


class Choice(NamedTuple):
    """The selected held-out classes, methods, scores (as Results names them) and trials."""

    classes: tuple[str, ...]
    methods: tuple[str, ...]
    scores: tuple[str, ...]
    trials: tuple[int, ...]


# --- tables


def grouped(records: Iterable[Record], experiment: Experiment) -> dict[str, list[Record]]:
    """Records with a held-out class by table: one data set, one value of each setting but OWN.

    Imported scores are in every table of their images. The table with the most runs comes first;
    those on another version of the data than this machine has say so, and come last.
    """
    groups: dict[str, list[Record]] = defaultdict(list)  # by the settings of each
    for record in sorted(records, key=lambda record: record.external is not None):
        if record.hold_out is None:
            continue
        own = _shared(record)
        known = map(json.loads, groups if record.external else ())
        same = [table for table in known if all(table[name] == own[name] for name in IMAGES)]
        for table in same or [own]:
            groups[json.dumps(table)].append(record)
    settings = [json.loads(group) for group in groups]
    titles = _names([(table["dataset"], table) for table in settings])
    here = defaultdict(list)
    other = defaultdict(list)
    for title, group in zip(titles, groups.values(), strict=True):
        _, digests = _with_data(group[0], experiment)
        if isinstance(digests, str) or digests == group[0].data:
            here[title] += group
        else:
            other[f"{title}, on other data ({group[0].data}) than is here ({digests})"] += group
    by_runs = sorted(here, key=lambda title: len(here[title]), reverse=True)
    return {title: here[title] for title in by_runs} | other


def _shared(record: Record) -> dict[str, Any]:
    """What all runs of a table have in common; a setting that is younger is at its default."""
    settings = {n: value for n, value in (DEFAULTS | record.settings).items() if n not in OWN}
    network = record.sources.get(record.settings.get("architecture"))
    together = len(plan.classes_of(record.hold_out)) > 1  # groups of classes are another table
    which = {"dataset": record.dataset, "data": str(record.data), "held_out_together": together}
    return settings | which | {"network": network}


def _names(items: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """How data sets, methods or scores are shown, with the settings in which those of one differ.

    items: each with its settings. ODIN (epsilon 0.001).
    """
    values = defaultdict(lambda: defaultdict(set))  # of each item's settings
    for item, settings in items:
        for name, value in settings.items():
            values[item][name].add(json.dumps(value))
    names = []
    for item, settings in items:
        differing = [name for name in settings if len(values[item][name]) > 1]
        texts = ", ".join(f"{name} {settings[name]}" for name in differing)
        names.append(label(item, values) + (f" ({texts})" if texts else ""))
    return names


# --- the data of a record


def _with_data(record: Record, experiment: Experiment) -> tuple[Experiment, Digests | str]:
    """An experiment on the record's data set, and the digests of that here, or why it isn't."""
    own = {name: record.settings.get(name) for name in ("image_side", "fold", "evaluate_on")}
    known = experiment.dataset_name == record.dataset  # its folder, if it is one of images
    own["dataset"] = experiment.dataset if known else record.dataset
    with_data = experiment.model_copy(update=own)
    try:
        here = plan.current_digests(with_data)
    except (DataError, OSError) as error:
        return with_data, one_line(error)
    name = record.dataset
    if here is None and prepared.is_name(name, with_data.data_root):
        return with_data, f"{name} is not prepared here: python -m semlib data prepare {name}"
    todo = "write its path into `dataset` of the parameters, to see its images"
    return with_data, here or f"{name} is a folder of images that is not known here: {todo}"


class Images(NamedTuple):
    """A data set, and the names of its test images if they are files; or why it is not here."""

    data: Any = None  # Dataset
    names: tuple[str, ...] = ()
    why: str = ""


def images_of(record: Record, experiment: Experiment) -> Images:
    """The images that a record's scores are of. Nothing is downloaded."""
    with_data, here = _with_data(record, experiment)
    if isinstance(here, str):
        return Images(why=here)
    if here.test != record.test_digest:
        return Images(why=f"The images of {record.dataset} here are not those that were scored.")
    return _loaded(with_data)


@cache
def _loaded(experiment: Experiment) -> Images:
    data = plan.load(experiment)
    is_folder = not prepared.is_name(experiment.dataset, experiment.data_root)
    if not is_folder or experiment.evaluate_on != "test":
        return Images(data)
    root = resolve(experiment.dataset)
    files = folder.scan(root)["test"]
    return Images(data, tuple(path.relative_to(root / "test").as_posix() for path, _ in files))


# --- one table


class Ranked(Ranking):
    """The test images (N,) of a run, ranked by one of its scores. percent: its MEASURES."""

    def __init__(self, record: Record, score: str, predicted: str):
        names = ("is_anomaly", score, "label", predicted)
        is_anomaly, scores, self.label, self.predicted = record.scores(*names).values()
        super().__init__(is_anomaly, scores)
        measures = (record.metrics[score], self.auroc(), self.fpr95())
        self.percent = [100 * measure for measure in measures]

    @cached_property
    def points(self) -> pd.DataFrame:
        """What the thresholds do that find the shares of the anomalies in the index."""
        found = np.unique(np.linspace(1, self.anomalies, POINTS).round().astype(int))  # (P,)
        return self.finding(found).set_axis(found / self.anomalies)

    def at(self, image: int) -> pd.DataFrame:
        """What the threshold does that is the score of this image, as in `finding`."""
        return self._thresholds(np.flatnonzero(self.thresholds == self.scores[image]))

    def examples(self, share: float, worst: bool = True) -> dict[str, np.ndarray]:
        """Indices of images by what this threshold makes of them, and of the extremes.

        worst: those found and those flagged have the highest first, those missed the lowest; else
        all have those next to the threshold first.
        """
        flagged = self.scores >= self.flagging(share).threshold.item()
        rising = np.argsort(self.scores, kind="stable")
        up, down = (-1, 1) if worst else (1, -1)
        return {
            "anomalies found": rising[(self.is_anomaly & flagged)[rising]][::up],
            "anomalies missed": rising[(self.is_anomaly & ~flagged)[rising]][::down],
            "normal flagged": rising[(~self.is_anomaly & flagged)[rising]][::up],
            "highest scores": rising[::-1],
            "lowest scores": rising,
        }


class Results:
    """The runs of a table by (held-out class, method, trial), with one kind of statistics.

    methods and scores are named as they are shown, with the settings in which several runs of one
    differ. beside: another table of the same classes; its title is part of its methods' names.
    """

    def __init__(self, records, statistics="mixed", beside=(), title=""):
        self.statistics = statistics
        self.ranking = cache(self._ranking)
        self.curves = cache(self._curves)
        self.average_precisions = cache(self._average_precisions)
        self.runs = _undamaged(records, beside, title)
        self.dataset = records[0].dataset
        self.known = records[0].classes
        self.first: dict[str, Record] = {}  # one run of each method
        self.skew: dict[str, float] = {}  # which is the average precision of a guess
        scorings = {}
        for (hold_out, method, _), record in self.runs.items():
            self.first.setdefault(method, record)
            self.skew.setdefault(hold_out, record.skew)
            scorings |= {json.dumps(scoring): scoring for scoring in record.scoring.values()}
        names = _names([(scoring["score"], scoring) for scoring in scorings.values()])
        self._scorings = dict(zip(names, scorings.values(), strict=True))
        self.classes = tuple(sorted(self.skew, key=[*self.known, *self.skew].index))
        self.methods = tuple(self.first)
        self.scores = tuple(names)
        self.trials = tuple(sorted({trial for _, _, trial in self.runs}))

    def run(self, hold_out: str, side: Side) -> Record:
        method, _, trial = side
        return self.runs[hold_out, method, trial]

    def key(self, hold_out: str, method: str, score: str, trial: int) -> str | None:
        """The score's array in the run's record; None if there is no such run, or score of it."""
        record = self.runs.get((hold_out, method, trial))
        key = record.key(self._scorings[score]) if record else None
        name = plan.array_name(key, self.statistics) if key else None
        # a mean over epochs is absent where one epoch lacks the score
        return name if record and name in record.metrics else None

    def _ranking(self, hold_out: str, method: str, score: str, trial: int) -> Ranked | Any:
        key = self.key(hold_out, method, score, trial)
        predicted = plan.array_name("predicted", self.statistics)
        return Ranked(self.runs[hold_out, method, trial], key, predicted) if key else None

    def published(self, hold_out: str, method: str, score: str) -> tuple[float, float]:
        """The paper's mean and std in percent; NaN where it has none, or other settings."""
        record = self.first[method]
        scoring = self._scorings[score]
        usual = all(scoring[name] == DEFAULTS[name] for name in scoring.keys() & DEFAULTS.keys())
        if not usual or not tables.is_papers_data([record]):
            return math.nan, math.nan
        network = record.settings.get("architecture", "")
        few = record.settings.get("train_per_class")
        column = f"{record.method}_{scoring['score']}"
        paper = _paper(record.dataset, self.known, network, few)
        mean, std = paper.reindex([hold_out], columns=[column, f"{column}_std"]).to_numpy()[0]
        return mean, std

    def _curves(self, choice: Choice) -> pd.DataFrame:
        """One row per curve: its ranking, its measures, and the paper's average precision."""
        rows = []
        for hold_out, method, score, trial in itertools.product(*choice):
            ranking = self.ranking(hold_out, method, score, trial)
            if ranking:
                skew = 100 * ranking.is_anomaly.mean()
                row = [hold_out, method, score, trial, self.statistics, skew]
                paper = self.published(hold_out, method, score)
                rows.append([*row, *ranking.percent, *paper, ranking.anomalies, ranking])
        columns = [*WHICH, "trial", "statistics", "skew", *MEASURES, "paper", "paper_std"]
        return pd.DataFrame(rows, columns=[*columns, "anomalies", "ranking"])

    def selection(self, choice: Choice, share: float) -> pd.DataFrame:
        """The curves with what the thresholds do that flag this share of the images."""
        curves = self.curves(choice)
        points = [ranked.flagging(share) for ranked in curves.ranking]
        return curves.drop(columns="ranking").join(pd.concat(points, ignore_index=True))

    def comparable(self, choice: Choice) -> tuple[list[str], list[int]]:
        """The classes and trials that all chosen methods and scores have, all classes if it can be.

        Methods and scores without any run are left out.
        """
        curves = self.curves(choice)
        pairs = curves.groupby(["method", "score"]).ngroups
        whole = (curves.groupby(["hold_out", "trial"]).size() == pairs).unstack(fill_value=False)
        whole = whole.reindex([*choice.classes], fill_value=False)
        whole = whole.loc[:, whole.any()]
        trials = whole.columns[whole.all()]
        if len(trials):
            return [*choice.classes], [*trials]
        return [*whole.index[whole.all(axis=1)]], [*whole.columns]

    def lacking(self, choice: Choice) -> str:
        """Which of the chosen runs there are none of, as a sentence; "" if all are there."""
        lacking = defaultdict(list)
        for hold_out, method, score, trial in itertools.product(*choice):
            if self.key(hold_out, method, score, trial) is None:
                lacking[f"{method}, {score}"].append(f"{hold_out} (trial {trial})")
        texts = []
        for pair, runs in lacking.items():
            more = f" and {len(runs) - 4} more" if len(runs) > 4 else ""
            texts.append(f"{pair}: {', '.join(runs[:4])}{more}")
        return f"Not run: {'; '.join(texts)}." if texts else ""

    def _average_precisions(self, choice: Choice) -> pd.DataFrame:
        """Percent by held-out class, then the average over them; columns (score, method, kind).

        mean and std are over trials, of the average over the averages of those trials that have all
        classes, by each method that has such. difference is to the first plain classification.
        """
        curves = self.curves(choice)
        trials = curves.groupby(["method", "score", "trial"])
        complete = trials.size() == len(choice.classes)
        by_trial = complete.unstack(fill_value=False)
        shared = by_trial[by_trial.any(axis=1)].all()  # the same trials in all rows
        averages = trials[MEASURES].mean()
        shared = averages.index.isin(shared.index[shared], level="trial")
        averages = averages[complete & shared].reset_index()
        averages["hold_out"] = AVERAGE
        if set(choice.classes) == set(self.known):  # the paper's average is over all classes
            which = zip(averages.method, averages.score, strict=True)
            averages["paper"] = [self.published(AVERAGE, *one)[0] for one in which]
        rows = pd.concat([curves, averages]).groupby(WHICH)
        table = rows[MEASURES].mean().set_axis(["mean", "AUROC", "FPR95"], axis=1)
        table = table.assign(std=rows.average_precision.std(), paper=rows.paper.first())
        plain = [name for name in choice.methods if self.first[name].method == "classification"]
        if plain:
            reference = table["mean"].xs(plain[0], level="method")
            others = table["mean"].drop(plain[0], level="method")
            table["difference"] = others - reference.reindex(others.index.droplevel("method")).array
        table = table.unstack(["score", "method"]).reorder_levels([1, 2, 0], axis=1)
        kinds = ("mean", "std", "difference", "paper", "AUROC", "FPR95")
        columns = [c for c in itertools.product(choice.scores, choice.methods, kinds) if c in table]
        table = table.reindex(index=[*choice.classes, AVERAGE], columns=columns)
        return table.dropna(axis=1, how="all")


def _undamaged(records: Sequence, beside: Sequence, title: str) -> dict[tuple, Record]:
    """The runs by (held-out class, name of the method, trial), in the methods' order."""
    every = [*records, *beside]
    items = []
    for record in every:
        settings = DEFAULTS | record.settings
        own = {name: settings[name] for name in OWN} | {"source": record.sources.get(record.method)}
        items.append((record.method, own))
    ends = [""] * len(records) + [f" [{title}]"] * len(beside)
    ordered = []  # known methods first, each with its usual settings; of equal runs the newest last
    for end, name, (method, own), record in zip(ends, _names(items), items, every, strict=True):
        unusual = sum(own[name] != DEFAULTS[name] for name in OWN)
        place = ([*METHODS, method].index(method), unusual)
        ordered.append((end, place, name, record.finished, record))
    runs = {}
    for end, _, name, _, record in sorted(ordered, key=lambda run: run[:4]):
        try:
            record.check()
            runs[record.hold_out, name + end, record.trial] = record
        except ValueError as error:
            warnings.warn(f"not shown: {error}", stacklevel=3)
    return runs


def steps(curves: pd.DataFrame) -> pd.DataFrame:
    """The points of several trials' curves below each other; the index is the same in all."""
    trials = zip(curves.trial, curves.ranking, strict=True)
    return pd.concat([ranked.points.assign(trial=trial) for trial, ranked in trials])
