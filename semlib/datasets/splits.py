"""Images and labels as arrays, and the paper's benchmark made of them: one class held out (Sec. 2)."""

import hashlib
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil


class DataError(ValueError):
    """A data set, class or file that can't be used; the message is one line that names the choices
    or the file.
    """


def class_name(name: str, where: object) -> str:
    """The name in Unicode's composed form (NFC). DataError, which says where it stands, for one
    that would not mean itself.

    all and none are words of `hold_out`, and a class's runs lie in a folder of its name.
    """
    composed = unicodedata.normalize("NFC", name)
    fits_folder = (
        composed not in ("", ".", "..")
        and "/" not in composed
        and len(composed.encode(errors="replace")) <= 255
    )
    if not (
        fits_folder
        and composed.isprintable()
        and composed == composed.strip()
        and composed not in ("all", "none")
    ):
        raise DataError(
            f"{where}: {name!a} can't be a class's name, which is one line of printable text without / or spaces around "
            "it, and neither all nor none; rename it"
        )
    return composed


def check_memory(needed: int, what: str) -> None:
    """DataError if so many bytes are not free: better said before they are filled."""
    if needed > (free := free_memory()):
        raise DataError(
            f"{what} take {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free"
        )


def free_memory(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes free on this machine and in its process's control groups (version 2), where cached
    files count as free.
    """
    free = [psutil.virtual_memory().available]
    with suppress(OSError):
        for place in (
            line.removeprefix("0::/")
            for line in of.read_text().splitlines()
            if line.startswith("0::/")
        ):
            for group in (root / place, *(root / place).parents):
                with suppress(OSError, ValueError):  # ValueError: max, which is no limit
                    limit, used = (
                        int((group / f"memory.{name}").read_text()) for name in ("max", "current")
                    )
                    held = dict(
                        line.split() for line in (group / "memory.stat").read_text().splitlines()
                    )
                    free.append(
                        limit - used + int(held["active_file"]) + int(held["inactive_file"])
                    )
    return min(free)


@dataclass(frozen=True)
class ImageSet:
    """images uint8 (N, C, H, W); labels int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: np.ndarray | slice) -> "ImageSet":
        return ImageSet(self.images[index], self.labels[index])


class Digests(NamedTuple):
    """SHA-256 over every training and every test image, with their labels and the class names;
    shown as 1a2b3c4d-5e6f7a8b.
    """

    train: str
    test: str

    def __str__(self) -> str:
        return f"{self.train[:8]}-{self.test[:8]}"


@dataclass(frozen=True)
class Dataset:
    """train and test images whose labels number `classes`, a tuple of names."""

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]

    @cached_property
    def digests(self) -> Digests:
        """Equal exactly if two data sets are."""
        return Digests(*(_digest(part, self.classes) for part in (self.train, self.test)))


@dataclass(frozen=True)
class Split:
    """The benchmark with one class held out.

    train: without the anomaly, labels 0..K-2. test: all test images, label -1 for the anomaly.
    is_anomaly: bool (N,) over the test images. classes: the K-1 names. kept: their K-1 numbers in
    the data set.
    """

    train: ImageSet
    test: ImageSet
    is_anomaly: np.ndarray
    classes: tuple[str, ...]
    kept: np.ndarray


def training_images(
    data: Dataset, anomaly: str | None, train_per_class: int | None = None, trial: int = 0
) -> np.ndarray:
    """Indices int64 (n,) of the training images of all classes but `anomaly`, in the data set's
    order.

    train_per_class: that many of each class, drawn by trial and anomaly; a larger number includes
    the images of a smaller one. DataError if a class has fewer, or the anomaly is unknown.
    """
    if anomaly is not None and anomaly not in data.classes:
        raise DataError(
            f"hold-out {anomaly!r} is not a class of {data.name}; choose from {', '.join(data.classes)}"
        )
    members = {
        name: np.flatnonzero(data.train.labels == k)
        for k, name in enumerate(data.classes)
        if name != anomaly
    }
    if len(members) < 2:
        raise DataError(
            f"{data.name} has {len(data.classes)} classes; holding one out needs at least 3"
        )
    if train_per_class is not None:
        fewest = min(members, key=lambda name: len(members[name]))
        if train_per_class > (there := len(members[fewest])):
            raise DataError(
                f"train_per_class: {train_per_class} is more than {data.name} has of {fewest}: {there}"
            )
        # a bit generator's numbers are the same in every version of NumPy, those of a Generator's
        # methods may change
        drawn = np.random.PCG64((trial, *(anomaly or "").encode())).random_raw(len(data.train))
        members = {
            name: those[np.argsort(drawn[those])[:train_per_class]]
            for name, those in members.items()
        }
    return np.sort(np.concatenate(list(members.values())))


def check_parts(data: Dataset) -> None:
    """DataError if a class has no training image or no test image: it would be scored as normal, or
    have no precision.
    """
    for which, part in (("training", data.train), ("test", data.test)):
        if absent := sorted({*range(len(data.classes))} - {*np.unique(part.labels).tolist()}):
            raise DataError(
                f"{data.name} has no {which} image of {', '.join(data.classes[k] for k in absent)}"
            )


def hold_out(
    data: Dataset, anomaly: str | None, train_per_class: int | None = None, trial: int = 0
) -> Split:
    """Train on all classes but `anomaly`, test on all; with None no class is held out (Table 2).
    DataError if unknown.

    train_per_class, trial: train on the `training_images` that these give.
    """
    normal = training_images(data, anomaly, train_per_class, trial)
    kept = np.array([k for k, name in enumerate(data.classes) if name != anomaly])
    renumber = np.full(len(data.classes), -1, np.int64)
    renumber[kept] = np.arange(len(kept))
    train, test = renumber[data.train.labels], renumber[data.test.labels]
    return Split(
        train=ImageSet(data.train.images[normal], train[normal]),
        test=ImageSet(data.test.images, test),
        is_anomaly=test < 0,
        classes=tuple(data.classes[k] for k in kept),
        kept=kept,
    )


def _digest(part: ImageSet, classes: tuple[str, ...]) -> str:
    sha = hashlib.sha256(repr(classes).encode())
    for array in (part.images, part.labels):
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
