"""What any score of a network's features could reach: a linear classifier that is shown anomalies.

It is no detector. It is trained on test images and on which of them are anomalies, so that its
average precision says whether the features tell the held-out class apart (Li et al., ICML 2025).
"""

from contextlib import nullcontext

import numpy as np
import pandas as pd

from semlib.datasets import Dataset
from semlib.metrics import average_precision
from workbench.results.frame import Runs
from workbench.runs import plan
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
    scores = cross_val_predict(classifier, features, is_anomaly, **how)
    return 100 * average_precision(is_anomaly, scores)


def features(record: Record, data: Dataset, statistics: str) -> np.ndarray:
    """The features of the test images that detectors use, float32 (N, D), by the kept weights."""
    from semlib import metrics
    from semlib.datasets import augmentation
    from workbench.runs import machine, network

    run = record.run
    net = network(record, data).to(machine.device(run.experiment))
    images = (run.split(data).train.images, data.test.images)
    train, test = (augmentation.centre(part, run.experiment.crop_side) for part in images)
    with metrics.upright(net, train) if statistics == "upright" else nullcontext():
        return metrics.features(net, test).features


def of_runs(runs: Runs) -> pd.Series:
    """`precision` by method, data set and held-out class, means over the trials.

    Of the runs whose weights are kept, where their images are here; else empty.
    """
    rows = []
    for experiment, records in runs:
        kept = [r for r in records if r.hold_out and (r.run_home / "weights.pt").exists()]
        if not kept or plan.current_digests(experiment) != kept[0].data:
            continue
        data = plan.load(experiment)
        for record in kept:
            found = features(record, data, experiment.statistics)
            reached = precision(found, record.scores("is_anomaly")["is_anomaly"])
            rows.append([record.method, record.dataset, record.hold_out, reached])
    names = ["method", "dataset", "hold_out"]
    return pd.DataFrame(rows, columns=[*names, "oracle"]).groupby(names, sort=False).oracle.mean()
