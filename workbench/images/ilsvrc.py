"""The paper's five subsets of ILSVRC2012 (Tables 1 and 7), from the usual folders or from the
original tar files.
"""

import gzip
import io
import os
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from semlib.datasets.imagenet import COUNTS, SUBSETS
from semlib.datasets.splits import DataError, Dataset, ImageSet
from workbench.files import one_line, resolve
from workbench.images.folder import Named, Seen, decode_all, images, leftover, read_member

SIDE = 256  # pixels: shorter side and centre crop (Appendix A); training crops 224 of them

TRAIN_TAR, VAL_TAR, DEVKIT = (
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_img_val.tar",
    "ILSVRC2012_devkit_t12.tar.gz",
)


def source(root: str | Path | None = None) -> Path:
    """The ILSVRC2012 folder: root, else $SEMLIB_ILSVRC. DataError says what should be in it."""
    where = root or os.environ.get("SEMLIB_ILSVRC")
    if not where or not resolve(where).is_dir():
        found = f"{where} is no folder" if where else "it is not set"
        raise DataError(
            "the ImageNet subsets are read from an ILSVRC2012 folder with train/<synset>/ and val/<synset>/, or with "
            f"{TRAIN_TAR}, {VAL_TAR} and {DEVKIT}; name it in $SEMLIB_ILSVRC ({found})"
        )
    return resolve(where)


def prepare(name: str, side: int = SIDE, root: str | Path | None = None) -> Dataset:
    """A subset as uint8 (N, 3, side, side), the shorter side resized to `side`, then the centre
    cropped.

    DataError names a missing class or a corrupt file; what is prepared holds one copy of the
    images, 2.9 GB for the dogs.
    """
    where, synsets = source(root), SUBSETS[name]
    parts = {part: members(name, part, where) for part in ("train", "val")}
    found = [
        (part, wnid, *files) for part, classes in parts.items() for wnid, files in classes.items()
    ]
    if absent := [
        f"{synsets[wnid]} ({part}/{wnid})" for part, wnid, count, _ in found if not count
    ]:
        flat = next((part for part in parts if next((where / part).glob("*.JPEG"), None)), None)
        also = (
            f"; those in {flat}/ itself are of no known class, sort them into {flat}/<synset>/"
            if flat
            else ""
        )
        raise DataError(f"{where} has no images of {', '.join(absent)}{also}")
    counts = np.array([count for *_, count, _ in found])
    stream = (named for *_, images in found for named in images)
    seen = Seen()
    pixels = decode_all(stream, counts.sum(), side, name, seen)
    seen.warn(name)
    both = ImageSet(pixels, np.repeat(np.tile(np.arange(len(synsets)), 2), counts))
    train = counts[: len(synsets)].sum()
    return Dataset(name, both[:train], both[train:], tuple(synsets.values()))


def members(
    name: str, part: str, root: str | Path | None = None
) -> dict[str, tuple[int, Iterable[Named]]]:
    """Of each of a subset's synsets, the number of its images and the images as (name, file); part:
    train or val.
    """
    where = source(root)
    return {wnid: _files(where, part, wnid) for wnid in SUBSETS[name]}


def warn_if_fewer(data: Dataset) -> None:
    """A warning if a subset holds fewer images than Table 1 says."""
    found = len(data.train), len(data.test)
    if found != COUNTS[data.name]:
        train, test = (f"{n} of {of}" for n, of in zip(found, COUNTS[data.name], strict=True))
        warnings.warn(
            f"{data.name} has {train} training and {test} test images of the paper's Table 1",
            stacklevel=3,
        )


def _files(where: Path, part: str, wnid: str) -> tuple[int, Iterator[Named] | list[Named]]:
    """The number of a class's images and the images, from its folder or from the tar files."""
    folder = where / part / wnid
    if folder.is_dir():
        paths = images(folder)
        return len(paths), [(str(path), path) for path in paths]
    if part == "train" and (where / TRAIN_TAR).exists():
        path = where / TRAIN_TAR
        return sum(1 for _ in _inner(path, wnid, read=False)), _inner(path, wnid)
    if part == "val" and (where / VAL_TAR).exists():
        devkit = where / DEVKIT
        if not devkit.exists():
            raise DataError(f"{devkit} is missing: it says which class each validation image shows")
        names = [
            name
            for name, label in _val_labels(devkit, devkit.stat().st_mtime_ns).items()
            if label == wnid
        ]
        return len(names), _members(where / VAL_TAR, names)
    return 0, []


def _inner(path: Path, wnid: str, read: bool = True) -> Iterator[Named]:
    """A class's images in the order of their names, from the tar of tars, of which nothing is
    unpacked.
    """
    try:
        with tarfile.open(path, "r:") as outer:
            for member in outer:
                if Path(member.name).name == f"{wnid}.tar":
                    with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as tar:
                        for name, image in sorted(_members_of(tar).items()):
                            yield (
                                f"{path}: {wnid}/{name}",
                                io.BytesIO(read_member(tar, image) if read else b""),
                            )
                    return
            _check_end(outer)
    except Exception as error:
        raise DataError(f"{path} can't be read at {wnid} ({one_line(error)})") from error


def _members(path: Path, names: list[str]) -> Iterator[Named]:
    index = _index(path, path.stat().st_mtime_ns)
    absent = [name for name in names if name not in index]
    if absent:
        raise DataError(f"{path} lacks {len(absent)} images, {min(absent)} among them")
    with path.open("rb") as file:
        for name in names:
            member = index[name]
            file.seek(member.offset_data)
            yield f"{path}: {member.name}", io.BytesIO(file.read(member.size))


@lru_cache(maxsize=1)
def _index(path: Path, changed: int) -> dict[str, tarfile.TarInfo]:
    """Where each image lies in a tar file, which is gone through once and not for each class;
    changed: its time.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            return {name.name: member for name, member in _members_of(tar).items()}
    except Exception as error:
        raise DataError(f"{path} can't be read ({one_line(error)})") from error


def _members_of(tar: tarfile.TarFile) -> dict[Path, tarfile.TarInfo]:
    """A tar's files but for leftovers, by name as they would be unpacked: of two of one name the
    later.
    """
    files = {Path(member.name): member for member in tar if member.isfile()}
    _check_end(tar)
    return {name: member for name, member in files.items() if not any(map(leftover, name.parts))}


def _check_end(tar: tarfile.TarFile) -> None:
    """ReadError unless a block of zeros follows the members: tarfile takes a cut or a damaged
    header for the end.
    """
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"cut or damaged at byte {tar.offset}")


@lru_cache(maxsize=1)
def _val_labels(devkit: Path, changed: int) -> dict[str, str]:
    """The synset of each validation image, from the development kit."""
    from scipy.io import loadmat

    try:
        # unpacked before anything is read of it: gzip compares its checksum at the end
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(devkit.read_bytes()))) as tar:
            files = {Path(m.name).name: read_member(tar, m) for m in tar if m.isfile()}
        synsets = loadmat(io.BytesIO(files["meta.mat"]), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        truth = files["ILSVRC2012_validation_ground_truth.txt"].split()
        return {
            f"ILSVRC2012_val_{k:08}.JPEG": wnids[int(label)] for k, label in enumerate(truth, 1)
        }
    except Exception as error:
        raise DataError(f"{devkit} can't be read ({one_line(error)})") from error
