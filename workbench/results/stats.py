"""Average precisions over held-out classes: their uncertainty, and differences between them.

Three sources of uncertainty are kept apart, and each column's name says which it is about: other
test images of the same classes, given the trained networks (`images_`: a bootstrap); another
training (`trial_`: the standard deviation over trials); another held-out class (`class_`, or low
and high: a t-interval over classes). Of one class's gain low and high are about the first two
together (`both_sources`). Tables are in percent.
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from workbench.experiment import PAPERS_SCORES, ConfigError, Experiment
from workbench.results import tables
from workbench.results.frame import Runs
from workbench.results.names import AVERAGE, without_average
from workbench.results.ranking import Ranking as Ranking
from workbench.results.ranking import Z, draws
from workbench.results.ranking import audit as audit
from workbench.results.ranking import interval as interval
from workbench.runs import plan
from workbench.runs.store import Record

# SciPy and statsmodels are imported where they are used: they are slow to import.

FEWEST_TO_TEST = 6  # of five differences no result of Wilcoxon's signed-rank test is under p = 0.05
EXACT = 14  # with more held-out classes the flips of their signs are a random sample
PREVALENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
RANKED = ["dataset", "hold_out", "method", "trial", "score"]  # which ranking it is
PAIR = ["method", "score"]
MEASURES = ["average_precision", *PREVALENCES, "auroc", "fpr95"]  # at each prevalence
BOARD = ["average_precision", "images_low", "images_high", "trial_std", "class_low", "class_high"]
BOARD += ["auroc", "fpr95", "paper"]
CONTRAST = ["family", "method", "score", "against", "difference", "low", "high"]
CONTRAST += ["images_low", "images_high", "above", "classes", "p", "holm", "max_t"]
GAIN = ["images", "statistics", "method", "measure", "plain", "with", "gain", "low", "high"]
GAIN += ["above", "classes", "planned", "p"]
GAINS = ["method", "score", "hold_out", "difference", "low", "high", "paper"]


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
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * values.sem()
    return values.mean() - half, values.mean() + half


def gain(table: pd.DataFrame, method: str, measure: str) -> pd.Series:
    """A method above plain classification by class, in points, of a table of by_class.

    Without the classes that lack one of the two.
    """
    means = without_average(table).xs("mean", axis=1, level="statistic")
    return (means[method, measure] - means["classification", measure]).dropna().round(9)


def gains(runs: Runs) -> pd.DataFrame:
    """How far each method is above plain classification, by experiment, statistics and measure.

    Points: plain and with, means over the held-out classes; gain, low to high, above, classes and p
    as in `paired`, NaN of a part of the classes; planned: classes in all. images: of training a
    class. No row of an experiment that lacks classification or another method.
    """
    rows = []
    for experiment, records in runs:
        if "classification" not in experiment.methods:
            continue
        images = tables.images_a_class(experiment, records)
        for statistics in plan.STATISTICS:
            of_statistics = experiment.model_copy(update={"statistics": statistics})
            table = tables.by_class(of_statistics, records)
            means = without_average(table).xs("mean", axis=1, level="statistic")
            for method, measure in means.drop(columns="classification", level="method"):
                row = {"images": images, "statistics": statistics, "method": method}
                row |= {"measure": measure, "plain": means["classification", measure].mean()}
                row |= {"with": means[method, measure].mean(), "planned": len(means)}
                rows.append(row | paired(gain(table, method, measure)))
    found = pd.DataFrame(rows).rename(columns={"difference": "gain"}).reindex(columns=GAIN)
    unknown = ["plain", "with", "gain", "low", "high", "p"]
    found.loc[found.classes < found.planned, unknown] = math.nan
    return found


def gains_by_trial(experiment: Experiment, records: Sequence[Record]) -> pd.DataFrame:
    """How far each method is above plain classification in each trial that has both, in points.

    Rows (hold_out, trial), columns (method, score).
    """
    runs: Any = tables.measurements(experiment, records)
    runs = runs.set_index(["hold_out", "trial", "method"]).unstack()  # columns (measure, method)
    found = {}
    for method, score in itertools.product(experiment.methods, experiment.scores):
        both = runs.reindex(columns=[(score, method), (score, "classification")])
        found[method, score] = both.iloc[:, 0] - both.iloc[:, 1]
    return pd.DataFrame(found)


def gains_by_class(
    experiment: Experiment, records: Sequence[Record], most: int = 30, resamples: int = 200
) -> pd.DataFrame:
    """How far each method is above plain classification, by score and class, then for their mean.

    Points, means over the trials that both have; NaN where not run, the mean's of a part of the
    classes. low to high: 95 %, of a class over test images and trainings (`both_sources`), NaN of
    one trial; of the mean over held-out classes. paper: the paper's difference. Of more classes
    than `most` those with the largest differences; the mean is of all.
    """
    others = [method for method in experiment.methods if method != "classification"]
    comparable = others and len(others) < len(experiment.methods)
    if not comparable or plan.held_out(experiment) == [None]:
        return pd.DataFrame(columns=GAINS)
    table = tables.by_class(experiment, records)
    pairs = list(itertools.product(others, experiment.scores))
    gained = pd.DataFrame({pair: gain(table, *pair) for pair in pairs})
    gained = gained.reindex(without_average(table).index)
    shown = gained.index.isin(gained.abs().max(axis=1).fillna(-1).nlargest(most).index)
    compared = tables.shared(experiment, records)
    here = [record for record in compared if record.hold_out in gained.index[shown]]
    deviations = _deviations(experiment, here, resamples)
    half = both_sources(deviations, gains_by_trial(experiment, here))
    parts = tables.parts(table)
    found: dict[Any, pd.DataFrame] = {}
    for method, score in pairs:
        points = gained[method, score]
        above = parts[method, score] - parts["classification", score]
        rows = points[shown].to_frame("difference")
        rows["low"] = rows.difference - half[method, score]
        rows["high"] = rows.difference + half[method, score]
        rows.loc[AVERAGE] = [points.mean(), *t_interval(points)]
        rows["paper"] = above.get("paper", math.nan)
        if points.isna().any():
            rows.loc[AVERAGE] = math.nan
        found[method, score] = rows
    return pd.concat(found, names=[*PAIR, "hold_out"]).reset_index()


def both_sources(images: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Half the 95 % interval of a mean over trials, over other test images and other trainings.

    images: the mean's deviation over test images, (hold_out, column). trials: each trial's value,
    (hold_out, trial) by column. Half the interval of either source, the trainings' by Student's t,
    added as squares (MOVER; Zou & Donner 2008): at least 95 %. NaN of one trial.
    """
    from scipy.stats import t

    groups = trials.groupby("hold_out")
    count = groups.count()
    trainings = groups.sem() * t.ppf(0.975, count - 1)
    return np.hypot(Z * images, trainings)


def _deviations(experiment: Experiment, records: Sequence[Record], resamples: int) -> pd.DataFrame:
    """The deviation over test images of each method above plain classification, in points.

    A row a held-out class, columns (method, score).
    """
    _, drawn = _ranked([(experiment, records)], resamples)
    drawn = drawn.droplevel("dataset")
    plain = drawn.query("method == 'classification'").droplevel("method")
    above = drawn - plain.reindex(drawn.index.droplevel("method")).to_numpy()
    every = pd.MultiIndex.from_product([experiment.methods, experiment.scores])
    return above.std(axis=1).unstack(PAIR).reindex(columns=every)


# --- detectors and methods, over the held-out classes of several data sets


class Measured(NamedTuple):
    """Measures of several experiments' runs in percent, of which tables of detectors are made."""

    runs: Runs
    rankings: pd.DataFrame  # a row a ranking, which RANKED tells apart, columns MEASURES
    classes: pd.DataFrame  # mean average precisions: rows (dataset, hold_out), columns PAIR
    resampled: pd.DataFrame  # the means of its columns with other test images, a row a resample
    lacks: pd.DataFrame = pd.DataFrame(columns=["method", "why"])  # of tables.compared


def measured(runs: Runs, resamples: int = 200, seed: int = 0) -> Measured:
    """Rank the test images of every run by every score, with each experiment's statistics.

    Of the trials in which every method has every class; held-out classes of several data sets are
    pooled. A method without such a trial, or a score that lacks a data set, is left out. The
    bootstrap draws the images of each class apart, the same for all methods, trials, scores and
    held-out classes. ConfigError if a data set comes twice.
    """
    names = [experiment.dataset_name for experiment, _ in runs]
    for name in names:
        if (count := names.count(name)) > 1:
            said = f"{name} has {count}, name one"
            raise ConfigError(f"epochs_by_labels: detectors are compared on one; {said}")
    compared = [(e, tables.shared(e, records, "whole")) for e, records in runs]
    rankings, drawn = _ranked(compared, resamples, seed)
    classes = _by_class(rankings.average_precision).dropna(axis=1)
    means = drawn.groupby(level=PAIR).mean()
    lacks = pd.concat([tables.compared(*run).reset_index() for run in runs]).query("why != ''")
    return Measured(runs, rankings, classes, means.reindex(classes.columns).T, lacks)


def _ranked(runs: Runs, resamples: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each ranking's MEASURES, and average precisions with other test images; both in percent.

    The second: a column a resample, a row for each data set, held-out class, method and score, mean
    over trials. The images of each class are drawn apart, the same for all of a data set.
    """
    counts: dict[bytes, np.ndarray] = {}
    values = {}
    drawn = {}
    for experiment, records in runs:
        for key, ranking in _rankings(experiment, records):
            test = ranking.strata.tobytes()
            if test not in counts:
                counts[test] = draws(ranking.strata, resamples, seed + len(counts))
            aps = [ranking.average_precision(share) for share in (None, *PREVALENCES)]
            values[key] = [*aps, ranking.auroc(), ranking.fpr95()]
            drawn[key] = ranking.resampled(counts[test])
    index = pd.MultiIndex.from_frame(pd.DataFrame(list(values), columns=RANKED))
    rankings = pd.DataFrame(list(values.values()), index, MEASURES, dtype=float)
    every = pd.DataFrame(np.reshape(list(drawn.values()), (-1, resamples)), index)
    return 100 * rankings, 100 * every.groupby(level=["dataset", "hold_out", *PAIR]).mean()


def _rankings(
    experiment: Experiment, records: Iterable[Record]
) -> Iterator[tuple[tuple[Any, ...], Ranking]]:
    wanted = plan.how_scored(experiment)
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


def _by_class(values: pd.Series) -> pd.DataFrame:
    """Means over trials of a measure: rows (dataset, hold_out), columns PAIR in their order."""
    means = values.groupby(level=["dataset", "hold_out", *PAIR]).mean()
    columns = values.index.droplevel(["dataset", "hold_out", "trial"]).unique()
    return means.unstack(PAIR).reindex(columns=columns)


def _means(found: Measured, measure: str | float) -> pd.Series:
    """A measure's means over held-out classes, by method and score."""
    return _by_class(found.rankings[measure]).reindex(found.classes.index).mean()


def leaderboard(found: Measured) -> pd.DataFrame:
    """A row for each method and score, of a method the highest first; percent, means over classes.

    images_low to images_high: 95 % over other test images, as many; trial_std: standard deviation
    of that mean over trials; class_low to class_high: 95 % over other held-out classes. auroc,
    fpr95: as peers report it. paper: the paper's mean. lacks: how many runs a method lacks that
    another has, a column if there are any; of a method that is left out all else is NaN.
    """
    mean = found.classes.mean()
    half = Z * found.resampled.std()
    runs = found.rankings.average_precision
    by_trial = runs.groupby(level=["method", "score", "trial", "dataset", "hold_out"]).mean()
    by_trial = by_trial.unstack(["dataset", "hold_out"]).reindex(columns=found.classes.index)
    trials = by_trial.mean(axis=1, skipna=False)  # of those that have all classes
    board = pd.DataFrame({"average_precision": mean}, found.classes.columns)
    board = board.assign(images_low=mean - half, images_high=mean + half)
    board["trial_std"] = trials.groupby(level=PAIR).std()
    ends = [t_interval(values) for _, values in found.classes.items()]
    board[["class_low", "class_high"]] = np.reshape(ends, (-1, 2))
    board = board.assign(auroc=_means(found, "auroc"), fpr95=_means(found, "fpr95"))
    held_out = pd.concat([without_average(tables.by_class(*run)) for run in found.runs])
    paper = held_out.reindex(columns=[(*pair, "paper") for pair in board.index])
    board["paper"] = paper.mean(skipna=False).to_numpy()
    board["place"] = board.groupby(level="method", sort=False).ngroup()
    board = board.sort_values(["place", "average_precision"], ascending=[True, False])
    if found.lacks.empty:
        return board[BOARD]
    kinds = found.lacks.groupby("method").why
    texts = kinds.agg(lambda why: f"runs: {len(why)} ({', '.join(why.unique())})")
    scores = dict.fromkeys(itertools.chain(*(experiment.scores for experiment, _ in found.runs)))
    absent = [pair for pair in itertools.product(texts.index, scores) if pair not in board.index]
    board = board.reindex([*board.index, *absent])
    return board[BOARD].assign(lacks=[texts.get(method, "") for method, _ in board.index])


def contrasts(found: Measured) -> pd.DataFrame:
    """Each score against MSP of its method, and each method against plain classification.

    Points: difference, its 95 % interval low to high over held-out classes and images_low to
    images_high over test images; above: in how many of the classes it is positive. Two families,
    fixed before any p was computed, are tested, and come first: "detectors", scores against MSP for
    plain classification, and "methods", for MSP and ODIN. p: Wilcoxon's over held-out classes;
    holm: corrected by Holm within the family; max_t: another correction, by `max_t`. Of other
    contrasts family and all p are NaN.
    """
    from statsmodels.stats.multitest import multipletests

    rows = []
    gained = []
    for against, (method, score) in itertools.product(("msp", "classification"), found.classes):
        other = (method, "msp") if against == "msp" else ("classification", score)
        if other not in found.classes or other == (method, score):
            continue
        row = {"family": None, "method": method, "score": score, "against": against}
        if against == "msp" and method == "classification":
            row["family"] = "detectors"
        elif against == "classification" and score in PAPERS_SCORES:
            row["family"] = "methods"
        gained.append(found.classes[method, score] - found.classes[other])
        row |= paired(gained[-1])
        half = Z * (found.resampled[method, score] - found.resampled[other]).std()
        row |= {"images_low": row["difference"] - half, "images_high": row["difference"] + half}
        rows.append(row)
    table = pd.DataFrame(rows, columns=CONTRAST)
    table.loc[table.family.isna(), "p"] = math.nan
    for _, family in table.groupby("family"):
        if family.p.notna().any():
            # a contrast that can't be tested, its p NaN, counts in the corrections all the same
            table.loc[family.index, "holm"] = multipletests(family.p.fillna(1), method="holm")[1]
            table.loc[family.index, "max_t"] = max_t(pd.concat(gained, axis=1)[family.index])
    table.loc[table.p.isna(), ["holm", "max_t"]] = math.nan
    return table.sort_values("family", ignore_index=True, kind="stable")


def max_t(gained: pd.DataFrame) -> np.ndarray:
    """p of each column's mean, two-sided, corrected for all columns (Westfall & Young 1993).

    gained: differences, a row a held-out class. p is the share of all flips of the classes' signs
    by which the largest absolute t of any column is at least the column's own. It is exact, like
    Wilcoxon's, if the differences are symmetric, and it uses how the columns are correlated.
    """
    values = gained.to_numpy()
    classes = len(values)
    if classes <= EXACT:
        signs = np.array([*itertools.product((1, -1), repeat=classes)])
    else:
        signs = np.random.default_rng(0).choice((1, -1), (2**EXACT, classes))
        signs[0] = 1  # what was observed is one of the flips
    means = signs @ values / classes  # (flips, columns)
    squares = (values**2).mean(0)  # no flip changes them
    sizes = np.abs(means) / np.sqrt(np.maximum(squares - means**2, 1e-18))  # rises with |t|
    observed = sizes[0] * (1 - 1e-9)  # equal in spite of rounding
    return (sizes.max(1)[:, None] >= observed).mean(0)


def by_prevalence(found: Measured) -> pd.DataFrame:
    """Average precision, mean over classes: a row a share of anomalies, columns (method, score)."""
    rows = {share: _means(found, share) for share in PREVALENCES}
    return pd.DataFrame(rows).T.rename_axis(index="prevalence")


def correlations(found: Measured, probes: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation over classes of each detector's average precision with each probe's.

    probes: a row a data set's held-out class, columns (probe, average_precision). A row for each
    method, score and probe, with its 95 % interval over classes (Bonett & Wright 2000); NaN of
    fewer than five classes, or where all are equal.
    """
    both = found.classes.index.intersection(probes.index)
    detected = found.classes.loc[both]
    probed = probes.loc[both].xs("average_precision", axis=1, level=1)
    names = ["method", "score", "probe"]
    with warnings.catch_warnings(action="ignore"):  # of equal values
        rows = {name: detected.corrwith(of, method="spearman") for name, of in probed.items()}
    rho = pd.DataFrame(rows).T.unstack()
    if len(both) < 5:
        rho[:] = math.nan
    low, high = rank_interval(rho, len(both))
    table = pd.DataFrame({"rho": rho, "low": low, "high": high})
    table = table.assign(classes=len(both)).rename_axis(names).reset_index()
    return table[table.classes > 0]


def rank_interval(rho: Any, classes: int) -> tuple[Any, Any]:
    """The ends of the 95 % interval of Spearman's correlations (Bonett & Wright 2000)."""
    centre = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    half = Z * np.sqrt((1 + rho**2 / 2) / (classes - 3))
    return np.tanh(centre - half), np.tanh(centre + half)
