"""From a name or a folder to arrays. Each data set is prepared once, as one .npz in the data root.

semlib.datasets.sources says what a prepared file holds. One that lies there is used as it is.
"""

import hashlib
import json
import os
import re
import warnings
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from semlib.datasets import CLASSES, DataError, Dataset, ImageSet, data_root
from semlib.datasets.imagenet import SUBSETS
from semlib.datasets.sources import PUBLISHERS, digits
from workbench import files
from workbench.images import folder
from workbench.images import ilsvrc as imagenet_files
from workbench.images.checks import check_memory, class_name
from workbench.images.digests import Digests, Duplicates, digests_of, duplicates_of
from workbench.images.folder import unlabelled as unlabelled

SIDE = 32  # pixels of a folder's prepared images
KEYS = ("classes", "train_images", "train_labels", "test_images", "test_labels")
AGAIN = "; delete it to prepare it again, if you can"
Root = str | Path | None
Number = int | None


def prepared_path(name: str, root: Root = None, side: Number = None) -> Path:
    """Where a named data set's prepared form lies; a side counts for ImageNet's subsets."""
    is_usual = name not in SUBSETS or side in (None, imagenet_files.SIDE)
    return data_root(root) / (f"{name}.npz" if is_usual else f"{name}-{side}px.npz")


def is_name(name: str, root: Root = None, side: Number = None) -> bool:
    """Whether this names a data set, built in or prepared; otherwise it is a folder's path."""
    return os.sep not in name and (name in CLASSES or prepared_path(name, root, side).exists())


def exists(name: str, root: Root = None, side: Number = None) -> bool:
    """Whether the data set can be loaded offline, without ImageNet's files."""
    if is_name(name, root, side):
        return name == "digits" or prepared_path(name, root, side).exists()
    return files.resolve(name).is_dir()


def load(
    name: str,
    root: Root = None,
    side: Number = None,
    fold: Number = None,
    validation: bool = False,
    ilsvrc: str | None = None,
    skip_unreadable: bool = False,
) -> Dataset:
    """The data set of that name: built in, a prepared NAME.npz in the data root, or a folder.

    side: pixels a side of a folder's images (None: 32) and of ImageNet's (None: 256). fold: one of
    STL-10's 10 predefined folds of training images. validation: part of the training images takes
    the place of the test images, which are not read. ilsvrc: the ILSVRC2012 folder (None:
    $SEMLIB_ILSVRC). skip_unreadable: leave out files of a folder that can't be read. DataError
    lists the names, or names the file that can't be read.
    """
    if fold is not None and (name != "stl10" or fold not in range(10)):
        raise DataError(f"{name} has no fold {fold}; only stl10 has predefined ones, 0 to 9")
    if is_name(name, root, side) and (Path(name).is_dir() or files.resolve(name).is_dir()):
        said = f"dataset {name}: the data set of that name is taken, not the folder {name} here"
        warnings.warn(f"{said}; ./{name} names the folder", stacklevel=2)
    path = _prepare(name, root, side, ilsvrc, skip_unreadable)
    data = _part(path, files.folder_name(name), fold, validation)
    if name in SUBSETS and not validation:
        imagenet_files.warn_if_fewer(data)
    return data


def _part(path: Path, name: str, fold: Number, validation: bool) -> Dataset:
    data = read(path, name, tests=not validation) if path.exists() else digits()
    if fold is not None:
        data = replace(data, train=data.train[_arrays(path, ("folds",))["folds"][fold]])
    return _with_validation(data) if validation else data


def _prepare(
    name: str, root: Root, side: Number, ilsvrc: str | None = None, skip: bool = False
) -> Path:
    """The prepared file, written if it isn't there; the digits need none."""
    if not is_name(name, root, side):
        return _prepare_folder(name, root, side, skip)
    path = prepared_path(name, root, side)
    if path.exists() or name == "digits":
        return path
    files.check_writable(path.parent)
    also = {}
    if name in SUBSETS:
        data = imagenet_files.prepare(name, side or imagenet_files.SIDE, ilsvrc)
    else:
        data = PUBLISHERS[name](path.parent)
    if name == "stl10":  # the publisher's 10 folds, (10, 1000) indices of training images
        folds = path.parent / "stl10_binary" / "fold_indices.txt"
        also["folds"] = np.loadtxt(folds, dtype=np.int64, ndmin=2)
    write(path, data, **also)
    return path


def _prepare_folder(name: str, root: Root, side: Number, skip: bool) -> Path:
    """The prepared file of a folder of images, made anew if the folder has changed.

    Beside it <name>.unreadable.txt lists files that can't be read: DataError, unless `skip`.
    """
    source = files.resolve(name)
    if not source.is_dir():
        made = [path.stem for path in sorted(data_root(root).glob("*.npz"))]
        own = [name for name in made if name not in CLASSES and not name.startswith("folder-")]
        choices = f"choose from {', '.join([*CLASSES, *own])}, or a folder with train/ and test/"
        raise DataError(f"data set {name!r} is unknown and not a folder; {choices}")
    path = _folder_path(source, root, side)
    listing = folder.listing(source)
    if _listed(path) != listing:
        members = folder.scan(source)
        count = sum(map(len, members.values()))
        files.check_writable(path.parent, count * 3 * (side or SIDE) ** 2)
        data, wrong = folder.read(source.name, members, side or SIDE, folder.classes(source))
        if wrong:
            said = folder.refusal(wrong, count)
            lines = path.with_suffix(".unreadable.txt")
            text = "\n".join(wrong[file] for file in sorted(wrong)) + "\n"
            content = text.encode(errors="backslashreplace")
            files.save_atomically(lines, lambda file: file.write(content))
            if not skip:
                do = "data prepare --skip-unreadable leaves them out"
                raise DataError(f"{said}; all are in {lines}; {do}")
            warnings.warn(f"left out {said}; all are in {lines}", stacklevel=4)
        write(path, data, source=np.array(listing))
    return path


def _folder_path(source: Path, root: Root, side: Number) -> Path:
    """Where the prepared form of a folder of images lies; two folders may have one name."""
    place = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:8]
    name = files.folder_name(source)
    if not name.isprintable():
        wanted = "which is one line of printable text; rename the folder"
        raise DataError(f"{name!a} can't be a data set's name, {wanted}")
    return data_root(root) / f"folder-{name[:50]}-{place}-{side or SIDE}px.npz"


def _listed(path: Path) -> str | None:
    """The listing of the images from which a folder's file was prepared; None if it isn't there."""
    return str(_arrays(path, ("source",))["source"]) if path.exists() else None


def _with_validation(data: Dataset) -> Dataset:
    """Take CIFAR-10's last 10,000 training images, else a stratified fifth (seed 0), as tests."""
    from sklearn.model_selection import train_test_split

    labels = data.train.labels
    index = np.arange(len(labels))
    if data.name == "cifar10" and len(index) == 50000:
        return replace(data, train=data.train[:40000], test=data.train[40000:])
    try:
        train, kept = train_test_split(index, test_size=0.2, stratify=labels, random_state=0)
    except ValueError as error:
        few = "has too few training images to keep a fifth of each class"
        raise DataError(f"{data.name} {few} ({error})") from error
    return replace(data, train=data.train[train], test=data.train[kept])


def digests(*which: Any) -> Digests | None:
    """The digests of what `load` gives; None if that needs a download or ImageNet's files.

    which: name, root, side, fold and validation, as of `load`; those at the end may be left out.
    """
    return _about(*which)[0]


def duplicates(*which: Any) -> Duplicates:
    """The identical pictures of what `load` gives; none if that needs a download."""
    return _about(*which)[1]


def _about(
    name: str, root: Root = None, side: Number = None, fold: Number = None, validation: bool = False
) -> tuple[Digests | None, Duplicates]:
    if not exists(name, root, side):
        return None, Duplicates(0, 0, {})
    path = _prepare(name, root, side)
    return _remembered(path, files.fingerprint(path), files.folder_name(name), fold, validation)


@cache
def _remembered(
    path: Path, now: tuple | None, name: str, fold: Number, validation: bool
) -> tuple[Digests, Duplicates]:
    """What is told from all pixels, kept beside the file as long as its fingerprint is `now`."""
    beside = path.with_suffix(".digests.json")
    known: dict[str, Any] = {}
    key = f"fold {fold}, validation {validation}, of {now}"
    with suppress(OSError, ValueError, TypeError, AttributeError, KeyError):  # none, or damaged
        known = dict(json.loads(beside.read_bytes()).items())
        digests, counts = known[key]
        if all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests):
            return Digests(*digests), Duplicates(*counts)
    data = _part(path, name, fold, validation)
    found = digests_of(data), duplicates_of(data)
    known = {key: said for key, said in known.items() if key.endswith(f" of {now}")}
    text = json.dumps(known | {key: found}, indent=1).encode()
    with suppress(OSError):  # where nothing can be written, each process computes them
        if now:  # the digits have no file
            files.save_atomically(beside, lambda file: file.write(text))
    return found


def classes(name: str, root: Root = None) -> tuple[str, ...]:
    """The data set's class names: no image is read, nothing downloaded."""
    path = data_root(root) / f"{name}.npz"
    if os.sep not in name and path.exists():
        return _names(path, _arrays(path, ("classes",))["classes"])
    if name in CLASSES:
        return CLASSES[name]
    if files.resolve(name).is_dir():
        return folder.classes(files.resolve(name))
    return load(name, root).classes  # lists the names


def unprepared(name: str, root: Root = None, side: Number = None) -> str:
    """Why `load` would have to prepare the data set, as the end of a sentence; "" if it needn't."""
    source = files.resolve(name)
    if is_name(name, root, side) or not source.is_dir():
        return "" if exists(name, root, side) else f"isn't prepared in {data_root(root)}"
    if _listed(_folder_path(source, root, side)) == folder.listing(source):
        return ""
    where = f"at {side or SIDE} pixels a side in {data_root(root)}"
    return f"isn't prepared {where}, or has changed since it was prepared"


def read(path: Path, name: str | None = None, tests: bool = True) -> Dataset:
    """A prepared data set; tests False: without its test images. DataError says what is wrong."""
    arrays = _arrays(path, KEYS if tests else KEYS[:3])
    names = _names(path, arrays["classes"])
    parts = []
    for part in ("train", "test") if tests else ("train",):
        images = arrays[f"{part}_images"]
        labels = arrays[f"{part}_labels"]
        _check(path, images, labels, arrays["train_images"].shape, len(names))
        parts.append(ImageSet(images, labels.astype(np.int64)))
    test = parts[1] if tests else parts[0][:0]
    return Dataset(name or path.stem, parts[0], test, names)


def _check(path: Path, images: np.ndarray, labels: np.ndarray, shape: tuple, classes: int) -> None:
    if images.ndim == 4 and images.shape[3] < min(*images.shape[1:3], 8):
        shapes = f"images of shape {images.shape} look like (N, H, W, C)"
        raise DataError(f"{path}: {shapes}, and should be (N, C, H, W)")
    are_images = images.dtype == np.uint8 and len(shape) == 4 and images.size > 0
    are_labels = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    fit = are_images and are_labels and images.shape[1:] == shape[1:]
    if not fit or labels.min() < 0 or labels.max() >= classes:
        wanted = f"images uint8 (N, C, H, W), labels whole numbers (N,) from 0 to {classes - 1}"
        raise DataError(f"{path} isn't a prepared data set, with {wanted}{AGAIN}")


def _names(path: Path, classes: np.ndarray) -> tuple[str, ...]:
    names = tuple(class_name(str(name), path) for name in classes.ravel())
    if classes.dtype.kind not in "Uiu" or len(set(names)) < len(names):
        raise DataError(f"{path}: classes should be names, each once, as text (dtype U)")
    return names


def _arrays(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an .npz. DataError says what is wrong with the file."""
    try:
        with ZipFile(path) as file:
            sizes = [file.getinfo(f"{key}.npy").file_size for key in keys]
        check_memory(sum(sizes), f"the arrays in {path}")
        with np.load(path, allow_pickle=False) as file:
            return {key: np.asarray(file[key]) for key in keys}
    except DataError:
        raise
    except Exception as error:  # truncated or bit-flipped: zipfile, zlib and NumPy raise many kinds
        todo = "" if getattr(error, "errno", None) else AGAIN
        raise DataError(f"{path} can't be read ({files.one_line(error)}){todo}") from error


def write(path: Path, data: Dataset, **also: np.ndarray) -> None:
    """Write the prepared form, whole or not at all."""
    arrays: dict[str, Any] = {"classes": np.array(data.classes), **also}
    for name, part in (("train", data.train), ("test", data.test)):
        arrays[f"{name}_images"] = part.images
        arrays[f"{name}_labels"] = part.labels
    files.save_atomically(path, lambda file: np.savez(file, **arrays))
