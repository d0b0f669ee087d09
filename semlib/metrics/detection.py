"""How well scores detect anomalies. The anomaly is the positive class; a higher score means more
anomalous.
"""

import numpy as np
from numpy.typing import ArrayLike


def average_precision(is_anomaly: ArrayLike, scores: ArrayLike) -> float:
    """Eq. 4: the mean of precisions at all thresholds, weighted by the increase in recall; images
    of one score form one step.

    is_anomaly: (N,) bool or 0/1. scores: (N,) floats. In [0, 1]; a constant score's is the skew,
    the share of anomalies. ValueError without a positive, without a negative, for NaN and for
    unequal lengths.
    """
    is_anomaly, scores = np.asarray(is_anomaly), np.asarray(scores)
    if is_anomaly.ndim != 1 or is_anomaly.shape != scores.shape:
        raise ValueError(
            f"is_anomaly and scores should be (N,) and (N,), not {is_anomaly.shape} and {scores.shape}"
        )
    if not np.isin(is_anomaly, (0, 1)).all():
        raise ValueError("is_anomaly should hold only True and False (or 1 and 0)")
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are NaN")
    if not is_anomaly.any() or is_anomaly.all():
        kind = "normal" if len(is_anomaly) and is_anomaly.all() else "anomalous"
        raise ValueError(
            f"average precision needs anomalous and normal images; none of {len(scores)} is {kind}"
        )
    from sklearn.metrics import (
        average_precision_score,  # slow to import, and needed after training only
    )

    ranks = np.unique(scores, return_inverse=True)[
        1
    ]  # exact ties and infinities, whatever the scores' scale
    return float(average_precision_score(is_anomaly.astype(bool), ranks))


def accuracy(labels: ArrayLike, predicted: ArrayLike, is_anomaly: ArrayLike | None = None) -> float:
    """The share of normal images whose class is predicted. All (N,); is_anomaly None: images
    labelled -1 are the anomalies.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    normal = labels >= 0 if is_anomaly is None else ~np.asarray(is_anomaly, bool)
    if labels.ndim != 1 or not labels.shape == predicted.shape == normal.shape:
        shapes = f"{labels.shape}, {predicted.shape} and {normal.shape}"
        raise ValueError(f"labels, predicted and is_anomaly should be of one length, not {shapes}")
    if not normal.any():
        raise ValueError("accuracy needs normal images; all are anomalies")
    return float((labels == predicted)[normal].mean())
