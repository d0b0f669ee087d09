"""SHA-256 digests of data sets, by which runs on other images are told apart."""

import hashlib
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from semlib.datasets import Dataset, ImageSet


class Digests(NamedTuple):
    """Digests of the training and the test part, each with its labels and the class names."""

    train: str
    test: str

    def __str__(self) -> str:
        return f"{self.train[:8]}-{self.test[:8]}"


_known: WeakKeyDictionary[Dataset, Digests] = WeakKeyDictionary()


def digests_of(data: Dataset) -> Digests:
    """The digests of a data set, computed once: equal exactly if two data sets are."""
    if data not in _known:
        _known[data] = Digests(_digest(data.train, data.classes), _digest(data.test, data.classes))
    return _known[data]


def _digest(part: ImageSet, classes: tuple[str, ...]) -> str:
    sha = hashlib.sha256(repr(classes).encode())
    for array in (part.images, part.labels):
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
