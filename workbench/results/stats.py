"""Measures of a detector's ranking of the test images, their uncertainty, and differences.

Three sources of uncertainty are kept apart, and each column's name says which it is about: other
test images of the same classes, given the trained networks (`images_`: a bootstrap); another
training (`trial_`: the standard deviation over trials); another held-out class (`class_`, or low
and high: a t-interval over classes). Measures of one ranking are fractions, tables are in percent.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from workbench.experiment import PAPERS_SCORES, ConfigError, Experiment
from workbench.results import tables
from workbench.results.curves import Curve
from workbench.results.frame import Runs
from workbench.results.names import average_of, without_average
from workbench.runs import plan
from workbench.runs.store import Record

# SciPy, scikit-learn and statsmodels are imported where they are used: they are slow to import.

FEWEST_TO_TEST = 6  # of five differences no result of Wilcoxon's signed-rank test is under p = 0.05
MANY = 200  # anomalies from which on a bootstrap's interval covers enough (tests/test_stats.py)
Z = 1.959964  # of a normal distribution's central 95 %
FEWEST_RESAMPLES = 40
WORK = 4 * 10**8  # images that one figure's bootstrap draws: with more images fewer resamples
PREVALENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
RANKED = ["dataset", "hold_out", "method", "trial", "score"]  # which ranking it is
PAIR = ["method", "score"]
BOARD = ["average_precision", "images_low", "images_high", "trial_std", "class_low", "class_high"]
BOARD += ["auroc", "fpr95", "paper"]
CONTRAST = ["method", "score", "against", "difference", "low", "high", "images_low", "images_high"]
CONTRAST += ["above", "classes", "p"]
GAINS = ["method", "score", "hold_out", "difference", "low", "high", "paper", "whole"]


# --- one ranking


class Ranking:
    """Test images sorted once by their scores, higher = more anomalous; ties form one step.

    is_anomaly: (N,) bool or 0/1. scores: (N,), without NaN. strata: (N,), what a bootstrap draws
    apart; None: anomalies and the others. ValueError for other shapes or values, and without
    anomalies or without others.
    """

    def __init__(self, is_anomaly: ArrayLike, scores: ArrayLike, strata: ArrayLike | None = None):
        anomaly = np.asarray(is_anomaly)
        scores = np.asarray(scores)
        if anomaly.ndim != 1 or anomaly.shape != scores.shape:
            shapes = f"{anomaly.shape} and {scores.shape}"
            raise ValueError(f"is_anomaly and scores should be (N,) and (N,), not {shapes}")
        if {*np.unique(anomaly)} != {0, 1}:
            raise ValueError("is_anomaly should hold True and False (or 1 and 0), both of them")
        if np.isnan(scores).any():
            raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN")
        self.is_anomaly = anomaly.astype(bool)
        self.scores = scores.astype(float)  # records keep ranks, which are unsigned
        self.strata = self.is_anomaly if strata is None else np.asarray(strata)
        self.curve = Curve.of(self.is_anomaly, self.scores)
        self.anomalies = int(self.curve.found[-1])
        # true and false positive rate of each step, from the highest score on
        self.tpr = self.curve.found / self.anomalies
        self.fpr = (self.curve.flagged - self.curve.found) / (len(scores) - self.anomalies)

    def average_precision(self, prevalence: float | None = None) -> float:
        """Eq. 4; with a prevalence p as if this share of the images were anomalies.

        The two distributions of scores stay: each normal image then has the weight (1 - p) / p
        times anomalies / normal images (Siblini et al. 2020).
        """
        if prevalence is not None and not 0 < prevalence < 1:
            raise ValueError(f"prevalence should be between 0 and 1, not {prevalence}")
        return float((np.diff(self.tpr, prepend=0) * self._precision(prevalence)).sum())

    def _precision(self, prevalence: float | None = None) -> np.ndarray:
        share = self.anomalies / len(self.scores) if prevalence is None else prevalence
        return share * self.tpr / (share * self.tpr + (1 - share) * self.fpr)

    def auroc(self) -> float:
        """The area under the ROC curve: how often an anomaly is above a normal image, ties half."""
        from sklearn.metrics import auc

        return float(auc(np.r_[0, self.fpr], np.r_[0, self.tpr]))

    def fpr95(self) -> float:
        """The false positive rate of the highest threshold that finds 95 % of the anomalies."""
        return float(self.fpr[np.argmax(self.tpr >= 0.95 - 1e-12)])

    def trapezoid(self) -> float:
        """The area under straight lines between the curve's points, from (0, 1) on: not Eq. 4."""
        from sklearn.metrics import auc

        return float(auc(np.r_[0, self.tpr], np.r_[1, self._precision()]))

    def bounds(self) -> tuple[float, float]:
        """The lowest and highest average precision of all orders of images of one score."""
        found = []
        for first in (self.is_anomaly, ~self.is_anomaly):  # which of the tied comes last
            order = np.lexsort((first, -self.scores))
            ranking = Ranking(self.is_anomaly[order], -np.arange(len(order)))
            found.append(ranking.average_precision())
        return found[0], found[1]

    @cached_property
    def _steps(self) -> tuple[np.ndarray, ...]:
        """Images and anomalies in the order that `resampled` sums, and where each step begins."""
        level = np.searchsorted(-self.curve.thresholds, -self.scores)  # 0 has the highest score
        order = np.argsort(level, kind="stable")
        anomalies = order[self.is_anomaly[order]]
        steps = np.unique(level[anomalies])
        ends = np.searchsorted(level[order], steps, side="right")
        firsts = np.searchsorted(level[anomalies], steps)
        return order[: ends[-1]], np.r_[0, ends[:-1]], anomalies, firsts

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """Average precisions (B,) of B resamples. counts (N, B): how often each has each image.

        A resample's images are in the order of the originals, so nothing is sorted anew, which
        scikit-learn would do for each (34 times slower). With a_k anomalies drawn in step k,
        A_k of them down to step k, and n_k images down to it, Eq. 4 is the sum over steps of
        (a_k / A) (A_k / n_k). Steps without an anomaly add nothing: each is counted with the next
        one that has some.
        """
        images, starts, anomalies, firsts = self._steps
        drawn = np.add.reduceat(counts[images], starts, axis=0, dtype=np.int64).cumsum(0)  # (K, B)
        true = np.add.reduceat(counts[anomalies], firsts, axis=0, dtype=np.int64)  # (K, B)
        found = true.cumsum(0)
        return (true * found / np.maximum(drawn, 1)).sum(0) / found[-1]


def draws(strata: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """How often each image is in each of `count` stratified bootstrap resamples (N, count)."""
    rng = np.random.default_rng(seed)
    counts = np.empty((len(strata), count), np.int16)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn = rng.integers(len(members), size=(len(members), count)) * count + np.arange(count)
        flat = np.bincount(drawn.ravel(), minlength=len(members) * count)
        counts[members] = flat.reshape(-1, count)
    return counts


def interval(
    is_anomaly: ArrayLike, scores: ArrayLike, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Average precision and its 95 % interval over other test images, given the network.

    (value, low, high), symmetric on the logit scale. From MANY anomalies on with the deviation of a
    stratified bootstrap; of n fewer with 1 / sqrt(n AP (1 - AP)), which covers at least 94 %, and
    is wide where AP is near the share of anomalies.
    """
    from scipy.special import logit

    ranking = Ranking(is_anomaly, scores)
    value = ranking.average_precision()
    n = ranking.anomalies
    deviation = None
    if n >= MANY and value < 1:
        drawn = ranking.resampled(draws(ranking.strata, resamples, seed))
        deviation = logit(np.minimum(drawn, 1 - 0.5 / (n + 1))).std(ddof=1)
    return value, *logit_interval(value, n, deviation)


def logit_interval(
    value: float, anomalies: int, deviation: float | None = None
) -> tuple[float, float]:
    """An average precision's 95 % interval, symmetric on the logit scale (Boyd et al. 2013).

    deviation: on that scale; None: 1 / sqrt(n AP (1 - AP)) of n anomalies.
    """
    from scipy.special import expit, logit

    centre = min(max(value, 1e-6), 1 - 0.5 / (anomalies + 1))  # of 0 and 1 the logit is infinite
    if deviation is None:
        deviation = 1 / math.sqrt(anomalies * centre * (1 - centre))
    low, high = expit(logit(centre) + Z * deviation * np.array([-1, 1]))
    return float(low), 1.0 if value == 1 else float(high)


def audit(arrays: Mapping[str, np.ndarray], statistics: str = "mixed") -> pd.DataFrame:
    """Average precision, by Eq. 4 and by other rules: `audit(np.load("scores.npz"))`, in percent.

    average_precision: Eq. 4, images of one score one step. trapezoid: straight lines
    between the steps, as many libraries have it. lowest, highest: of the worst and the best order
    of images of one score. tied: images that share their score. ValueError without is_anomaly.
    """
    if "is_anomaly" not in arrays:
        raise ValueError(f"is_anomaly should be beside the scores, which are {', '.join(arrays)}")
    rows = {}
    for key in arrays:
        name, at, end = key.partition("@")
        if name in ("label", "predicted", "is_anomaly") or at + end != plan.STATISTICS[statistics]:
            continue
        ranking = Ranking(arrays["is_anomaly"], arrays[key])
        together = np.diff(ranking.curve.flagged, prepend=0)  # images of one score
        lowest, highest = ranking.bounds()
        rows[name] = {
            "average_precision": ranking.average_precision(),
            "trapezoid": ranking.trapezoid(),
            "lowest": lowest,
            "highest": highest,
            "tied": together[together > 1].sum() / len(ranking.scores),
        }
    return 100 * pd.DataFrame(rows).T


# --- differences over held-out classes


def paired(gained: pd.Series) -> dict[str, float]:
    """Differences by held-out class: their mean, its 95 % t-interval, and Wilcoxon's p.

    above: in how many of the classes the difference is positive. Two-sided; NaN of too few classes.
    """
    from scipy import stats

    gained = gained.dropna().round(9)  # equal ones are equal again, for the ranks
    low, high = t_interval(gained)
    row = {"difference": gained.mean(), "low": low, "high": high}
    row |= {"above": int((gained > 0).sum()), "classes": len(gained), "p": math.nan}
    if (gained != 0).sum() >= FEWEST_TO_TEST:
        row["p"] = float(stats.wilcoxon(gained).pvalue)
    return row


def t_interval(values: pd.Series) -> tuple[float, float]:
    """The mean's 95 % interval over held-out classes; NaN of fewer than two."""
    from scipy.stats import ttest_1samp

    if len(values) < 2:
        return math.nan, math.nan
    with warnings.catch_warnings(action="ignore"):  # of a test that is not used, of equal values
        found = ttest_1samp(values, 0).confidence_interval()
    return found.low, found.high


def gain(table: pd.DataFrame, method: str, measure: str) -> pd.Series:
    """A method above plain classification by class, in points, of a table of by_class.

    Without the classes that lack one of the two.
    """
    means = without_average(table).xs("mean", axis=1, level="statistic")
    return (means[method, measure] - means["classification", measure]).dropna().round(9)


def gains(runs: Runs) -> pd.DataFrame:
    """How far each method is above plain classification, by experiment, statistics and measure.

    Points: plain and with, means over the held-out classes that have both; gain, low to high,
    above, classes and p as in `paired`; planned: classes in all. images: of training a class.
    """
    rows = []
    for experiment, records in runs:
        if "classification" not in experiment.methods:
            raise ConfigError("methods: gains are over classification; name it among the methods")
        images = tables.images_a_class(experiment, records)
        for statistics in plan.STATISTICS:
            of_statistics = experiment.model_copy(update={"statistics": statistics})
            table = without_average(tables.by_class(of_statistics, records))
            parts = tables.parts(table)
            for (method, measure), part in parts.items():
                if method == "classification":
                    continue
                plain = parts["classification", measure]["mean"]
                both = pd.DataFrame({"plain": plain, "with": part["mean"]}).dropna()
                row = {"images": images, "statistics": statistics, "method": method}
                row |= {"measure": measure} | both.mean().to_dict()
                tested = paired(both["with"] - both.plain)
                row |= {"gain": tested.pop("difference")} | tested | {"planned": len(table)}
                rows.append(row | {"p": row.pop("p")})
    return pd.DataFrame(rows)


def gains_by_class(
    experiment: Experiment, records: Sequence[Record], most: int = 30, seed: int = 0
) -> pd.DataFrame:
    """How far each method is above plain classification, by score and class, then for their mean.

    Points, means over trials; NaN where not run. low to high: 95 %, of a class over test images,
    given the networks (a paired bootstrap); of the mean over held-out classes. paper: the paper's
    difference. whole: whether the mean is of all classes, and each of as many trials. Of more
    classes than `most` those with the largest differences; the mean is of all.
    """
    others = [method for method in experiment.methods if method != "classification"]
    comparable = others and len(others) < len(experiment.methods)
    if not comparable or plan.held_out(experiment) == [None]:
        return pd.DataFrame(columns=GAINS)
    table = tables.by_class(experiment, records)
    parts = tables.parts(table)
    average = average_of(table)
    classes = without_average(table).index
    pairs = list(itertools.product(others, experiment.scores))
    gained = pd.DataFrame({pair: gain(table, *pair) for pair in pairs}, index=classes)
    largest = gained.abs().max(axis=1).fillna(-1).nlargest(most).index
    shown = classes[classes.isin(largest)]
    deviations = _deviations(experiment, records, shown, seed)
    rows = gained.loc[shown]
    rows.loc[average] = gained.mean()
    half = Z * deviations.reindex(index=rows.index, columns=rows.columns)
    low = rows - half
    high = rows + half
    paper = pd.DataFrame(math.nan, rows.index, rows.columns)
    whole = pd.DataFrame(False, rows.index, rows.columns)
    for pair in pairs:
        low.loc[average, pair], high.loc[average, pair] = t_interval(gained[pair].dropna())
        above = parts[pair] - parts["classification", pair[1]]
        if "paper" in above:
            paper[pair] = above.paper
            if gained[pair].isna().any():
                paper.loc[average, pair] = math.nan  # the paper's mean is of all classes
        # the table's average is of whole trials
        whole[pair] = bool(np.isclose(gained[pair].mean(skipna=False), above["mean"][average]))
    every = {"difference": rows, "low": low, "high": high, "paper": paper, "whole": whole}
    long = pd.DataFrame({name: values.unstack() for name, values in every.items()})
    return long.rename_axis([*PAIR, "hold_out"]).reset_index()


def _deviations(
    experiment: Experiment, records: Sequence[Record], classes: pd.Index, seed: int
) -> pd.DataFrame:
    """The deviation over test images of each method above plain classification, in points.

    A row a held-out class, columns (method, score).
    """
    records = [record for record in records if record.hold_out in classes]
    images = sum(len(record.scores("label")["label"]) for record in records[:1])
    work = max(1, images * len(records) * len(experiment.scores))
    resamples = min(200, max(FEWEST_RESAMPLES, WORK // work))
    drawn = _resampled(_rankings(experiment, records), resamples, seed)
    mean = drawn.groupby(level=["hold_out", *PAIR]).mean()  # over trials
    every = [classes, experiment.methods, experiment.scores]
    mean = mean.reindex(pd.MultiIndex.from_product(every, names=mean.index.names))
    plain = mean.xs("classification", level="method")
    above = {name: mean.xs(name, level="method") - plain for name in experiment.methods}
    return pd.concat(above, names=["method"]).std(axis=1).unstack(PAIR)


# --- detectors and methods, over the held-out classes of several data sets


class Measured(NamedTuple):
    """Average precisions of several experiments' runs, of which tables of detectors are made."""

    rankings: pd.Series  # a Ranking for each data set, held-out class, method, trial and score
    classes: pd.DataFrame  # percent, mean over trials: rows (dataset, hold_out), columns PAIR
    resampled: pd.DataFrame  # the means of its columns with other test images, a row a resample
    paper: dict[str, float]  # the paper's means of <method>_<score>, where it has these classes


def measured(runs: Runs, resamples: int = 200, seed: int = 0) -> Measured:
    """Rank the test images of every run by every score, with each experiment's statistics.

    Held-out classes of several data sets are pooled; one that lacks a method or score is left out.
    The bootstrap draws the images of each class apart, the same for all methods, trials, scores and
    held-out classes. ConfigError if a data set comes twice.
    """
    names = [experiment.dataset_name for experiment, _ in runs]
    found = {}
    for experiment, records in runs:
        if (count := names.count(experiment.dataset_name)) > 1:
            said = f"{experiment.dataset_name} has {count}, name one"
            raise ConfigError(f"labels: detectors are compared once on a data set; {said}")
        found |= dict(_rankings(experiment, records))
    rankings = pd.Series(found.values(), _index(found), dtype=object)
    classes = _by_class(rankings, Ranking.average_precision)
    complete = ((key, ranking) for key, ranking in found.items() if key[:2] in classes.index)
    drawn = _resampled(complete, resamples, seed)
    means = drawn.groupby(level=["dataset", "hold_out", *PAIR]).mean().groupby(level=PAIR).mean()
    means = means.reindex(classes.columns).T
    return Measured(rankings, classes, means, _paper([experiment for experiment, _ in runs]))


def _rankings(
    experiment: Experiment, records: Iterable[Record]
) -> Iterator[tuple[tuple[Any, ...], Ranking]]:
    wanted = plan.scoring(experiment)
    end = plan.STATISTICS[experiment.statistics]
    for record in records:
        if record.hold_out is None:
            continue
        keys = {name: record.key(how) for name, how in wanted.items()}
        keys = {name: key + end for name, key in keys.items() if key}
        arrays = record.scores("is_anomaly", "label", *keys.values())
        for name, key in keys.items():
            which = (record.dataset, record.hold_out, record.method, record.trial, name)
            yield which, Ranking(arrays["is_anomaly"], arrays[key], arrays["label"])


def _index(keys: Iterable[tuple[Any, ...]]) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(pd.DataFrame(list(keys), columns=RANKED))


def _resampled(
    rankings: Iterable[tuple[tuple[Any, ...], Ranking]], resamples: int, seed: int
) -> pd.DataFrame:
    """Average precisions with other test images, percent: a row a ranking, a column a resample."""
    counts: dict[bytes, np.ndarray] = {}
    drawn = {}
    for key, ranking in rankings:
        test = ranking.strata.tobytes()
        if test not in counts:
            counts[test] = draws(ranking.strata, resamples, seed + len(counts))
        drawn[key] = 100 * ranking.resampled(counts[test])
    return pd.DataFrame(np.reshape([*drawn.values()], (-1, resamples)), _index(drawn))


def _by_class(rankings: pd.Series, measure: Callable[[Ranking], float]) -> pd.DataFrame:
    """Percent, mean over trials: rows (dataset, hold_out) that have all columns, columns PAIR."""
    values = 100 * rankings.map(measure).astype(float)
    means = values.groupby(level=["dataset", "hold_out", *PAIR]).mean()
    columns = values.index.droplevel(["dataset", "hold_out", "trial"]).unique()  # in their order
    return means.unstack(PAIR).reindex(columns=columns).dropna()


def _paper(experiments: Sequence[Experiment]) -> dict[str, float]:
    parts = []
    for e in experiments:
        classes = [name for name in plan.held_out(e) if name]
        table = tables.paper(e.dataset, classes, e.architecture, e.train_per_class)
        if table.empty or not classes:
            return {}
        parts.append(table.loc[classes])
    return pd.concat(parts).mean().to_dict()


def _means(found: Measured, measure: Callable[[Ranking], float]) -> pd.Series:
    """A measure's means over held-out classes, by method and score."""
    return _by_class(found.rankings, measure).reindex(found.classes.index).mean()


def leaderboard(found: Measured) -> pd.DataFrame:
    """A row for each method and score, of a method the highest first; percent, means over classes.

    images_low to images_high: 95 % over other test images, as many; trial_std: standard deviation
    of that mean over trials; class_low to class_high: 95 % over other held-out classes. auroc,
    fpr95: as peers report it. paper: the paper's mean.
    """
    mean = found.classes.mean()
    half = Z * found.resampled.std()
    runs = 100 * found.rankings.map(Ranking.average_precision).astype(float)
    by_trial = runs.groupby(level=["method", "score", "trial", "dataset", "hold_out"]).mean()
    by_trial = by_trial.unstack(["dataset", "hold_out"]).reindex(columns=found.classes.index)
    trials = by_trial.mean(axis=1, skipna=False)  # of those that have all classes
    board = pd.DataFrame({"average_precision": mean}, found.classes.columns)
    board = board.assign(images_low=mean - half, images_high=mean + half)
    board["trial_std"] = trials.groupby(level=PAIR).std()
    ends = [t_interval(values) for _, values in found.classes.items()]
    board[["class_low", "class_high"]] = np.reshape(ends, (-1, 2))
    board = board.assign(auroc=_means(found, Ranking.auroc), fpr95=_means(found, Ranking.fpr95))
    board["paper"] = [found.paper.get("_".join(pair), math.nan) for pair in board.index]
    board["place"] = board.groupby(level="method", sort=False).ngroup()
    board = board.sort_values(["place", "average_precision"], ascending=[True, False])
    return board[BOARD]


def contrasts(found: Measured) -> pd.DataFrame:
    """The two families of contrasts that are tested, fixed before any p was computed.

    family "detectors": each score against MSP, for plain classification; "methods": each method
    against classification, for MSP and ODIN. Columns as in `effects`, then p, Wilcoxon's over
    held-out classes, and holm, corrected by Holm within the family.
    """
    from statsmodels.stats.multitest import multipletests

    detectors = _differences(found, "msp")
    methods = _differences(found, "classification")
    families = {
        "detectors": detectors[detectors.method == "classification"],
        "methods": methods[methods.score.isin(PAPERS_SCORES)],
    }
    table = pd.concat(families, names=["family"]).reset_index("family")
    # a contrast that can't be tested, its p NaN, counts in the correction all the same
    p = table.p.fillna(1).groupby(table.family)
    holm = p.transform(lambda family: multipletests(family, method="holm")[1])
    return table.assign(holm=holm.where(table.p.notna())).reset_index(drop=True)


def effects(found: Measured, against: str) -> pd.DataFrame:
    """Differences with intervals and without tests: "msp", of each method's scores, or a method.

    Points: difference, its 95 % interval low to high over held-out classes and images_low to
    images_high over test images; above: in how many of the classes it is positive.
    """
    return _differences(found, against).drop(columns="p")


def _differences(found: Measured, against: str) -> pd.DataFrame:
    rows = []
    for method, score in found.classes:
        other = (method, "msp") if against == "msp" else (against, score)
        if other in found.classes and other != (method, score):
            row = {"method": method, "score": score, "against": against}
            row |= paired(found.classes[method, score] - found.classes[other])
            half = Z * (found.resampled[method, score] - found.resampled[other]).std()
            row["images_low"] = row["difference"] - half
            row["images_high"] = row["difference"] + half
            rows.append(row)
    return pd.DataFrame(rows, columns=CONTRAST)


def by_prevalence(found: Measured, prevalences: Sequence[float] = PREVALENCES) -> pd.DataFrame:
    """Average precision, mean over classes: a row a share of anomalies, columns (method, score)."""
    rows = {}
    for share in prevalences:
        rows[share] = _means(found, partial(Ranking.average_precision, prevalence=share))
    return pd.DataFrame(rows).T.rename_axis(index="prevalence")


def correlations(found: Measured, probes: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation over classes of each detector's average precision with each probe's.

    probes: a row a data set's held-out class, columns (probe, average_precision). A row for each
    method, score and probe, with its 95 % interval over classes (Bonett & Wright 2000); NaN of
    fewer than five classes, or where all are equal.
    """
    from scipy.stats import spearmanr

    of_probes = probes.xs("average_precision", axis=1, level=1)
    both = found.classes.index.intersection(probes.index)
    rows = []
    for method, score in found.classes:
        for probe in of_probes if len(both) else ():
            detected = found.classes.loc[both, (method, score)]
            probed = of_probes.loc[both, probe]
            rho = low = high = math.nan
            if len(both) >= 5 and detected.nunique() > 1 and probed.nunique() > 1:
                rho = float(spearmanr(detected, probed).statistic)
                centre = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
                half = Z * math.sqrt((1 + rho**2 / 2) / (len(both) - 3))
                low, high = np.tanh([centre - half, centre + half])
            rows.append([method, score, probe, rho, low, high, len(both)])
    return pd.DataFrame(rows, columns=["method", "score", "probe", "rho", "low", "high", "classes"])
