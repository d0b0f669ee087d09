"""Own images: a folder laid out train/<class>/*, test/<class>/*, in any format of Pillow."""

import hashlib
import io
import os
import re
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from semlib.datasets import DataError, Dataset, ImageSet
from workbench.files import fingerprint, one_line
from workbench.images.checks import check_memory, class_name

PREPARATION = 3  # raised when the same files give other pixels: folders are prepared anew
LAYOUT = "lay images out as train/<class>/* and test/<class>/*"
LEFTOVERS = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")
LARGE = 20_000_000  # pixels: a larger JPEG is decoded smaller, others one at a time
TIFF_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # channels of RGB, CMYK, YCbCr and Lab; of others 1
WORKERS = min(8, os.cpu_count() or 1)  # each holds an image or two in memory
# What Pillow says of these is that it doesn't know them, and what to do instead
HINTS = {".heic": "HEIC: convert it, magick a.heic a.png"}
HINTS |= {".heif": HINTS[".heic"], ".dcm": "DICOM: save its picture, magick a.dcm a.png"}
VIDEO = "a video: save frames, ffmpeg -i a b%d.png"
HINTS |= dict.fromkeys((".mp4", ".avi", ".mov", ".mkv"), VIDEO)
HINTS |= dict.fromkeys((".tif", ".tiff"), "of more than four bands? save three of them as RGB")
_one_large = threading.Lock()


def classes(root: Path) -> tuple[str, ...]:
    """The class names, sorted: the folders in train/, which those in test/ must equal."""
    train, test = (set(_class_folders(root, part)) for part in ("train", "test"))
    if train != test:
        only = f"only one of them holds {', '.join(sorted(train ^ test))}"
        raise DataError(f"train/ and test/ in {root} should hold the same classes; {only}")
    return tuple(sorted(train))


def scan(root: Path) -> dict[str, list[tuple[Path, int]]]:
    """Every (file, label) in train/ and test/, in order; subfolders of a class belong to it."""
    members: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    for part, found in members.items():
        folders = _class_folders(root, part)
        for label, name in enumerate(classes(root)):
            files = images(folders[name])
            if not files:
                raise DataError(f"{folders[name]} holds no image")
            found += [(path, label) for path in files]
    return members


def _class_folders(root: Path, part: str) -> dict[str, Path]:
    folder = root / part
    if not folder.is_dir():
        there = ", ".join(path.name for path in _entries(root)) or "nothing"
        inside = [path for path in _entries(root) if (path / part).is_dir()]
        do = f"name {inside[0]}" if inside else LAYOUT
        raise DataError(f"{root} has no {part}/, only {there}; {do}")
    found: dict[str, Path] = {}
    for path in _entries(folder):
        if not path.is_dir():
            raise DataError(f"{path} is not a class folder; {LAYOUT}")
        name = class_name(path.name, folder)
        if name in found:  # é is one character or two
            raise DataError(f"{folder} has two folders called {name}; rename one")
        found[name] = path
    if not found:
        raise DataError(f"{root} has no class folders in {part}/; {LAYOUT}")
    (first, *others) = found.values()
    if not others and all(path.is_dir() for path in _entries(first)):
        raise DataError(f"{first} holds folders alone: if they are the classes, move them up")
    return found


def images(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Every file in a folder and below, in order. DataError names broken and circular links."""
    above = (*above, folder.resolve())
    found: list[Path] = []
    for path in _entries(folder):
        if path.is_file():
            found.append(path)
        elif path.is_dir() and path.resolve() not in above:
            found += images(path, above)
        else:
            raise DataError(f"{path} is neither an image nor a folder of images; take it out")
    return found


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, without hidden files and what Windows, macOS or a server left there."""
    entries = sorted(folder.iterdir())
    return [path for path in entries if path.name[0] != "." and path.name.lower() not in LEFTOVERS]


def listing(root: Path) -> str:
    """A digest of the files' names, sizes and times, which changes when an image does."""
    sha = hashlib.sha256(f"preparation {PREPARATION}\n".encode())
    members = scan(root)
    for path, label in members["train"] + members["test"]:
        sha.update(os.fsencode(path.relative_to(root)))
        sha.update(f"\0{label}\0{fingerprint(path)}\n".encode())
    return sha.hexdigest()


def read(
    name: str, members: dict[str, list[tuple[Path, int]]], side: int, classes: tuple[str, ...]
) -> tuple[Dataset, dict[Path, str]]:
    """Decode the (file, label) of both parts, as `decode` does; why the others can't be read."""
    train, test = members.values()
    pixels, wrong = decode_all([file for file, _ in train + test], side, name)
    labels = [label for file, label in train + test if file not in wrong]
    whole = ImageSet(pixels, np.array(labels, np.int64))
    count = sum(file not in wrong for file, _ in train)
    return Dataset(name, whole[:count], whole[count:], classes), wrong


def unlabelled(root: Path, data: Dataset) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """The names and pixels of a file, or of every image in a folder and below.

    Prepared like the data set's. Last, by its name why each other one can't be read.
    """
    channels, height, width = data.test.images.shape[1:]
    if channels not in (1, 3) or height != width:
        shape = f"{channels} of {width}x{height} pixels"
        raise DataError(f"{root}: images can be made squares of 1 or 3 channels, not {shape}")
    found = images(root) if root.is_dir() else [root]
    if not (found and found[0].exists()):
        raise DataError(f"{root} holds no image; name a folder of images")
    pixels, wrong = decode_all(found, height, root.name)
    if len(wrong) == len(found):
        raise DataError(refusal(wrong, len(found)))
    if channels == 1:
        grey = [Image.fromarray(image.transpose(1, 2, 0)).convert("L") for image in pixels]
        pixels = np.stack([np.asarray(image)[None] for image in grey])
    above = root if root.is_dir() else root.parent
    names = {path: path.relative_to(above).as_posix() for path in found}
    unreadable = {names[path]: why for path, why in wrong.items()}
    return [names[path] for path in found if path not in wrong], pixels, unreadable


def refusal(wrong: dict[Path, str], count: int) -> str:
    """Ten of the files that can't be read with the reason, and how many more there are."""
    first = [wrong[path] for path in sorted(wrong)[:10]]
    more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
    return f"{len(wrong)} of {count} images: {'; '.join(first)}{more}"


def decode_all(files: Sequence[Path], side: int, what: str) -> tuple[np.ndarray, dict[Path, str]]:
    """Decode files in parallel into uint8 (N, 3, side, side); why each other one can't be read."""
    count = len(files)
    check_memory(count * 3 * side**2, f"{what}: {count:,} images of {side}x{side} pixels")
    pixels = np.empty((count, 3, side, side), np.uint8)
    wrong: dict[Path, str] = {}
    on_white: list[Path] = []

    def attempt(k: int) -> None:
        try:
            pixels[k] = decode(files[k], side, on_white)
        except DataError as error:
            wrong[files[k]] = str(error)

    # Pillow works outside the interpreter's lock; its warnings of metadata would be one an image
    with warnings.catch_warnings(), ThreadPoolExecutor(WORKERS) as pool:
        warnings.filterwarnings("ignore", module="PIL")
        done = pool.map(attempt, range(count))
        list(tqdm(done, desc=what, total=count, unit="image", leave=False))
    if on_white:
        said = f"{what}: {len(on_white)} of {count} images have transparent parts, now white"
        warnings.warn(f"{said}; {min(on_white)} is one", stacklevel=2)
    return pixels[[file not in wrong for file in files]] if wrong else pixels, wrong


def decode(file: Path, side: int, on_white: list[Path] | None = None) -> np.ndarray:
    """One image as uint8 (3, side, side): the shorter side is resized to `side`, then cropped.

    A file with transparent parts, which become white, is added to on_white.
    """
    try:
        image, is_on_white = _rgb(file, side)
    except Exception as error:  # Pillow raises many kinds
        cause = "too little memory" if isinstance(error, MemoryError) else one_line(error)
        if isinstance(error, UnidentifiedImageError):
            cause = HINTS.get(file.suffix.lower(), cause)
        raise DataError(f"{file} can't be read as an image ({cause})") from error
    if is_on_white and on_white is not None:
        on_white.append(file)
    scale = side / min(image.size)
    size = [max(side, round(length * scale)) for length in image.size]
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = ((length - side) // 2 for length in image.size)
    return np.asarray(image.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def _rgb(file: Path, side: int) -> tuple[Image.Image, bool]:
    """The picture as a viewer shows it: upright, in sRGB, on white; whether it is transparent."""
    is_transparent = False
    with Image.open(file) as image:
        _check_kind(image)
        whole = image.width * image.height
        if image.format in ("JPEG", "MPO"):  # a large one at a half, quarter or eighth of its sides
            least = int(min(image.size) * (LARGE / whole) ** 0.5 / 2) + 1
            image.draft(None, (max(side, least), max(side, least)))
        # a progressive JPEG is decoded whole, and made smaller afterwards
        in_memory = whole if image.info.get("progressive") else image.width * image.height
        with _one_large if in_memory > LARGE else nullcontext():
            image.load()
            with suppress(Exception):  # of damaged metadata: the picture is read as stored
                ImageOps.exif_transpose(image, in_place=True)
            profile = image.info.get("icc_profile")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                is_transparent = bool(np.asarray(image.getchannel("A")).min() < 255)
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            if profile:
                with suppress(Exception):  # damaged, or of other channels
                    image = _in_srgb(image, profile)
            return image.convert("RGB"), is_transparent


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Apply the picture's own colour profile."""
    own = ImageCms.getOpenProfile(io.BytesIO(profile))
    if "sRGB" in str(own.profile.profile_description):
        return image
    if image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(own, srgb, image.mode, "RGB").apply(image)


def _check_kind(image: ImageFile.ImageFile) -> None:
    """ValueError for what isn't one picture of 8 bits a channel, with the way to convert it."""
    width, height = image.size
    if image.format == "EPS":
        raise ValueError("PostScript is a program, which isn't run")
    if not 0 < max(width, height) <= 200 * min(width, height):
        raise ValueError(f"{width}x{height} pixels: a square of it would show next to nothing")
    tags = getattr(image, "tag_v2", {})  # of a TIFF: BitsPerSample is 258, SampleFormat 339
    is_deep = image.mode[0] in "IF" or max(tags.get(258, (8,))) > 8
    is_signed = set(tags.get(339, (1,))) != {1}
    if is_deep or is_signed or re.search(";16[BLN]", str(image.tile)):
        todo = "save it with 8, all images by one scale (magick a.png -depth 8 b.png)"
        raise ValueError(f"it has more than 8 bits a channel, or signed ones; {todo}")
    # the second picture of an MPO is its preview, the first of a PSD all its layers
    if getattr(image, "is_animated", False) and image.format not in ("MPO", "PSD"):
        raise ValueError("it has several pages or frames; save one (magick a.tif[0] b.png)")
    # PhotometricInterpretation, SamplesPerPixel and ExtraSamples, of which 1 and 2 are transparency
    colours = TIFF_COLOURS.get(tags.get(262), 1)
    if tags.get(277, 1) > colours and tags.get(338) not in ((1,), (2,)):
        todo = f"save the first {colours} alone"
        raise ValueError(f"channel {colours + 1} isn't transparency; {todo}")
