"""Own images: a folder laid out train/<class>/*, test/<class>/*, in any format that Pillow reads."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from semlib.datasets.arrays import DataError, Dataset, ImageSet
from semlib.files import one_line

LEFTOVERS = ("Thumbs.db", "desktop.ini")
Named = tuple[str, Path | io.BytesIO]  # what to call a file in an error, and the file


def classes(root: Path) -> tuple[str, ...]:
    """The class names, sorted: the folders in train/, which those in test/ must equal."""
    names = [{p.name for p in (root / part).glob("*") if p.is_dir() and p.name[0] != "."} for part in ("train", "test")]
    if not names[0]:
        raise DataError(f"{root} has no class folders in train/; lay images out as train/<class>/* and test/<class>/*")
    if names[0] != names[1]:
        only = ", ".join(sorted(names[0] ^ names[1]))
        raise DataError(f"train/ and test/ in {root} should hold the same classes; only one of them holds {only}")
    return tuple(sorted(names[0]))


def files(root: Path, part: str) -> list[tuple[Path, int]]:
    """Every (file, label) of a part, in order; hidden files and what Windows leaves in folders are passed over."""
    found = []
    for label, name in enumerate(classes(root)):
        members = sorted(
            p for p in (root / part / name).iterdir() if p.is_file() and p.name[0] != "." and p.name not in LEFTOVERS
        )
        if not members:
            raise DataError(f"{root / part / name} holds no image")
        found += [(path, label) for path in members]
    return found


def unlabelled(root: Path, shape: tuple[int, ...]) -> tuple[list[str], np.ndarray]:
    """Every image in a folder and those below it, in order: names as seen from it, and uint8 (N, *shape), as `read` makes them.

    shape: (C, H, W) of the data set that they are to be like. DataError if it can't be made, or the folder holds no image.
    """
    channels, height, width = shape
    if channels not in (1, 3) or height != width:
        raise DataError(f"{root}: images can be made squares of 1 or 3 channels, not {channels} of {width}x{height} pixels")
    found = sorted(p for p in root.rglob("*") if p.is_file() and p.name not in LEFTOVERS)
    names = {name: p for p in found if "/." not in f"/{(name := p.relative_to(root).as_posix())}"}
    if not names:
        raise DataError(f"{root} holds no image; name a folder of images in any format that Pillow reads")
    images = decode_all(((str(p), p) for p in names.values()), len(names), height, root.name)
    if channels == 1:
        images = np.stack([np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))[None] for image in images])
    return list(names), images


def listing(root: Path) -> str:
    """A digest of the files' names, sizes and times: it changes when an image is added, removed or replaced."""
    sha = hashlib.sha256()
    for part in ("train", "test"):
        for path, label in files(root, part):
            stat = path.stat()
            what = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)  # a copy may bring size and time along
            sha.update(f"{path.relative_to(root)}\0{label}\0{what}\n".encode())
    return sha.hexdigest()


def read(root: Path, side: int) -> Dataset:
    """Decode all images to uint8 (N, 3, side, side): the shorter side resized to `side`, then the centre cropped."""
    parts = {}
    for part in ("train", "test"):
        found = files(root, part)
        named = ((str(path), path) for path, _ in found)
        images = decode_all(named, len(found), side, f"{root.name} {part}")
        parts[part] = ImageSet(images, np.array([label for _, label in found], np.int64))
    return Dataset(root.name, parts["train"], parts["test"], classes(root))


def decode_all(files: Iterable[Named], count: int, side: int, description: str) -> np.ndarray:
    """Decode named files in parallel into uint8 (count, 3, side, side), in their order, a few hundred at a time."""
    images = np.empty((count, 3, side, side), np.uint8)
    named, done = iter(files), 0
    with ThreadPoolExecutor() as pool, tqdm(total=count, desc=description, unit="image", leave=False) as bar:
        while chunk := list(islice(named, min(256, count - done + 1))):
            # Pillow decodes and resizes outside the interpreter's lock
            for image in pool.map(lambda item: decode(item[1], side, item[0]), chunk):
                if done < count:
                    images[done] = image
                done += 1
            bar.update(len(chunk))
    if done != count:
        raise DataError(f"{description}: {done} images were found where {count} should be")
    return images


def decode(file: Path | io.BytesIO, side: int, name: str = "") -> np.ndarray:
    """One image file as uint8 (3, side, side); DataError names a file that can't be read."""
    image = rgb(file, name)
    scale = side / min(image.size)
    image = image.resize([max(side, round(length * scale)) for length in image.size], Image.Resampling.BILINEAR)
    left, top = ((length - side) // 2 for length in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def rgb(file: Path | io.BytesIO, name: str = "") -> Image.Image:
    """The picture in a file, in RGB; DataError names a file that can't be read."""
    try:
        with Image.open(file) as opened:
            if opened.format == "EPS":
                raise ValueError("PostScript is a program, which isn't run")
            image = ImageOps.exif_transpose(opened)  # a photo is upright as its viewer shows it: rotation is a task here
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert() would clip 16 bits at 255
            if image.mode in ("I", "F"):
                raise ValueError("32 bits a pixel have no agreed range; save it with 8 or 16")
            if not 0 < max(image.size) <= 200 * min(image.size):
                raise ValueError(f"{image.width}x{image.height} pixels: a square of it would show next to nothing")
            return image.convert("RGB")
    except Exception as error:
        raise DataError(f"{name or file} can't be read as an image ({one_line(error)})") from error


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """What a regular file in a tar archive holds."""
    file = tar.extractfile(member)
    assert file is not None  # None stands for a folder or a device
    return file.read()
