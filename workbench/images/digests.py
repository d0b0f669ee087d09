"""What is told from all pixels of a data set: SHA-256 digests, and identical pictures."""

import hashlib
from collections import Counter, defaultdict
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


class Duplicates(NamedTuple):
    """How many pictures, equal in every pixel, stand in several places."""

    parts: int  # among the training and the test images
    classes: int  # in several classes
    seen: dict[str, int]  # of a class, among the training images of other classes

    def __str__(self) -> str:
        """A sentence for a table's remarks, "" if there are none."""
        if not self.parts and not self.classes:
            return ""
        places = f"{self.parts} among training and test images, {self.classes} in several classes"
        return f"Identical pictures: {places}."


def duplicates_of(data: Dataset) -> Duplicates:
    """Count identical pictures by the hashes of their pixels."""
    places: dict[bytes, set[tuple[bool, int]]] = defaultdict(set)
    for is_test, part in enumerate((data.train, data.test)):
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            places[hashlib.blake2b(image.tobytes()).digest()].add((bool(is_test), label))
    parts = 0
    classes = 0
    seen: Counter[str] = Counter()
    for where in places.values():
        labels = {label for _, label in where}
        trained = {label for is_test, label in where if not is_test}
        parts += {is_test for is_test, _ in where} == {False, True}
        classes += len(labels) > 1
        seen.update(data.classes[label] for label in labels if trained - {label})
    return Duplicates(parts, classes, dict(seen))
