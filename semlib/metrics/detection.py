"""How well scores detect anomalies (Sec. 2). The anomaly is positive; higher = more anomalous."""

import numpy as np
from numpy.typing import ArrayLike


def average_precision(is_anomaly: ArrayLike, scores: ArrayLike) -> float:
    """Eq. 4: the mean of precisions at all thresholds, weighted by the increase in recall.

    is_anomaly: (N,) bool or 0/1. scores: (N,) floats; images of equal scores are one threshold, so
    a constant score's average precision is the skew, the share of anomalies. In [0, 1]. ValueError
    without an anomaly or a normal image, for NaN and for unequal lengths.
    """
    from sklearn.metrics import average_precision_score  # slow to import

    is_anomaly = np.asarray(is_anomaly)
    scores = np.asarray(scores)
    if is_anomaly.ndim != 1 or is_anomaly.shape != scores.shape:
        shapes = f"{is_anomaly.shape} and {scores.shape}"
        raise ValueError(f"is_anomaly and scores should be (N,) and (N,), not {shapes}")
    if not np.isin(is_anomaly, (0, 1)).all():
        raise ValueError("is_anomaly should hold only True and False (or 1 and 0)")
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN")
    for kind, members in (("anomalous", is_anomaly == 1), ("normal", is_anomaly == 0)):
        if not members.any():
            needed = "average precision needs anomalous and normal images"
            raise ValueError(f"{needed}; none of {len(scores)} is {kind}")
    # scikit-learn takes close scores for equal, and refuses infinite ones; ranks are neither
    ranks = np.unique(scores, return_inverse=True)[1]
    return float(average_precision_score(is_anomaly.astype(bool), ranks))


def accuracy(labels: ArrayLike, predicted: ArrayLike, is_anomaly: ArrayLike | None = None) -> float:
    """The share of normal images whose class is predicted. All (N,).

    is_anomaly: None if the anomalies are the images labelled -1.
    """
    labels = np.asarray(labels)
    predicted = np.asarray(predicted)
    normal = labels >= 0 if is_anomaly is None else ~np.asarray(is_anomaly, bool)
    if labels.ndim != 1 or not labels.shape == predicted.shape == normal.shape:
        shapes = f"{labels.shape}, {predicted.shape} and {normal.shape}"
        raise ValueError(f"labels, predicted and is_anomaly should be of one length, not {shapes}")
    if not normal.any():
        raise ValueError("accuracy needs normal images; all are anomalies")
    return float((labels == predicted)[normal].mean())
