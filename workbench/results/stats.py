"""Measures of a detector's ranking of the test images, their uncertainty, and differences between
detectors.

There are three sources of uncertainty, and each column's name says which it is: other test images
of the same classes, given the trained networks (`images_`: a bootstrap); another training
(`trial_`: the standard deviation over trials); another held-out class (`class_`, or low and high: a
t-interval over the classes). Measures of one ranking are fractions, tables are in percent.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from workbench.experiment import PAPERS_SCORES, ConfigError, Experiment
from workbench.results import tables
from workbench.results.curves import Curve
from workbench.results.names import average_of, without_average
from workbench.runs import plan
from workbench.runs.store import Record

FEWEST_TO_TEST = 6  # of five differences no result of Wilcoxon's signed-rank test is under p = 0.05
MANY = 200  # anomalies from which on a bootstrap's interval covers what it should (tests/test_stats.py)
Z = 1.959964  # of a normal distribution's central 95 %
BOARD = [
    "method",
    "score",
    "average_precision",
    "images_low",
    "images_high",
    "trial_std",
    "class_low",
    "class_high",
    "auroc",
]
BOARD += ["fpr95", "paper"]
CONTRAST = [
    "method",
    "score",
    "against",
    "difference",
    "low",
    "high",
    "images_low",
    "images_high",
    "above",
    "classes",
]
GAINS = ["method", "score", "hold_out", "difference", "low", "high", "paper", "whole"]
WORK, FEWEST_RESAMPLES = (
    4 * 10**8,
    40,
)  # images that one figure's bootstrap draws: with more runs or images fewer resamples
PREVALENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


# --- one ranking


class Ranking:
    """Test images sorted once by their scores, higher = more anomalous; images of one score form
    one step.

    is_anomaly: (N,) bool or 0/1. scores: (N,), without NaN. strata: (N,), what a bootstrap draws
    apart; None: anomalies and the others. ValueError for other shapes or values, and without
    anomalies or without others.
    """

    def __init__(self, is_anomaly: ArrayLike, scores: ArrayLike, strata: ArrayLike | None = None):
        anomaly, scores = np.asarray(is_anomaly), np.asarray(scores)
        if anomaly.ndim != 1 or anomaly.shape != scores.shape:
            raise ValueError(
                f"is_anomaly and scores should be (N,) and (N,), not {anomaly.shape} and {scores.shape}"
            )
        if set(np.unique(anomaly)) != {0, 1}:
            raise ValueError("is_anomaly should hold True and False (or 1 and 0), both of them")
        if np.isnan(scores).any():
            raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN")
        self.is_anomaly, self.scores = (
            anomaly.astype(bool),
            scores.astype(float),
        )  # kept ranks are unsigned
        self.strata = self.is_anomaly if strata is None else np.asarray(strata)
        self.curve = Curve.of(self.is_anomaly, self.scores)
        false = self.curve.flagged - self.curve.found
        self.anomalies = int(self.curve.found[-1])
        self.recall = self.curve.found / self.anomalies  # of each step, from the highest score on
        self.fallout = false / false[-1]  # the false positive rate

    def average_precision(self, prevalence: float | None = None) -> float:
        """Eq. 4. prevalence: as if this share p of the images were anomalies, with the same two
        distributions of scores.

        Each normal image then has the weight (1 - p) / p times anomalies / normal images (Siblini
        et al. 2020).
        """
        if prevalence is not None and not 0 < prevalence < 1:
            raise ValueError(f"prevalence should be between 0 and 1, not {prevalence}")
        return float((np.diff(self.recall, prepend=0) * self._precision(prevalence)).sum())

    def _precision(self, prevalence: float | None = None) -> np.ndarray:
        share = self.anomalies / len(self.is_anomaly) if prevalence is None else prevalence
        true, false = share * self.recall, (1 - share) * self.fallout
        return true / (true + false)

    def auroc(self) -> float:
        """The area under the ROC curve: how often an anomaly is above a normal image, ties half."""
        recall = np.concatenate([[0], self.recall])
        return float((np.diff(self.fallout, prepend=0) * (recall[1:] + recall[:-1]) / 2).sum())

    def fpr95(self) -> float:
        """The share of normal images at or above the highest threshold that finds 95 % of the
        anomalies.
        """
        return float(self.fallout[np.argmax(self.recall >= 0.95 - 1e-12)])

    def trapezoid(self) -> float:
        """The area under straight lines between the points of the precision-recall curve, from (0,
        1) on: not Eq. 4.
        """
        precision = np.concatenate([[1], self._precision()])
        return float((np.diff(self.recall, prepend=0) * (precision[1:] + precision[:-1]) / 2).sum())

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest average precision of all orders that the ties leave open."""
        orders = (np.lexsort((first, self._level)) for first in (self.is_anomaly, ~self.is_anomaly))
        low, high = (
            Ranking(self.is_anomaly[order], -np.arange(len(order))).average_precision()
            for order in orders
        )
        return low, high

    @cached_property
    def _level(self) -> np.ndarray:
        """(N,): each image's step; 0 has the highest score."""
        return np.searchsorted(-self.curve.thresholds, -self.scores)

    @cached_property
    def _steps(self) -> tuple[np.ndarray, ...]:
        """Images down to the last step with an anomaly, where each such step begins in them; the
        same for anomalies alone.
        """
        order = np.argsort(self._level, kind="stable")
        sorted_, true = self._level[order], order[self.is_anomaly[order]]
        found = np.unique(self._level[true])
        ends = np.searchsorted(sorted_, found, side="right")
        return (
            order[: ends[-1]],
            np.r_[0, ends[:-1]],
            true,
            np.searchsorted(self._level[true], found),
        )

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """Average precisions (B,) of B resamples, without sorting anew. counts (N, B): how often
        each has each image.
        """
        images, starts, anomalies, firsts = self._steps
        everything = np.add.reduceat(counts[images], starts, axis=0, dtype=np.int64).cumsum(
            0
        )  # (steps, B)
        true = np.add.reduceat(counts[anomalies], firsts, axis=0, dtype=np.int64)
        found = true.cumsum(0)
        return (true * found / np.maximum(everything, 1)).sum(0) / found[-1]


def draws(strata: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each of `count` bootstrap resamples, stratum by stratum: (N,
    count).
    """
    rng, counts = np.random.default_rng(seed), np.empty((len(strata), count), np.int16)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn = rng.integers(len(members), size=(len(members), count)) * count + np.arange(count)
        counts[members] = np.bincount(drawn.ravel(), minlength=counts[members].size).reshape(
            -1, count
        )
    return counts


def interval(
    is_anomaly: ArrayLike, scores: ArrayLike, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Average precision with its 95 % interval over other test images, given the network: (value,
    low, high).

    Symmetric on the logit scale. From MANY anomalies on with the deviation of a stratified
    bootstrap; of fewer with 1 / sqrt(n AP (1 - AP)), n anomalies, which covers at least 94 %, and
    is wide where AP is near the share of anomalies.
    """
    from scipy.special import logit  # scipy is slow to import, here and below

    ranking = Ranking(is_anomaly, scores)
    value, n, deviation = ranking.average_precision(), ranking.anomalies, None
    if n >= MANY and value < 1:
        drawn = ranking.resampled(draws(ranking.strata, resamples, seed))
        deviation = logit(np.minimum(drawn, 1 - 0.5 / (n + 1))).std(ddof=1)
    return value, *logit_interval(value, n, deviation)


def logit_interval(
    value: float, anomalies: int, deviation: float | None = None
) -> tuple[float, float]:
    """The 95 % interval of an average precision, symmetric on the logit scale (Boyd et al. 2013).

    deviation: on that scale; None: 1 / sqrt(n AP (1 - AP)) of n anomalies.
    """
    from scipy.special import expit, logit

    centre = min(max(value, 1e-6), 1 - 0.5 / (anomalies + 1))  # of 0 and 1 the logit is infinite
    deviation = 1 / math.sqrt(anomalies * centre * (1 - centre)) if deviation is None else deviation
    low, high = expit(logit(centre) + Z * deviation * np.array([-1, 1]))
    return float(low), 1.0 if value == 1 else float(high)


def difference_interval(
    is_anomaly: ArrayLike, one: ArrayLike, other: ArrayLike, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """How far `one` is above `other` in average precision, on the same images, with a 95 % interval
    over other test images.

    A paired stratified bootstrap: each resample of the images is scored by both.
    """
    pair = [Ranking(is_anomaly, scores) for scores in (one, other)]
    counts = draws(pair[0].strata, resamples, seed)
    value = pair[0].average_precision() - pair[1].average_precision()
    half = Z * (pair[0].resampled(counts) - pair[1].resampled(counts)).std(ddof=1)
    return value, float(value - half), float(value + half)


def audit(arrays: Mapping[str, np.ndarray], statistics: str = "mixed") -> pd.DataFrame:
    """Average precision of each score in a file and by other rules, in percent, a row each:
    `audit(np.load("scores.npz"))`.

    average_precision: Eq. 4, images of one score one step. trapezoid: straight lines between the
    steps, as many libraries have it. lowest and highest: the average precision of the worst and the
    best order of images of one score. tied: images that share their score with another one.
    ValueError without is_anomaly.
    """
    if "is_anomaly" not in arrays:
        raise ValueError(
            f"scores need is_anomaly beside them, which is not among {', '.join(arrays)}"
        )
    rows = {}
    for key in arrays:
        name, at, end = key.partition("@")
        if name in ("label", "predicted", "is_anomaly") or at + end != plan.STATISTICS[statistics]:
            continue
        ranking = Ranking(arrays["is_anomaly"], arrays[key])
        together = np.diff(ranking.curve.flagged, prepend=0)  # images of one score
        tied = together[together > 1].sum() / len(ranking.is_anomaly)
        rows[name] = [ranking.average_precision(), ranking.trapezoid(), *ranking.bounds(), tied]
    columns = ["average_precision", "trapezoid", "lowest", "highest", "tied"]
    return 100 * pd.DataFrame.from_dict(rows, orient="index", columns=columns)


# --- detectors and methods over held-out classes


Key = tuple[str, str, str, int, str]  # data set, hold-out, method, trial and score


class Measured(NamedTuple):
    """The average precisions of several experiments' runs, of which the tables of detectors are
    made.
    """

    rankings: dict[Key, Ranking]
    classes: (
        pd.DataFrame
    )  # percent, mean over trials: a row a data set's held-out class, columns (method, score)
    resampled: pd.DataFrame  # the means of its columns with other test images, a row a resample
    paper: dict[
        str, float
    ]  # the paper's means of <method>_<score>, where it has these data sets and classes


def check(experiments: Sequence[Experiment]) -> None:
    """ConfigError if a data set comes twice, of which detectors could not be pooled: to call before
    anything is trained.
    """
    names = [experiment.dataset_name for experiment in experiments]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"labels: detectors are compared once on a data set; {twice[0]} has {len(twice)}, name one"
        )


def measured(
    runs: Sequence[tuple[Experiment, Sequence[Record]]], resamples: int = 200, seed: int = 0
) -> Measured:
    """Rank the test images of every run by every score, with each experiment's batch-norm
    statistics.

    Held-out classes of several data sets are pooled; one that lacks a method or score is left out.
    The bootstrap draws the images of each class apart, the same for all methods, trials, scores and
    held-out classes. ConfigError as by `check`.
    """
    check([experiment for experiment, _ in runs])
    rankings = {
        key: ranking
        for experiment, records in runs
        for key, ranking in _rankings(experiment, records)
    }
    classes = _by_class(rankings, Ranking.average_precision)
    drawn = {}
    complete = ((key, ranking) for key, ranking in rankings.items() if key[:2] in classes.index)
    for (_, _, *pair), values in _resampled(complete, resamples, seed).items():
        drawn.setdefault(tuple(pair), []).append(values)
    means = {pair: np.mean(values, axis=0) for pair, values in drawn.items()}
    return Measured(
        rankings, classes, pd.DataFrame(means), _paper([experiment for experiment, _ in runs])
    )


def _rankings(experiment: Experiment, records: Iterable[Record]) -> Iterator[tuple[Key, Ranking]]:
    wanted, end = plan.scoring(experiment), plan.STATISTICS[experiment.statistics]
    for record in (record for record in records if record.hold_out):
        keys = {name: key + end for name, how in wanted.items() if (key := record.key(how))}
        arrays = record.scores("is_anomaly", "label", *keys.values())
        for name, key in keys.items():
            which = (record.dataset, str(record.hold_out), record.method, record.trial, name)
            yield which, Ranking(arrays["is_anomaly"], arrays[key], arrays["label"])


def _resampled(
    rankings: Iterable[tuple[Key, Ranking]], resamples: int, seed: int
) -> dict[tuple[str, str, str, str], np.ndarray]:
    """Average precisions (resamples,) with other test images, percent, mean over trials; by data
    set, class, method, score.
    """
    counts, drawn = {}, {}
    for (dataset, hold_out, method, _, score), ranking in rankings:
        test = ranking.strata.tobytes()
        if test not in counts:
            counts[test] = draws(ranking.strata, resamples, seed + len(counts))
        trials = drawn.setdefault((dataset, hold_out, method, score), [])
        trials.append(100 * ranking.resampled(counts[test]))
    return {key: np.mean(trials, axis=0) for key, trials in drawn.items()}


def _by_class(rankings: Mapping[Key, Ranking], measure: Callable[[Ranking], float]) -> pd.DataFrame:
    """Percent, mean over trials: rows (dataset, hold_out) that have a value in every column,
    columns (method, score).
    """
    if not rankings:
        return pd.DataFrame(
            index=pd.MultiIndex.from_arrays([[], []]), columns=pd.MultiIndex.from_arrays([[], []])
        )
    values = {key: 100 * measure(ranking) for key, ranking in rankings.items()}
    series = pd.Series(values).rename_axis(["dataset", "hold_out", "method", "trial", "score"])
    table = (
        series.groupby(level=["dataset", "hold_out", "method", "score"])
        .mean()
        .unstack(["method", "score"])
    )
    columns = dict.fromkeys(
        (method, score) for _, _, method, _, score in values
    )  # in the experiments' order
    return table.dropna()[list(columns)]


def _paper(experiments: Sequence[Experiment]) -> dict[str, float]:
    tabled = []
    for e in experiments:
        rows = [name for name in plan.held_out(e) if name]
        table = tables.paper(e.dataset, rows, e.architecture, e.train_per_class)
        if table.empty or not rows:
            return {}
        tabled.append(table.loc[rows])
    return pd.concat(tabled).mean().to_dict()


def leaderboard(found: Measured) -> pd.DataFrame:
    """A row for each method and score, of a method the highest average precision first; percent,
    means over held-out classes.

    images_low to images_high: 95 % over other test images, as many; trial_std: standard deviation
    of that mean over trials; class_low to class_high: 95 % over other held-out classes. auroc,
    fpr95: as peers report it. paper: the paper's mean.
    """
    rows, others = (
        [],
        {"auroc": _means(found, Ranking.auroc), "fpr95": _means(found, Ranking.fpr95)},
    )
    for method, score in found.classes.columns:
        values = found.classes[method, score]
        half = Z * found.resampled[method, score].std() if len(values) else math.nan
        row = {"method": method, "score": score, "average_precision": values.mean()}
        row |= {"images_low": values.mean() - half, "images_high": values.mean() + half}
        row |= {"trial_std": _trials(found, method, score).std()}
        row["class_low"], row["class_high"] = _t_interval(values)
        row |= {name: measure[method, score] for name, measure in others.items()}
        rows.append(row | {"paper": found.paper.get(f"{method}_{score}", math.nan)})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    rows.sort(key=lambda row: (methods.index(row["method"]), -row["average_precision"]))
    return pd.DataFrame(rows, columns=BOARD).set_index(["method", "score"])


def _means(found: Measured, measure: Callable[[Ranking], float]) -> pd.Series:
    """A measure's means over held-out classes, by method and score."""
    return _by_class(found.rankings, measure).reindex(found.classes.index).mean()


def _trials(found: Measured, method: str, score: str) -> pd.Series:
    """The mean over held-out classes of each trial that has them all."""
    values = {
        k: 100 * r.average_precision()
        for k, r in found.rankings.items()
        if (k[2], k[4]) == (method, score)
    }
    table = pd.Series({(k[3], *k[:2]): value for k, value in values.items()}, dtype=float).unstack(
        0
    )
    return table.reindex(found.classes.index).mean(skipna=False).dropna()


def contrasts(found: Measured) -> pd.DataFrame:
    """The two families of contrasts that are tested, fixed before this table was made, each
    corrected by Holm by itself.

    family "detectors": each score against MSP, for plain classification; "methods": each method
    against classification, for MSP and ODIN. Points: difference, its 95 % interval low to high over
    held-out classes and images_low to images_high over test images; above of classes: in how many;
    p: Wilcoxon's, two-sided, over held-out classes; holm: corrected.
    """
    pairs, plain = list(found.classes.columns), "classification"
    families = {
        "detectors": [
            ((m, s), (plain, "msp"))
            for m, s in pairs
            if m == plain and s != "msp" and (plain, "msp") in pairs
        ],
        "methods": [
            ((m, s), (plain, s))
            for m, s in pairs
            if m != plain and s in PAPERS_SCORES and (plain, s) in pairs
        ],
    }
    rows = [
        {"family": name} | _contrast(found, *pair)
        for name, those in families.items()
        for pair in those
    ]
    table = pd.DataFrame(rows, columns=["family", *CONTRAST, "p", "holm"])
    for name in families:
        table.loc[table.family == name, "holm"] = holm(
            table.p[table.family == name].to_numpy(float)
        )
    return table


def effects(found: Measured, against: str) -> pd.DataFrame:
    """Differences with intervals and without tests, columns as in `contrasts`.

    against: "msp", of each method's scores; or a method, of each score's methods.
    """
    pairs = list(found.classes.columns)
    base = {pair: (pair[0], "msp") if against == "msp" else (against, pair[1]) for pair in pairs}
    rows = [
        _contrast(found, pair, other)
        for pair, other in base.items()
        if pair != other and other in pairs
    ]
    return pd.DataFrame(rows, columns=CONTRAST)


def _contrast(
    found: Measured, better: tuple[str, str], worse: tuple[str, str]
) -> dict[str, object]:
    gained = (found.classes[better] - found.classes[worse]).round(
        9
    )  # equal ones are equal again, for the ranks
    half = Z * (found.resampled[better] - found.resampled[worse]).std() if len(gained) else math.nan
    low, high = _t_interval(gained)
    row: dict[str, object] = {"method": better[0], "score": better[1]}
    row |= {"against": worse[1] if better[0] == worse[0] else worse[0]}
    row |= {"difference": gained.mean(), "low": low, "high": high}
    row |= {"images_low": gained.mean() - half, "images_high": gained.mean() + half}
    return row | {"above": int((gained > 0).sum()), "classes": len(gained), "p": wilcoxon(gained)}


def holm(p: np.ndarray) -> np.ndarray:
    """P values corrected for their number by Holm's step-down rule; NaN, which could not be tested,
    counts and stays NaN.
    """
    order, corrected = np.argsort(p), np.full(len(p), math.nan)
    corrected[order] = np.minimum(1, np.fmax.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return np.where(np.isnan(p), math.nan, corrected)


def reversals(board: pd.DataFrame) -> pd.DataFrame:
    """The pairs of one method's scores that AUROC or FPR at 95 % recall rank otherwise than average
    precision, in points.

    Each measure's column: how far `better`, by average precision, is ahead of `worse`; below 0
    where the measure says otherwise (of FPR, where less is better, how far it is below).
    """
    rows = []
    for method, part in board.groupby(level="method", sort=False):
        values = part[["average_precision", "auroc"]].assign(fpr95=-part.fpr95).droplevel("method")
        for k, better in enumerate(values.index):
            ahead = values.loc[better] - values.iloc[k + 1 :]
            for worse, row in ahead[
                (ahead.average_precision > 0) & (ahead[["auroc", "fpr95"]] < 0).any(axis=1)
            ].iterrows():
                rows.append({"method": method, "better": better, "worse": worse} | row.to_dict())
    return pd.DataFrame(
        rows, columns=["method", "better", "worse", "average_precision", "auroc", "fpr95"]
    )


def by_prevalence(found: Measured, prevalences: Sequence[float] = PREVALENCES) -> pd.DataFrame:
    """Average precision in percent, mean over held-out classes, a row a share of anomalies, columns
    (method, score).
    """
    rows = [
        _means(found, partial(Ranking.average_precision, prevalence=share)) for share in prevalences
    ]
    return pd.DataFrame(rows, index=pd.Index(prevalences, name="prevalence"))


def correlations(found: Measured, probes: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation over held-out classes of each detector's average precision with each
    probe's.

    probes: a row a data set's held-out class, columns (probe, average_precision). A row for each
    method, score and probe, with its 95 % interval over classes (Bonett & Wright 2000); NaN of
    fewer than five classes, or where all are equal.
    """
    from scipy.stats import spearmanr  # takes longer to import than the rest of this module

    both, rows = found.classes.index.intersection(probes.index), []
    of_probes = (
        probes.xs("average_precision", axis=1, level=1).loc[both] if len(both) else pd.DataFrame()
    )
    for (method, score), probe in itertools.product(found.classes.columns, of_probes.columns):
        pair = found.classes.loc[both, (method, score)], of_probes[probe]
        known = len(both) >= 5 and all(values.nunique() > 1 for values in pair)
        rho = float(spearmanr(*pair).statistic) if known else math.nan
        half = Z * math.sqrt((1 + rho**2 / 2) / (len(both) - 3)) if known else math.nan
        low, high = np.tanh(
            np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12)) + half * np.array([-1, 1])
        )
        rows.append([method, score, probe, rho, low, high, len(both)])
    return pd.DataFrame(rows, columns=["method", "score", "probe", "rho", "low", "high", "classes"])


def _t_interval(values: pd.Series) -> tuple[float, float]:
    """The mean's 95 % interval over held-out classes; NaN of fewer than two."""
    from scipy.stats import t

    n = len(values)
    half = t.ppf(0.975, n - 1) * values.std() / math.sqrt(n) if n > 1 else math.nan
    return values.mean() - half, values.mean() + half


# --- one experiment at a time


def gains(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> pd.DataFrame:
    """How far each method is above plain classification, a row each for an experiment, statistics,
    method and measure.

    Points: plain and with, the means over held-out classes; gain, their difference, with its 95 %
    interval low to high (of a t-test paired over classes: what other classes would do, not other
    trials); classes: how many of the planned ones were run; above: in how many of these the gain is
    positive; p: Wilcoxon's, two-sided. NaN where not run. images: of training a class, as
    `images_a_class` has it.
    """
    if any("classification" not in experiment.methods for experiment, _ in runs):
        raise ConfigError("methods: gains are over classification; name it among the methods")
    rows = []
    for experiment, records in runs:
        images = tables.images_a_class(experiment, records)
        for statistics in plan.STATISTICS:
            table = tables.by_class(
                experiment.model_copy(update={"statistics": statistics}), records
            )
            for method, measure in dict.fromkeys(
                (m, s) for m, s, _ in table.columns if m != "classification"
            ):
                gained = gain(table, method, measure)
                both, n = table.loc[gained.index], len(gained)
                low, high = _t_interval(gained)
                row = {
                    "images": images,
                    "statistics": statistics,
                    "method": method,
                    "measure": measure,
                }
                row |= {
                    "plain": both["classification", measure, "mean"].mean(),
                    "with": both[method, measure, "mean"].mean(),
                }
                row |= {"gain": gained.mean(), "low": low, "high": high}
                counts = {
                    "above": (gained > 0).sum(),
                    "classes": n,
                    "planned": len(without_average(table)),
                }
                rows.append(row | counts | {"p": wilcoxon(gained)})
    return pd.DataFrame(rows)


def gains_by_class(
    experiment: Experiment, records: Sequence[Record], most: int = 30, seed: int = 0
) -> pd.DataFrame:
    """How far each method is above plain classification: one row per method, score and held-out
    class, then one for their mean.

    Points, means over trials; NaN where not run. low to high: 95 %, of a class over test images,
    given the networks (a paired bootstrap that draws the images of each class); of the mean over
    held-out classes. paper: the paper's difference, NaN where it has none. whole: whether the mean
    is of all classes, and each of as many trials. Of more classes than `most` those with the
    largest differences; the mean is of all.
    """
    others = [method for method in experiment.methods if method != "classification"]
    if not others or len(others) == len(experiment.methods) or plan.held_out(experiment) == [None]:
        return pd.DataFrame(columns=GAINS)
    table = tables.by_class(experiment, records)
    average, classes = average_of(table), without_average(table).index
    gained = {
        (m, s): gain(table, m, s).reindex(classes)
        for m, s in itertools.product(others, experiment.scores)
    }
    largest = pd.DataFrame(gained, index=classes).abs().max(axis=1).fillna(-1).nlargest(most).index
    chosen = [name for name in classes if name in largest]
    deviations = _deviations(
        experiment, [record for record in records if record.hold_out in largest], seed
    )
    parts = []
    for (method, score), values in gained.items():
        half = Z * pd.Series(
            [deviations.get((name, method, score), math.nan) for name in chosen], chosen
        )
        rows = pd.DataFrame(
            {
                "difference": values[chosen],
                "low": values[chosen] - half,
                "high": values[chosen] + half,
            }
        )
        rows.loc[average] = values.mean(), *_t_interval(values.dropna())
        pair = (method, score), ("classification", score)
        if all((*one, "paper") in table for one in pair):
            better, plain = (table[*one, "paper"] for one in pair)
            rows["paper"] = better - plain
            if values.isna().any():
                rows.loc[average, "paper"] = math.nan  # the paper's mean is of all classes
        better, plain = (table.loc[average, (*one, "mean")] for one in pair)
        rows["whole"] = bool(np.isclose(values.mean(skipna=False), better - plain))
        parts.append(
            rows.assign(method=method, score=score, hold_out=rows.index).reindex(columns=GAINS)
        )
    return pd.concat(parts, ignore_index=True)


def _deviations(
    experiment: Experiment, records: Sequence[Record], seed: int
) -> dict[tuple[str, str, str], float]:
    """The deviation over other test images of each method above plain classification, by hold-out,
    method and score; points.
    """
    images = (
        sum(len(record.scores("label")["label"]) for record in records[:1])
        * len(records)
        * len(experiment.scores)
    )
    resamples = min(200, max(FEWEST_RESAMPLES, WORK // max(images, 1)))
    drawn = _resampled(_rankings(experiment, records), resamples, seed)
    return {
        (hold_out, method, score): float((values - plain).std(ddof=1))
        for (dataset, hold_out, method, score), values in drawn.items()
        if (plain := drawn.get((dataset, hold_out, "classification", score))) is not None
    }


def gain(table: pd.DataFrame, method: str, measure: str) -> pd.Series:
    """Of a table of by_class, a method above plain classification by class, in points; without the
    classes that lack one.
    """
    return difference(without_average(table), (method, measure), ("classification", measure))


def difference(
    classes: pd.DataFrame, better: tuple[str, str], worse: tuple[str, str], statistic: str = "mean"
) -> pd.Series:
    """In points, of the classes that have both."""
    gain = (classes[(*better, statistic)] - classes[(*worse, statistic)]).dropna()
    return gain.round(9)  # equal ones are equal again, for the ranks


def wilcoxon(gain: pd.Series) -> float:
    """The p of Wilcoxon's two-sided signed-rank test; NaN where too few differ."""
    if (gain != 0).sum() < FEWEST_TO_TEST:
        return math.nan
    from scipy import stats

    return float(stats.wilcoxon(gain).pvalue)
