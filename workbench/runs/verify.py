"""Whether a record says what its scores.npz says; it is compared once on a machine."""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semlib.datasets import data_root
from workbench.runs import plan

KNOWN = "compared_runs.jsonl"  # in the data root: a line for each record that was compared


def facts(text: str, record: Any) -> dict[str, Any]:
    """images: how many were scored; tied: scores that more than half of them share with another.

    below: scores by which anomalies are lower than by chance, by three standard errors.
    text: the record's, whose digest is known once it was compared. ValueError names what in the
    record differs from its scores.npz.
    """
    path = data_root() / KNOWN
    known = _known(path)
    key = hashlib.sha256(text.encode()).hexdigest()
    if key not in known:
        known[key] = _compared(record, record.scores())
        # where nothing can be written each process compares
        with suppress(OSError), path.open("a") as file:
            file.write(json.dumps({key: known[key]}) + "\n")
    return known[key]


@cache
def _known(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            with suppress(ValueError, TypeError):  # half a line, of a process that was killed
                found |= json.loads(line)
    return found


def _compared(record: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    label = arrays["label"]
    is_anomaly = arrays["is_anomaly"]
    classes = plan.classes_of(record.hold_out)
    expected = {"skew": is_anomaly.mean()}
    tied = []
    below = []
    for name, values in arrays.items():
        key, statistics = plan.key_and_statistics(name)
        if key == "predicted":
            right = (label == values)[~is_anomaly]
            expected[plan.array_name("accuracy", statistics)] = right.mean()
        elif key not in ("label", "is_anomaly"):
            expected[name], share, z = _ranked(is_anomaly, values)
            tied += [name] if share > 0.5 else []
            below += [name] if z < -3 and expected[name] < is_anomaly.mean() else []
    last = record.settings.get("average_last_epochs", 1)
    if last > 1:
        expected |= record.history().tail(last).mean().to_dict()
    wrong = []
    for name, value in (record.metrics | {"skew": record.skew}).items():
        if not math.isclose(value, expected.get(name, math.nan), abs_tol=1e-6):
            wrong.append(name)
    names = pd.Series(record.classes).reindex(label)
    if names.isna().any() or not np.array_equal(is_anomaly, names.isin(classes)):
        wrong.append("classes")
    if wrong:
        what = f"{', '.join(wrong)} differ from what scores.npz gives"
        raise ValueError(f"{record.home / 'record.json'} is damaged: {what}")
    return {"images": len(label), "tied": tied, "below": below}


def _ranked(is_anomaly: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """Average precision (Eq. 4), the share of images of no score alone, and Mann-Whitney's z.

    NaN without anomalies. scikit-learn would take thirty times as long, and profiles are read.
    """
    if not is_anomaly.any():
        return math.nan, 0.0, math.nan
    level = scores if scores.dtype.kind == "u" else np.unique(scores, return_inverse=True)[1]
    images = np.bincount(level)[::-1]
    found = np.bincount(level[is_anomaly], minlength=len(images))[::-1]
    anomalies = found.sum()
    place = images.cumsum() - (images - 1) / 2  # of each level, 1 for the highest
    average = (found * found.cumsum() / np.maximum(images.cumsum(), 1)).sum() / anomalies
    higher = (len(scores) + 1) / 2 - (found * place).sum() / anomalies
    z = higher / math.sqrt((len(scores) + 1) * (len(scores) - anomalies) / 12 / anomalies)
    return float(average), float(images[images > 1].sum() / len(scores)), float(z)
