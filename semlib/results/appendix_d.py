"""Appendix D: how far the statistics of raw pixels go on the usual benchmarks, and on the hold-out classes."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from semlib import datasets, metrics
from semlib.results import stats, tables
from semlib.results.names import average_of, average_row

LABELS = {
    "tiny_imagenet_crop": "TinyImageNet (crop)",
    "tiny_imagenet_resize": "TinyImageNet (resize)",
    "lsun_crop": "LSUN (crop)",
    "lsun_resize": "LSUN (resize)",
    "isun": "iSUN",
}
PROBES = ["full-covariance Gaussian", "edge energy"]  # of the detectors below
Fit = Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]  # training images -> (images -> scores)


def detectors(seed: int = 0) -> dict[str, Fit]:
    """The detectors that the table compares, by name: each learns from training images and then scores images."""
    return {
        "full-covariance Gaussian": lambda images: metrics.PixelGaussian(seed).fit(images).score,
        "mixture over single pixels": lambda images: metrics.PixelMixture(seed=seed).fit(images).score,
        "edge energy": lambda images: metrics.edge_energy,
    }


def out_of_distribution(data: datasets.Dataset, ood: dict[str, np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Average precision in percent, a row an OOD set against data's test images, a column a detector."""
    table = pd.DataFrame(index=list(ood), columns=list(detectors(seed)), dtype=float)
    for detector, fit in tqdm(detectors(seed).items(), "out-of-distribution sets", leave=False):
        score = fit(data.train.images)
        normal = score(data.test.images)
        for name, images in ood.items():
            scores = np.concatenate([normal, score(images)])
            table.loc[name, detector] = 100 * metrics.average_precision(np.arange(len(scores)) >= len(normal), scores)
    return table


def hold_outs(data: datasets.Dataset, seed: int = 0) -> pd.DataFrame:
    """Average precision in percent, a row a held-out class, then their mean, a column a detector."""
    table = pd.DataFrame(index=list(data.classes), columns=list(detectors(seed)), dtype=float)
    for name in tqdm(data.classes, "hold-outs", leave=False):
        split = datasets.hold_out(data, name)
        for detector, fit in detectors(seed).items():
            scores = fit(split.train.images)(split.test.images)
            table.loc[name, detector] = 100 * metrics.average_precision(split.is_anomaly, scores)
    table.loc[average_row(table.index)] = table.mean()
    return table


def probes(data: datasets.Dataset, seed: int = 0) -> pd.DataFrame:
    """How far pixels alone find each held-out class: a row each, columns (probe, average_precision, low or high), in percent.

    low to high: the 95 % interval over other test images. The images are first reduced to 32 pixels a side, by means of blocks.
    """
    small = datasets.Dataset(data.name, *(_reduced(part) for part in (data.train, data.test)), data.classes)
    rows = {}
    for name in tqdm(data.classes, "pixels alone", leave=False):
        split = datasets.hold_out(small, name)
        for probe in PROBES:
            scores = detectors(seed)[probe](split.train.images)(split.test.images)
            rows.setdefault((data.name, name), []).extend(100 * value for value in stats.interval(split.is_anomaly, scores))
    return pd.DataFrame(rows, _columns()).T


def every_probe(data: Sequence[datasets.Dataset], seed: int = 0) -> pd.DataFrame:
    """`probes` of several data sets under each other; none without any."""
    return pd.concat([probes(one, seed) for one in data]) if data else pd.DataFrame(columns=_columns())


def _columns() -> pd.MultiIndex:
    return pd.MultiIndex.from_product([PROBES, ["average_precision", "low", "high"]])


def _reduced(part: datasets.ImageSet, side: int = 32) -> datasets.ImageSet:
    (n, channels, height, width), block = part.images.shape, max(1, min(part.images.shape[2:]) // side)
    rows, columns = height // block, width // block
    if block == 1:
        return part
    images = np.empty((n, channels, rows, columns), np.uint8)
    for image, whole in zip(images, part.images, strict=True):  # one by one: a copy of all in floats may not fit
        blocks = whole[:, : rows * block, : columns * block].reshape(channels, rows, block, columns, block)
        image[:] = blocks.mean((2, 4)).round()
    return datasets.ImageSet(images, part.labels)


def available(data: datasets.Dataset, root: str | None = None) -> dict[str, np.ndarray]:
    """The OOD sets, 32x32 pixels in colour, that are here or can be downloaded; none for images of another shape."""
    found = {}
    for name in datasets.OOD if data.test.images.shape[1:] == (3, 32, 32) else ():
        try:
            found[name] = datasets.load_ood(name, root)
        except datasets.NotAvailable:
            continue
    return found


def table(dataset: str, ood: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """The paper's table: each OOD set and the mean over hold-outs, here and in the paper; NaN where a set isn't available.

    Another data set than CIFAR-10 has no numbers of the paper beside it.
    """
    if dataset != "cifar10":
        rows = ood.rename(index=LABELS)
        rows.loc[f"{dataset} hold-outs (mean of {len(held_out) - 1})"] = held_out.loc[average_of(held_out)]
        return rows
    paper = tables.published("appendix_d_baseline").average_precision
    rows = ood.reindex(list(datasets.OOD)).rename(index=LABELS)
    rows.loc["CIFAR-10 hold-outs (mean of 10)"] = held_out.loc[average_of(held_out)]
    rows["paper"] = [*paper[list(datasets.OOD)], paper["cifar10_hold_outs"]]
    rows["difference"] = rows["full-covariance Gaussian"] - rows["paper"]
    return rows


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The table as text: two decimals, and what isn't available said so."""
    return rows.map(lambda value: "not available" if math.isnan(value) else f"{value:.2f}").rename_axis(
        index="average precision, %"
    )
