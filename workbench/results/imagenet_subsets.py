"""Tables 1 and 7 and Figures 2 to 6: the images of each ImageNet subset that are here.

They lie in an ILSVRC2012 folder (`ilsvrc`, else $SEMLIB_ILSVRC), or without one in prepared files.
"""

import os
import warnings

import numpy as np
import pandas as pd

from semlib import datasets
from semlib.datasets.imagenet import SUBSETS
from workbench.images import ilsvrc as files
from workbench.images import prepared
from workbench.images.folder import decode
from workbench.results import tables

HEADINGS = {"members": "Members", "train_images": "Training images", "test_images": "Test images"}
NOTHING = np.empty((0, 3, files.SIDE, files.SIDE), np.uint8)


def counted(subset: str, ilsvrc: str | None = None, data_root: str | None = None) -> pd.DataFrame:
    """The number of images that are here: a row a class, columns train and test."""
    names = [*SUBSETS[subset].values()]
    counts = np.zeros((2, len(names)), int)
    if ilsvrc or os.environ.get("SEMLIB_ILSVRC"):
        parts = [files.members(subset, part, ilsvrc).values() for part in ("train", "val")]
        counts = [[len(found) for found in part] for part in parts]
    elif data := _prepared(subset, data_root):
        parts = [data.train.labels, data.test.labels]
        counts = [np.bincount(labels, minlength=len(names)) for labels in parts]
    return pd.DataFrame(np.transpose(counts), names, ["train", "test"])


def _prepared(subset: str, data_root: str | None) -> datasets.Dataset | None:
    if not prepared.exists(subset, data_root):
        return None
    with warnings.catch_warnings(action="ignore"):  # of fewer images than the paper has
        return prepared.load(subset, data_root)


def sizes(counts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 1: each subset's members and images, here and in the paper."""
    paper = tables.published("table1_imagenet_subsets").rename_axis(index="Subset")
    rows = [[(found.train > 0).sum(), *found.sum()] for found in counts.values()]
    here = pd.DataFrame(rows, paper.index, paper.columns)
    both = pd.concat([here, paper], axis=1, keys=["here", "paper"]).swaplevel(axis=1)
    return both[[*HEADINGS]].rename(columns=HEADINGS)


def members(counts: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Table 7: each subset's classes, with the training and test images that are here."""
    columns = {}
    for subset, found in counts.items():
        text = found.index + " (" + found.train.astype(str) + " + " + found.test.astype(str) + ")"
        shown = text.where(found.any(axis=1), found.index).reset_index(drop=True)
        columns[subset.removeprefix("imagenet_")] = shown
    return pd.DataFrame(columns).fillna("")


def samples(subset: str, count: int, ilsvrc: str | None = None, data_root: str | None = None):
    """By class name, its first training images, uint8 (count or fewer, 3, 256, 256)."""
    found = dict.fromkeys(SUBSETS[subset].values(), NOTHING)
    if ilsvrc or os.environ.get("SEMLIB_ILSVRC"):
        for wnid, images in files.members(subset, "train", ilsvrc).items():
            decoded = [decode(file, files.SIDE) for file in images[:count]]
            found[SUBSETS[subset][wnid]] = np.stack(decoded) if decoded else NOTHING
    elif data := _prepared(subset, data_root):
        for k, name in enumerate(found):
            found[name] = data.train.images[np.flatnonzero(data.train.labels == k)[:count]]
    return found
