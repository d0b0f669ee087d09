"""Data sets by name (Sec. 2): the prepared file NAME.npz in the data root, else from the publisher.

A prepared file holds train_images uint8 (N, C, H, W), train_labels, test_images, test_labels and
classes (names); no pickle. The ImageNet subsets and folders of images are prepared by
`python -m semlib data prepare`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from semlib.datasets import imagenet
from semlib.datasets.splits import DataError, Dataset, ImageSet

CLASSES = {
    "digits": tuple("0123456789"),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "stl10": (
        *("airplane", "bird", "car", "cat", "deer"),
        *("dog", "horse", "monkey", "ship", "truck"),
    ),
    **{name: tuple(synsets.values()) for name, synsets in imagenet.SUBSETS.items()},
}
CHECKOUT = Path(__file__).resolve().parents[2]


def data_root(root: str | Path | None = None) -> Path:
    """The folder of prepared data sets: root, else $SEMLIB_DATA, else data/ in the checkout."""
    where = Path(root or os.environ.get("SEMLIB_DATA") or "data").expanduser()
    return CHECKOUT / where if (CHECKOUT / "pyproject.toml").exists() else where.absolute()


def load(name: str, root: str | Path | None = None) -> Dataset:
    """The data set of that name. DataError names the choices."""
    path = data_root(root) / f"{name}.npz"
    if path.exists():
        return read(path)
    if name in PUBLISHERS:
        return PUBLISHERS[name](path.parent)
    if name in CLASSES:
        raise DataError(f"{name} is not in {path.parent}: python -m semlib data prepare {name}")
    raise DataError(f"data set {name!r} is unknown; choose from {', '.join(CLASSES)}")


def read(path: Path) -> Dataset:
    """A prepared data set."""
    with np.load(path, allow_pickle=False) as file:
        parts = [
            ImageSet(file[f"{part}_images"], file[f"{part}_labels"].astype(np.int64))
            for part in ("train", "test")
        ]
        return Dataset(path.stem, *parts, tuple(map(str, file["classes"])))


def digits(root: Path | None = None) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, uint8 (N, 1, 8, 8), of which 600 are the test images.

    Stratified, seed 0.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    whole = ImageSet(images, bunch.target.astype(np.int64))
    index = np.arange(len(images))
    train, test = train_test_split(index, test_size=600, stratify=bunch.target, random_state=0)
    return Dataset("digits", whole[train], whole[test], CLASSES["digits"])


def cifar10(root: Path) -> Dataset:
    """CIFAR-10 from its publisher, downloaded and checked by torchvision."""
    from torchvision.datasets import CIFAR10

    parts = []
    for train in (True, False):
        part = _downloaded("cifar10", root, lambda train=train: CIFAR10(root, train, download=True))
        images = part.data.transpose(0, 3, 1, 2)  # (N, C, H, W)
        parts.append(ImageSet(images, np.asarray(part.targets, np.int64)))
    return Dataset("cifar10", *parts, CLASSES["cifar10"])


def stl10(root: Path) -> Dataset:
    """STL-10's labelled images (5,000 to train, 8,000 to test, 96x96), by torchvision."""
    from torchvision.datasets import STL10

    parts = []
    for split in ("train", "test"):
        part = _downloaded("stl10", root, lambda split=split: STL10(root, split, download=True))
        parts.append(ImageSet(part.data, np.asarray(part.labels, np.int64)))
    return Dataset("stl10", *parts, CLASSES["stl10"])


def _downloaded(name: str, root: Path, fetch: Callable):
    try:
        return fetch()
    except Exception as error:  # torchvision and urllib raise many kinds
        raise DataError(
            f"{name}: its files are missing or damaged and could not be downloaded ({error}); run "
            f"again when online, or put a prepared {name}.npz into {root}"
        ) from error


PUBLISHERS = {"digits": digits, "cifar10": cifar10, "stl10": stl10}
