"""Tables 1 and 7 and Figures 2 to 6: how many images of each ImageNet subset are at hand, and what
they look like.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from semlib import datasets
from semlib.datasets import imagenet
from workbench.images import ilsvrc as imagenet_files
from workbench.images import prepared
from workbench.images.folder import decode
from workbench.results import tables

NOTHING = np.empty((0, 3, imagenet_files.SIDE, imagenet_files.SIDE), np.uint8)


def counted(subset: str, ilsvrc: str | None = None, data_root: str | None = None) -> pd.DataFrame:
    """A row a class, columns train and test: the images in the ILSVRC2012 folder or, without one,
    in the prepared file.
    """
    names = list(imagenet.SUBSETS[subset].values())
    if _folder(ilsvrc):
        train, val = (imagenet_files.members(subset, part, ilsvrc) for part in ("train", "val"))
        counts = {"train": map(len, train.values()), "test": map(len, val.values())}
        return pd.DataFrame(counts, index=names)
    if not prepared.exists(subset, data_root):
        return pd.DataFrame(0, index=names, columns=["train", "test"])
    data = _prepared(subset, data_root)
    parts = {"train": data.train, "test": data.test}
    return pd.DataFrame(
        {name: np.bincount(part.labels, minlength=len(names)) for name, part in parts.items()},
        index=names,
    )


def _folder(ilsvrc: str | None) -> Path | None:
    return imagenet_files.source(ilsvrc) if ilsvrc or os.environ.get("SEMLIB_ILSVRC") else None


def _prepared(subset: str, data_root: str | None) -> datasets.Dataset:
    with warnings.catch_warnings(
        action="ignore"
    ):  # that there are fewer than in the paper: the table says it
        return prepared.load(subset, data_root)


def sizes(counts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 1: each subset's members and images, here and in the paper."""
    paper, columns = tables.published("table1_imagenet_subsets"), {}
    columns["Members", "here"] = [int((table.train > 0).sum()) for table in counts.values()]
    columns["Members", "paper"] = [paper.members[name] for name in tables.SUBSETS]
    for part in ("train", "test"):
        text = f"{'Training' if part == 'train' else 'Test'} images"
        columns[text, "here"] = [int(table[part].sum()) for table in counts.values()]
        columns[text, "paper"] = [paper[f"{part}_images"][name] for name in tables.SUBSETS]
    return pd.DataFrame(columns, index=pd.Index(tables.SUBSETS, name="Subset"))


def members(counts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 7: each subset's classes, with the training and test images that are here."""
    columns = {}
    for subset, table in zip(tables.SUBSETS, counts.values(), strict=True):
        numbers = [
            f" ({row.train} + {row.test})" if row.train or row.test else ""
            for row in tables.rows(table)
        ]
        columns[subset] = pd.Series(table.index + numbers)
    return pd.DataFrame(columns).fillna("")


def samples(
    subset: str, count: int, ilsvrc: str | None = None, data_root: str | None = None
) -> dict[str, np.ndarray]:
    """The first training images of each class, uint8 (count or fewer, 3, 256, 256), resized and
    cropped as for training.
    """
    names = imagenet.SUBSETS[subset]
    if _folder(ilsvrc):
        files = imagenet_files.members(subset, "train", ilsvrc)
        decoded = {
            names[wnid]: [decode(file, imagenet_files.SIDE) for file in found[:count]]
            for wnid, found in files.items()
        }
        return {name: np.stack(images) if images else NOTHING for name, images in decoded.items()}
    if not prepared.exists(subset, data_root):
        return dict.fromkeys(names.values(), NOTHING)
    data = _prepared(subset, data_root).train
    return {
        name: data.images[np.flatnonzero(data.labels == k)[:count]]
        for k, name in enumerate(names.values())
    }
