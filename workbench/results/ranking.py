"""One ranking of the test images: its curve, measures, bootstrap and intervals.

Every score: higher = more anomalous. A threshold flags the images whose score is at least as high.
Fractions; only `audit` is in percent.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from workbench.runs import plan

# SciPy and scikit-learn are imported where they are used: they are slow to import.

MANY = 200  # anomalies from which on a bootstrap's interval covers enough (tests/test_stats.py)
Z = 1.959964  # of a normal distribution's central 95 %


class Ranking:
    """Test images sorted once by their scores: every distinct score is a threshold, highest first.

    is_anomaly: (N,) bool or 0/1. scores: (N,), without NaN. strata: (N,), what a bootstrap draws
    apart; None: anomalies and the others. ValueError for other shapes or values, and without
    anomalies or without others. thresholds, and of each flagged and found, the images and anomalies
    that it flags, tpr and fpr, their shares: (T,).
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
        rising, level = np.unique(self.scores, return_inverse=True)
        self.thresholds = rising[::-1]
        self.flagged = np.bincount(level)[::-1].cumsum()
        self.found = np.bincount(level[self.is_anomaly], minlength=len(rising))[::-1].cumsum()
        self.anomalies = int(self.found[-1])
        self.tpr = self.found / self.anomalies
        self.fpr = (self.flagged - self.found) / (len(scores) - self.anomalies)

    def flagging(self, share: float) -> pd.DataFrame:
        """The highest threshold that flags at least this share of the images, as in `finding`."""
        wanted = math.ceil(share * len(self.scores) - 1e-9)  # 0.07 * 100 is a little more than 7
        return self._thresholds(np.searchsorted(self.flagged, [wanted]))

    def finding(self, anomalies: np.ndarray) -> pd.DataFrame:
        """The highest threshold that finds at least so many anomalies (P,), a row each.

        Columns threshold, precision, recall, flagged images and missed anomalies. With 1 to P
        anomalies, the mean of the precisions is average precision (Eq. 4).
        """
        return self._thresholds(np.searchsorted(self.found, anomalies))

    def _thresholds(self, k: np.ndarray) -> pd.DataFrame:
        columns = {"threshold": self.thresholds[k], "precision": self.found[k] / self.flagged[k]}
        columns |= {"recall": self.tpr[k], "flagged": self.flagged[k]}
        return pd.DataFrame(columns | {"missed": self.anomalies - self.found[k]})

    def average_precision(self, prevalence: float | None = None) -> float:
        """Eq. 4: the sum over steps of the recall that each adds times the precision after it.

        prevalence: the share of anomalies by which normal images are weighted; None: as it is.
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

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """Average precisions (B,) of B resamples. counts (N, B): how often each has each image.

        A resample's images are in the order of the originals, so nothing is sorted anew, which
        scikit-learn would do for each (34 times slower). With a_k anomalies drawn in step k,
        A_k of them down to step k, and n_k images down to it, Eq. 4 is the sum over steps of
        (a_k / A) (A_k / n_k). Steps without an anomaly add nothing: each is counted with the next
        one that has some.
        """
        order = np.argsort(-self.scores, kind="stable")
        anomalies = order[self.is_anomaly[order]]
        steps = np.flatnonzero(np.diff(self.found, prepend=0))
        ends = self.flagged[steps]
        starts = np.r_[0, ends[:-1]]
        firsts = np.r_[0, self.found[steps][:-1]]
        images = counts[order[: ends[-1]]]
        drawn = np.add.reduceat(images, starts, axis=0, dtype=np.int64).cumsum(0)  # (K, B)
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

    (value, low, high), symmetric on the logit scale (Boyd et al. 2013). From MANY anomalies on with
    the deviation of a stratified bootstrap; of n fewer with 1 / sqrt(n AP (1 - AP)), which covers
    at least 94 %, and is wide where AP is near the share of anomalies.
    """
    from scipy.special import expit, logit

    ranking = Ranking(is_anomaly, scores)
    value = ranking.average_precision()
    n = ranking.anomalies
    most = 1 - 0.5 / (n + 1)  # of 0 and 1 the logit is infinite
    centre = min(max(value, 1e-6), most)
    if n >= MANY and value < 1:
        drawn = ranking.resampled(draws(ranking.strata, resamples, seed))
        deviation = logit(np.minimum(drawn, most)).std(ddof=1)
    else:
        deviation = 1 / math.sqrt(n * centre * (1 - centre))
    low, high = expit(logit(centre) + Z * deviation * np.array([-1, 1]))
    return value, float(low), 1.0 if value == 1 else float(high)


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
        name, of = plan.key_and_statistics(key)
        if name in ("label", "predicted", "is_anomaly") or of != statistics:
            continue
        ranking = Ranking(arrays["is_anomaly"], arrays[key])
        together = np.diff(ranking.flagged, prepend=0)  # images of one score
        lowest, highest = ranking.bounds()
        rows[name] = {
            "average_precision": ranking.average_precision(),
            "trapezoid": ranking.trapezoid(),
            "lowest": lowest,
            "highest": highest,
            "tied": together[together > 1].sum() / len(ranking.scores),
        }
    return 100 * pd.DataFrame(rows).T
