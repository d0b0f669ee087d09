"""What else papers report of one run: unseen classes against the network's own mistakes.

Of the test images of one run: unseen ones (U), known ones that are predicted right (R) and mistaken
(M). A score that ranks M above U detects failures first and anomalies second. Percent.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from workbench.results.frame import Runs
from workbench.results.ranking import Ranking
from workbench.runs import plan


def table(runs: Runs) -> pd.DataFrame:
    """`measures` by method and score: means over trials, then over held-out classes."""
    rows = []
    for experiment, records in runs:
        for record in records:
            if record.hold_out is None:
                continue
            arrays = record.scores()
            right = arrays["label"] == arrays[plan.array_name("predicted", experiment.statistics)]
            for name, how in plan.how_scored(experiment).items():
                if key := record.key(how):
                    scores = arrays[plan.array_name(key, experiment.statistics)]
                    which = {"method": record.method, "score": name, "dataset": record.dataset}
                    which["hold_out"] = record.hold_out
                    rows.append(which | measures(right, arrays["is_anomaly"], scores))
    by_class = pd.DataFrame(rows).groupby(["method", "score", "dataset", "hold_out"], sort=False)
    return by_class.mean().groupby(level=["method", "score"], sort=False).mean()


def measures(right: ArrayLike, is_anomaly: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Each measure of one ranking of the test images, higher = more anomalous.

    right: bool (N,), predicted as labelled; of unseen images nothing is read. is_anomaly: bool
    (N,). scores: (N,). auroc_right, auroc_mistaken: of U against R, and against M. oscr: the area
    under the rate of known images that are accepted and right, over the rate of unseen ones that
    are accepted (Dhamija et al. 2018). aurc, augrc: see `risks`. NaN without images of a kind.
    """
    is_anomaly = np.asarray(is_anomaly, bool)
    right = np.asarray(right, bool) & ~is_anomaly
    scores = np.asarray(scores)
    against_right = auroc(scores[is_anomaly], scores[right])
    known = ~is_anomaly
    aurc, augrc = risks(~right[known], scores[known])
    return {
        "auroc_right": against_right,
        "auroc_mistaken": auroc(scores[is_anomaly], scores[known & ~right]),
        "aurc": aurc,
        "augrc": augrc,
        "oscr": right[known].mean() * against_right,
    }


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """How often (%) one of `higher` is above one of `lower`; ties count half."""
    if not len(higher) or not len(lower):
        return float("nan")
    scores = np.r_[higher, lower]
    return 100 * Ranking(np.arange(len(scores)) < len(higher), scores).auroc()


def risks(mistaken: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """AURC and AUGRC (%) of known images (n,), accepted from the lowest score on.

    The mean over the coverages 1/n, 2/n, ..., 1 of the selective risk, mistakes / accepted images
    (Geifman & El-Yaniv 2017), and of the generalised risk, mistakes / n (Traub et al. 2024). Images
    of one score come in random order: each counts as their share of mistakes.
    """
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(group, mistaken) / sizes
    mistakes = np.cumsum(np.repeat(shares, sizes))
    accepted = np.arange(1, len(scores) + 1)
    return 100 * float((mistakes / accepted).mean()), 100 * float(mistakes.mean() / len(scores))
