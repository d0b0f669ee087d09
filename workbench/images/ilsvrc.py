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
from workbench.files import one_line, resolve
from workbench.images.folder import Member, decode_all, images, leftover

SIDE = 256  # pixels: shorter side and centre crop (Appendix A); training crops 224 of them

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


def source(root: str | Path | None = None) -> Path:
    """The ILSVRC2012 folder: root, else $SEMLIB_ILSVRC. DataError says what should be in it."""
    where = root or os.environ.get("SEMLIB_ILSVRC")
    if not where or not resolve(where).is_dir():
        found = f"{where} is no folder" if where else "it is not set"
        raise DataError(
            "the ImageNet subsets are read from an ILSVRC2012 folder with train/<synset>/ and "
            f"val/<synset>/, or with {TRAIN_TAR}, {VAL_TAR} and {DEVKIT}; name it in "
            f"$SEMLIB_ILSVRC ({found})"
        )
    return resolve(where)


def prepare(name: str, side: int = SIDE, root: str | Path | None = None) -> Dataset:
    """A subset as uint8 (N, 3, side, side); one copy of its images is in memory (dogs: 2.9 GB).

    DataError names missing classes or corrupt files.
    """
    where = source(root)
    files, labels, counts, absent = [], [], [], []
    for part in ("train", "val"):
        for label, (wnid, class_name) in enumerate(SUBSETS[name].items()):
            found = _files(where, part, wnid)
            if not found:
                absent.append(f"{class_name} ({part}/{wnid})")
            files += found
            labels += [label] * len(found)
        counts.append(len(files))
    if absent:
        flat = next((where / "val").glob("*.JPEG"), None)
        todo = "; sort the images in val/ into val/<synset>/" if flat else ""
        raise DataError(f"{where} has no images of {', '.join(absent)}{todo}")
    whole = ImageSet(decode_all(files, side, name), np.array(labels, np.int64))
    train, test = whole[: counts[0]], whole[counts[0] :]
    return Dataset(name, train, test, tuple(SUBSETS[name].values()))


def members(
    name: str, part: str, root: str | Path | None = None
) -> dict[str, tuple[int, list[tuple[str, Path | Member]]]]:
    """By synset of a subset: the number of its images in a part (train or val), and (name, file)."""
    found = {}
    for wnid in SUBSETS[name]:
        files = _files(source(root), part, wnid)
        found[wnid] = (len(files), [(str(file), file) for file in files])
    return found


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
    found = {Path(member.name).name: member for member in _index(tar, tar.stat().st_mtime_ns)}
    if part == "train":  # a tar of one tar a class
        inner = found.get(f"{wnid}.tar")
        return _index(tar, tar.stat().st_mtime_ns, inner.offset) if inner else []
    devkit = where / DEVKIT
    if not devkit.exists():
        raise DataError(f"{devkit} is missing: it says which class each validation image shows")
    labels = _val_labels(devkit, devkit.stat().st_mtime_ns)
    names = [name for name, label in labels.items() if label == wnid]
    absent = [name for name in names if name not in found]
    if absent:
        raise DataError(f"{tar} lacks {len(absent)} images, {min(absent)} among them")
    return [found[name] for name in names]


@lru_cache(maxsize=16)
def _index(path: Path, changed: int, start: int = 0) -> list[Member]:
    """Where each file lies in a tar file, or in the inner one that begins at byte `start`.

    Sorted by name, without leftovers; of two of one name the later, as if unpacked. changed: the
    tar file's time, by which it is read anew.
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
def _val_labels(devkit: Path, changed: int) -> dict[str, str]:
    """The synset of each validation image, from the development kit."""
    from scipy.io import loadmat

    files = {}
    try:
        # unpacked before anything is read of it: gzip compares its checksum at the end
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(devkit.read_bytes()))) as tar:
            for member in tar:
                if member.isfile():
                    files[Path(member.name).name] = tar.extractfile(member).read()
        synsets = loadmat(io.BytesIO(files["meta.mat"]), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        truth = files["ILSVRC2012_validation_ground_truth.txt"].split()
        names = [f"ILSVRC2012_val_{k:08}.JPEG" for k in range(1, len(truth) + 1)]
        return {name: wnids[int(label)] for name, label in zip(names, truth, strict=True)}
    except Exception as error:
        raise DataError(f"{devkit} can't be read ({one_line(error)})") from error
