"""Data sets as arrays: where they come from, what is refused, the hold-out split, augmentation."""

import os
import re
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits

from semlib import datasets
from semlib.datasets import DataError, Dataset, ImageSet, augmentation
from workbench.files import ROOT, save_atomically
from workbench.images import prepared


def random_data(names=("ant", "bee", "cat", "dog"), train=24, test=12, shape=(3, 4, 5), seed=0):
    """Random images; their labels run through the classes in random order."""
    generator = np.random.default_rng(seed)

    def part(count):
        labels = generator.permutation(np.arange(count) % len(names))
        return ImageSet(generator.integers(0, 256, (count, *shape), dtype=np.uint8), labels)

    return Dataset("random", part(train), part(test), tuple(names))


def arrays_of(data):
    return {
        "train_images": data.train.images,
        "train_labels": data.train.labels,
        "test_images": data.test.images,
        "test_labels": data.test.labels,
        "classes": np.array(data.classes),
    }


def assert_same(found, expected):
    assert found.classes == expected.classes
    for part in ("train", "test"):
        for array in ("images", "labels"):
            np.testing.assert_array_equal(
                getattr(getattr(found, part), array), getattr(getattr(expected, part), array)
            )
        assert (
            getattr(found, part).images.dtype == np.uint8
            and getattr(found, part).labels.dtype == np.int64
        )


# -- digits ----------------------------------------------------------------------------------------
# -------------------


def test_digits_are_scikit_learns_split_into_1197_and_600_by_class():
    data, bunch = prepared.load("digits"), load_digits()
    assert data.classes == tuple("0123456789") and data.name == "digits"
    assert data.train.images.shape == (1197, 1, 8, 8) and data.test.images.shape == (600, 1, 8, 8)

    def counted(images, labels):
        return Counter(
            (np.rint(image * (16 / 255)).astype(int).tobytes(), label)
            for image, label in zip(images, labels, strict=True)
        )

    parts = [counted(part.images[:, 0], part.labels.tolist()) for part in (data.train, data.test)]
    assert parts[0] + parts[1] == counted(bunch.images * (255 / 16), bunch.target.tolist())
    assert data.train.images.min() == 0 and data.train.images.max() == 255
    whole = np.bincount(bunch.target)
    for part in (data.train, data.test):
        assert np.abs(np.bincount(part.labels) - whole * len(part) / 1797).max() < 1


def test_digits_are_the_same_each_time(tmp_path):
    first = prepared.load("digits", tmp_path / "a")
    np.random.seed(123)
    np.random.random(5)
    assert prepared.load("digits", tmp_path / "b").digests == first.digests


def test_digits_are_there_where_no_file_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "data"
    assert (
        prepared.load("digits", where).digests
        == prepared.digests("digits", where)
        == prepared.load("digits").digests
    )
    with pytest.raises(OSError):
        prepared.load("cifar10", where)


# -- hold out --------------------------------------------------------------------------------------
# -------------------


@pytest.mark.parametrize("anomaly", ["ant", "bee", "dog", None])
def test_hold_out_trains_without_the_anomaly_and_tests_on_all(anomaly):
    data = random_data()
    before = data.digests
    split = datasets.hold_out(data, anomaly)
    names = [name for name in data.classes if name != anomaly]
    expected = [
        (image, names.index(data.classes[label]))
        for image, label in zip(data.train.images, data.train.labels, strict=True)
        if data.classes[label] != anomaly
    ]
    np.testing.assert_array_equal(
        split.train.images, [image for image, _ in expected]
    )  # the others, in order
    assert split.train.labels.tolist() == [label for _, label in expected]
    assert set(split.train.labels) == set(range(len(names)))
    np.testing.assert_array_equal(split.test.images, data.test.images)
    held = [data.classes[label] for label in data.test.labels]
    assert split.test.labels.tolist() == [
        -1 if name == anomaly else names.index(name) for name in held
    ]
    assert (
        split.is_anomaly.tolist() == [name == anomaly for name in held]
        and split.is_anomaly.dtype == bool
    )
    assert split.classes == tuple(names)
    assert [data.classes[k] for k in split.kept] == names
    assert split.train.labels.dtype == split.test.labels.dtype == np.int64
    assert data.digests == before


def test_an_unknown_hold_out_is_named_with_the_choices():
    with pytest.raises(
        DataError, match="hold-out 'cta' is not a class of random; choose from ant, bee, cat, dog"
    ):
        datasets.hold_out(random_data(), "cta")


def test_two_classes_are_too_few_to_hold_one_out():
    data = random_data(names=("ant", "bee"))
    assert datasets.hold_out(data, None).classes == ("ant", "bee")
    with pytest.raises(DataError, match="has 2 classes; holding one out needs at least 3"):
        datasets.hold_out(data, "ant")


# -- prepared files --------------------------------------------------------------------------------
# -------------------


@pytest.mark.parametrize(
    "name, train", [("cifar10", 24), ("cifar10", 4), ("stl10", 24), ("digits", 24)]
)
def test_a_prepared_file_in_the_data_root_is_used_as_it_is(tmp_path, name, train):
    data, path = random_data(train=train), tmp_path / f"{name}.npz"
    np.savez(path, **arrays_of(data))
    before = path.read_bytes()
    loaded = prepared.load(name, tmp_path)
    assert_same(loaded, data)
    assert loaded.name == name
    assert prepared.classes(name, tmp_path) == data.classes and prepared.exists(name, tmp_path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_labels_of_any_whole_number_type_and_compressed_files_are_read(tmp_path):
    data = random_data()
    np.savez_compressed(
        tmp_path / "own.npz",
        **arrays_of(data) | {"train_labels": data.train.labels.astype(np.uint8)},
    )
    assert_same(prepared.load("own", tmp_path), data)


def test_cifar10s_validation_images_are_its_last_10000_training_images(tmp_path):
    """Every image is its own number."""
    images = np.arange(50_000, dtype=np.uint32).view(np.uint8).reshape(50_000, 4, 1, 1)
    whole = ImageSet(images, np.arange(50_000) % 10)
    data = Dataset("cifar10", whole, whole[:10], prepared.classes("cifar10", tmp_path))
    np.savez(tmp_path / "cifar10.npz", **arrays_of(data))
    found = prepared.load("cifar10", tmp_path, validation=True)
    assert_same(found, Dataset("cifar10", whole[:40_000], whole[40_000:], data.classes))


class Evil:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


DATA = arrays_of(random_data())
BAD_ARRAYS = {
    "float images": {"train_images": DATA["train_images"] / 255},
    "int64 images": {"test_images": DATA["test_images"].astype(np.int64)},
    "images without channels": {
        "train_images": DATA["train_images"][:, 0],
        "test_images": DATA["test_images"][:, 0],
    },
    "test images of another size": {"test_images": DATA["test_images"][:, :, :3]},
    "no test image": {
        "test_images": DATA["test_images"][:0],
        "test_labels": DATA["test_labels"][:0],
    },
    "fewer labels than images": {"train_labels": DATA["train_labels"][:-1]},
    "labels in a column": {"train_labels": DATA["train_labels"][:, None]},
    "float labels": {"train_labels": DATA["train_labels"] / 1.0},
    "a label past the classes": {
        "train_labels": np.where(DATA["train_labels"] == 3, 4, DATA["train_labels"])
    },
    "a label below 0": {"test_labels": DATA["test_labels"] - 1},
    "fewer names than classes": {"classes": DATA["classes"][:3]},
    "no names": {"classes": None},
    "no images": {"train_images": None},
}


@pytest.mark.parametrize("wrong", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_a_file_that_is_not_a_prepared_data_set_is_named(tmp_path, wrong):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **{name: array for name, array in (DATA | wrong).items() if array is not None})
    with pytest.raises(
        DataError,
        match=rf"^{path} (isn't a prepared data set|can't be read).*; delete it to prepare it again$",
    ):
        prepared.load("cifar10", tmp_path)


@pytest.mark.parametrize("key", ["train_images", "test_labels", "classes"])
def test_pickled_objects_are_refused_and_no_code_is_run(tmp_path, key):
    path, proof = tmp_path / "cifar10.npz", tmp_path / "proof"
    np.savez(path, **DATA | {key: np.array([Evil(proof)], dtype=object)})
    for read in (prepared.load, prepared.classes) if key == "classes" else (prepared.load,):
        with pytest.raises(DataError, match=rf"^{path} can't be read"):
            read("cifar10", tmp_path)
    assert not proof.exists()
    with np.load(path, allow_pickle=True) as file:
        assert file[key] is not None and proof.exists()  # so the file would have run it


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.999, "not a zip"])
def test_a_truncated_or_foreign_file_is_named(tmp_path, kept):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **DATA)
    whole = path.read_bytes()
    path.write_bytes(
        b"<html>404</html>"
        if isinstance(kept, str)
        else whole[: kept if kept == 1 else int(kept * len(whole))]
    )
    for read in (prepared.load, prepared.classes):
        with pytest.raises(DataError, match=rf"^{path} can't be read"):
            read("cifar10", tmp_path)


def test_a_flipped_bit_is_noticed_wherever_it_changes_the_data(tmp_path):
    path, data = tmp_path / "own.npz", random_data(train=4, test=4, shape=(1, 2, 2))
    np.savez(path, **arrays_of(data))
    whole, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 17):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert_same(prepared.load("own", tmp_path), data)  # a date in the archive, say
        except DataError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0.5 * 8 * len(whole) / 17
    with zipfile.ZipFile(path, "w") as archive:  # an intact archive of something else
        archive.writestr("train_images.npy", b"no array")
    with pytest.raises(DataError, match=str(path)):
        prepared.load("own", tmp_path)


def test_an_unknown_data_set_is_named_with_the_choices(tmp_path):
    np.savez(tmp_path / "mine.npz", **DATA)
    with pytest.raises(
        DataError, match=r"'cifra' is unknown .* choose from digits, cifar10, stl10, .*, mine, or"
    ):
        prepared.load("cifra", tmp_path)
    assert not prepared.exists("cifra", tmp_path) and not prepared.exists("cifar10", tmp_path)
    assert prepared.exists("digits", tmp_path)


def test_the_data_root_is_the_one_given_else_the_environments_else_the_checkouts(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path))
    assert prepared.data_root() == tmp_path
    assert prepared.data_root(tmp_path / "other") == tmp_path / "other"
    assert (
        prepared.data_root("here") == ROOT / "here"
    )  # from the checkout, wherever the process runs
    monkeypatch.delenv("SEMLIB_DATA")
    assert prepared.data_root() == ROOT / "data"


def test_class_names_need_no_images(tmp_path):
    assert (
        prepared.classes("digits", tmp_path)
        == tuple("0123456789")
        == prepared.load("digits").classes
    )
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert prepared.classes("cifar10", tmp_path) == tuple(names.split())  # nothing is downloaded
    assert not list(tmp_path.iterdir())


def test_data_sets_are_read_without_torch():
    prepared.load("digits")  # prepared, and scikit-learn is slow to import too
    code = "import sys; from semlib import datasets; prepared.load('digits'); print({'torch', 'sklearn'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


# -- writing: the whole file or none
# ----------------------------------------------------------------------------------

WRITE_A_MILLION_BYTES = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from semlib.datasets import Dataset, ImageSet, loading
if sys.argv[2] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as a full disk: the write stops in the middle
part = ImageSet(np.zeros((100, 1, 100, 100), np.uint8), np.zeros(100, np.int64))
loading.write(Path(sys.argv[1]), Dataset("big", part, part, ("one",)))
"""


@pytest.mark.parametrize("how", ["refused", "killed"])
@pytest.mark.parametrize("before", [None, b"as before"])
def test_a_writer_that_is_stopped_leaves_the_file_as_it_was(tmp_path, how, before):
    pytest.importorskip("resource")
    path = tmp_path / "cifar10.npz"
    if before:
        path.write_bytes(before)
    done = subprocess.run(
        [sys.executable, "-c", WRITE_A_MILLION_BYTES, path, how], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGXFSZ if how == "killed" else "OSError" in done.stderr
    assert (path.read_bytes() if path.exists() else None) == before
    left = [p.name for p in tmp_path.iterdir() if p != path]
    assert all(name.startswith(".cifar10.npz-") and name.endswith(".part") for name in left)
    assert len(left) == (how == "killed")  # an error cleans up


def test_a_file_takes_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"

    def write(file):
        file.write(b"all of it")
        assert not path.exists()

    save_atomically(path, write)
    assert path.read_bytes() == b"all of it" and list(path.parent.iterdir()) == [path]


# -- download: torchvision's class is stood in for, the rest is real
# ---------------------------------------------------


@pytest.fixture
def publisher(monkeypatch):
    """A stand-in for torchvision.datasets.CIFAR10 that serves random images, or fails for the parts
    in `down`.
    """
    data, calls, down = random_data(train=20, test=8, shape=(3, 32, 32)), [], set()

    class CIFAR10:
        classes = list(data.classes)  # noqa: RUF012

        def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
            calls.append((root, train, download))
            if train in down:
                raise RuntimeError("<urlopen error name resolution>")
            part = data.train if train else data.test
            self.data, self.targets = (
                part.images.transpose(0, 2, 3, 1),
                part.labels.tolist(),
            )  # (N, 32, 32, 3), list

    monkeypatch.setattr("torchvision.datasets.CIFAR10", CIFAR10)
    return data, calls, down


def test_cifar10_is_downloaded_once_and_prepared(tmp_path, publisher):
    data, calls, _ = publisher
    root = tmp_path / "new"
    assert not prepared.exists("cifar10", root)
    assert_same(prepared.load("cifar10", root), data)
    assert calls == [(root, True, True), (root, False, True)]
    with np.load(root / "cifar10.npz", allow_pickle=False) as file:  # the prepared form
        assert {name: (file[name].shape, file[name].dtype.kind) for name in file.files} == {
            "train_images": ((20, 3, 32, 32), "u"),
            "train_labels": ((20,), "i"),
            "test_images": ((8, 3, 32, 32), "u"),
            "test_labels": ((8,), "i"),
            "classes": ((4,), "U"),
        }
    assert [p.name for p in root.iterdir()] == ["cifar10.npz"] and prepared.exists("cifar10", root)
    assert_same(prepared.load("cifar10", root), data)
    assert len(calls) == 2


@pytest.mark.parametrize(
    "down", [True, False], ids=["at the training images", "at the test images"]
)
def test_a_failed_download_says_what_to_do_and_leaves_no_file(tmp_path, publisher, down):
    publisher[2].add(down)
    with pytest.raises(DataError) as error:
        prepared.load("cifar10", tmp_path)
    assert "name resolution" in str(error.value) and "\n" not in str(error.value)
    assert f"run again when online, or put a prepared cifar10.npz into {tmp_path}" in str(
        error.value
    )
    assert not list(tmp_path.iterdir())
    publisher[2].clear()
    assert_same(prepared.load("cifar10", tmp_path), publisher[0])  # the next time


# -- folders of images
# ------------------------------------------------------------------------------------------------

QUADRANTS = (
    (200, 40, 30),
    (30, 180, 60),
    (20, 50, 190),
    (220, 210, 40),
)  # top left, top right, bottom left, bottom right


def picture(colours, mode="RGB", size=(40, 40)):
    """Four quadrants of one colour each."""
    image, (width, height) = Image.new(mode, size), size
    for k, colour in enumerate(colours):
        image.paste(
            colour,
            (
                k % 2 * width // 2,
                k // 2 * height // 2,
                (k % 2 + 1) * width // 2,
                (k // 2 + 1) * height // 2,
            ),
        )
    return image


def corners(image):
    """The colours in the middles of the quadrants, of (3, 16, 16)."""
    return [tuple(image[:, y, x].tolist()) for y in (4, 12) for x in (4, 12)]


def make_folder(root, names=("ant", "bee", "cat"), count=2):
    """train/<class>/*.png and test/<class>/*.png; every picture is of one colour, its own."""
    for part in ("train", "test"):
        for name in names:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                colour = (ord(name[0]), 10 * i, 255 if part == "train" else 0)
                Image.new("RGB", (20, 16), colour).save(root / part / name / f"{i}.png")
    return root


def grey16():
    levels = np.kron([[10, 80], [160, 250]], np.ones((20, 20), int))
    return Image.fromarray((levels * 257).astype(np.uint16))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return {"exif": tags, "quality": 95}


GREYS = [(10,) * 3, (80,) * 3, (160,) * 3, (250,) * 3]
RGBA = [(*colour, 255) for colour in QUADRANTS]
CMYK = [(255 - r, 255 - g, 255 - b, 0) for r, g, b in QUADRANTS]
UPRIGHT = picture(QUADRANTS)
FORMATS = {  # name: (picture, file, how it is saved, the colours it shows, tolerance)
    "JPEG": (UPRIGHT, "a.jpg", {"quality": 95}, QUADRANTS, 8),
    "JPEG named otherwise": (UPRIGHT, "a.JPEG", {"quality": 95}, QUADRANTS, 8),
    "CMYK JPEG": (picture(CMYK, "CMYK"), "a.jpg", {"quality": 95}, QUADRANTS, 8),
    "grey JPEG": (picture((10, 80, 160, 250), "L"), "a.jpg", {"quality": 95}, GREYS, 4),
    "PNG": (UPRIGHT, "a.png", {}, QUADRANTS, 0),
    "PNG with alpha": (picture(RGBA, "RGBA"), "a.png", {}, QUADRANTS, 0),
    "palette PNG": (UPRIGHT.quantize(4), "a.png", {}, QUADRANTS, 0),
    "grey PNG": (picture((10, 80, 160, 250), "L"), "a.png", {}, GREYS, 0),
    "16-bit PNG": (grey16(), "a.png", {}, GREYS, 0),
    "1-bit PNG": (
        picture((0, 1, 1, 0), "1"),
        "a.png",
        {},
        [(0,) * 3, (255,) * 3, (255,) * 3, (0,) * 3],
        0,
    ),
    "palette GIF": (UPRIGHT.quantize(4), "a.gif", {}, QUADRANTS, 0),
    "BMP": (UPRIGHT, "a.bmp", {}, QUADRANTS, 0),
    "WebP": (UPRIGHT, "a.webp", {"lossless": True}, QUADRANTS, 0),
    "TIFF": (UPRIGHT, "a.tif", {}, QUADRANTS, 0),
    "16-bit TIFF": (grey16(), "a.tif", {}, GREYS, 0),
    # The camera was turned: the file's rows are the scene's columns (EXIF 2.3, tag 0x0112).
    "EXIF 180": (UPRIGHT.rotate(180), "a.jpg", exif(3), QUADRANTS, 8),
    "EXIF 90 clockwise": (UPRIGHT.rotate(90), "a.jpg", exif(6), QUADRANTS, 8),
    "EXIF 90 counter-clockwise": (UPRIGHT.rotate(270), "a.jpg", exif(8), QUADRANTS, 8),
}


@pytest.mark.parametrize("image, file, how, colours, tolerance", FORMATS.values(), ids=FORMATS)
def test_a_folders_images_show_the_colours_of_the_picture(
    tmp_path, image, file, how, colours, tolerance
):
    make_folder(tmp_path / "own", count=1)
    image.save(tmp_path / "own" / "test" / "bee" / file, **how)
    data = prepared.load(str(tmp_path / "own"), tmp_path / "root", side=16)
    images = data.test.images[data.test.labels == 1]
    assert images.shape == (2, 3, 16, 16) and images.dtype == np.uint8
    order = sorted(["0.png", file]).index(file)
    assert np.abs(np.subtract(corners(images[order]), colours)).max() <= tolerance


@pytest.mark.parametrize("side", [8, 20])
@pytest.mark.parametrize(
    "width, height", [(120, 80), (80, 120), (80, 80), (125, 83), (320, 90), (12, 10), (10, 12)]
)
def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path, width, height, side):
    across, down = (
        240 / width,
        240 / height,
    )  # red rises from left to right, green from top to bottom
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.rint(across * np.arange(width))
    pixels[..., 1] = np.rint(down * np.arange(height))[:, None]
    folder = make_folder(tmp_path / "own", count=1)
    Image.fromarray(pixels).save(folder / "train" / "ant" / "0.png")
    red, green, _ = prepared.load(str(folder), tmp_path, side=side).train.images[0].astype(float)
    scale = min(width, height) / side
    at = (
        np.arange(side) + 0.5 - side / 2
    ) * scale  # source pixels from the picture's centre, of each result's middle
    inner = slice(2, -2)  # at the picture's own border there is nothing left to average with
    tolerance = 1.5 + max(across, down)  # a source pixel
    assert np.abs(red - (across * (width / 2 - 0.5 + at)))[:, inner].max() < tolerance
    assert np.abs(green - (down * (height / 2 - 0.5 + at))[:, None])[inner].max() < tolerance
    assert np.ptp(red, axis=0).max() <= 1 and np.ptp(green, axis=1).max() <= 1


def test_images_are_made_smaller_by_means_over_all_their_pixels(tmp_path):
    """A triangle two steps wide: source pixels weigh the less the farther they are, to nothing a
    step away.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    folder = make_folder(tmp_path / "own", count=1)
    Image.fromarray(pixels).save(folder / "train" / "ant" / "0.png")
    steps = (
        np.abs((np.arange(8)[:, None] + 0.5) * 3 - (np.arange(24) + 0.5)) / 3
    )  # (8, 24) from each to each
    weights = np.maximum(1 - steps, 0)
    weights /= weights.sum(1, keepdims=True)
    expected = np.einsum("ya,xb,abc->cyx", weights, weights, pixels)
    np.testing.assert_allclose(
        prepared.load(str(folder), tmp_path, side=8).train.images[0], expected, atol=1.5
    )


def test_a_folders_classes_are_its_sorted_subfolders_and_labels_number_them(tmp_path):
    folder = make_folder(tmp_path / "own", names=("cat", "ant", "bee", "Dog"))
    for hidden in ("train/.ipynb_checkpoints", "test/.git"):
        (folder / hidden).mkdir()
    for hidden in (
        "train/ant/.DS_Store",
        "test/.DS_Store",
        "notes.txt",
        "train/Thumbs.db",
        "test/bee/desktop.ini",
    ):
        (folder / hidden).write_text("no image")
    data = prepared.load(str(folder), tmp_path / "root", side=8)
    assert (
        data.classes
        == ("Dog", "ant", "bee", "cat")
        == prepared.classes(str(folder), tmp_path / "root")
    )
    assert data.name == "own"
    for part, blue in ((data.train, 255), (data.test, 0)):
        expected = [(ord(name[0]), 10 * i, blue) for name in data.classes for i in range(2)]
        assert [tuple(image[:, 4, 4].tolist()) for image in part.images] == expected
        assert [data.classes[label][0] for label in part.labels] == [
            chr(red) for red, _, _ in expected
        ]


def truncated(path):
    Image.effect_noise((64, 64), 50).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_text("a note"), lambda path: path.write_bytes(b""), truncated]
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_an_unreadable_file_is_named(tmp_path, part, spoil):
    path = make_folder(tmp_path / "own") / part / "bee" / "1.png"
    spoil(path)
    with pytest.raises(DataError, match=f"^{path} can't be read as an image"):
        prepared.load(str(tmp_path / "own"), tmp_path / "root")
    assert not list(tmp_path.glob("root/*"))


@pytest.mark.parametrize("part", ["train", "test"])
def test_classes_that_differ_and_empty_classes_are_named(tmp_path, part):
    folder = make_folder(tmp_path / "own")
    (folder / part / "wasp").mkdir()
    with pytest.raises(
        DataError,
        match=f"train/ and test/ in {folder} should hold the same classes; only one .* wasp$",
    ):
        prepared.load(str(folder), tmp_path)
    (folder / {"train": "test", "test": "train"}[part] / "wasp").mkdir()
    Image.new("RGB", (8, 8)).save(folder / part / "wasp" / "0.png")
    with pytest.raises(DataError, match=f"{folder}/.*/wasp holds no image"):
        prepared.load(str(folder), tmp_path)


def test_a_folder_without_classes_is_told_the_layout(tmp_path):
    (tmp_path / "own" / "train").mkdir(parents=True)
    with pytest.raises(
        DataError,
        match=r"own has no class folders in train/; lay images out as train/<class>/.* test/",
    ):
        prepared.load(str(tmp_path / "own"), tmp_path)


def test_a_folder_is_prepared_again_when_its_files_change_and_else_reused(tmp_path):
    folder, root = make_folder(tmp_path / "own"), tmp_path / "root"
    added = folder / "train" / "bee" / "new.png"

    def load(side=8):
        data = prepared.load(str(folder), root, side=side)
        return data, {path.name: path.stat().st_ino for path in root.iterdir()}

    (first, made), (_, reused) = load(), load()
    assert made == reused and len(made) == 1
    _, other_size = load(side=12)
    assert len(other_size) == 2 and made.items() < other_size.items()

    def stages():
        Image.new("RGB", (9, 9), (1, 2, 3)).save(added)
        yield len(first.train) + 1
        Image.new("RGB", (9, 9), (3, 2, 1)).save(added)  # the same name, size and number of bytes
        os.utime(added, ns=(0, added.stat().st_mtime_ns + 1))
        yield len(first.train) + 1
        added.rename(folder / "train" / "cat" / "new.png")
        yield len(first.train) + 1
        (folder / "train" / "cat" / "new.png").unlink()
        yield len(first.train)

    seen = [first]
    for count in stages():
        data, _ = load()
        assert len(data.train) == count
        seen.append(data)
        assert_same(load()[0], data)
    assert all(a.digests != b.digests for a, b in pairwise(seen))
    assert_same(seen[-1], first)
    for part in ("train", "test"):
        (folder / part / "cat").rename(folder / part / "cow")
    assert load()[0].classes == ("ant", "bee", "cow")


def test_folders_of_one_name_are_not_taken_for_each_other(tmp_path):
    folders = [
        make_folder(tmp_path / place / "own", count=count)
        for place, count in (("here", 1), ("there", 2))
    ]
    for _ in range(2):
        assert [len(prepared.load(str(folder), tmp_path, side=8).train) for folder in folders] == [
            3,
            6,
        ]


# -- digest ----------------------------------------------------------------------------------------
# -------------------


def changed(key, change):
    arrays = {name: array.copy() for name, array in DATA.items()}
    change(arrays[key]) if key != "classes" else arrays.update(classes=change(arrays["classes"]))
    train, test = (
        ImageSet(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")
    )
    return Dataset("random", train, test, tuple(map(str, arrays["classes"])))


def swap(array):
    array[[0, 1]] = array[[1, 0]]


def test_digests_are_those_of_what_is_loaded_whatever_part(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        f"{part}_images": random.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
        for part, n in (("train", 60), ("test", 20))
    }
    arrays |= {f"{part}_labels": np.arange(n) % 10 for part, n in (("train", 60), ("test", 20))}
    folds = np.stack([random.permutation(60)[:50] for _ in range(2)])
    np.savez(
        tmp_path / "stl10.npz", classes=np.array(prepared.classes("stl10")), folds=folds, **arrays
    )
    seen = set()
    for fold in (None, 0, 1):
        for validation in (False, True):
            try:
                loaded = prepared.load("stl10", tmp_path, None, fold, validation).digests
            except DataError:
                continue  # a fold too uneven to keep a fifth of each class
            assert prepared.digests("stl10", tmp_path, None, fold, validation) == loaded
            seen.add(loaded)
    assert len(seen) >= 4


def test_images_that_change_places_are_seen_whatever_their_sizes_and_times(tmp_path):
    """Uncompressed files of one size, with the times of an archive: unzip, cp -p and rsync -a bring
    them along.
    """
    for part in ("train", "test"):
        for k, name in enumerate(("ant", "bee", "cow")):
            (tmp_path / "zoo" / part / name).mkdir(parents=True)
            path = tmp_path / "zoo" / part / name / "0.bmp"
            Image.fromarray(np.full((8, 8, 3), 80 * k, np.uint8)).save(path)
            os.utime(path, (1, 1))
    before = prepared.digests(str(tmp_path / "zoo"), tmp_path / "data", 8)
    one, other = (tmp_path / "zoo" / "train" / name / "0.bmp" for name in ("ant", "cow"))
    one.rename(tmp_path / "kept"), other.rename(one), (tmp_path / "kept").rename(other)
    now = prepared.digests(str(tmp_path / "zoo"), tmp_path / "data", 8)
    assert now.train != before.train and now.test == before.test
    assert now == prepared.load(str(tmp_path / "zoo"), tmp_path / "data", 8).digests


def test_the_digest_changes_with_every_pixel_label_and_name_and_with_nothing_else():
    data = random_data()
    variants = {
        "nothing": data,
        "pixel": changed(
            "train_images", lambda a: a.__setitem__((-1, -1, -1, -1), a[-1, -1, -1, -1] ^ 1)
        ),
        "test pixel": changed(
            "test_images", lambda a: a.__setitem__((0, 0, 0, 0), a[0, 0, 0, 0] ^ 1)
        ),
        "order": changed("train_images", swap),
        "label": changed("train_labels", lambda a: a.__setitem__(-1, (a[-1] + 1) % 4)),
        "test label": changed("test_labels", lambda a: a.__setitem__(0, (a[0] + 1) % 4)),
        "name": changed("classes", lambda a: ["ant", "bee", "cat", "dot"]),
        "names run together": changed("classes", lambda a: ["an", "tbee", "cat", "dog"]),
        "another name": changed("classes", lambda a: [*a, "emu"]),
        "shape": Dataset(
            "",
            *(ImageSet(p.images.reshape(-1, 3, 5, 4), p.labels) for p in (data.train, data.test)),
            data.classes,
        ),
        "parts": Dataset("", data.test, data.train, data.classes),
    }
    digests = {name: variant.digests for name, variant in variants.items()}
    assert len(set(digests.values())) == len(variants), digests
    strided = ImageSet(
        data.train.images.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
        data.train.labels.copy(),
    )
    assert Dataset("other", strided, data.test, data.classes).digests == digests["nothing"]


# -- augmentation ----------------------------------------------------------------------------------
# -------------------


@pytest.mark.parametrize("padding", [0, 1, 3, 4])
def test_padding_reflects_without_repeating_the_border(padding):
    images = random_data(shape=(2, 5, 7)).train.images
    padded = augmentation.pad(images, padding)
    assert padded.shape == (24, 2, 5 + 2 * padding, 7 + 2 * padding) and padded.dtype == np.uint8

    def mirrored(place, length):  # 2 1 [0 1 2 3 4] 3 2
        return abs(place) if place < length else 2 * (length - 1) - place

    rows, columns = (
        [mirrored(i, length) for i in range(-padding, length + padding)] for length in (5, 7)
    )
    np.testing.assert_array_equal(padded, images[:, :, rows][:, :, :, columns])


def test_the_centre_has_as_much_on_either_side():
    images = random_data(shape=(2, 7, 10)).train.images
    np.testing.assert_array_equal(augmentation.centre(images, 5)[..., :4], images[:, :, 1:6, 2:6])
    np.testing.assert_array_equal(augmentation.centre(images[..., 1:], 7), images[..., 2:9])
    assert augmentation.centre(images, None) is images


def test_a_crop_is_a_slice_of_each_image_at_its_own_place():
    images = torch.from_numpy(random_data(shape=(3, 9, 12)).train.images)
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(24, (40,), generator=generator)
    top, left = (
        torch.randint(4, (40,), generator=generator),
        torch.randint(6, (40,), generator=generator),
    )
    crops = augmentation.crop(images, index, top, left, 6, 7)
    expected = [
        images[i, :, t : t + 6, x : x + 7] for i, t, x in zip(index, top, left, strict=True)
    ]
    assert torch.equal(crops, torch.stack(expected)) and crops.dtype == torch.uint8


def uniform(counts):
    """Whether counts are those of equally likely cells; wrong once in a million."""
    return stats.chisquare(counts).pvalue > 1e-6


def test_random_crops_are_slices_uniform_over_all_places_and_independent():
    height, width, tops, lefts, count = 6, 9, 4, 3, 24_000
    y, x = torch.meshgrid(
        torch.arange(height + tops - 1), torch.arange(width + lefts - 1), indexing="ij"
    )
    images = torch.stack([torch.stack([y, x, torch.full_like(x, i)]) for i in range(5)]).to(
        torch.uint8
    )  # they say where
    index = torch.randint(5, (count,), generator=torch.Generator().manual_seed(1))
    crops = augmentation.random_crop(images, index, height, width, torch.Generator().manual_seed(0))
    assert crops.shape == (count, 3, height, width)
    top, left = crops[:, 0, 0, 0].long(), crops[:, 1, 0, 0].long()
    assert (crops[:, 0] == (top[:, None] + torch.arange(height))[:, :, None]).all()
    assert (crops[:, 1] == (left[:, None] + torch.arange(width))[:, None]).all()
    assert (crops[:, 2] == index[:, None, None]).all()
    place = top * lefts + left
    assert uniform(torch.bincount(place, minlength=tops * lefts))
    assert uniform(
        torch.bincount(place[:-1:2] * tops * lefts + place[1::2], minlength=(tops * lefts) ** 2)
    )  # of neighbours
    again, other = (
        augmentation.random_crop(images, index, height, width, torch.Generator().manual_seed(s))
        for s in (0, 1)
    )
    assert torch.equal(crops, again) and not torch.equal(crops, other)


def test_a_flip_is_the_mirror_image_of_half_of_the_images_each_by_itself():
    images = torch.from_numpy(random_data(train=8000, shape=(3, 2, 5)).train.images)
    flipped = augmentation.random_flip(images, torch.Generator().manual_seed(0))
    mirror = torch.from_numpy(images.numpy()[..., ::-1].copy())
    is_flipped = (flipped == mirror).flatten(1).all(1)
    assert torch.equal(flipped, torch.where(is_flipped[:, None, None, None], mirror, images))
    assert uniform(torch.bincount(2 * is_flipped[:-1:2] + is_flipped[1::2], minlength=4))
    assert torch.equal(flipped, augmentation.random_flip(images, torch.Generator().manual_seed(0)))


def test_float_images_are_pixels_over_255():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 4, 8, 8)
    images = augmentation.to_float(pixels)
    assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, (pixels.double() / 255).float())


# -- real images -----------------------------------------------------------------------------------
# -------------------


@pytest.mark.data
def test_cifar10_is_the_published_data_set(cifar10_root):
    data = prepared.load("cifar10", cifar10_root)
    assert data.train.images.shape == (50_000, 3, 32, 32) and data.test.images.shape == (
        10_000,
        3,
        32,
        32,
    )
    assert (
        np.bincount(data.train.labels).tolist() == [5000] * 10
        and np.bincount(data.test.labels).tolist() == [1000] * 10
    )
    assert data.classes == (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    assert (
        data.classes
        == prepared.classes("cifar10", cifar10_root)
        == datasets.loading.CLASSES["cifar10"]
    )
    pixels = data.train.images / np.float32(255)
    np.testing.assert_allclose(
        pixels.mean((0, 2, 3), dtype=np.float64), [0.4914, 0.4822, 0.4465], atol=1e-4
    )  # as is often cited
    np.testing.assert_allclose(
        pixels.std((0, 2, 3), dtype=np.float64), [0.2470, 0.2435, 0.2616], atol=1e-4
    )
    split = datasets.hold_out(data, "cat")
    assert len(split.train) == 45_000 and split.is_anomaly.mean() == 0.1
    assert data.train.labels[:10].tolist() == [
        6,
        9,
        9,
        4,
        1,
        1,
        2,
        7,
        8,
        3,
    ]  # in the publisher's order: frog, truck, ...


def encrypted(path):
    np.savez(path, **DATA)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def single_array(path):
    with path.open("wb") as file:
        np.save(file, DATA["train_images"])


def text_member(path, key="train_images"):
    np.savez(path, **DATA)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, b"text" if name == f"{key}.npy" else content)


def scalar(path):
    np.savez(path, **DATA | {"train_images": np.uint8(3)})


@pytest.mark.parametrize(
    "spoil", [encrypted, single_array, text_member, partial(text_member, key="classes"), scalar]
)
def test_a_file_that_is_no_prepared_data_set_in_an_unusual_way_is_named(tmp_path, spoil):
    path = tmp_path / "own.npz"
    spoil(path)
    with pytest.raises(DataError, match=re.escape(str(path))):
        prepared.load("own", tmp_path)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_image_of_32_bits_a_pixel_is_named(tmp_path, dtype):
    folder = make_folder(tmp_path / "own")
    path = folder / "train" / "ant" / "a.tif"
    Image.fromarray((np.arange(400).reshape(20, 20) * 100).astype(dtype)).save(path)
    with pytest.raises(DataError, match=re.escape(str(path))):
        prepared.load(str(folder), tmp_path)
