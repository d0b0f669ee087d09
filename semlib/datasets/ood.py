"""ODIN's out-of-distribution test sets (Liang et al. 2018) for Appendix D, as uint8 (N, 3, 32, 32)."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semlib.datasets.arrays import DataError
from semlib.datasets.folder import images, read_member, rgb
from semlib.datasets.loading import data_root, read_arrays
from semlib.files import check_writable, save_atomically

SIDE = 32


class NotAvailable(DataError):
    """An OOD set that is not here and could not be downloaded."""


class Source(NamedTuple):
    """A publisher's archive, its checksum, the folder of images inside it, and their number."""

    archive: str
    md5: str
    folder: str
    count: int
    link: str


SOURCES = {
    "tiny_imagenet_crop": Source(
        "Imagenet.tar.gz", "7c0827e4246c3718a5ee076e999e52e5", "Imagenet/test", 10000, "avgm2u562itwpkl"
    ),
    "tiny_imagenet_resize": Source(
        "Imagenet_resize.tar.gz",
        "0f9ff11d45babf2eff5fe12281d1ac31",
        "Imagenet_resize/Imagenet_resize",
        10000,
        "kp3my3412u5k9rl",
    ),
    "lsun_crop": Source("LSUN.tar.gz", "458a0a0ab8e5f1cb4516d7400568e460", "LSUN/test", 10000, "fhtsw1m3qxlwj6h"),
    "lsun_resize": Source(
        "LSUN_resize.tar.gz", "278b7b31c8cb7e804a1465a8ce03a2dc", "LSUN_resize/LSUN_resize", 10000, "moqh2wh8696c3yl"
    ),
    "isun": Source("iSUN.tar.gz", "be77b0f2c26fda898afac5f99645ee70", "iSUN", 8925, "ssz7qxfqae0cca5"),
}


def load_ood(name: str, root: str | Path | None = None) -> np.ndarray:
    """uint8 (N, 3, 32, 32), from the data root: the publisher's folder or archive (by name and md5), else from the publisher.

    TinyImageNet (crop) and (resize) are also made of Tiny ImageNet's test images (tiny-imagenet-200/test/images): a random
    32x32 crop (seed 0), every other pixel. DataError says what is missing or wrong.
    """
    if name not in SOURCES:
        raise DataError(f"OOD set {name!r} is unknown; choose from {', '.join(SOURCES)}")
    where, source = data_root(root), SOURCES[name]
    prepared = where / f"ood-{name}.npz"
    if not prepared.exists():
        check_writable(where, source.count * 3 * SIDE**2)
        found = list(_images(name, where, source))
        if len(found) != source.count:
            raise DataError(f"{name} should have {source.count} images; {len(found)} were found in {where}")
        save_atomically(prepared, lambda file: np.savez(file, images=np.stack(found)))
    pixels = read_arrays(prepared, ("images",))["images"]
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3, SIDE, SIDE):
        raise DataError(f"{prepared} should hold images, uint8 (N, 3, {SIDE}, {SIDE}); delete it to prepare it again")
    return pixels


def _images(name: str, where: Path, source: Source) -> Iterator[np.ndarray]:
    folder, archive = where / source.folder, where / source.archive
    tiny = where / "tiny-imagenet-200" / "test" / "images"
    if folder.is_dir():
        return _decoded((str(path), path) for path in images(folder))
    if not archive.exists() and name.startswith("tiny_imagenet") and tiny.is_dir():
        return _from_tiny_imagenet(tiny, name)
    if not archive.exists():
        _download(name, where, source)
    return _decoded(_members(archive, source))


def _from_tiny_imagenet(folder: Path, name: str) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    for image in _decoded(((str(path), path) for path in images(folder)), side=2 * SIDE):
        if name.endswith("resize"):
            yield image[:, ::2, ::2]  # nearest neighbours: bilinear resizing would blur away what the paper's sets have
        else:
            top, left = generator.integers(0, SIDE + 1, 2)
            yield image[:, top : top + SIDE, left : left + SIDE]


def _members(archive: Path, source: Source) -> Iterator[tuple[str, io.BytesIO]]:
    """The images inside an archive. They are read in place: nothing is unpacked, so nothing can land elsewhere."""
    with archive.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != source.md5:
        raise DataError(
            f"{archive} has md5 {md5}, not {source.md5}: it is damaged or another file; delete it to fetch it again"
        )
    with tarfile.open(archive) as tar:
        members = (m for m in tar if m.isfile() and Path(m.name).is_relative_to(source.folder))
        for member in sorted(members, key=lambda m: m.name):
            if Path(member.name).name[0] != ".":
                yield f"{archive}: {member.name}", io.BytesIO(read_member(tar, member))


def _decoded(files: Iterator[tuple[str, Path | io.BytesIO]], side: int = SIDE) -> Iterator[np.ndarray]:
    """uint8 (3, side, side) of each file; what is larger is cropped to its centre, as in ODIN's evaluation."""
    for name, file in files:
        image = np.asarray(rgb(file, name))
        top, left = ((length - side) // 2 for length in image.shape[:2])
        if min(top, left) < 0:
            raise DataError(f"{name} is {image.shape[1]}x{image.shape[0]} pixels, less than {side}x{side}")
        yield image[top : top + side, left : left + side].transpose(2, 0, 1)


def _download(name: str, where: Path, source: Source) -> None:
    from torchvision.datasets.utils import download_url

    link = f"https://www.dropbox.com/s/{source.link}/{source.archive}?dl=1"
    try:
        download_url(link, str(where), source.archive, source.md5)
    except Exception as error:
        (where / source.archive).unlink(missing_ok=True)
        raise NotAvailable(
            f"{name} isn't here and could not be downloaded from {link} ({error}); put {source.archive}, or its folder "
            f"{source.folder}, into {where}"
        ) from error
