"""Images and labels as arrays, and the paper's benchmark: one class is held out (Sec. 2)."""

from dataclasses import dataclass

import numpy as np

Anomaly = str | tuple[str, ...] | None  # a class, or several that are the anomaly together


class DataError(ValueError):
    """An invalid data set, file or class name. The message is one line and lists valid choices."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """images uint8 (N, C, H, W); labels int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: np.ndarray | slice) -> "ImageSet":
        return ImageSet(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images; a label k stands for the class named classes[k]."""

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Split:
    """A data set with one class, or several, held out as the anomaly.

    train: images of the n known classes, labels 0..n-1. test: all test images, the anomaly's label
    is -1. is_anomaly: bool (N,). classes: n names. kept: int (n,), their labels in the data set.
    """

    train: ImageSet
    test: ImageSet
    is_anomaly: np.ndarray
    classes: tuple[str, ...]
    kept: np.ndarray


def hold_out(
    data: Dataset, anomaly: Anomaly, train_per_class: int | None = None, trial: int = 0
) -> Split:
    """Train on all classes but the anomaly, test on all images.

    anomaly None: no class is held out (Table 2). train_per_class, trial: see `training_indices`.
    DataError lists the classes.
    """
    index = training_indices(data, anomaly, train_per_class, trial)
    held_out = _held_out(data, anomaly)
    kept = np.array([k for k, name in enumerate(data.classes) if name not in held_out])
    renumber = np.full(len(data.classes), -1, np.int64)
    renumber[kept] = np.arange(len(kept))
    test_labels = renumber[data.test.labels]
    return Split(
        train=ImageSet(data.train.images[index], renumber[data.train.labels[index]]),
        test=ImageSet(data.test.images, test_labels),
        is_anomaly=test_labels < 0,
        classes=tuple(data.classes[k] for k in kept),
        kept=kept,
    )


def training_indices(
    data: Dataset, anomaly: Anomaly, train_per_class: int | None = None, trial: int = 0
) -> np.ndarray:
    """Sorted indices, int64 (n,), of the training images whose class is not held out.

    train_per_class: only so many images of each class, drawn at random; trial and anomaly are the
    seed. A larger number includes the images of a smaller one. DataError if a class has fewer.
    """
    held_out = _held_out(data, anomaly)
    known = [k for k, name in enumerate(data.classes) if name not in held_out]
    members = [np.flatnonzero(data.train.labels == k) for k in known]
    if train_per_class is not None:
        fewest = min(range(len(known)), key=lambda k: len(members[k]))
        if train_per_class > len(members[fewest]):
            there = f"{data.name} has of {data.classes[known[fewest]]}: {len(members[fewest])}"
            raise DataError(f"train_per_class: {train_per_class} is more than {there}")
        # PCG64's raw numbers stay the same in every version of NumPy, a Generator's may change
        seed = (trial, *",".join(held_out).encode())
        drawn = np.random.PCG64(seed).random_raw(len(data.train))
        members = [those[np.argsort(drawn[those])[:train_per_class]] for those in members]
    return np.sort(np.concatenate(members))


def _held_out(data: Dataset, anomaly: Anomaly) -> tuple[str, ...]:
    """The held-out classes in the data set's order, whatever the order in which they are given."""
    names = (anomaly,) if isinstance(anomaly, str) else anomaly or ()
    for name in names:
        if name not in data.classes:
            choices = f"is not a class of {data.name}; choose from {', '.join(data.classes)}"
            raise DataError(f"hold-out {name!r} {choices}")
    held_out = tuple(name for name in data.classes if name in names)
    if len(data.classes) - len(held_out) < 2:
        count = max(1, len(held_out))
        needed = f"holding {count} out needs at least {count + 2}"
        raise DataError(f"{data.name} has {len(data.classes)} classes; {needed}")
    return held_out
