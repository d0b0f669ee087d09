"""Appendix D: how far the statistics of raw pixels go on the usual benchmarks, and on the hold-out
classes.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from semlib import datasets, metrics
from workbench.experiment import Experiment
from workbench.images import prepared
from workbench.results import stats, tables
from workbench.results.names import average_of, average_row
from workbench.runs import plan

LABELS = {
    "tiny_imagenet_crop": "TinyImageNet (crop)",
    "tiny_imagenet_resize": "TinyImageNet (resize)",
}
LABELS |= {"lsun_crop": "LSUN (crop)", "lsun_resize": "LSUN (resize)", "isun": "iSUN"}
PROBES = ["full-covariance Gaussian", "edge energy"]  # of the detectors below
COLUMNS = pd.MultiIndex.from_product([PROBES, ["average_precision", "low", "high"]])  # of `probes`
Fit = Callable[
    [np.ndarray], Callable[[np.ndarray], np.ndarray]
]  # training images -> (images -> scores)


def detectors(seed: int = 0) -> dict[str, Fit]:
    """The detectors that the table compares, by name: each learns from training images and then
    scores images.
    """
    return {
        "full-covariance Gaussian": lambda images: metrics.PixelGaussian(seed).fit(images).score,
        "mixture over single pixels": lambda images: (
            metrics.PixelMixture(seed=seed).fit(images).score
        ),
        "edge energy": lambda images: metrics.edge_energy,
    }


def out_of_distribution(
    data: datasets.Dataset, ood: dict[str, np.ndarray], seed: int = 0
) -> pd.DataFrame:
    """Average precision in percent, a row an OOD set against data's test images, a column a
    detector.
    """
    table = pd.DataFrame(index=list(ood), columns=list(detectors(seed)), dtype=float)
    for detector, fit in tqdm(detectors(seed).items(), "out-of-distribution sets", leave=False):
        score = fit(data.train.images)
        normal = score(data.test.images)
        for name, images in ood.items():
            scores = np.concatenate([normal, score(images)])
            table.loc[name, detector] = 100 * metrics.average_precision(
                np.arange(len(scores)) >= len(normal), scores
            )
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
    """Average precision of detectors that see pixels alone, a row a held-out class, columns
    COLUMNS, in percent.

    low to high: the 95 % interval over other test images. The images are first reduced to 32 pixels
    a side, by means of blocks.
    """
    small = datasets.Dataset(data.name, _reduced(data.train), _reduced(data.test), data.classes)
    rows = {}
    for name in tqdm(data.classes, "pixels alone", leave=False):
        split = datasets.hold_out(small, name)
        scores = [detectors(seed)[probe](split.train.images)(split.test.images) for probe in PROBES]
        intervals = [stats.interval(split.is_anomaly, of_probe) for of_probe in scores]
        rows[data.name, name] = 100 * np.concatenate(intervals)
    return pd.DataFrame(rows, COLUMNS).T


def every_probe(experiments: Sequence[Experiment], seed: int = 0) -> pd.DataFrame:
    """`probes` of the experiments' data sets that are here; an empty table if there are none."""
    here = [e for e in experiments if prepared.exists(e.dataset, e.data_root, e.image_side)]
    tables = [probes(plan.load(experiment), seed) for experiment in here]
    return pd.concat(tables) if tables else pd.DataFrame(columns=COLUMNS)


def _reduced(part: datasets.ImageSet, side: int = 32) -> datasets.ImageSet:
    (n, channels, height, width), block = (
        part.images.shape,
        max(1, min(part.images.shape[2:]) // side),
    )
    rows, columns = height // block, width // block
    if block == 1:
        return part
    images = np.empty((n, channels, rows, columns), np.uint8)
    for image, whole in zip(
        images, part.images, strict=True
    ):  # one by one: a copy of all in floats may not fit
        blocks = whole[:, : rows * block, : columns * block].reshape(
            channels, rows, block, columns, block
        )
        image[:] = blocks.mean((2, 4)).round()
    return datasets.ImageSet(images, part.labels)


def available(data: datasets.Dataset, root: str | None = None) -> dict[str, np.ndarray]:
    """The OOD sets, 32x32 pixels in colour, that are here or can be downloaded; none for images of
    another shape.
    """
    found = {}
    for name in datasets.OOD if data.test.images.shape[1:] == (3, 32, 32) else ():
        try:
            found[name] = datasets.load_ood(name, root)
        except datasets.NotAvailable:
            continue
    return found


def table(dataset: str, ood: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """Each OOD set and the mean over hold-outs; for CIFAR-10 beside the paper's numbers, NaN where
    a set isn't available.
    """
    papers = dataset == "cifar10"
    rows = (ood.reindex(list(datasets.OOD)) if papers else ood).rename(index=LABELS)
    name = f"{'CIFAR-10' if papers else dataset} hold-outs (mean of {len(held_out) - 1})"
    rows.loc[name] = held_out.loc[average_of(held_out)]
    if papers:
        paper = tables.published("appendix_d_baseline").average_precision
        rows["paper"] = [*paper[list(datasets.OOD)], paper["cifar10_hold_outs"]]
        rows["difference"] = rows["full-covariance Gaussian"] - rows["paper"]
    return rows


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The table as text with two decimals, "not available" for NaN."""
    text = rows.map(lambda value: "not available" if math.isnan(value) else f"{value:.2f}")
    return text.rename_axis(index="average precision, %")
