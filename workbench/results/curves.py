"""Precision and recall of one ranking of the test images at every threshold, and what a threshold
flags and misses.

Every score: higher = more anomalous. A threshold flags the images whose score is at least as high.
Fractions, not percent.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pandas as pd


class Point(NamedTuple):
    """What a threshold does. precision is NaN where nothing is flagged; missed: anomalies that are
    not flagged.
    """

    threshold: float
    precision: float
    recall: float
    flagged: int
    missed: int


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision and recall at every threshold that differs.

    thresholds: every distinct score, highest first (T,). flagged, found: images and anomalies at or
    above it (T,).
    """

    thresholds: np.ndarray
    flagged: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, is_anomaly: np.ndarray, scores: np.ndarray) -> Self:
        """The curve of scores (N,) and is_anomaly, bool (N,). Equal scores are one threshold."""
        order = np.argsort(-np.asarray(scores, float))  # kept ranks are unsigned
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        return cls(ranked[last], last + 1, is_anomaly[order].cumsum()[last])

    def at(self, threshold: float) -> Point:
        k = np.searchsorted(-self.thresholds, -threshold, side="right")
        flagged, found = (int(counts[k - 1]) if k else 0 for counts in (self.flagged, self.found))
        anomalies = int(self.found[-1])
        return Point(
            threshold,
            found / flagged if flagged else math.nan,
            found / anomalies,
            flagged,
            anomalies - found,
        )

    def threshold(self, share: float) -> float:
        """The highest threshold that flags at least this share of the images."""
        wanted = math.ceil(share * self.flagged[-1] - 1e-9)  # 0.07 * 100 is a little more than 7
        return float(self.thresholds[np.searchsorted(self.flagged, wanted)])

    def steps(self, found: np.ndarray) -> pd.DataFrame:
        """What the highest threshold does that finds at least so many anomalies (P,): a Point a
        row. Their area is Eq. 4.
        """
        k, anomalies = np.searchsorted(self.found, found), self.found[-1]
        precision, recall = self.found[k] / self.flagged[k], self.found[k] / anomalies
        rows = (self.thresholds[k], precision, recall, self.flagged[k], anomalies - self.found[k])
        return pd.DataFrame(dict(zip(Point._fields, rows, strict=True)))
