"""Curves, counts, confusions and images behind finished runs: no drawing, no widgets. Fractions;
only tables are in percent.
"""

import itertools
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from semlib.datasets import DataError, ImageSet
from workbench.experiment import METHODS, Data, Experiment
from workbench.images import prepared
from workbench.results import stats, tables
from workbench.results.curves import Point
from workbench.results.names import average_row, label
from workbench.runs import plan
from workbench.runs.store import Record

# settings that only some methods have
OWN = {"auxiliary_weight", "auxiliary_augment", "mask_fill", "cpc_negatives", "cpc_augment"}
WHICH = ("hold_out", "method", "score")  # what a mean over trials is of
KINDS = (
    "mean",
    "std",
    "low",
    "high",
    "difference",
    "paper",
    "paper std",
    "AUROC",
    "FPR95",
)  # columns of the table
MEASURES = ["average_precision", "auroc", "fpr95"]
_read: dict[tuple, "_Arrays"] = {}
POINTS = 120  # drawn of a curve: a panel of ten is some 200 pixels wide


class Choice(NamedTuple):
    """What is looked at: held-out classes, methods, scores (as Results names them) and trials."""

    classes: tuple[str, ...]
    methods: tuple[str, ...]
    scores: tuple[str, ...]
    trials: tuple[int, ...]


def grouped(records: Iterable[Record], experiment: Experiment) -> dict[str, list[Record]]:
    """The records with a held-out class by table: one data set, one digest of it, one set of
    settings but a method's own.

    Imported scores stand in every table of their images. Runs on data that is here in another
    version say so, and come last.
    """
    groups = defaultdict(list)
    for record in sorted(
        records, key=lambda record: record.external is not None
    ):  # semlib's own first
        if record.hold_out is not None:
            beside = [
                members
                for members in groups.values()
                if record.external and _images(members[0]) == _images(record)
            ]
            for members in beside or [groups[record.dataset, _key(_shared(record))]]:
                members.append(record)
    titles, other = {}, {}
    for (dataset, _), members in groups.items():
        rivals = [_shared(others[0]) for (name, _), others in groups.items() if name == dataset]
        title, here = (
            dataset + _apart(_shared(members[0]), _unlike(rivals)),
            data_here(members[0], experiment),
        )
        if here in (None, members[0].data):
            titles[title] = members
        else:
            other[f"{title}, on other data ({members[0].data}) than is here ({here})"] = members
    return titles | other


def _shared(record: Record) -> dict[str, Any]:
    shared = {name: value for name, value in _settings(record).items() if name not in OWN}
    return shared | {
        "data": str(record.data),
        "network": record.sources.get(record.settings.get("architecture")),
    }


def _images(record: Record) -> tuple:
    """What training and test images a run is of."""
    return (
        record.dataset,
        record.data,
        {name: value for name, value in _settings(record).items() if name in Data.model_fields},
    )


def _own(record: Record) -> dict[str, Any]:
    """What tells two runs of one method apart within a table."""
    own = {name: value for name, value in _settings(record).items() if name in OWN}
    return own | {"source": record.sources.get(record.method)}


def _settings(record: Record) -> dict[str, Any]:
    """A record's settings; one that is younger than the record is at its default."""
    return {
        name: field.default for name, field in Experiment.model_fields.items()
    } | record.settings


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _unlike(among: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the settings in which these differ."""
    names = dict.fromkeys(itertools.chain(*among))
    return [
        name for name in names if len({_key({name: settings.get(name)}) for settings in among}) > 1
    ]


def _apart(settings: Mapping[str, Any], unlike: Sequence[str]) -> str:
    """What tells these settings from others, " (epochs 10)"; empty if nothing does."""
    told = [f"{name} {settings[name]}" for name in unlike if name in settings]
    return f" ({', '.join(told)})" if told else ""


def overview(tables: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """A row for each table: what has run, and the settings in which the tables differ."""
    rows = {}
    for title, records in tables.items():
        has = {
            "runs": len(records),
            "trained elsewhere": sum(record.external is not None for record in records),
        }
        has |= {
            f"{of}s": len({getattr(record, of) for record in records})
            for of in ("hold_out", "method", "trial")
        }
        rows[title] = has | {
            name: str(_shared(records[0]).get(name)) for name in (*records[0].settings, "data")
        }
    table = pd.DataFrame.from_dict(rows, "index")
    return table[[name for name in table if name in has or table[name].nunique() > 1]]


class Ranked(stats.Ranking):
    """The test images of a run (N,) with one of its scores, higher = more anomalous."""

    def __init__(self, record: Record, arrays: Mapping[str, np.ndarray], column: str, end: str):
        super().__init__(arrays["is_anomaly"], arrays[column])
        self.recorded, self.skew = record.metrics[column], record.skew
        self._record, self._arrays, self._end = record, arrays, end

    def classes(self, image: int) -> list[str]:
        """The image's class and the predicted one."""
        return [
            self._record.classes[self._arrays[name][image]]
            for name in ("label", f"predicted{self._end}")
        ]

    @cached_property
    def measures(self) -> dict[str, float]:
        """In percent; average precision as recorded."""
        numbers = (self.recorded, self.auroc(), self.fpr95())
        return {name: 100 * number for name, number in zip(MEASURES, numbers, strict=True)}

    def at(self, share: float) -> Point:
        return self.curve.at(self.curve.threshold(share))

    def behind(self, share: float) -> dict[str, np.ndarray]:
        """Indices of the images behind the threshold of this share, those that say most first."""
        flagged, rising = (
            self.scores >= self.curve.threshold(share),
            np.argsort(self.scores, kind="stable"),
        )
        return {
            "Anomalies missed": rising[(self.is_anomaly & ~flagged)[rising]],
            "Normal images flagged": rising[(~self.is_anomaly & flagged)[rising]][::-1],
            "Most anomalous": rising[::-1],
            "Least anomalous": rising,
        }


class Results:
    """A table's runs by (held-out class, method, trial), of mixed or upright statistics. Scores are
    read when looked at.

    methods and scores are named as shown; where one was run with several settings of its own, those
    are in its name. beside: another table of the same classes to compare with, whose methods have
    its title in their names.
    """

    def __init__(
        self,
        records: Sequence[Record],
        statistics: str = "mixed",
        beside: Sequence[Record] = (),
        title: str = "",
    ):
        self.statistics, self._end = statistics, plan.STATISTICS[statistics]
        self.runs, self.arrays, self._ranked, self._tables, self._selected = {}, {}, {}, {}, {}
        every, others = [*records, *beside], {record.home for record in beside}
        named = _names(every, lambda record: record.method, _own)
        names = {
            record.home: named(record) + (f" [{title}]" if record.home in others else "")
            for record in every
        }
        for record in sorted(every, key=lambda record: record.finished):
            key = (record.hold_out, names[record.home], record.trial)
            try:
                self.arrays[key] = _scores(record)
            except ValueError as error:
                warnings.warn(f"not shown: {error}", stacklevel=2)
                continue
            if key in self.runs:
                warnings.warn(
                    f"not shown: {self.runs[key].home}, of which {record.home.name} is a newer run",
                    stacklevel=2,
                )
            self.runs[key] = record
        used = sorted(
            self.runs.values(),
            key=lambda r: (r.home in others, [*METHODS, r.method].index(r.method), names[r.home]),
        )
        self.first = {
            names[record.home]: record for record in reversed(used)
        }  # of each of the methods
        self.methods = tuple(dict.fromkeys(names[record.home] for record in used))
        self.dataset, self.known = (used[0].dataset, used[0].classes) if used else ("", ())
        self.skew = {
            hold_out: record.skew for (hold_out, _, _), record in self.runs.items()
        }  # a guess's average precision
        self.classes = tuple(name for name in self.known if name in self.skew)
        self.trials = tuple(sorted({trial for _, _, trial in self.runs}))
        hows = list(
            {
                _key(how): how for record in self.runs.values() for how in record.scoring.values()
            }.values()
        )
        score = _names(hows, lambda how: how["score"], lambda how: how)
        self._scorings = {score(how): how for how in hows}
        self.scores = tuple(self._scorings)

    def ranked(self, hold_out: str, method: str, score: str, trial: int) -> Ranked | None:
        """None if there is no such run or it was not scored so."""
        which, run = (hold_out, method, score, trial), (hold_out, method, trial)
        if which not in self._ranked:
            key = self.runs[run].key(self._scorings[score]) if run in self.runs else None
            self._ranked[which] = key and Ranked(
                self.runs[run], self.arrays[run], key + self._end, self._end
            )
        return self._ranked[which]

    def trials_of(
        self, hold_out: str, method: str, score: str, trials: Sequence[int]
    ) -> dict[int, Ranked]:
        """The trials that there are."""
        return {
            trial: one for trial in trials if (one := self.ranked(hold_out, method, score, trial))
        }

    def steps(
        self, hold_out: str, method: str, score: str, trials: Sequence[int]
    ) -> dict[int, pd.DataFrame]:
        """Each trial's curve: what the thresholds do that find up to POINTS shares of the
        anomalies, which are the index.
        """
        steps = {}
        for trial, one in self.trials_of(hold_out, method, score, trials).items():
            found = np.unique(
                np.linspace(1, one.curve.found[-1], POINTS).round().astype(int)
            )  # (P,)
            steps[trial] = one.curve.steps(found)
            steps[trial].index, steps[trial]["trial"] = found / found[-1], trial
        return steps

    def published(self, hold_out: str, method: str, score: str) -> tuple[float, float]:
        """The paper's mean and std in percent, NaN where it has none or scored otherwise."""
        record, how, defaults = self.first[method], self._scorings[score], Experiment.model_fields
        settings = record.settings.get("architecture", ""), record.settings.get("train_per_class")
        usual = all(how[name] == defaults[name].default for name in how if name in defaults)
        row = _paper(self.dataset, self.known, *settings).get(hold_out, {}) if usual else {}
        mean, std = (
            row.get(f"{record.method}_{how['score']}{end}", math.nan) for end in ("", "_std")
        )
        return mean, std

    def selection(self, choice: Choice, share: float) -> pd.DataFrame:
        """A row for each curve: its measures and the paper's, in percent, and what the threshold of
        this share does.
        """
        if (choice, share) in self._selected:
            return self._selected[choice, share]
        rows = []
        for which in itertools.product(*choice[:3]):
            paper = dict(zip(("paper", "paper_std"), self.published(*which), strict=True))
            for trial, one in self.trials_of(*which, choice.trials).items():
                row: dict[str, Any] = dict(zip((*WHICH, "trial"), (*which, trial), strict=True))
                row |= (
                    {"statistics": self.statistics, "skew": 100 * one.skew} | one.measures | paper
                )
                rows.append(row | one.at(share)._asdict() | {"anomalies": one.curve.found[-1]})
        self._selected = {
            (choice, share): pd.DataFrame(rows)
        }  # the last one alone: there are many thresholds
        return self._selected[choice, share]

    def average_precisions(self, choice: Choice) -> pd.DataFrame:
        """Percent by held-out class, then the average (within a trial first, over the trials that
        have all classes).

        Columns (score, method, kind): mean and std over trials; low and high, the 95 % interval of
        a class over other test images, given the networks, and of the average over other classes
        (t); difference, to the first plain classification; paper and paper std; AUROC and FPR95.
        """
        from scipy.stats import t  # slow to import

        if choice in self._tables:
            return self._tables[choice]
        average, columns = average_row(choice.classes), {}
        rows = self.selection(choice, 1).pivot(
            index="hold_out", columns=["score", "method", "trial"], values=MEASURES
        )
        rows = rows.reindex(choice.classes)
        rows.loc[average] = rows.mean(skipna=False)
        trials = rows.T.groupby(level=[0, 1, 2], sort=False)  # by measure, score and method
        ap, auroc, fpr95 = (trials.mean().T[measure] for measure in MEASURES)
        std, whole = trials.std().T["average_precision"], set(choice.classes) == set(self.known)
        anomalies = {key[0]: arrays["is_anomaly"].sum() for key, arrays in self.arrays.items()}
        plain = next(
            (name for name in choice.methods if self.first[name].method == "classification"), None
        )
        for score, method in itertools.product(choice.scores, choice.methods):
            which, nothing = (score, method), (math.nan, math.nan)
            if which in ap:
                classes = ap[which].iloc[:-1]
                ends = [
                    100 * np.array(stats.logit_interval(one / 100, anomalies[name]))
                    for name, one in classes.items()
                ]
                ends.append(t.interval(0.95, len(classes) - 1, ap[which].iloc[-1], classes.sem()))
                paper = [
                    self.published(c, method, score) if whole or c != average else nothing
                    for c in ap.index
                ]
                kinds = {"mean": ap[which], "std": std[which]}
                kinds |= dict(zip(("low", "high"), zip(*ends, strict=True), strict=True))
                if plain != method and (score, plain) in ap:
                    kinds["difference"] = ap[which] - ap[score, plain]
                kinds |= dict(zip(("paper", "paper std"), zip(*paper, strict=True), strict=True))
                kinds |= {"AUROC": auroc[which], "FPR95": fpr95[which]}
                columns |= {(score, method, kind): values for kind, values in kinds.items()}
        self._tables[choice] = pd.DataFrame(columns, ap.index).dropna(axis=1, how="all")
        return self._tables[choice]

    def confusions(
        self, classes: Sequence[str], method: str, trials: Sequence[int]
    ) -> pd.DataFrame:
        """A row for each held-out class: the shares of its images that are predicted as each known
        class; NaN: not run.
        """
        rows = {}
        for name in classes:
            there = [
                self.arrays[run]
                for run in itertools.product([name], [method], trials)
                if run in self.arrays
            ]
            predicted = [arrays[f"predicted{self._end}"][arrays["is_anomaly"]] for arrays in there]
            counts = np.bincount(
                np.concatenate([*predicted, np.empty(0, int)]), minlength=len(self.known)
            )
            rows[name] = counts / (counts.sum() or math.nan)
        return pd.DataFrame(rows, self.known, dtype=float).T


class _Arrays(dict[str, np.ndarray]):
    """The arrays of a run, each read when it is first looked at."""

    def __init__(self, record: Record):
        super().__init__()
        self.record = record

    def __missing__(self, name: str) -> np.ndarray:
        self |= self.record.scores(*{name, "is_anomaly"} - self.keys())
        return self[name]


def _scores(record: Record) -> _Arrays:
    """The arrays of a run, read once for all tables and statistics; ValueError if they are damaged."""
    record.check()
    return _read.setdefault((record.home, *record.scores_sha256.values()), _Arrays(record))


def _names(
    items: Sequence[Any], base: Callable[[Any], str], settings: Callable[[Any], dict]
) -> Callable[[Any], str]:
    """How each item is shown: its base's label, and the settings in which items of that base
    differ.
    """
    among = defaultdict(list)
    for item in items:
        among[base(item)].append(settings(item))
    unlike = {name: _unlike(those) for name, those in among.items()}
    return lambda item: label(base(item), among) + _apart(settings(item), unlike[base(item)])


@cache
def _paper(*which: Any) -> dict[str, dict[str, float]]:
    """The paper's table, a row a held-out class."""
    return tables.paper(*which).to_dict("index")


def _source(record: Record, experiment: Experiment) -> tuple:
    """How `prepared.load` is to be asked for the data of a record."""
    name, settings = (
        experiment.dataset if experiment.dataset_name == record.dataset else record.dataset,
        record.settings,
    )
    validation = settings.get("evaluate_on") == "validation"
    return name, experiment.data_root, settings.get("image_side"), settings.get("fold"), validation


def data_here(record: Record, experiment: Experiment) -> prepared.Digests | None:
    """The digests that the record's data set has on this machine now; None if it isn't here."""
    try:
        return prepared.digests(*_source(record, experiment))
    except (DataError, OSError):
        return None


def images_of(record: Record, experiment: Experiment) -> ImageSet | str:
    """The images that the record's scores are of, or a sentence that says what is absent. Downloads
    nothing.
    """
    source = _source(record, experiment)
    if not prepared.exists(*source[:3]):
        return f"The data set {record.dataset} is not prepared here, so its images can't be shown; everything else works."
    try:
        data = prepared.load(*source)
    except DataError as error:
        return f"The images can't be shown: {error}"
    if prepared.digests_of(data).test != record.test_digest:
        return f"The images of {record.dataset} that are here are not those that were scored, so they are not shown."
    return data.test
