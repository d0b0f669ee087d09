"""Appendix D: how well raw pixels alone do on OOD sets and on held-out classes. Needs torch."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from semlib import datasets
from semlib.metrics import PixelGaussian, PixelMixture, edge_energy
from workbench.results import stats

DETECTORS = {  # training images, seed -> the function that scores images
    "full-covariance Gaussian": lambda train, seed: PixelGaussian(seed).fit(train).score,
    "mixture over single pixels": lambda train, seed: PixelMixture(seed=seed).fit(train).score,
    "edge energy": lambda train, seed: edge_energy,
}
PROBES = ("full-covariance Gaussian", "edge energy")
COLUMNS = ("average_precision", "low", "high")  # of each


def probes(data: datasets.Dataset, seed: int = 0, detectors: Sequence[str] = PROBES):
    """Average precision on each held-out class, with its 95 % interval over test images.

    Percent, of images reduced to 32 pixels a side: rows (data set, held-out class), columns
    (detector, average_precision or low or high).
    """
    rows = {}
    small = datasets.Dataset(data.name, _reduced(data.train), _reduced(data.test), data.classes)
    for name in tqdm(data.classes, "pixels alone", leave=False):
        split = datasets.hold_out(small, name)
        fitted = [DETECTORS[detector](split.train.images, seed) for detector in detectors]
        found = [stats.interval(split.is_anomaly, score(split.test.images)) for score in fitted]
        rows[data.name, name] = 100 * np.concatenate(found)
    return pd.DataFrame(rows, pd.MultiIndex.from_product([detectors, COLUMNS])).T


def _reduced(part: datasets.ImageSet, side: int = 32) -> datasets.ImageSet:
    """The images with `side` pixels or a few more on the shorter side: means of square blocks."""
    n, channels, height, width = part.images.shape
    block = min(height, width) // side
    if block < 2:
        return part
    high = height // block
    wide = width // block
    cut = part.images[..., : high * block, : wide * block]
    blocks = cut.reshape(n, channels, high, block, wide, block)
    means = blocks.sum((3, 5), dtype=np.uint32) / block**2  # (N, C, high, wide)
    return datasets.ImageSet(means.round().astype(np.uint8), part.labels)
