"""Own images: a folder laid out train/<class>/*, test/<class>/*, in any format that Pillow reads."""

import hashlib
import io
import os
import re
import tarfile
import threading
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from semlib.datasets.splits import DataError, Dataset, ImageSet, check_memory, class_name
from workbench.files import one_line, stamp

PREPARATION = 2  # raised when the same files give other pixels: folders are prepared anew
LAYOUT = "lay images out as train/<class>/* and test/<class>/*"
LEFTOVERS = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "lost+found",
}
CALLED = {  # what the parts are called elsewhere
    "train": ("training", "Train", "Training", "TRAIN"),
    "test": (
        "val",
        "valid",
        "validation",
        "dev",
        "eval",
        "testing",
        "Test",
        "Testing",
        "TEST",
        "Val",
    ),
}
LARGE = 20_000_000  # pixels: a larger JPEG is decoded to a half, quarter or eighth of its sides, others are one at a time
WORKERS = min(8, os.cpu_count() or 1)  # each holds an image or two in memory
Named = tuple[str, Path | io.BytesIO]  # what to call a file in an error, and the file
_one_large, _one_metadata = threading.Lock(), threading.Lock()


@dataclass
class Seen:
    """What was met while the images of one data set were decoded. bits: those of a 16-bit grey that
    are used.
    """

    bits: int = 16
    damaged: list[str] = field(default_factory=list)  # files whose metadata can't be read
    greys: list[int] = field(
        default_factory=list
    )  # the largest value of each grey image of 16 bits
    colours: list[int] = field(
        default_factory=list
    )  # likewise of colour, of which Pillow reads the upper 8 bits

    def used_bits(self, name: str) -> int:
        """The bits that the values of all 16-bit images fit in: 8, 10, 12 or 16. DataError if
        colours would be lost.
        """
        largest = max([*self.greys, *self.colours], default=2**16)
        bits = next((bits for bits in (8, 10, 12) if largest < 2**bits), 16)
        if bits < 16 and self.colours:
            raise DataError(
                f"{name}: its {len(self.colours)} colour images of 16 bits hold no value of {2**bits} or more, and Pillow "
                "reads only their upper 8 bits; save them with 8 bits a channel"
            )
        return bits

    def warn(self, name: str) -> None:
        if self.bits < 16:
            warnings.warn(
                f"{name}: no 16-bit image has a value above {2**self.bits - 1}, which is shown white",
                stacklevel=2,
            )
        if self.damaged:
            count = (
                f"{len(self.damaged)} images have damaged metadata, {min(self.damaged)} among them"
            )
            warnings.warn(f"{name}: {count}; they are read as stored", stacklevel=2)


def classes(root: Path) -> tuple[str, ...]:
    """The class names, sorted: the folders in train/, which those in test/ must equal. Composed, as
    `class_name` says.
    """
    names = [set(_class_folders(root, part)) for part in ("train", "test")]
    if names[0] != names[1]:
        only = ", ".join(sorted(names[0] ^ names[1]))
        raise DataError(
            f"train/ and test/ in {root} should hold the same classes; only one of them holds {only}"
        )
    return tuple(sorted(names[0]))


def _class_folders(root: Path, part: str) -> dict[str, Path]:
    folder, found = root / part, {}
    if not folder.is_dir():
        other = next((name for name in CALLED[part] if (root / name).is_dir()), None)
        offer = f"rename {other}/ to {part}/, or link it" if other else LAYOUT
        raise DataError(f"{root} has no {part}/" + f" but {other}/" * bool(other) + f"; {offer}")
    paths = _entries(folder)
    strange = [path for path in paths if not path.is_dir()]
    if len(strange) == len(paths):
        raise DataError(
            f"{root} has no class folders in {part}/"
            + f" but {len(paths)} files" * bool(paths)
            + f"; {LAYOUT}"
        )
    _refuse(folder, strange, "class folders")
    for path in paths:
        name = class_name(path.name, folder)
        if name in found:
            raise DataError(
                f"{folder} has two folders called {name}, in two of Unicode's forms; rename one"
            )
        found[name] = path
    return found


def files(root: Path, part: str) -> list[tuple[Path, int]]:
    """Every (file, label) of a part, in order; subfolders of a class are its images too."""
    folders, members = _class_folders(root, part), []
    for label, name in enumerate(classes(root)):
        if not (found := images(folders[name])):
            raise DataError(f"{folders[name]} holds no image")
        members += [(path, label) for path in found]
    return members


def images(folder: Path) -> list[Path]:
    """Every file in a folder and below, in order; hidden ones and known leftovers are passed over.

    DataError counts and names what is neither file nor folder: links to nothing, or to a folder
    above.
    """
    strange: list[Path] = []
    try:
        found = list(_below(folder, {folder.resolve()}, strange))
    except OSError as error:
        raise DataError(f"{error.filename} can't be read ({error.strerror})") from None
    _refuse(folder, strange, "files and folders")
    return found


def _below(folder: Path, above: set[Path], strange: list[Path]) -> Iterable[Path]:
    for path in _entries(folder):
        if path.is_file():
            yield path
        elif path.is_dir() and path.resolve() not in above:
            yield from _below(path, above | {path.resolve()}, strange)
        else:
            strange.append(path)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not leftover(path.name))
    except OSError as error:
        raise DataError(f"{folder} can't be read ({error.strerror})") from None


def leftover(name: str) -> bool:
    """Whether a file or folder is hidden, or one that Windows, macOS or a file server leaves among
    images.
    """
    return name[0] == "." or name.lower() in LEFTOVERS


def _refuse(folder: Path, strange: list[Path], wanted: str) -> None:
    if strange:
        entries, them = ("entries", "them") if len(strange) > 1 else ("entry", "it")
        first = strange[0].relative_to(folder)
        raise DataError(
            f"{folder} holds {len(strange)} {entries} besides {wanted}, the first is {first}; take {them} out"
        )


def unlabelled(root: Path, shape: tuple[int, ...], seen: Seen) -> tuple[list[str], np.ndarray]:
    """Every image in a folder and those below it, in order: names seen from it, and uint8 (N, C, H,
    W), as `read` makes them.

    shape: (C, H, W) of the data set that they are to be like. DataError if it can't be made, or the
    folder holds no image.
    """
    channels, height, width = shape
    if channels not in (1, 3) or height != width:
        raise DataError(
            f"{root}: images can be made squares of 1 or 3 channels, not {channels} of {width}x{height} pixels"
        )
    if not (found := images(root) if root.is_dir() else []):
        raise DataError(
            f"{root} holds no image; name a folder of images in any format that Pillow reads"
        )
    pixels = decode_all(((str(path), path) for path in found), len(found), height, root.name, seen)
    if channels == 1:
        pixels = np.stack(
            [
                np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))[None]
                for image in pixels
            ]
        )
    return [path.relative_to(root).as_posix() for path in found], pixels


def listing(root: Path) -> str:
    """A digest of the files' names, sizes and times: it changes when an image is added, removed or
    replaced.
    """
    sha = hashlib.sha256(f"preparation {PREPARATION}\n".encode())
    for part in ("train", "test"):
        for path, label in files(root, part):
            sha.update(os.fsencode(path.relative_to(root)) + f"\0{label}\0{stamp(path)}\n".encode())
    return sha.hexdigest()


def read(root: Path, side: int) -> tuple[Dataset, int]:
    """Decode all images to uint8 (N, 3, side, side): the shorter side resized to `side`, then the
    centre cropped.

    Greys of 16 bits are scaled alike, by the bits that the largest value among them needs, which
    are returned too.
    """
    parts = [files(root, part) for part in ("train", "test")]
    labels = [np.array([label for _, label in part], np.int64) for part in parts]
    named = [(str(path), path) for part in parts for path, _ in part]
    seen = Seen()
    pixels = decode_all(named, len(named), side, root.name, seen)
    if (bits := seen.used_bits(root.name)) < 16:
        seen, pixels = Seen(bits), None  # two of them may not fit
        pixels = decode_all(named, len(named), side, root.name, seen)
    seen.warn(root.name)
    train, test = np.split(pixels, [len(parts[0])])
    return Dataset(
        root.name, ImageSet(train, labels[0]), ImageSet(test, labels[1]), classes(root)
    ), bits


def decode_all(
    files: Iterable[Named], count: int, side: int, what: str, seen: Seen | None = None
) -> np.ndarray:
    """Decode named files in parallel into uint8 (count, 3, side, side), in their order, a few
    hundred at a time.

    DataError names up to ten files that can't be read, or says how much memory the images would
    take.
    """
    check_memory(count * 3 * side**2, f"{what}: {count:,} images of {side}x{side} pixels")
    images, seen = np.empty((count, 3, side, side), np.uint8), seen or Seen()
    named, done, wrong = iter(files), 0, []

    def attempt(item: Named) -> np.ndarray | DataError:
        try:
            return decode(item[1], side, item[0], seen)
        except DataError as error:
            return error

    pool = ThreadPoolExecutor(WORKERS)  # Pillow decodes and resizes outside the interpreter's lock
    try:
        with (
            tqdm(total=count, desc=what, unit="image", leave=False) as bar,
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings(
                "ignore", module=r"PIL\."
            )  # of metadata and size, for which `Seen` and LARGE are there
            while chunk := list(islice(named, min(256, count - done + 1))):
                for image in pool.map(attempt, chunk):
                    if isinstance(image, DataError):
                        wrong.append(str(image))
                    elif done < count:
                        images[done] = image
                    done += 1
                bar.update(len(chunk))
    finally:
        pool.shutdown(cancel_futures=True)
    if wrong:
        more = f"; and {len(wrong) - 10} more" * (len(wrong) > 10)
        raise DataError(
            f"{len(wrong)} images: {'; '.join(wrong[:10])}{more}" if wrong[1:] else wrong[0]
        )
    if done != count:
        raise DataError(f"{what}: {done} images were found where {count} should be")
    return images


def decode(
    file: Path | io.BytesIO, side: int, name: str = "", seen: Seen | None = None
) -> np.ndarray:
    """One image file as uint8 (3, side, side); DataError names a file that can't be read."""
    image = rgb(file, name, seen, side)
    scale = side / min(image.size)
    image = image.resize(
        [max(side, round(length * scale)) for length in image.size], Image.Resampling.BILINEAR
    )
    left, top = ((length - side) // 2 for length in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def rgb(
    file: Path | io.BytesIO, name: str = "", seen: Seen | None = None, side: int = 1
) -> Image.Image:
    """The picture in a file, upright, in RGB, what is transparent on white; DataError names a file
    that can't be read.

    A JPEG of more than LARGE pixels is decoded smaller, but with no less than `side` pixels a side.
    """
    name, seen = name or str(file), seen or Seen()
    try:
        with Image.open(file) as image:
            if image.format == "EPS":
                raise ValueError("PostScript is a program, which isn't run")
            width, height = image.size
            if not 0 < max(width, height) <= 200 * min(width, height):
                raise ValueError(
                    f"{width}x{height} pixels: a square of it would show next to nothing"
                )
            if image.format in ("JPEG", "MPO"):
                most = min(width, height) // side
                step = next(
                    (
                        step
                        for step in (8, 4, 2)
                        if step <= most and width * height > LARGE * (step // 2) ** 2
                    ),
                    1,
                )
                if step > 1:
                    image.draft(None, (width // step, height // step))
            in_memory = (
                width * height if image.info.get("progressive") else image.width * image.height
            )
            with _one_large if in_memory > LARGE else nullcontext():
                deep = bool(re.search(";16[BLN]", str(image.tile)))
                image.load()
                _turn_upright(image, name, seen)
                return _on_white(_eight_bits(image, deep, seen))
    except MemoryError:
        raise DataError(
            f"{name} can't be decoded: there is too little memory for its pixels"
        ) from None
    except Exception as error:
        raise DataError(f"{name} can't be read as an image ({one_line(error)})") from error


def _turn_upright(image: Image.Image, name: str, seen: Seen) -> None:
    """Turn a photo as its viewer shows it, for rotation is a task here; as it is if its metadata
    don't say.
    """
    readable = _is_readable(image.info.get("exif"))
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (
        Exception
    ):  # perhaps after it was turned, where it can't write the rest of the metadata back
        readable = False
    if not readable:
        seen.damaged.append(name)


def _is_readable(exif: bytes | None) -> bool:
    """Whether Pillow reads these metadata, of which it says by an error or a warning. Warnings'
    filters are all threads'.
    """
    mine, warned = threading.get_ident(), []
    with _one_metadata, warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_, **__: warned.append(threading.get_ident() == mine)  # ty: ignore[invalid-assignment]
        try:
            tags = Image.Exif()
            tags.load(exif or b"")
            tags.get(ExifTags.Base.Orientation)
        except Exception:
            return False
    return not any(warned)


def _eight_bits(image: Image.Image, deep: bool, seen: Seen) -> Image.Image:
    """The image with 8 bits a channel; deep: the file has 16."""
    if image.mode.startswith("I;16"):  # convert() would clip them at 255
        values = np.asarray(image)
        seen.greys.append(int(values.max()))
        grey = (values >> seen.bits - 8).clip(max=255).astype(np.uint8)
        if (transparent := image.info.get("transparency")) is not None:
            grey[values == transparent] = 255
        return Image.fromarray(grey)
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel have no agreed range; save it with 8 or 16")
    if deep:
        brightest = max(
            int(np.asarray(image.getchannel(band)).max())
            for band in image.getbands()
            if band != "A"
        )
        seen.colours.append(brightest * 256 + 255)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """What a regular file in a tar archive holds."""
    file = tar.extractfile(member)
    assert file is not None  # None stands for a folder or a device
    return file.read()
