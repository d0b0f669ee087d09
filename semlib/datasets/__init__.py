"""Data sets by name, as uint8 arrays, and the hold-out split. `load` reads, prepares or downloads; nothing here needs torch."""

from semlib.datasets.arrays import DataError, Dataset, Digests, ImageSet, Split, check_parts, hold_out, training_images
from semlib.datasets.loading import BUILT_IN, classes, data_root, digests, is_name, load, prepared, unlabelled, unprepared
from semlib.datasets.ood import SOURCES as OOD
from semlib.datasets.ood import NotAvailable, load_ood

__all__ = [
    "BUILT_IN",
    "OOD",
    "DataError",
    "Dataset",
    "Digests",
    "ImageSet",
    "NotAvailable",
    "Split",
    "check_parts",
    "classes",
    "data_root",
    "digests",
    "hold_out",
    "is_name",
    "load",
    "load_ood",
    "prepared",
    "training_images",
    "unlabelled",
    "unprepared",
]
