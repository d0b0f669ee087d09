"""The paper's five subsets, from an ILSVRC2012 folder with train/<synset>/ and val/<synset>/."""

import os
import warnings
from pathlib import Path

import numpy as np

from semlib.datasets import DataError, Dataset, ImageSet
from semlib.datasets.imagenet import COUNTS, SUBSETS
from workbench.files import resolve
from workbench.images.folder import decode_all, images, refusal

SIDE = 256  # pixels: shorter side and centre crop (Appendix A); training crops 224 of them


def source(root: str | Path | None = None) -> Path:
    """The ILSVRC2012 folder: root, else $SEMLIB_ILSVRC. DataError says what should be in it."""
    where = root or os.environ.get("SEMLIB_ILSVRC")
    if where and resolve(where).is_dir():
        return resolve(where)
    found = f"{where} is no folder" if where else "it is not set"
    raise DataError(
        "the ImageNet subsets are read from an ILSVRC2012 folder with train/<synset>/ and val/"
        f"<synset>/; name it in $SEMLIB_ILSVRC ({found})"
    )


def members(name: str, part: str, root: str | Path | None = None) -> dict[str, list[Path]]:
    """The images of each of a subset's synsets, in the order of their names; part: train or val."""
    folders = {wnid: source(root) / part / wnid for wnid in SUBSETS[name]}
    return {wnid: images(at) if at.is_dir() else [] for wnid, at in folders.items()}


def prepare(name: str, side: int = SIDE, root: str | Path | None = None) -> Dataset:
    """A subset as uint8 (N, 3, side, side). DataError names missing classes and corrupt files."""
    files = []
    labels = []
    counts = []
    absent = []
    for part in ("train", "val"):
        for label, (wnid, found) in enumerate(members(name, part, root).items()):
            files += found
            labels += [label] * len(found)
            if not found:
                absent.append(f"{SUBSETS[name][wnid]} ({part}/{wnid})")
        counts.append(len(files))
    if absent:
        todo = "docs/notebooks.md says how to unpack the publisher's tar files"
        raise DataError(f"{source(root)} has no images of {', '.join(absent)}; {todo}")
    pixels, wrong = decode_all(files, side, name)
    if wrong:
        raise DataError(refusal(wrong, len(files)))
    whole = ImageSet(pixels, np.array(labels, np.int64))
    train = whole[: counts[0]]
    test = whole[counts[0] :]
    return Dataset(name, train, test, tuple(SUBSETS[name].values()))


def warn_if_fewer(data: Dataset) -> None:
    """Warn if a subset holds fewer images than Table 1 says."""
    train, test = COUNTS[data.name]
    if (len(data.train), len(data.test)) != (train, test):
        counts = f"{len(data.train)} of {train} training and {len(data.test)} of {test} test images"
        warnings.warn(f"{data.name} has {counts} of the paper's Table 1", stacklevel=3)
