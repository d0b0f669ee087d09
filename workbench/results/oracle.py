"""What any score of a network's features could reach: a linear classifier that is shown anomalies.

It is no detector. It is trained on test images and on which of them are anomalies, so that its
average precision says whether the features tell the held-out class apart (Li et al., ICML 2025).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from semlib.datasets import Dataset
from semlib.metrics import average_precision
from workbench.runs.store import Record

STRENGTH = 0.003  # C of logistic regression on standardised features
FOLDS = 5


def precision(features: np.ndarray, is_anomaly: np.ndarray) -> float:
    """Average precision (%) of the held-out class by the features (N, D) of the test images.

    Logistic regression of normal against anomalous images, cross-validated: each image is scored by
    a classifier that was not fitted on it. NaN with fewer anomalies than FOLDS.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if is_anomaly.sum() < FOLDS:
        return float("nan")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    how = {"cv": folds, "method": "decision_function"}
    return 100 * average_precision(
        is_anomaly, cross_val_predict(classifier, features, is_anomaly, **how)
    )


def of_runs(records: Sequence[Record], data: Dataset) -> pd.Series:
    """`precision` by method and held-out class, mean over the trials whose weights are kept."""
    from semlib import metrics
    from workbench import runs

    found = []
    for record in records:
        if record.hold_out and not record.external and (record.run_home / "weights.pt").exists():
            features = metrics.features(runs.network(record, data), data.test.images).features
            is_anomaly = record.scores("is_anomaly")["is_anomaly"]
            found.append([record.method, record.hold_out, precision(features, is_anomaly)])
    table = pd.DataFrame(found, columns=["method", "hold_out", "oracle"])
    return table.groupby(["method", "hold_out"], sort=False).oracle.mean()
