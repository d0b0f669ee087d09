"""What finished runs say beyond the paper's tables: which classes are hard, why, how repeatably.

Everything here is exploratory: it was found in the runs and then computed, none of it was fixed
before. A setting is (profile, images, method, statistics); images: of training a class, inf: all.
Average precisions and accuracies are in percent, gains (a method minus plain) in points.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.results import failure, stats, tables
from workbench.results.frame import Runs
from workbench.results.names import AVERAGE
from workbench.runs import plan
from workbench.runs.plan import array_name
from workbench.runs.store import Record

SETTING = ["profile", "images", "method", "statistics"]
MEASURED = ["profile", "images", "statistics", "measure"]  # what a gain is of
TABLE = "table3_cifar10"  # in published/


def by_class(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over trials: rows (*SETTING, measure), a column a held-out class."""
    held_out = frame[frame.hold_out != "none"]
    held_out = held_out.assign(images=held_out.images.fillna(math.inf))
    return held_out.pivot_table("value", [*SETTING, "measure"], "hold_out")


def _each(runs: Runs) -> Iterator[tuple[tuple[str, float, str, str], Record]]:
    """Every record of a held-out class with its setting, once for each of the statistics."""
    for experiment, records in runs:
        images = experiment.train_per_class or math.inf
        for record in records:
            for statistics in plan.STATISTICS:
                yield (experiment.profile, images, record.method, statistics), record


def order(frame: pd.DataFrame, table: str = TABLE) -> pd.Series:
    """(1) Spearman's correlation over classes with the paper's column, by setting and measure."""
    printed = tables.published(table).drop(index=AVERAGE)
    found = []
    columns: Any = by_class(frame).groupby(level=["method", "measure"])
    for (method, measure), part in columns:
        if f"{method}_{measure}" in printed:
            found.append(part.T.corrwith(printed[f"{method}_{measure}"], method="spearman"))
    return pd.concat(found)


def scatter(runs: Runs) -> pd.DataFrame:
    """(2) How widely the network's predictions of an unseen class scatter over the known classes.

    Rows (*SETTING, hold_out), means over trials. entropy: of the shares of the unseen images that
    are predicted as each class, in bits; first: the largest share, percent, and `taken_for` the
    class that has it (in the last trial); msp: MSP's average precision.
    """
    from scipy.stats import entropy

    rows = []
    for setting, record in _each(runs):
        name = array_name("predicted", setting[-1])
        arrays = record.scores("is_anomaly", name)
        counts = np.bincount(arrays[name][arrays["is_anomaly"]])
        row = [*setting, record.hold_out, entropy(counts, base=2)]
        row += [100 * counts.max() / counts.sum()]
        row += [100 * record.metrics[array_name("msp", setting[-1])]]
        rows.append([*row, record.classes[counts.argmax()]])
    columns = [*SETTING, "hold_out", "entropy", "first", "msp", "taken_for"]
    grouped = pd.DataFrame(rows, columns=columns).groupby([*SETTING, "hold_out"])
    means = grouped[["entropy", "first", "msp"]].mean()
    return means.assign(taken_for=grouped.taken_for.last())


def scatter_tells(table: pd.DataFrame) -> pd.Series:
    """(2) Spearman's correlation over classes of entropy and msp, by setting; table: `scatter`."""
    found = {}
    for setting, part in table.groupby(SETTING):
        found[setting] = part.entropy.corr(part.msp, method="spearman")
    return pd.Series(found).rename_axis(SETTING)


def gains(frame: pd.DataFrame, method: str = "rotation") -> pd.DataFrame:
    """A method minus plain: rows (*MEASURED, hold_out), a column a trial; NaN where one lacks."""
    frame = frame.assign(images=frame.images.fillna(math.inf))
    of_method = frame.pivot(index=[*MEASURED, "hold_out", "trial"], columns="method")["value"]
    return (of_method[method] - of_method["classification"]).unstack("trial")


def repeats(frame: pd.DataFrame, method: str = "rotation", table: str = TABLE) -> pd.DataFrame:
    """(3) Do the same classes gain in another trial, and in the paper? By MEASURED.

    r, rho: Pearson's and Spearman's correlation of the class gains of trials 0 and 1, over classes
    that have both; paper: Spearman's of the gains, means over trials, with the paper's.
    """
    printed = tables.published(table).drop(index=AVERAGE)
    rows = {}
    by_measure: Any = gains(frame, method).groupby(MEASURED)
    for key, part in by_measure:
        trials = part.droplevel(MEASURED)
        measure = key[MEASURED.index("measure")]
        if {0, 1} <= {*trials.dropna(axis=1, how="all")}:
            rows[key] = {"r": trials[0].corr(trials[1])}
            rows[key]["rho"] = trials[0].corr(trials[1], method="spearman")
            if f"{method}_{measure}" in printed:
                paper = printed[f"{method}_{measure}"] - printed[f"classification_{measure}"]
                rows[key]["paper"] = trials.mean(axis=1).corr(paper, method="spearman")
    return pd.DataFrame(rows).T.rename_axis(MEASURED)


def against_mistakes(runs: Runs) -> pd.DataFrame:
    """(4) Unseen images against known ones: all, those classified right, and the mistaken ones.

    Rows (*SETTING, score), means over trials, then classes. AUROC in percent, 50: ranked alike. A
    score that ranks the network's own mistakes above unseen images is first of all a detector of
    mistakes. precision: average precision without the mistakes, at the same share of anomalies.
    """
    rows = []
    for setting, record in _each(runs):
        for key in record.scoring:
            row: dict[str, Any] = dict(zip(SETTING, setting, strict=True))
            row |= {"score": key, "hold_out": record.hold_out}
            rows.append(row | _unseen_against(record, key, setting[-1]))
    by = [*SETTING, "score"]
    means = pd.DataFrame(rows).groupby([*by, "hold_out"], sort=False).mean()
    return means.groupby(by, sort=False).mean()


def _unseen_against(record: Record, key: str, statistics: str) -> dict[str, float]:
    name = array_name("predicted", statistics)
    arrays = record.scores("is_anomaly", "label", name, array_name(key, statistics))
    scores = arrays[array_name(key, statistics)]
    unseen = arrays["is_anomaly"]
    right = ~unseen & (arrays["label"] == arrays[name])
    known = {"all": ~unseen, "right": right, "mistaken": ~unseen & ~right}
    found = {kind: failure.auroc(scores[unseen], scores[of]) for kind, of in known.items()}
    without_mistakes = stats.Ranking(unseen[unseen | right], scores[unseen | right])
    return found | {"precision": 100 * without_mistakes.average_precision(record.skew)}


def of_classes(frame: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """(5) Each score's average precision on these held-out classes and the mean over all of them.

    Rows (*SETTING, measure), of a setting the best at the first class first.
    """
    table = by_class(frame).drop(index="accuracy", level="measure")
    found = table[[*classes]].assign(mean=table.mean(axis=1))
    ordered = found.sort_values(classes[0], ascending=False)
    return ordered.sort_index(level=SETTING, sort_remaining=False, kind="stable")


def between_trainings(frame: pd.DataFrame) -> pd.Series:
    """(6) The standard deviation between trainings of one class: by setting and measure.

    The root of the mean over classes of the variance over trials; each draws its own few labels.
    """
    frame = frame.assign(images=frame.images.fillna(math.inf))
    variances = frame.groupby([*SETTING, "measure", "hold_out"]).value.var()
    return np.sqrt(variances.dropna().groupby([*SETTING, "measure"]).mean())


def power(frame: pd.DataFrame, points: float = 1.0, method: str = "rotation") -> pd.Series:
    """(6) The chance that so many trials and classes show a gain of this many points, by MEASURED.

    Of a two-sided t-test at 0.05 over the held-out classes, whose gains (means over trials) have
    the standard deviation that they have here.
    """
    from scipy.stats import f, ncf

    found = {}
    for key, part in gains(frame, method).groupby(MEASURED):
        gained = part.mean(axis=1).dropna()
        if len(gained) > 1:
            rest = len(gained) - 1  # degrees of freedom; t squared is F
            shift = points**2 / (gained.var() / len(gained))
            found[key] = ncf.sf(f.isf(0.05, 1, rest), 1, rest, shift)
    return pd.Series(found).rename_axis(MEASURED)


def edges(runs: Runs, energy: np.ndarray) -> pd.DataFrame:
    """Is the edge energy of the test images (N,) a shortcut? Means over trials.

    Rows (method, hold_out). fewer, more: average precision if images with fewer, or more, edges are
    the anomalies; apart: AUROC's distance from 50, whichever way; msp: MSP's, and matched: the same
    with the known images weighted so that their edges lie as the unseen ones' do; within:
    Spearman's correlation of energy, `semlib.metrics.edge_energy`, and MSP over the unseen images.
    """
    from scipy.stats import spearmanr

    rows = []
    for experiment, records in runs:
        name = array_name("msp", experiment.statistics)
        for record in records:
            arrays = record.scores("is_anomaly", name)
            unseen = arrays["is_anomaly"]
            fewer = stats.Ranking(unseen, energy)
            row = {"method": record.method, "hold_out": record.hold_out}
            row["fewer"] = 100 * fewer.average_precision()
            row["more"] = 100 * stats.Ranking(unseen, -energy).average_precision()
            row["apart"] = abs(100 * fewer.auroc() - 50)
            row["msp"] = 100 * stats.Ranking(unseen, arrays[name]).average_precision()
            row["matched"] = 100 * matched_precision(unseen, arrays[name], energy)
            row["within"] = spearmanr(energy[unseen], arrays[name][unseen]).statistic
            rows.append(row)
    return pd.DataFrame(rows).groupby(["method", "hold_out"]).mean()


def matched_precision(
    unseen: np.ndarray, scores: np.ndarray, other: np.ndarray, bins: int = 10
) -> float:
    """Average precision with the known images weighted to the unseen ones' quantiles of `other`."""
    from sklearn.metrics import average_precision_score

    limits = np.quantile(other[unseen], np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(limits, other)
    of_unseen = np.bincount(place[unseen], minlength=bins) / unseen.sum()
    of_known = np.bincount(place[~unseen], minlength=bins) / (~unseen).sum()
    weight = np.where(unseen, 1, (of_unseen / np.maximum(of_known, 1e-12))[place])
    return float(average_precision_score(unseen, scores, sample_weight=weight))
