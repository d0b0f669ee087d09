"""Appendix D: how well raw pixels alone do on OOD sets and on held-out classes. Needs torch."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pandas as pd
from tqdm import tqdm

from semlib import datasets
from semlib.metrics import PixelGaussian, PixelMixture, average_precision, edge_energy
from workbench.experiment import Experiment
from workbench.images import prepared
from workbench.results import stats, tables
from workbench.results.names import average_of, average_row
from workbench.runs import plan

LABELS = {"tiny_imagenet_crop": "TinyImageNet (crop)", "lsun_crop": "LSUN (crop)", "isun": "iSUN"}
LABELS |= {"tiny_imagenet_resize": "TinyImageNet (resize)", "lsun_resize": "LSUN (resize)"}
DETECTORS = {  # training images, seed -> the function that scores images
    "full-covariance Gaussian": lambda train, seed: PixelGaussian(seed).fit(train).score,
    "mixture over single pixels": lambda train, seed: PixelMixture(seed=seed).fit(train).score,
    "edge energy": lambda train, seed: edge_energy,
}
PROBES = ("full-covariance Gaussian", "edge energy")
COLUMNS = ("average_precision", "low", "high")  # of each


def out_of_distribution(data: datasets.Dataset, ood: dict, seed: int = 0) -> pd.DataFrame:
    """Average precision in percent of each set of images in `ood` against data's test images."""
    table = pd.DataFrame(index=[*ood], columns=[*DETECTORS], dtype=float)
    for detector, fit in tqdm(DETECTORS.items(), "out-of-distribution sets", leave=False):
        score = fit(data.train.images, seed)
        normal = score(data.test.images)
        for name, images in ood.items():
            scores = np.concatenate([normal, score(images)])
            is_anomaly = np.arange(len(scores)) >= len(normal)
            table.loc[name, detector] = 100 * average_precision(is_anomaly, scores)
    return table


def hold_outs(data: datasets.Dataset, seed: int = 0) -> pd.DataFrame:
    """Average precision in percent: a row for each held-out class, their mean; DETECTORS."""
    table = probes(data, seed, [*DETECTORS]).xs("average_precision", axis=1, level=1).droplevel(0)
    table.loc[average_row(table.index)] = table.mean()
    return table


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


def probes_of(experiments: Sequence[Experiment], seed: int = 0) -> pd.DataFrame:
    """`probes` of the experiments' data sets that are here; an empty table if there are none."""
    here = [e for e in experiments if prepared.exists(e.dataset, e.data_root, e.image_side)]
    empty = pd.DataFrame(columns=pd.MultiIndex.from_product([PROBES, COLUMNS]))
    return pd.concat([probes(plan.load(e), seed) for e in here]) if here else empty


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


def available(data: datasets.Dataset, root: str | None = None) -> dict[str, np.ndarray]:
    """The OOD sets that can be loaded, 32x32 in colour; none beside images of another shape."""
    found = {}
    for name in datasets.OOD if data.test.images.shape[1:] == (3, 32, 32) else ():
        with suppress(datasets.NotAvailable):
            found[name] = datasets.load_ood(name, root)
    return found


def table(dataset: str, ood: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """The OOD sets and the mean over hold-outs; of CIFAR-10 beside the paper's numbers."""
    papers = dataset == "cifar10"
    rows = (ood.reindex([*datasets.OOD]) if papers else ood).rename(index=LABELS)
    name = f"{'CIFAR-10' if papers else dataset} hold-outs (mean of {len(held_out) - 1})"
    rows.loc[name] = held_out.loc[average_of(held_out)]
    if papers:
        paper = tables.published("appendix_d_baseline").average_precision
        rows["paper"] = [*paper[[*datasets.OOD]], paper["cifar10_hold_outs"]]
        rows["difference"] = rows["full-covariance Gaussian"] - rows["paper"]
    return rows
