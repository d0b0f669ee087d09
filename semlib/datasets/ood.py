"""ODIN's out-of-distribution test sets (Liang et al. 2018) for Appendix D."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from semlib.datasets.sources import data_root
from semlib.datasets.splits import DataError

SIDE = 32  # pixels


class NotAvailable(DataError):
    """An OOD set that is not here and could not be downloaded."""


class Source(NamedTuple):
    """A publisher's archive: the folder of images inside it, its md5, its link, their number."""

    folder: str
    md5: str
    link: str
    count: int = 10000

    @property
    def archive(self) -> str:
        return self.folder.partition("/")[0] + ".tar.gz"


SOURCES = {
    "tiny_imagenet_crop": Source(
        "Imagenet/test", "7c0827e4246c3718a5ee076e999e52e5", "avgm2u562itwpkl"
    ),
    "tiny_imagenet_resize": Source(
        "Imagenet_resize/Imagenet_resize", "0f9ff11d45babf2eff5fe12281d1ac31", "kp3my3412u5k9rl"
    ),
    "lsun_crop": Source("LSUN/test", "458a0a0ab8e5f1cb4516d7400568e460", "fhtsw1m3qxlwj6h"),
    "lsun_resize": Source(
        "LSUN_resize/LSUN_resize", "278b7b31c8cb7e804a1465a8ce03a2dc", "moqh2wh8696c3yl"
    ),
    "isun": Source("iSUN", "be77b0f2c26fda898afac5f99645ee70", "ssz7qxfqae0cca5", 8925),
}


def load_ood(name: str, root: str | Path | None = None) -> np.ndarray:
    """An OOD set, uint8 (N, 3, 32, 32), from the publisher's folder or archive in the data root.

    TinyImageNet (crop) and (resize) are also made from Tiny ImageNet's own test images, in
    tiny-imagenet-200/test/images. Otherwise the archive is downloaded.
    """
    if name not in SOURCES:
        raise DataError(f"OOD set {name!r} is unknown; choose from {', '.join(SOURCES)}")
    where = data_root(root)
    source = SOURCES[name]
    folder = where / source.folder
    archive = where / source.archive
    tiny = where / "tiny-imagenet-200" / "test" / "images"
    if folder.is_dir():
        images = [_decoded(path, str(path)) for path in _files(folder)]
    elif name.startswith("tiny_imagenet") and tiny.is_dir() and not archive.exists():
        images = list(_from_tiny_imagenet(tiny, name))
    else:
        if not archive.exists():
            _download(name, where, source)
        images = list(_from_archive(archive, source))
    if len(images) != source.count:
        raise DataError(f"{name} should have {source.count} images; {where} has {len(images)}")
    return np.stack(images)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] != ".")


def _from_tiny_imagenet(folder: Path, name: str) -> Iterator[np.ndarray]:
    """Crop each image at random (seed 0), or take every other pixel of it (resize)."""
    generator = np.random.default_rng(0)
    for path in _files(folder):
        image = _decoded(path, str(path), side=2 * SIDE)
        if name.endswith("resize"):
            # nearest neighbours: bilinear resizing would blur away what the paper's sets have
            yield image[:, ::2, ::2]
        else:
            top, left = generator.integers(0, SIDE + 1, 2)
            yield image[:, top : top + SIDE, left : left + SIDE]


def _from_archive(archive: Path, source: Source) -> Iterator[np.ndarray]:
    """Decode the archive's images in place: a hostile archive can't write files elsewhere."""
    with archive.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != source.md5:
        todo = "it is damaged or another file; delete it to fetch it again"
        raise DataError(f"{archive} has md5 {md5}, not {source.md5}: {todo}")
    with tarfile.open(archive) as tar:
        inside = [m for m in tar if m.isfile() and Path(m.name).is_relative_to(source.folder)]
        for member in sorted(inside, key=lambda m: m.name):
            if Path(member.name).name[0] != "." and (image := tar.extractfile(member)):
                yield _decoded(image, f"{archive}: {member.name}")


def _decoded(file: Path | IO[bytes], name: str, side: int = SIDE) -> np.ndarray:
    """uint8 (3, side, side); a larger image is cropped to its centre, as in ODIN's evaluation."""
    try:
        image = Image.open(file).convert("RGB")
    except Exception as error:  # Pillow raises many kinds
        raise DataError(f"{name} can't be read as an image ({error})") from error
    if min(image.size) < side:
        raise DataError(f"{name} has fewer than {side}x{side} pixels")
    left, top = ((length - side) // 2 for length in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def _download(name: str, where: Path, source: Source) -> None:
    from torchvision.datasets.utils import download_url

    link = f"https://www.dropbox.com/s/{source.link}/{source.archive}?dl=1"
    try:
        download_url(link, str(where), source.archive, source.md5)
    except Exception as error:
        (where / source.archive).unlink(missing_ok=True)
        todo = f"put {source.archive}, or its folder {source.folder}, into {where}"
        said = f"{name} could not be downloaded from {link} ({error})"
        raise NotAvailable(f"{said}; {todo}") from error
