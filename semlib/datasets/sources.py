"""Data sets by name (Sec. 2): the prepared file NAME.npz in the data root, else the publisher's.

A prepared file holds train_images and test_images uint8 (N, C, H, W), train_labels, test_labels,
classes (names). ImageNet's subsets and own images: `python -m semlib data prepare`.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from semlib.datasets import imagenet
from semlib.datasets.splits import DataError, Dataset, ImageSet

CHECKOUT = Path(__file__).resolve().parents[2]
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
STL10 = "airplane bird car cat deer dog horse monkey ship truck"
CLASSES = {
    "digits": tuple("0123456789"),
    "cifar10": tuple(CIFAR10.split()),
    "stl10": tuple(STL10.split()),
    **{name: tuple(synsets.values()) for name, synsets in imagenet.SUBSETS.items()},
}


def data_root(root: str | Path | None = None) -> Path:
    """The folder of prepared data sets: root, else $SEMLIB_DATA, else data/ in the checkout."""
    where = Path(root or os.environ.get("SEMLIB_DATA") or "data").expanduser()
    return CHECKOUT / where if (CHECKOUT / "pyproject.toml").exists() else where.absolute()


def load(name: str, root: str | Path | None = None) -> Dataset:
    """The data set of that name. DataError lists the names."""
    path = data_root(root) / f"{name}.npz"
    if path.exists():
        return read(path)
    if name in PUBLISHERS:
        return PUBLISHERS[name](path.parent)
    if name in CLASSES:
        raise DataError(f"{name} is not in {path.parent}: python -m semlib data prepare {name}")
    choices = f"choose from {', '.join(CLASSES)}, or a NAME for which {path.parent} has NAME.npz"
    raise DataError(f"data set {name!r} is unknown; {choices}")


def read(path: Path) -> Dataset:
    """Read a prepared data set. DataError names a file that is none."""
    parts = []
    try:
        with np.load(path, allow_pickle=False) as file:
            for part in ("train", "test"):
                labels = file[f"{part}_labels"].astype(np.int64)
                parts.append(ImageSet(file[f"{part}_images"], labels))
            return Dataset(path.stem, *parts, tuple(map(str, file["classes"])))
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds
        raise DataError(f"{path} is not a prepared data set ({error})") from error


def digits(root: Path | None = None) -> Dataset:
    """scikit-learn's 1,797 digits, uint8 (N, 1, 8, 8); 600 test images, stratified, seed 0."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    whole = ImageSet(images, bunch.target.astype(np.int64))
    index = np.arange(len(images))
    train, test = train_test_split(index, test_size=600, stratify=bunch.target, random_state=0)
    return Dataset("digits", whole[train], whole[test], CLASSES["digits"])


def cifar10(root: Path) -> Dataset:
    """CIFAR-10, downloaded and checked by torchvision."""
    from torchvision.datasets import CIFAR10

    parts = _downloaded("cifar10", root, (CIFAR10(root, t, download=True) for t in (True, False)))
    train, test = (ImageSet(p.data.transpose(0, 3, 1, 2), np.array(p.targets)) for p in parts)
    return Dataset("cifar10", train, test, CLASSES["cifar10"])


def stl10(root: Path) -> Dataset:
    """STL-10's labelled images (5,000 to train, 8,000 to test, 96x96), checked by torchvision."""
    from torchvision.datasets import STL10

    parts = _downloaded("stl10", root, (STL10(root, s, download=True) for s in ("train", "test")))
    train, test = (ImageSet(part.data, np.asarray(part.labels, np.int64)) for part in parts)
    return Dataset("stl10", train, test, CLASSES["stl10"])


def _downloaded(name: str, root: Path, parts: Iterable[Any]) -> list[Any]:
    try:
        return list(parts)
    except Exception as error:  # torchvision and urllib raise many kinds
        todo = f"run again when online, or put a prepared {name}.npz into {root}"
        said = " ".join(str(error).split())
        what = f"{name} is missing or damaged and could not be downloaded ({said})"
        raise DataError(f"{what}; {todo}") from error


PUBLISHERS = {"digits": digits, "cifar10": cifar10, "stl10": stl10}
