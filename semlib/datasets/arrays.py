"""Images and labels as arrays, and the paper's benchmark made of them: one class held out (Sec. 2)."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


class DataError(ValueError):
    """A data set, class or file that can't be used; the message is one line that names the choices or the file."""


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
    """SHA-256 over every training and every test image, with their labels and the class names; shown as 1a2b3c4d-5e6f7a8b."""

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
    is_anomaly: bool (N,) over the test images. classes: the K-1 names. kept: their K-1 numbers in the data set.
    """

    train: ImageSet
    test: ImageSet
    is_anomaly: np.ndarray
    classes: tuple[str, ...]
    kept: np.ndarray


def hold_out(data: Dataset, anomaly: str | None) -> Split:
    """Train on all classes but `anomaly`, test on all; with None no class is held out (Table 2). DataError if unknown."""
    if anomaly is not None and anomaly not in data.classes:
        raise DataError(f"hold-out {anomaly!r} is not a class of {data.name}; choose from {', '.join(data.classes)}")
    kept = np.array([k for k, name in enumerate(data.classes) if name != anomaly])
    if len(kept) < 2:
        raise DataError(f"{data.name} has {len(data.classes)} classes; holding one out needs at least 3")
    renumber = np.full(len(data.classes), -1, np.int64)
    renumber[kept] = np.arange(len(kept))
    train, test = renumber[data.train.labels], renumber[data.test.labels]
    normal = train >= 0
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
