"""ILSVRC2012's files: the paper's five subsets from the usual folders or the original tar files."""

import gzip
import io
import os
import tarfile
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np

from semlib.datasets import DataError, Dataset, ImageSet
from semlib.datasets.imagenet import COUNTS, SUBSETS
from workbench.files import fingerprint, one_line, resolve
from workbench.images.folder import Member, decode_all, images, leftover

SIDE = 256  # pixels: shorter side and centre crop (Appendix A); training crops 224 of them

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


def source(root: str | Path | None = None) -> Path:
    """The ILSVRC2012 folder: root, else $SEMLIB_ILSVRC. DataError says what should be in it."""
    where = root or os.environ.get("SEMLIB_ILSVRC")
    if where and resolve(where).is_dir():
        return resolve(where)
    found = f"{where} is no folder" if where else "it is not set"
    raise DataError(
        "the ImageNet subsets are read from an ILSVRC2012 folder with train/<synset>/ and val/"
        f"<synset>/, or {TRAIN_TAR}, {VAL_TAR} and {DEVKIT}; name it in $SEMLIB_ILSVRC ({found})"
    )


def members(name: str, part: str, root: str | Path | None = None) -> dict[str, list]:
    """The images of each of a subset's synsets, as files or `Member`s; part: train or val."""
    return {wnid: _files(source(root), part, wnid) for wnid in SUBSETS[name]}


def prepare(name: str, side: int = SIDE, root: str | Path | None = None) -> Dataset:
    """A subset as uint8 (N, 3, side, side). DataError names missing classes and corrupt files."""
    files = []
    labels = []
    counts = []
    absent = []
    for part in ("train", "val"):
        for label, (wnid, found) in enumerate(members(name, part, root).items()):
            files += found
            labels += [label] * len(found)
            if not found:
                absent.append(f"{SUBSETS[name][wnid]} ({part}/{wnid})")
        counts.append(len(files))
    if absent:
        flat = next(source(root).glob("val/*.JPEG"), None)
        todo = "; sort the images in val/ into val/<synset>/" if flat else ""
        raise DataError(f"{source(root)} has no images of {', '.join(absent)}{todo}")
    whole = ImageSet(decode_all(files, side, name), np.array(labels, np.int64))
    train = whole[: counts[0]]
    test = whole[counts[0] :]
    return Dataset(name, train, test, tuple(SUBSETS[name].values()))


def warn_if_fewer(data: Dataset) -> None:
    """Warn if a subset holds fewer images than Table 1 says."""
    train, test = COUNTS[data.name]
    if (len(data.train), len(data.test)) != (train, test):
        counts = f"{len(data.train)} of {train} training and {len(data.test)} of {test} test images"
        warnings.warn(f"{data.name} has {counts} of the paper's Table 1", stacklevel=3)


def _files(where: Path, part: str, wnid: str) -> list[Path] | list[Member]:
    """A class's images in the order of their names, from its folder or from the tar files."""
    folder = where / part / wnid
    if folder.is_dir():
        return images(folder)
    tar = where / {"train": TRAIN_TAR, "val": VAL_TAR}[part]
    if not tar.exists():
        return []
    found = {Path(member.name).name: member for member in _index(tar, fingerprint(tar))}
    if part == "train":  # a tar of one tar a class
        inner = found.get(f"{wnid}.tar")
        return _index(tar, fingerprint(tar), inner.offset) if inner else []
    labels = _val_labels(where / DEVKIT, fingerprint(where / DEVKIT))
    names = [name for name, label in labels.items() if label == wnid]
    absent = [name for name in names if name not in found]
    if absent:
        raise DataError(f"{tar} lacks {len(absent)} images, {min(absent)} among them")
    return [found[name] for name in names]


@lru_cache(maxsize=16)
def _index(path: Path, changed: tuple | None, start: int = 0) -> list[Member]:
    """The files in a tar file, or in the inner one that begins at byte `start`, by name.

    Without leftovers; of two of one name the later, as if unpacked. changed: the tar's fingerprint.
    """
    found: dict[Path, Member] = {}
    try:
        with path.open("rb") as file:
            file.seek(start)
            with tarfile.TarFile(fileobj=file) as tar:
                for member in tar:
                    if member.isfile():
                        name = Path(member.name)
                        found[name] = Member(path, str(name), member.offset_data, member.size)
                # tarfile takes a cut or damaged header for the end, which is a block of zeros
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise ValueError(f"cut or damaged at byte {tar.offset}")
    except Exception as error:
        raise DataError(f"{path} can't be read ({one_line(error)})") from error
    return [found[name] for name in sorted(found) if not any(map(leftover, name.parts))]


@lru_cache(maxsize=1)
def _val_labels(devkit: Path, changed: tuple | None) -> dict[str, str]:
    """The synset of each validation image, from the development kit."""
    from scipy.io import loadmat

    files = {}
    try:
        # unpacked before anything is read of it: gzip compares its checksum at the end
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(devkit.read_bytes()))) as tar:
            for member in tar:
                if member.isfile() and (file := tar.extractfile(member)):
                    files[Path(member.name).name] = file.read()
        synsets = loadmat(io.BytesIO(files["meta.mat"]), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        truth = files["ILSVRC2012_validation_ground_truth.txt"].split()
        labels = (wnids[int(label)] for label in truth)
        return {f"ILSVRC2012_val_{k:08}.JPEG": wnid for k, wnid in enumerate(labels, 1)}
    except Exception as error:
        raise DataError(f"{devkit} can't be read ({one_line(error)})") from error
