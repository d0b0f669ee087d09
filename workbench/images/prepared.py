"""From a name or a folder to arrays. Each data set is prepared once, as one .npz in the data root.

semlib.datasets.sources says what a prepared file holds. One that lies there is used as it is.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from semlib.datasets import CLASSES, DataError, Dataset, ImageSet, data_root
from semlib.datasets.imagenet import SUBSETS
from semlib.datasets.sources import PUBLISHERS, digits
from workbench.files import check_writable, folder_name, one_line, resolve, save_atomically
from workbench.images import folder
from workbench.images import ilsvrc as imagenet_files
from workbench.images.checks import check_memory, check_parts, class_name
from workbench.images.digests import Digests, digests_of
from workbench.images.folder import unlabelled

__all__ = ["Digests", "check_parts", "classes", "data_root", "digests", "digests_of", "exists",
           "is_name", "load", "read", "unlabelled", "unprepared", "write"]  # fmt: skip

SIDE = 32  # pixels of a folder's prepared images
KEYS = ("classes", "train_images", "train_labels", "test_images", "test_labels")
Root = str | Path | None


def prepared_path(name: str, root: Root = None, side: int | None = None) -> Path:
    """Where a named data set's prepared form lies; a side counts for ImageNet's subsets."""
    is_usual = name not in SUBSETS or side in (None, imagenet_files.SIDE)
    return data_root(root) / (f"{name}.npz" if is_usual else f"{name}-{side}px.npz")


def is_name(name: str, root: Root = None, side: int | None = None) -> bool:
    """Whether this names a data set, built in or prepared; otherwise it is a folder's path."""
    return os.sep not in name and (name in CLASSES or prepared_path(name, root, side).exists())


def exists(name: str, root: Root = None, side: int | None = None) -> bool:
    """Whether the data set can be loaded offline, without ImageNet's files."""
    if is_name(name, root, side):
        return name == "digits" or prepared_path(name, root, side).exists()
    return resolve(name).is_dir()


def load(
    name: str,
    root: Root = None,
    side: int | None = None,
    fold: int | None = None,
    validation: bool = False,
    ilsvrc: str | None = None,
) -> Dataset:
    """The data set of that name: built in, a prepared NAME.npz in the data root, or a folder.

    side: pixels a side of a folder's images (None: 32) and of ImageNet's (None: 256). fold: one of
    STL-10's 10 predefined folds of training images. validation: part of the training images takes
    the place of the test images, which are not read. ilsvrc: the ILSVRC2012 folder (None:
    $SEMLIB_ILSVRC). DataError lists the names, or names the file that can't be read.
    """
    if fold is not None and name != "stl10":
        raise DataError(f"{name} has no folds; only stl10 has predefined ones, 0 to 9")
    path = _prepare(name, root, side, ilsvrc)
    data = read(path, folder_name(name), tests=not validation) if path else digits()
    if path and fold is not None:
        data = replace(data, train=data.train[_fold(path, fold, len(data.train))])
    if validation:
        return _with_validation(data)
    if name in SUBSETS:
        imagenet_files.warn_if_fewer(data)
    return data


def _prepare(name: str, root: Root, side: int | None, ilsvrc: str | None = None) -> Path | None:
    """The prepared file, written if it isn't there; None for the digits where it can't be."""
    if not is_name(name, root, side):
        return _prepare_folder(resolve(name), root, side)
    path = prepared_path(name, root, side)
    if path.exists():
        if ilsvrc and name in SUBSETS:
            _check_source(path, resolve(ilsvrc).resolve())
        return path
    try:
        check_writable(path.parent)
    except OSError:
        if name == "digits":
            return None
        raise
    also = {}
    if name in SUBSETS:
        data = imagenet_files.prepare(name, side or imagenet_files.SIDE, ilsvrc)
        also["ilsvrc"] = np.array(str(imagenet_files.source(ilsvrc).resolve()))
    else:
        data = PUBLISHERS[name](path.parent)
    if name == "stl10":
        also["folds"] = _stl10_folds(path.parent)
    write(path, data, **also)
    return path


def _prepare_folder(source: Path, root: Root, side: int | None) -> Path:
    """The prepared file of a folder of images, made anew if the folder has changed."""
    if not source.is_dir():
        made = sorted(path.stem for path in data_root(root).glob("*.npz"))
        others = [name for name in made if name not in CLASSES and not name.startswith("folder-")]
        choices = ", ".join([*CLASSES, *others, "or a folder with train/ and test/"])
        raise DataError(f"data set {source.name!r} is unknown; choose from {choices}")
    path, side = _folder_path(source, root, side), side or SIDE
    found = folder.scan(source)
    listing = folder.listing(found)
    if _listed(path) != listing:
        check_writable(path.parent, (len(found.train) + len(found.test)) * 3 * side**2)
        write(path, folder.read(found, side), source=np.array(listing))
    return path


def _folder_path(source: Path, root: Root, side: int | None) -> Path:
    """Where the prepared form of a folder of images lies."""
    # two folders may have one name
    place = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[:8]
    name = folder_name(source)
    if not name.isprintable():
        wanted = "which is one line of printable text; rename the folder"
        raise DataError(f"{name!a} can't be a data set's name, {wanted}")
    return data_root(root) / f"folder-{name[:50]}-{place}-{side or SIDE}px.npz"


def _listed(path: Path) -> str | None:
    """The listing of the images from which a folder's file was prepared; None if it isn't there."""
    return str(read_arrays(path, ("source",), True).get("source")) if path.exists() else None


def _check_source(path: Path, ilsvrc: Path) -> None:
    """DataError if an ImageNet subset was prepared from another folder; older files don't say."""
    was = str(read_arrays(path, ("ilsvrc",), optional=True).get("ilsvrc", ilsvrc))
    if was != str(ilsvrc):
        todo = "delete it to prepare it anew, or choose another data_root"
        raise DataError(f"{path} is of {was}, not of {ilsvrc}; {todo}")


def _stl10_folds(root: Path) -> np.ndarray:
    """The publisher's 10 folds, (10, 1000) indices of training images."""
    path = root / "stl10_binary" / "fold_indices.txt"
    try:
        return np.loadtxt(path, dtype=np.int64)
    except Exception as error:
        todo = "delete the folder to fetch it again"
        raise DataError(f"{path} can't be read ({one_line(error)}); {todo}") from error


def _fold(path: Path, fold: int, images: int) -> np.ndarray:
    folds = read_arrays(path, ("folds",), optional=True).get("folds")
    if folds is None or folds.ndim != 2 or not 0 <= fold < len(folds):
        raise DataError(f"{path} has no fold {fold}; stl10's are 0 to 9")
    if folds.dtype.kind not in "iu" or folds.min() < 0 or folds.max() >= images:
        todo = "delete it to prepare it again"
        raise DataError(f"{path}: its folds are not of its {images} images; {todo}")
    return folds[fold]


def _with_validation(data: Dataset) -> Dataset:
    """Part of the training images as test images: CIFAR-10's last 10,000, else a fifth.

    The fifth is stratified by class and the same each time (seed 0).
    """
    from sklearn.model_selection import train_test_split

    index = np.arange(len(data.train))
    if data.name == "cifar10" and len(index) == 50000:
        train, kept = index[:40000], index[40000:]
    else:
        labels = data.train.labels
        try:
            train, kept = train_test_split(index, test_size=0.2, stratify=labels, random_state=0)
        except ValueError as error:
            few = "has too few training images to keep a fifth of each class"
            raise DataError(f"{data.name} {few} ({error})") from error
    return replace(data, train=data.train[train], test=data.train[kept])


def digests(
    name: str,
    root: Root = None,
    side: int | None = None,
    fold: int | None = None,
    validation: bool = False,
) -> Digests | None:
    """The digests of what `load` gives now; None if that needs a download or ImageNet's files.

    They are remembered beside the prepared file until its size or times change.
    """
    if not exists(name, root, side):
        return None
    path = _prepare(name, root, side)
    if path is None:
        return digests_of(digits())
    status = path.stat()
    now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _remembered(path, now, name, root, side, fold, validation)


@cache
def _remembered(path: Path, now: tuple[int, int, int], *what: Any) -> Digests:
    """The digests of load(*what), whose prepared file has this size, time and time of change."""
    *_, fold, validation = what
    part, beside = f"fold {fold}, validation {validation}", path.with_suffix(".digests.json")
    stamp = dict(zip(("size", "modified", "changed"), now, strict=True))
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, AttributeError):  # not there yet, or not JSON
        said = json.loads(beside.read_bytes())
        known = said if {key: said.get(key) for key in stamp} == stamp else {}
    if not re.fullmatch(r"[0-9a-f]{64} [0-9a-f]{64}", str(known.get(part))):
        known |= stamp | {part: " ".join(digests_of(load(*what)))}
        text = json.dumps(known, indent=1).encode()
        with suppress(OSError):  # where nothing can be written, each process computes them
            save_atomically(beside, lambda file: file.write(text))
    return Digests(*known[part].split())


def classes(name: str, root: Root = None) -> tuple[str, ...]:
    """The data set's class names: no image is read, nothing downloaded."""
    path = data_root(root) / f"{name}.npz"
    if os.sep not in name and path.exists():
        return _names(path, read_arrays(path, ("classes",))["classes"])
    if name in CLASSES:
        return CLASSES[name]
    if resolve(name).is_dir():
        return folder.classes(resolve(name))
    return load(name, root).classes  # lists the names


def unprepared(name: str, root: Root = None, side: int | None = None) -> str:
    """Why `load` would have to prepare the data set, as the end of a sentence; "" if it needn't."""
    source = resolve(name)
    if is_name(name, root, side) or not source.is_dir():
        return "" if exists(name, root, side) else f"isn't prepared in {data_root(root)}"
    found, listed = folder.scan(source), _listed(_folder_path(source, root, side))
    if listed == folder.listing(found):
        return ""
    counts = f"{len(found.train)} training and {len(found.test)} test images"
    state = "has changed since it was prepared"
    if listed is None:
        state = f"isn't prepared at {side or SIDE} pixels a side in {data_root(root)}"
    return f"{state}: {counts} of {len(found.classes)} classes"


def read(path: Path, name: str | None = None, tests: bool = True) -> Dataset:
    """A prepared data set; tests False: without its test images. DataError says what is wrong."""
    arrays = read_arrays(path, KEYS if tests else KEYS[:3])
    names = _names(path, arrays["classes"])
    parts = []
    for part in ("train", "test") if tests else ("train",):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        _check(path, images, labels, len(names))
        parts.append(ImageSet(images, labels.astype(np.int64)))
    train, test = parts[0], parts[1] if tests else parts[0][:0]
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{path} isn't a prepared data set: its images differ in size{_again(path)}"
        )
    return Dataset(name or path.stem, train, test, names)


def _check(path: Path, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if images.ndim == 4 and images.shape[3] < min(*images.shape[1:3], 8):
        shape = f"images of shape {images.shape} look like (N, H, W, C)"
        raise DataError(f"{path}: {shape}, and should be (N, C, H, W)")
    are_images = images.dtype == np.uint8 and images.ndim == 4 and images.size > 0
    are_labels = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not are_images or not are_labels or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{path} isn't a prepared data set: images should be uint8 (N, C, H, W), labels whole "
            f"numbers (N,) from 0 to {classes - 1}{_again(path)}"
        )


def _names(path: Path, classes: np.ndarray) -> tuple[str, ...]:
    names = tuple(class_name(str(name), path) for name in classes.ravel())
    if classes.dtype.kind not in "Uiu" or len(set(names)) < len(names):
        raise DataError(f"{path}: classes should be names, each once, as text (dtype U)")
    return names


def read_arrays(path: Path, keys: tuple[str, ...], optional: bool = False) -> dict[str, np.ndarray]:
    """Arrays of an .npz; optional: those of them that are there. DataError says what is wrong."""
    try:
        with path.open("rb") as file:
            start = file.read(20)
        if not start.startswith(b"PK"):  # of which NumPy would say that it is pickled
            raise ValueError(f"it is no .npz file, but begins with {start!r}")
        with np.load(path, allow_pickle=False) as file:
            wanted = [key for key in keys if key in file.files or not optional]
            sizes = [file.zip.getinfo(f"{key}.npy").file_size for key in wanted]
            check_memory(sum(sizes), f"the arrays in {path}")
            return {key: np.asarray(file[key]) for key in wanted}
    except DataError:
        raise
    except Exception as error:  # truncated or bit-flipped: zipfile, zlib and NumPy raise many kinds
        is_whole = isinstance(error, MemoryError) or getattr(error, "errno", None)
        todo = "" if is_whole else _again(path)
        raise DataError(f"{path} can't be read ({one_line(error)}){todo}") from error


def _again(path: Path) -> str:
    """What to do about a damaged file that can be prepared again."""
    name = re.sub(r"-\d+px$", "", path.stem)
    is_ours = name in CLASSES or name.startswith("folder-")
    return "; delete it to prepare it again" if is_ours else ""


def write(path: Path, data: Dataset, **also: np.ndarray) -> None:
    """Write the prepared form, whole or not at all."""
    arrays: dict[str, Any] = {"classes": np.array(data.classes), **also}
    for name, part in (("train", data.train), ("test", data.test)):
        arrays[f"{name}_images"] = part.images
        arrays[f"{name}_labels"] = part.labels
    save_atomically(path, lambda file: np.savez(file, **arrays))
