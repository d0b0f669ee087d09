"""From a name to arrays. Whatever its source, a data set becomes one uncompressed .npz in the data root and is read from it.

The prepared form: train_images uint8 (N, C, H, W), train_labels, test_images, test_labels, classes (names); no pickle.
A prepared file that lies in the data root is used as it is.
"""

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from semlib.datasets import folder
from semlib.datasets.arrays import DataError, Dataset, ImageSet
from semlib.files import resolve, save_atomically

KEYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def data_root(root: str | Path | None = None) -> Path:
    """The folder of prepared data sets: root, else $SEMLIB_DATA, else data/ in the checkout."""
    return resolve(root or os.environ.get("SEMLIB_DATA") or "data")


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, uint8 (N, 1, 8, 8): 1,197 to train, 600 to test, stratified, seed 0."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test = train_test_split(np.arange(len(images)), test_size=600, stratify=bunch.target, random_state=0)
    whole = ImageSet(images, bunch.target.astype(np.int64))
    return Dataset("digits", whole[train], whole[test], tuple(str(k) for k in bunch.target_names))


def cifar10(root: Path) -> Dataset:
    """CIFAR-10 from its publisher, downloaded and checked by torchvision."""
    from torchvision.datasets import CIFAR10

    parts = []
    for train in (True, False):
        try:
            part = CIFAR10(root, train=train, download=True)
        except Exception as error:
            raise DataError(
                f"cifar10 could not be downloaded ({error}); run again when online, or put a prepared cifar10.npz into {root}"
            ) from error
        parts.append(ImageSet(part.data.transpose(0, 3, 1, 2), np.asarray(part.targets, np.int64)))
    return Dataset("cifar10", parts[0], parts[1], tuple(part.classes))


BUILT_IN: dict[str, Callable[[Path], Dataset]] = {"digits": lambda root: digits(), "cifar10": cifar10}
CLASSES = {
    "digits": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}


def load(name: str, root: str | Path | None = None, side: int = 32) -> Dataset:
    """The data set of that name: a prepared NAME.npz in the data root, a built-in one, or a folder of images.

    side: pixels a side of a folder's images. DataError names the choices, or the file that can't be read.
    """
    where = data_root(root)
    source = resolve(name)
    if os.sep not in name and (where / f"{name}.npz").exists():
        return read(where / f"{name}.npz")
    if name == "digits":
        return digits()  # ships with scikit-learn: nothing to prepare
    if name in BUILT_IN:
        write(where / f"{name}.npz", BUILT_IN[name](where))
        return read(where / f"{name}.npz")
    if source.is_dir():
        return _load_folder(source, where, side)
    files = sorted(p.stem for p in where.glob("*.npz") if not p.stem.startswith("folder-"))
    known = ", ".join(dict.fromkeys([*BUILT_IN, *files]))
    raise DataError(f"data set {name!r} is unknown and not a folder; choose from {known}, or a folder with train/ and test/")


def prepared(name: str, root: str | Path | None = None) -> bool:
    """Whether `load` needs no download: the data set is prepared, ships with scikit-learn or is a folder."""
    return name == "digits" or (data_root(root) / f"{name}.npz").exists() or (name not in BUILT_IN and resolve(name).is_dir())


def classes(name: str, root: str | Path | None = None) -> tuple[str, ...]:
    """The data set's class names: no image is read, nothing downloaded."""
    path = data_root(root) / f"{name}.npz"
    if os.sep not in name and path.exists():
        return tuple(map(str, _arrays(path, ("classes",))["classes"]))
    if name in CLASSES:
        return CLASSES[name]
    return folder.classes(resolve(name)) if resolve(name).is_dir() else load(name, root).classes  # which names the choices


def _load_folder(source: Path, where: Path, side: int) -> Dataset:
    listing = folder.listing(source)
    path = where / f"folder-{source.name}-{side}px.npz"
    if not path.exists() or str(_arrays(path, ("source",), optional=True).get("source")) != listing:
        write(path, folder.read(source, side), source=listing)
    return read(path, source.name)


def read(path: Path, name: str | None = None) -> Dataset:
    """A prepared data set; DataError names the file and what is wrong with it."""
    arrays = _arrays(path, KEYS)
    names = tuple(map(str, arrays["classes"].ravel()))
    parts = [ImageSet(arrays[f"{p}_images"], arrays[f"{p}_labels"]) for p in ("train", "test")]
    for part in parts:
        wrong = (
            part.images.dtype != np.uint8 or part.images.ndim != 4 or part.labels.shape != part.images.shape[:1],
            part.images.shape[1:] != parts[0].images.shape[1:] or not len(part),
            part.labels.dtype.kind not in "iu" or set(np.unique(part.labels)) - set(range(len(names))),
        )
        if any(wrong):
            raise DataError(
                f"{path} isn't a prepared data set: images should be uint8 (N, C, H, W), labels whole numbers (N,) "
                f"from 0 to {len(names) - 1}; delete it to prepare it again"
            )
    train, test = (ImageSet(p.images, p.labels.astype(np.int64)) for p in parts)
    return Dataset(name or path.stem, train, test, names)


def _arrays(path: Path, keys: tuple[str, ...], optional: bool = False) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in keys if key in file.files or not optional}
    except UNREADABLE as error:
        raise DataError(f"{path} can't be read ({error}); delete it to prepare it again") from error


def write(path: Path, data: Dataset, **also: str) -> None:
    """Write the prepared form atomically: a reader sees the whole file or none, however the writer ends."""
    arrays = {"classes": np.array(data.classes)}
    for part in ("train", "test"):
        arrays |= {f"{part}_images": getattr(data, part).images, f"{part}_labels": getattr(data, part).labels}
    save_atomically(path, lambda file: np.savez(file, **arrays, **also))
