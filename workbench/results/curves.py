"""Precision and recall of one ranking of the test images at every threshold.

Every score: higher = more anomalous. A threshold flags the images whose score is at least as high.
Fractions, not percent.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pandas as pd


class Point(NamedTuple):
    """One threshold; precision is NaN where it flags no image. missed: anomalies not flagged."""

    threshold: float
    precision: float
    recall: float
    flagged: int
    missed: int


@dataclass(frozen=True, eq=False)
class Curve:
    """Every distinct score as a threshold, highest first (T,), and what is at or above it.

    flagged, found: images and anomalies (T,).
    """

    thresholds: np.ndarray
    flagged: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, is_anomaly: np.ndarray, scores: np.ndarray) -> Self:
        """The curve of scores (N,) and is_anomaly, bool (N,). Equal scores are one threshold."""
        rising, level = np.unique(np.asarray(scores, float), return_inverse=True)
        flagged = np.bincount(level)[::-1].cumsum()
        found = np.bincount(level[is_anomaly], minlength=len(rising))[::-1].cumsum()
        return cls(rising[::-1], flagged, found)

    def at(self, threshold: float) -> Point:
        k = np.searchsorted(-self.thresholds, -threshold, side="right")
        flagged, found = (int(counts[k - 1]) if k else 0 for counts in (self.flagged, self.found))
        precision = found / flagged if flagged else math.nan
        anomalies = int(self.found[-1])
        return Point(threshold, precision, found / anomalies, flagged, anomalies - found)

    def threshold(self, share: float) -> float:
        """The highest threshold that flags at least this share of the images."""
        wanted = math.ceil(share * self.flagged[-1] - 1e-9)  # 0.07 * 100 is a little more than 7
        return float(self.thresholds[np.searchsorted(self.flagged, wanted)])

    def steps(self, found: np.ndarray) -> pd.DataFrame:
        """The highest threshold that finds at least so many anomalies (P,): a Point a row.

        With 1 to P anomalies, the mean of the precisions is average precision (Eq. 4).
        """
        k = np.searchsorted(self.found, found)
        hits = self.found[k]
        anomalies = self.found[-1]
        table = pd.DataFrame({"threshold": self.thresholds[k], "precision": hits / self.flagged[k]})
        return table.assign(
            recall=hits / anomalies, flagged=self.flagged[k], missed=anomalies - hits
        )
