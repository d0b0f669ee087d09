"""How far one method is above another over held-out classes: differences, their interval, and the test of them."""

import math
from collections.abc import Sequence

import pandas as pd

from semlib import config
from semlib.config import Experiment
from semlib.results import tables
from semlib.results.names import without_average
from semlib.runs import plan
from semlib.runs.store import Record

FEWEST_TO_TEST = 6  # of five differences no result of Wilcoxon's signed-rank test is under p = 0.05


def gains(runs: Sequence[tuple[Experiment, Sequence[Record]]]) -> pd.DataFrame:
    """How far each method is above plain classification, a row each for an experiment, statistics, method and measure.

    Points: plain and with, the means over held-out classes; gain, their difference, with its 95 % interval low to high (of a
    t-test paired over classes: what other classes would do, not other trials); above of classes: in how many; p: Wilcoxon's,
    two-sided. NaN where not run. images: of training a class, as `images_a_class` has it.
    """
    from scipy.stats import t

    if any("classification" not in experiment.methods for experiment, _ in runs):
        raise config.ConfigError("methods: gains are over classification; name it among the methods")
    rows = []
    for experiment, records in runs:
        images = tables.images_a_class(experiment, records)
        for statistics in plan.STATISTICS:
            table = tables.by_class(experiment.model_copy(update={"statistics": statistics}), records)
            for method, measure in dict.fromkeys((m, s) for m, s, _ in table.columns if m != "classification"):
                gained = gain(table, method, measure)
                both, n = table.loc[gained.index], len(gained)
                half = t.ppf(0.975, n - 1) * gained.std() / math.sqrt(n) if n > 1 else math.nan
                row = {"images": images, "statistics": statistics, "method": method, "measure": measure}
                row |= {"plain": both["classification", measure, "mean"].mean(), "with": both[method, measure, "mean"].mean()}
                row |= {"gain": gained.mean(), "low": gained.mean() - half, "high": gained.mean() + half}
                rows.append(row | {"above": (gained > 0).sum(), "classes": n, "p": wilcoxon(gained)})
    return pd.DataFrame(rows)


def gain(table: pd.DataFrame, method: str, measure: str) -> pd.Series:
    """Of a table of by_class, a method above plain classification by class, in points; without the classes that lack one."""
    return difference(without_average(table), (method, measure), ("classification", measure))


def difference(classes: pd.DataFrame, better: tuple[str, str], worse: tuple[str, str], statistic: str = "mean") -> pd.Series:
    """In points, of the classes that have both."""
    gain = (classes[(*better, statistic)] - classes[(*worse, statistic)]).dropna()
    return gain.round(9)  # equal ones are equal again, for the ranks


def wilcoxon(gain: pd.Series) -> float:
    """The p of Wilcoxon's two-sided signed-rank test; NaN where too few differ."""
    if (gain != 0).sum() < FEWEST_TO_TEST:
        return math.nan
    from scipy import stats

    return float(stats.wilcoxon(gain).pvalue)
