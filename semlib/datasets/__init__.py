"""Data sets by name, as uint8 arrays, and the hold-out split. `load` reads, prepares or downloads; nothing here needs torch."""

from semlib.datasets.arrays import DataError, Dataset, ImageSet, Split, digest, hold_out
from semlib.datasets.loading import BUILT_IN, classes, data_root, load, prepared

__all__ = [
    "BUILT_IN",
    "DataError",
    "Dataset",
    "ImageSet",
    "Split",
    "classes",
    "data_root",
    "digest",
    "hold_out",
    "load",
    "prepared",
]
