"""The paper's five subsets, from an ILSVRC2012 folder with train/<synset>/ and val/<synset>/."""

import os
import warnings
from pathlib import Path

from semlib.datasets import DataError, Dataset
from semlib.datasets.imagenet import COUNTS, SUBSETS
from workbench.files import resolve
from workbench.images.folder import images, read, refusal

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
    parts: dict[str, list[tuple[Path, int]]] = {"train": [], "val": []}
    absent = []
    for part, inside in parts.items():
        for label, (wnid, found) in enumerate(members(name, part, root).items()):
            inside += [(path, label) for path in found]
            if not found:
                absent.append(f"{SUBSETS[name][wnid]} ({part}/{wnid})")
    if absent:
        todo = "docs/notebooks.md says how to unpack the publisher's tar files"
        raise DataError(f"{source(root)} has no images of {', '.join(absent)}; {todo}")
    data, wrong = read(name, parts, side, tuple(SUBSETS[name].values()))
    if wrong:
        raise DataError(refusal(wrong, sum(map(len, parts.values()))))
    return data


def warn_if_fewer(data: Dataset) -> None:
    """Warn if a subset holds fewer images than Table 1 says."""
    train, test = COUNTS[data.name]
    if (len(data.train), len(data.test)) != (train, test):
        counts = f"{len(data.train)} of {train} training and {len(data.test)} of {test} test images"
        warnings.warn(f"{data.name} has {counts} of the paper's Table 1", stacklevel=3)
