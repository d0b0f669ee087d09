"""From a name to arrays. Whatever its source, a data set becomes one uncompressed .npz in the data
root and is read from it.

The prepared form: train_images uint8 (N, C, H, W), train_labels, test_images, test_labels, classes
(names); no pickle. A prepared file that lies in the data root is used as it is.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from semlib.datasets.sources import CLASSES, cifar10, data_root, digits, stl10
from semlib.datasets.splits import DataError, Dataset, Digests, ImageSet, check_memory, class_name
from workbench.files import check_writable, folder_name, one_line, resolve, save_atomically
from workbench.images import folder
from workbench.images import ilsvrc as imagenet_files

_digests: dict[tuple, Digests] = {}  # of prepared files, by path, part, size and times
SIDE = 32  # pixels of a folder's prepared images
KEYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")


def stl10_folds(root: Path) -> np.ndarray:
    """The publisher's 10 folds, (10, 1000) indices of training images."""
    path = root / "stl10_binary" / "fold_indices.txt"
    try:
        return np.loadtxt(path, dtype=np.int64)
    except Exception as error:
        raise DataError(
            f"{path} can't be read ({one_line(error)}); delete the folder to fetch it again"
        ) from error


BUILT_IN: dict[str, Callable[[Path, int | None, str | None], Dataset]] = {
    "digits": lambda root, side, ilsvrc: digits(),
    "cifar10": lambda root, side, ilsvrc: cifar10(root),
    "stl10": lambda root, side, ilsvrc: stl10(root),
    **{
        n: lambda root, side, ilsvrc, name=n: imagenet_files.prepare(name, side or imagenet_files.SIDE, ilsvrc)
        for n in imagenet_files.SUBSETS
    },
}


def prepared_path(name: str, root: str | Path | None = None, side: int | None = None) -> Path:
    """Where a named data set's prepared form lies; ImageNet's subsets have one for each side but
    256.
    """
    other_side = name in imagenet_files.SUBSETS and side not in (None, imagenet_files.SIDE)
    return data_root(root) / (f"{name}-{side}px.npz" if other_side else f"{name}.npz")


def is_name(name: str, root: str | Path | None = None, side: int | None = None) -> bool:
    """Whether this names a data set, which is built in or prepared in the data root; what else can
    be loaded is a folder.
    """
    return os.sep not in name and (name in BUILT_IN or prepared_path(name, root, side).exists())


def load(
    name: str,
    root: str | Path | None = None,
    side: int | None = None,
    fold: int | None = None,
    validation: bool = False,
    ilsvrc: str | None = None,
) -> Dataset:
    """The data set of that name: a prepared NAME.npz in the data root, a built-in one, or a folder
    of images.

    side: pixels a side of a folder's images (None: 32) and of ImageNet's (None: 256). fold: one of
    STL-10's 10 predefined folds of training images. validation: `test` is made of training images
    (see `_with_validation`) and the real test images are not read. ilsvrc: the ILSVRC2012 folder
    (None: $SEMLIB_ILSVRC). DataError names the choices, or the file that can't be read.
    """
    data = _load(name, root, side, fold, validation, ilsvrc)
    if name in imagenet_files.SUBSETS and not validation:
        imagenet_files.warn_if_fewer(data)
    return data


def _load(
    name: str,
    root: str | Path | None,
    side: int | None,
    fold: int | None,
    validation: bool,
    ilsvrc: str | None = None,
) -> Dataset:
    if fold is not None and name != "stl10":
        raise DataError(f"{name} has no folds; only stl10 has predefined ones, 0 to 9")
    path = _prepare(name, root, side, ilsvrc)
    data = read(path, folder_name(name), tests=not validation) if path else digits()
    if path and fold is not None:
        data = Dataset(
            data.name, data.train[_fold(path, fold, len(data.train))], data.test, data.classes
        )
    return _with_validation(data) if validation else data


def _prepare(
    name: str, root: str | Path | None, side: int | None, ilsvrc: str | None = None
) -> Path | None:
    """The prepared file, written if it isn't there; None for the digits where it can't be."""
    path, source = prepared_path(name, root, side), resolve(name)
    if is_name(name, root, side):
        if not path.exists():
            try:
                check_writable(path.parent)
            except OSError:
                if name == "digits":
                    return None
                raise
            data = BUILT_IN[name](path.parent, side, ilsvrc)
            also = {"folds": stl10_folds(path.parent)} if name == "stl10" else {}
            also |= (
                {"ilsvrc": np.array(str(imagenet_files.source(ilsvrc).resolve()))}
                if name in imagenet_files.SUBSETS
                else {}
            )
            write(path, data, **also)
        elif ilsvrc and name in imagenet_files.SUBSETS:
            _check_source(path, resolve(ilsvrc).resolve())
        return path
    if source.is_dir():
        return _prepare_folder(source, folder_path(source, root, side), side or SIDE)
    files = sorted(
        p.stem for p in data_root(root).glob("*.npz") if not p.stem.startswith(("folder-", "ood-"))
    )
    names = ", ".join(dict.fromkeys([*BUILT_IN, *files]))
    raise DataError(
        f"data set {name!r} is unknown and not a folder; choose from {names}, or a folder with train/ and test/"
    )


def _check_source(path: Path, ilsvrc: Path) -> None:
    """DataError if an ImageNet subset is prepared from another folder than this; older files don't
    say from which.
    """
    was = read_arrays(path, ("ilsvrc",), optional=True).get("ilsvrc")
    if was is None:
        warnings.warn(
            f"{path} is used as it is, whatever {ilsvrc} holds; delete it to prepare it anew",
            stacklevel=2,
        )
    elif str(was) != str(ilsvrc):
        raise DataError(
            f"{path} is of {was}, not of {ilsvrc}; delete it to prepare it anew, or choose another data_root"
        )


def digests(
    name: str,
    root: str | Path | None = None,
    side: int | None = None,
    fold: int | None = None,
    validation: bool = False,
) -> Digests | None:
    """The digests of what `load` gives now; None if that needs a download or ImageNet's files.

    They are remembered beside the prepared file, and computed anew when its size or time differs
    from what they are of.
    """
    if not exists(name, root, side):
        return None
    path, part = _prepare(name, root, side), f"fold {fold}, validation {validation}"
    if path is None:
        return _load(name, root, side, fold, validation).digests
    status, beside = path.stat(), path.with_suffix(".digests.json")
    now = {"size": status.st_size, "modified": status.st_mtime_ns, "changed": status.st_ctime_ns}
    which = (beside, part, *now.values())
    if which not in _digests:
        known: dict[str, Any] = {}
        with suppress(OSError, ValueError, AttributeError):  # not there yet, or not JSON
            read_back = json.loads(beside.read_bytes())
            known = read_back if {key: read_back.get(key) for key in now} == now else {}
        if not re.fullmatch(r"[0-9a-f]{64} [0-9a-f]{64}", str(known.get(part))):
            known |= now | {part: " ".join(_load(name, root, side, fold, validation).digests)}
            with suppress(
                OSError
            ):  # a folder that can't be written to: the next process computes them again
                save_atomically(
                    beside, lambda file: file.write(json.dumps(known, indent=1).encode())
                )
        _digests[which] = Digests(*known[part].split())
    return _digests[which]


def _fold(path: Path, fold: int, images: int) -> np.ndarray:
    folds = read_arrays(path, ("folds",), optional=True).get("folds")
    if folds is None or folds.ndim != 2 or not 0 <= fold < len(folds):
        raise DataError(f"{path} has no fold {fold}; stl10's are 0 to 9")
    if folds.dtype.kind not in "iu" or folds.min() < 0 or folds.max() >= images:
        raise DataError(
            f"{path}: its folds are not of its {images} images; delete it to prepare it again"
        )
    return folds[fold]


def _with_validation(data: Dataset) -> Dataset:
    """The data set with part of its training images in place of its test images: CIFAR-10's last
    10,000, else a fifth.

    The fifth is stratified by class and the same each time (seed 0).
    """
    from sklearn.model_selection import train_test_split

    index = np.arange(len(data.train))
    if data.name == "cifar10" and len(index) == 50000:
        train, kept = index[:40000], index[40000:]
    else:
        try:
            train, kept = train_test_split(
                index, test_size=0.2, stratify=data.train.labels, random_state=0
            )
        except ValueError as error:
            raise DataError(
                f"{data.name} has too few training images to keep a fifth of each class ({error})"
            ) from error
    return Dataset(data.name, data.train[train], data.train[kept], data.classes)


def exists(name: str, root: str | Path | None = None, side: int | None = None) -> bool:
    """Whether the data set can be loaded offline: prepared, shipped with scikit-learn, or a folder."""
    if is_name(name, root, side):
        return name == "digits" or prepared_path(name, root, side).exists()
    return resolve(name).is_dir()


def classes(name: str, root: str | Path | None = None) -> tuple[str, ...]:
    """The data set's class names: no image is read, nothing downloaded."""
    path = data_root(root) / f"{name}.npz"
    if os.sep not in name and path.exists():
        return _names(path, read_arrays(path, ("classes",)))
    if name in CLASSES:
        return CLASSES[name]
    return (
        folder.classes(resolve(name)) if resolve(name).is_dir() else load(name, root).classes
    )  # which names the choices


def folder_path(source: Path, root: str | Path | None = None, side: int | None = None) -> Path:
    """Where the prepared form of a folder of images lies."""
    place = hashlib.sha256(os.fsencode(source.resolve())).hexdigest()[
        :8
    ]  # two folders may have one name
    name = folder_name(source)
    if not name.isprintable():
        raise DataError(
            f"{name!a} can't be a data set's name, which is one line of printable text; rename the folder"
        )
    return data_root(root) / f"folder-{name[:50]}-{place}-{side or SIDE}px.npz"


def _prepare_folder(source: Path, path: Path, side: int) -> Path:
    """The prepared file of a folder of images, made anew if the folder has changed."""
    listing = folder.listing(source)
    if _listed(path) != listing:
        count = sum(len(folder.files(source, part)) for part in ("train", "test"))
        check_writable(path.parent, count * 3 * side**2)
        data, bits = folder.read(source, side)
        write(path, data, source=np.array(listing), bits=np.array(bits))
    return path


def unlabelled(
    where: Path, data: Dataset, name: str, root: str | Path | None, side: int | None
) -> tuple[list[str], np.ndarray]:
    """The names and images of a folder without labels, prepared as those of `data`, which was
    loaded by that name.
    """
    path, bits = folder_path(resolve(name), root, side), np.array(16)
    if not is_name(
        name, root, side
    ):  # greys of 16 bits are scaled as the folder's were; older files don't say how
        bits = read_arrays(path, ("bits",), optional=True).get("bits")
    seen = folder.Seen(16 if bits is None else int(bits))
    names, images = folder.unlabelled(where, data.test.images.shape[1:], seen)
    if bits is None and seen.greys:
        raise DataError(
            f"{where} has 16-bit greys, and {path} doesn't say how to scale them; delete {path} to prepare it anew"
        )
    if seen.bits == 16 and max(seen.greys, default=2**12) < 2**12:
        said = f"{where.name}: no 16-bit grey has a value above 4095, and {data.name} has none of so few bits: they are dark"
        warnings.warn(said, stacklevel=2)
    return names, images


def _listed(path: Path) -> str | None:
    """The listing of the images that a folder's prepared form is of; None if it isn't there."""
    return (
        str(read_arrays(path, ("source",), optional=True).get("source")) if path.exists() else None
    )


def unprepared(name: str, root: str | Path | None = None, side: int | None = None) -> str:
    """Why `load` would have to prepare the data set first, as the end of a sentence; "" if it only
    reads.
    """
    source = resolve(name)
    if is_name(name, root, side) or not source.is_dir():
        return "" if exists(name, root, side) else f"isn't prepared in {data_root(root)}"
    listed = _listed(folder_path(source, root, side))
    if listed == folder.listing(source):
        return ""
    train, test = (len(folder.files(source, part)) for part in ("train", "test"))
    absent = f"isn't prepared at {side or SIDE} pixels a side in {data_root(root)}"
    state = absent if listed is None else "has changed since it was prepared"
    return (
        f"{state}: {train} training and {test} test images of {len(folder.classes(source))} classes"
    )


def read(path: Path, name: str | None = None, tests: bool = True) -> Dataset:
    """A prepared data set; DataError names the file and what is wrong with it. tests False: its
    test images are left out.
    """
    keys = KEYS if tests else tuple(key for key in KEYS if not key.startswith("test"))
    arrays = read_arrays(path, keys)
    names = _names(path, arrays)
    parts = [
        ImageSet(arrays[f"{p}_images"], arrays[f"{p}_labels"])
        for p in ("train", "test")
        if f"{p}_images" in arrays
    ]
    for part in parts:
        if part.images.ndim == 4 and part.images.shape[3] < min(*part.images.shape[1:3], 8):
            raise DataError(
                f"{path}: images of shape {part.images.shape} look like (N, H, W, C), and should be (N, C, H, W)"
            )
        wrong = (
            part.images.dtype != np.uint8
            or part.images.ndim != 4
            or part.labels.shape != part.images.shape[:1],
            part.images.shape[1:] != parts[0].images.shape[1:] or not part.images.size,
            part.labels.dtype.kind not in "iu"
            or set(np.unique(part.labels)) - set(range(len(names))),
        )
        if any(wrong):
            raise DataError(
                f"{path} isn't a prepared data set: images should be uint8 (N, C, H, W), labels whole numbers (N,) "
                f"from 0 to {len(names) - 1}{_again(path)}"
            )
    train, *test = (ImageSet(p.images, p.labels.astype(np.int64)) for p in parts)
    return Dataset(name or path.stem, train, test[0] if test else train[:0], names)


def _names(path: Path, arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    names = tuple(map(str, arrays["classes"].ravel()))
    if arrays["classes"].dtype.kind not in "Uiu" or len(set(names)) < len(names):
        raise DataError(
            f"{path}: classes should be names, each once, as text (an array of dtype U)"
        )
    if unlike := [name for name in names if class_name(name, path) != name]:
        raise DataError(
            f"{path}: the class {unlike[0]!a} should be in Unicode's composed form, NFC"
        )
    return names


def read_arrays(path: Path, keys: tuple[str, ...], optional: bool = False) -> dict[str, np.ndarray]:
    """Arrays of an .npz; DataError names one that can't be read. optional: those of them that are
    there.
    """
    try:
        with path.open("rb") as file:
            start = file.read(20)
        if not start.startswith(b"PK"):
            raise ValueError(f"it is no .npz file, but begins with {start!r}")
        with np.load(path, allow_pickle=False) as file:
            sizes = [
                info.file_size
                for info in file.zip.infolist()
                if info.filename.removesuffix(".npy") in keys
            ]
            check_memory(sum(sizes), f"the arrays in {path}")
            arrays = {key: file[key] for key in keys if key in file.files or not optional}
        for key, array in arrays.items():
            if not isinstance(
                array, np.ndarray
            ):  # numpy hands over as bytes what isn't in its format
                raise ValueError(f"{key} isn't an array")
        return arrays
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{path} can't be read: there is too little memory") from error
    except Exception as error:  # truncated or bit-flipped: zipfile, zlib and NumPy raise many kinds
        barred = isinstance(error, OSError) and error.errno  # by its permissions, say
        raise DataError(
            f"{path} can't be read ({one_line(error)}){'' if barred else _again(path)}"
        ) from error


def _again(path: Path) -> str:
    """What to do about a damaged file, if it is one that can be made again."""
    name = re.sub(r"-\d+px$", "", path.stem)
    made = name in BUILT_IN or path.stem.startswith(("folder-", "ood-"))
    return "; delete it to prepare it again" if made else ""


def write(path: Path, data: Dataset, **also: np.ndarray) -> None:
    """Write the prepared form atomically: a reader sees the whole file or none, however the writer
    ends.
    """
    arrays: dict[str, Any] = {"classes": np.array(data.classes)}
    for part in ("train", "test"):
        arrays |= {
            f"{part}_images": getattr(data, part).images,
            f"{part}_labels": getattr(data, part).labels,
        }
    arrays |= also
    save_atomically(path, lambda file: np.savez(file, **arrays))
