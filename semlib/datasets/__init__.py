"""Data sets as uint8 arrays, and the hold-out split."""

from semlib.datasets.ood import SOURCES as OOD
from semlib.datasets.ood import NotAvailable, load_ood
from semlib.datasets.sources import CLASSES, data_root, load
from semlib.datasets.splits import (
    DataError,
    Dataset,
    Digests,
    ImageSet,
    Split,
    check_parts,
    hold_out,
    training_images,
)

__all__ = [
    "CLASSES",
    "OOD",
    "DataError",
    "Dataset",
    "Digests",
    "ImageSet",
    "NotAvailable",
    "Split",
    "check_parts",
    "data_root",
    "hold_out",
    "load",
    "load_ood",
    "training_images",
]
