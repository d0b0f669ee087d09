"""Data sets as arrays: where they come from, what is refused, the hold-out split, augmentation."""

import itertools
import os
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import picture_folder
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits

from semlib import datasets
from semlib.datasets import DataError, Dataset, ImageSet, augmentation
from workbench.files import ROOT
from workbench.images import folder, prepared


def random_data(names=("ant", "bee", "cat", "dog"), train=24, test=12, shape=(3, 4, 5)):
    """Random images; their labels run through the classes in random order."""
    generator = np.random.default_rng(0)

    def part(count):
        labels = generator.permutation(np.arange(count) % len(names))
        return ImageSet(generator.integers(0, 256, (count, *shape), dtype=np.uint8), labels)

    return Dataset("random", part(train), part(test), tuple(names))


def arrays_of(data):
    arrays = {"classes": np.array(data.classes)}
    for name, part in (("train", data.train), ("test", data.test)):
        arrays |= {f"{name}_images": part.images, f"{name}_labels": part.labels}
    return arrays


def assert_same(found, expected):
    assert found.classes == expected.classes
    for part, other in ((found.train, expected.train), (found.test, expected.test)):
        np.testing.assert_array_equal(part.images, other.images)
        np.testing.assert_array_equal(part.labels, other.labels)
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int64


# --- digits


def test_digits_are_scikit_learns_split_into_1197_and_600_by_class(tmp_path):
    data = prepared.load("digits", tmp_path)
    bunch = load_digits()
    assert data.classes == tuple("0123456789") and data.name == "digits"
    assert data.train.images.shape == (1197, 1, 8, 8) and data.test.images.shape == (600, 1, 8, 8)

    def counted(images, labels):
        levels = np.rint(images * (16 / 255)).astype(int)
        return Counter((image.tobytes(), k) for image, k in zip(levels, labels, strict=True))

    parts = [counted(part.images[:, 0], part.labels.tolist()) for part in (data.train, data.test)]
    assert parts[0] + parts[1] == counted(bunch.images * (255 / 16), bunch.target.tolist())
    assert data.train.images.min() == 0 and data.train.images.max() == 255
    whole = np.bincount(bunch.target)
    for part in (data.train, data.test):
        assert np.abs(np.bincount(part.labels) - whole * len(part) / 1797).max() < 1
    assert_same(datasets.load("digits", tmp_path), data)
    assert prepared.digests("digits", tmp_path) == prepared.digests_of(data)
    assert not [*tmp_path.iterdir()]  # nothing is written, so that it works anywhere


# --- hold out

GROUPS = [("bee",), ("ant", "cat"), ("dog", "ant")]


@pytest.mark.parametrize("anomaly", ["ant", "bee", "dog", None, *GROUPS], ids=str)
def test_hold_out_trains_without_the_anomaly_and_tests_on_all(anomaly):
    data = random_data()
    before = data.train.labels.copy()
    held_out = [anomaly] if isinstance(anomaly, str) else [*(anomaly or ())]
    names = [name for name in data.classes if name not in held_out]
    split = datasets.hold_out(data, anomaly)
    # the others in order, renumbered
    known = [k for k, label in enumerate(data.train.labels) if data.classes[label] in names]
    np.testing.assert_array_equal(split.train.images, data.train.images[known])
    expected = [names.index(data.classes[label]) for label in data.train.labels[known]]
    assert split.train.labels.tolist() == expected and set(expected) == {*range(len(names))}
    np.testing.assert_array_equal(split.test.images, data.test.images)
    of_test = [data.classes[label] for label in data.test.labels]
    assert split.is_anomaly.tolist() == [name in held_out for name in of_test]
    expected = [names.index(name) if name in names else -1 for name in of_test]
    assert split.test.labels.tolist() == expected
    assert split.classes == tuple(names) and [data.classes[k] for k in split.kept] == names
    assert split.train.labels.dtype == split.test.labels.dtype == np.int64
    assert split.is_anomaly.dtype == bool and (data.train.labels == before).all()


def test_a_group_is_drawn_as_one_anomaly_whatever_its_order():
    data = random_data(train=200)

    def drawn(anomaly, trial=0):
        return datasets.training_indices(data, anomaly, 5, trial).tolist()

    assert np.bincount(data.train.labels[drawn(("dog", "ant"))]).tolist() == [0, 5, 5]
    assert drawn(("dog", "ant")) == drawn(("ant", "dog")) != drawn(("ant", "dog"), trial=1)
    assert drawn(("ant",)) == drawn("ant") and drawn(()) == drawn(None)
    several = {tuple(drawn(anomaly)) for anomaly in ("ant", "dog", ("ant", "dog"), ("ant", "cat"))}
    assert len(several) == 4


WRONG = {
    "cta": "hold-out 'cta' is not a class of random; choose from ant, bee, cat, dog",
    ("ant", "cta"): "hold-out 'cta' is not a class of random",
    ("ant", "bee", "cat"): "random has 4 classes; holding 3 out needs at least 5",
}


@pytest.mark.parametrize("anomaly", WRONG, ids=str)
def test_an_unknown_hold_out_and_one_that_leaves_a_single_class_are_refused(anomaly):
    with pytest.raises(DataError, match=WRONG[anomaly]):
        datasets.hold_out(random_data(), anomaly)
    few = random_data(names=("ant", "bee"))
    assert datasets.hold_out(few, None).classes == ("ant", "bee")
    with pytest.raises(DataError, match="has 2 classes; holding 1 out needs at least 3"):
        datasets.hold_out(few, "ant")


# --- prepared files

DATA = arrays_of(random_data())


@pytest.mark.parametrize("name, train", [("cifar10", 24), ("stl10", 4), ("digits", 24)])
def test_a_prepared_file_in_the_data_root_is_used_as_it_is(tmp_path, name, train):
    data = random_data(train=train)
    path = tmp_path / f"{name}.npz"
    arrays = arrays_of(data)
    # compressed, and with labels of any whole-number type
    np.savez_compressed(path, **arrays | {"train_labels": data.train.labels.astype(np.uint8)})
    before = path.read_bytes()
    for load in (prepared.load, datasets.load):
        assert_same(load(name, tmp_path), data)
        assert load(name, tmp_path).name == name
    assert prepared.classes(name, tmp_path) == data.classes and prepared.exists(name, tmp_path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_cifar10s_validation_images_are_its_last_10000_training_images(tmp_path):
    """Every image is its own number."""
    images = np.arange(50_000, dtype=np.uint32).view(np.uint8).reshape(50_000, 4, 1, 1)
    whole = ImageSet(images, np.arange(50_000) % 10)
    data = Dataset("cifar10", whole, whole[:10], prepared.classes("cifar10", tmp_path))
    np.savez(tmp_path / "cifar10.npz", **arrays_of(data))
    found = prepared.load("cifar10", tmp_path, validation=True)
    assert_same(found, Dataset("cifar10", whole[:40_000], whole[40_000:], data.classes))


WITHOUT_CHANNELS = {name: DATA[name][:, 0] for name in ("train_images", "test_images")}
BAD_ARRAYS = {
    "float images": {"train_images": DATA["train_images"] / 255},
    "int64 images": {"test_images": DATA["test_images"].astype(np.int64)},
    "images without channels": WITHOUT_CHANNELS,
    "test images of another size": {"test_images": DATA["test_images"][:, :, :3]},
    "no test image": {name: DATA[name][:0] for name in ("test_images", "test_labels")},
    "one number for images": {"train_images": np.uint8(3)},
    "fewer labels than images": {"train_labels": DATA["train_labels"][:-1]},
    "labels in a column": {"train_labels": DATA["train_labels"][:, None]},
    "float labels": {"train_labels": DATA["train_labels"] / 1.0},
    "a label past the classes": {"train_labels": DATA["train_labels"] + 1},
    "a label below 0": {"test_labels": DATA["test_labels"] - 1},
    "fewer names than classes": {"classes": DATA["classes"][:3]},
    "no names": {"classes": None},
    "no images": {"train_images": None},
}


@pytest.mark.parametrize("wrong", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_a_file_that_is_not_a_prepared_data_set_is_named(tmp_path, wrong):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **{name: array for name, array in (DATA | wrong).items() if array is not None})
    said = rf"^{path} (isn't a prepared data set|can't be read).*; delete it to prepare it again"
    with pytest.raises(DataError, match=said):
        prepared.load("cifar10", tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_a_foreign_file_is_named(tmp_path, content):
    """By the package alone too; test_bad_input.py tries every damage."""
    (tmp_path / "cifar10.npz").write_bytes(content)
    for load in (prepared.load, prepared.classes, datasets.load):
        with pytest.raises(DataError, match=f"^{tmp_path}/cifar10.npz"):
            load("cifar10", tmp_path)


def test_an_unknown_data_set_is_named_with_the_choices(tmp_path):
    np.savez(tmp_path / "mine.npz", **DATA)
    choices = r"choose from digits, cifar10, stl10, .*, mine, or"
    with pytest.raises(DataError, match=rf"'cifra' is unknown .*{choices}"):
        prepared.load("cifra", tmp_path)
    with pytest.raises(DataError, match="'digests of nothing' is unknown; choose from digits, "):
        datasets.load("digests of nothing", tmp_path)
    with pytest.raises(DataError, match="semlib data prepare imagenet_dog"):
        datasets.load("imagenet_dog", tmp_path)


def test_the_data_root_is_given_else_the_environments_else_the_checkouts(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path))
    assert datasets.data_root() == tmp_path
    assert datasets.data_root(tmp_path / "other") == tmp_path / "other"
    assert datasets.data_root("here") == ROOT / "here"
    monkeypatch.delenv("SEMLIB_DATA")
    assert datasets.data_root() == ROOT / "data"


# --- download: torchvision's class is stood in for, the rest is real


@pytest.fixture
def publisher(monkeypatch):
    """A stand-in for torchvision's CIFAR10: random images, or an error for the parts in `down`."""
    names = datasets.CLASSES["cifar10"]
    data = random_data(names, train=20, test=8, shape=(3, 32, 32))
    calls = []
    down = set()

    class CIFAR10:
        def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
            calls.append((root, train, download))
            if train in down:
                raise RuntimeError("<urlopen error name resolution>")
            part = data.train if train else data.test
            self.data = part.images.transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
            self.targets = part.labels.tolist()

    monkeypatch.setattr("torchvision.datasets.CIFAR10", CIFAR10)
    return data, calls, down


def test_cifar10_is_downloaded_once_and_prepared(tmp_path, publisher):
    data, calls, _ = publisher
    root = tmp_path / "new"
    assert not prepared.exists("cifar10", root) and prepared.exists("digits", root)
    assert prepared.classes("cifar10", root) == data.classes and not calls and not root.exists()
    assert_same(datasets.load("cifar10", root), data)
    del calls[:]
    assert_same(prepared.load("cifar10", root), data)
    assert calls == [(root, True, True), (root, False, True)]
    with np.load(root / "cifar10.npz", allow_pickle=False) as file:  # the prepared form
        kinds = {name: (file[name].shape, file[name].dtype.kind) for name in file.files}
    assert kinds == {
        "classes": ((10,), "U"),
        "train_images": ((20, 3, 32, 32), "u"),
        "train_labels": ((20,), "i"),
        "test_images": ((8, 3, 32, 32), "u"),
        "test_labels": ((8,), "i"),
    }
    assert [p.name for p in root.iterdir()] == ["cifar10.npz"] and prepared.exists("cifar10", root)
    assert_same(prepared.load("cifar10", root), data)
    assert len(calls) == 2


@pytest.mark.parametrize("down", [True, False], ids=["train", "test"])
def test_a_failed_download_says_what_to_do_and_leaves_no_file(tmp_path, publisher, down):
    publisher[2].add(down)
    todo = f"run again when online, or put a prepared cifar10.npz into {tmp_path}"
    for load in (prepared.load, datasets.load):
        with pytest.raises(DataError, match=f"^.*name resolution.*{todo}$"):
            load("cifar10", tmp_path)
    assert not list(tmp_path.iterdir())
    publisher[2].clear()
    assert_same(prepared.load("cifar10", tmp_path), publisher[0])  # the next time


# --- folders of images

# top left, top right, bottom left, bottom right
QUADRANTS = ((200, 40, 30), (30, 180, 60), (20, 50, 190), (220, 210, 40))


def picture(colours, mode="RGB"):
    """Four quadrants of one colour each, 40x40."""
    image = Image.new(mode, (40, 40))
    for k, colour in enumerate(colours):
        left = k % 2 * 20
        top = k // 2 * 20
        image.paste(colour, (left, top, left + 20, top + 20))
    return image


def corners(image):
    """The colours in the middles of the quadrants, of (3, 16, 16)."""
    middles = itertools.product((4, 12), repeat=2)
    return [tuple(image[:, y, x].tolist()) for y, x in middles]


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return {"exif": tags, "quality": 95}


LEVELS = (10, 80, 160, 250)
GREYS = [(level,) * 3 for level in LEVELS]
BLACK_AND_WHITE = [(0,) * 3, (255,) * 3, (255,) * 3, (0,) * 3]
RGBA = [(*colour, 255) for colour in QUADRANTS]
CMYK = [(255 - r, 255 - g, 255 - b, 0) for r, g, b in QUADRANTS]
UPRIGHT = picture(QUADRANTS)
LOSSY = {"quality": 95}
SEVERAL = {"save_all": True, "append_images": [picture(GREYS)]}
FORMATS = {  # name: (picture, file, how it is saved, the colours it shows, tolerance)
    "JPEG": (UPRIGHT, "a.jpg", LOSSY, QUADRANTS, 8),
    "JPEG named otherwise": (UPRIGHT, "a.JPEG", LOSSY, QUADRANTS, 8),
    "CMYK JPEG": (picture(CMYK, "CMYK"), "a.jpg", LOSSY, QUADRANTS, 8),
    "grey JPEG": (picture(LEVELS, "L"), "a.jpg", LOSSY, GREYS, 4),
    "JPEG with a preview": (UPRIGHT, "a.mpo", LOSSY | SEVERAL, QUADRANTS, 8),
    "PNG": (UPRIGHT, "a.png", {}, QUADRANTS, 0),
    "PNG with alpha": (picture(RGBA, "RGBA"), "a.png", {}, QUADRANTS, 0),
    "palette PNG": (UPRIGHT.quantize(4), "a.png", {}, QUADRANTS, 0),
    "grey PNG": (picture(LEVELS, "L"), "a.png", {}, GREYS, 0),
    "1-bit PNG": (picture((0, 1, 1, 0), "1"), "a.png", {}, BLACK_AND_WHITE, 0),
    "palette GIF": (UPRIGHT.quantize(4), "a.gif", {}, QUADRANTS, 0),
    "BMP": (UPRIGHT, "a.bmp", {}, QUADRANTS, 0),
    "WebP": (UPRIGHT, "a.webp", {"lossless": True}, QUADRANTS, 0),
    "TIFF": (UPRIGHT, "a.tif", {}, QUADRANTS, 0),
    # The camera was turned: the file's rows are the scene's columns (EXIF 2.3, tag 0x0112).
    "EXIF 180": (UPRIGHT.rotate(180), "a.jpg", exif(3), QUADRANTS, 8),
    "EXIF 90 clockwise": (UPRIGHT.rotate(90), "a.jpg", exif(6), QUADRANTS, 8),
    "EXIF 90 counter-clockwise": (UPRIGHT.rotate(270), "a.jpg", exif(8), QUADRANTS, 8),
}


@pytest.mark.parametrize("image, file, how, colours, tolerance", FORMATS.values(), ids=FORMATS)
def test_a_decoded_image_shows_the_colours(tmp_path, image, file, how, colours, tolerance):
    image.save(tmp_path / file, **how)
    decoded = folder.decode(tmp_path / file, 16)
    assert decoded.shape == (3, 16, 16) and decoded.dtype == np.uint8
    assert np.abs(np.subtract(corners(decoded), colours)).max() <= tolerance


DEEP = np.kron(np.array([[10, 80], [160, 250]]) * 257, np.ones((20, 20), int))
PAGES = {"save_all": True, "append_images": [UPRIGHT, picture(GREYS)]}
RGBX = Image.frombytes("RGBX", (40, 40), picture(RGBA, "RGBA").tobytes())
REFUSED = {  # name: (picture, file, how it is saved, what is said)
    "16-bit PNG": (Image.fromarray(DEEP.astype(np.uint16)), "a.png", {}, "8 bits a channel"),
    "16-bit TIFF": (Image.fromarray(DEEP.astype(np.uint16)), "a.tif", {}, "magick a.png -depth 8"),
    "32-bit TIFF": (Image.fromarray(DEEP.astype(np.int32)), "a.tif", {}, "8 bits a channel"),
    "float TIFF": (Image.fromarray(DEEP.astype(np.float32)), "a.tif", {}, "8 bits a channel"),
    "TIFF of three pages": (UPRIGHT, "a.tif", PAGES, "several pages or frames; save one"),
    "animated GIF": (UPRIGHT, "a.gif", PAGES, "several pages or frames"),
    "animated PNG": (UPRIGHT, "a.png", PAGES, "several pages or frames"),
    "animated WebP": (UPRIGHT, "a.webp", PAGES, "several pages or frames"),
    "four channels": (RGBX, "a.tif", {}, "channel 4 isn't transparency; save the first 3"),
    "signed": (picture(LEVELS, "L"), "a.tif", {"tiffinfo": {339: 2}}, "or signed ones"),
}


@pytest.mark.parametrize("image, file, how, said", REFUSED.values(), ids=REFUSED)
def test_what_is_not_one_picture_of_8_bits_a_channel_is_refused(tmp_path, image, file, how, said):
    image.save(tmp_path / file, **how)
    with pytest.raises(DataError, match=rf"^{tmp_path / file} can't be read .*{said}"):
        folder.decode(tmp_path / file, 16)


PATCHED = {  # mode, tags, bytes of the file and what they become, what is said
    "infrared": ("RGBA", {}, b"\x52\1\3\0", b"\xe8\xfd\3\0", "channel 4 isn't"),  # no ExtraSamples
    "planar 16-bit": ("RGB", {284: 2}, b"\x08\0" * 3, b"\x10\0" * 3, "more than 8 bits"),
}


@pytest.mark.parametrize("mode, tags, old, new, said", PATCHED.values(), ids=PATCHED)
def test_tiff_files_that_pillow_misreads_are_refused(tmp_path, mode, tags, old, new, said):
    path = tmp_path / "a.tif"
    UPRIGHT.convert(mode).save(path, tiffinfo=tags)
    whole = path.read_bytes()
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    with Image.open(path) as image:
        assert image.mode == mode
    with pytest.raises(DataError, match=said):
        folder.decode(path, 16)


@pytest.mark.parametrize("width, height", [(120, 80), (80, 120), (80, 80), (125, 83), (10, 12)])
def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path, width, height):
    """Red grows from left to right and green from top to bottom."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x, y, 0 * x], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    red, green, _ = folder.decode(tmp_path / "a.png", 8)
    for found, length in ((red[0], width), (green[:, 0], height)):
        middle = (length - 1) / 2
        expected = middle + (np.arange(8) - 3.5) * min(width, height) / 8
        np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=1.5)


def test_a_folders_classes_are_its_sorted_subfolders_and_labels_number_them(tmp_path):
    own = picture_folder(tmp_path / "own", classes=("cat", "ant", "bee", "Dog"))
    (own / "notes.txt").write_text("beside train and test")
    data = prepared.load(str(own), tmp_path / "root", side=8)
    assert data.classes == ("Dog", "ant", "bee", "cat") and data.name == "own"
    assert data.classes == prepared.classes(str(own), tmp_path / "root")
    for part, blue in ((data.train, 255), (data.test, 0)):
        assert part.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        reds = np.repeat([30, 10, 20, 0], 2)
        greens = np.tile([0, 100], 4)
        expected = np.stack([reds, greens, np.full(8, blue)], axis=1)
        np.testing.assert_array_equal(part.images[:, :, 4, 4], expected)


@pytest.mark.parametrize("part, other", [("train", "test"), ("test", "train")])
def test_classes_that_differ_and_empty_classes_are_named(tmp_path, part, other):
    own = picture_folder(tmp_path / "own")
    (own / part / "wasp").mkdir()
    with pytest.raises(DataError, match=r"should hold the same classes; only one .* wasp$"):
        prepared.load(str(own), tmp_path)
    (own / other / "wasp").mkdir()
    Image.new("RGB", (8, 8)).save(own / part / "wasp" / "0.png")
    with pytest.raises(DataError, match=f"{own}/{other}/wasp holds no image"):
        prepared.load(str(own), tmp_path)


def swap_files(one, other):
    kept = one.with_name("kept")
    for old, new in ((one, kept), (other, one), (kept, other)):
        old.rename(new)


def test_a_folder_is_prepared_again_when_its_files_change_and_else_reused(tmp_path):
    own = picture_folder(tmp_path / "own")
    root = tmp_path / "root"
    first, added, moved = (own / "train" / name for name in ("bee/1.png", "bee/2.png", "cat/2.png"))
    red, blue = (Image.new("RGB", (9, 9), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    changes = [
        lambda: red.save(added),
        lambda: blue.save(added),  # the same name, size and number of bytes
        lambda: swap_files(first, added),
        lambda: first.rename(moved),
        lambda: moved.unlink(),
        lambda: [(own / part / "cat").rename(own / part / "cow") for part in ("train", "test")],
    ]
    seen = [prepared.load(str(own), root, side=8)]
    for change in changes:
        change()
        for path in own.rglob("*.png"):
            os.utime(path, (1, 1))  # unzip, cp -p and rsync -a bring times along
        seen.append(prepared.load(str(own), root, side=8))
        made = {path.name: path.stat().st_ino for path in root.iterdir()}
        assert_same(prepared.load(str(own), root, side=8), seen[-1])
        assert made == {path.name: path.stat().st_ino for path in root.iterdir()}
    assert [len(data.train) for data in seen] == [6, 7, 7, 7, 7, 6, 6]
    digests = [prepared.digests_of(data) for data in seen]
    assert all(a != b for a, b in pairwise(digests))
    assert prepared.digests(str(own), root, 8) == digests[-1]
    prepared.load(str(own), root, side=12)
    assert len([*root.glob("*.npz")]) == 2


def test_folders_of_one_name_are_not_taken_for_each_other(tmp_path):
    here, there = (picture_folder(tmp_path / str(n) / "own", count=n) for n in (1, 2))
    for _ in range(2):
        assert len(prepared.load(str(here), tmp_path, side=8).train) == 3
        assert len(prepared.load(str(there), tmp_path, side=8).train) == 6


# --- digests


def test_the_digest_changes_with_every_pixel_label_and_name_and_with_nothing_else():
    data = random_data()
    variants = [data, replace(data, train=data.test, test=data.train)]
    for part in ("train", "test"):
        images, labels = vars(getattr(data, part)).values()
        pixel = images.copy()
        pixel[-1, -1, -1, -1] ^= 1
        label = labels.copy()
        label[-1] ^= 1
        changed = [(pixel, labels), (images, label), (images[::-1], labels[::-1])]
        changed.append((images.reshape(-1, 3, 5, 4), labels))
        variants += [replace(data, **{part: ImageSet(*arrays)}) for arrays in changed]
    for names in ("ant bee cat dot", "an tbee cat dog", "ant bee cat dog emu"):
        variants.append(replace(data, classes=tuple(names.split())))
    assert len({prepared.digests_of(variant) for variant in variants}) == len(variants) == 13
    strided = data.train.images.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    same = Dataset("other", ImageSet(strided, data.train.labels.copy()), data.test, data.classes)
    assert prepared.digests_of(same) == prepared.digests_of(data)


def test_digests_are_those_of_what_is_loaded_whatever_part(tmp_path):
    random = np.random.default_rng(0)
    arrays = {"classes": np.array(prepared.classes("stl10", tmp_path))}
    for part, count in (("train", 60), ("test", 20)):
        arrays[f"{part}_images"] = random.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 10
    # five images a class and fold, so that a fifth of each class can be kept
    folds = np.stack([10 * random.permutation(6)[:5, None] + np.arange(10) for _ in range(2)])
    np.savez(tmp_path / "stl10.npz", folds=folds.reshape(2, 50), **arrays)
    seen = set()
    for part in ((None, False), (None, True), (0, False), (0, True), (1, False), (1, True)):
        loaded = prepared.digests_of(prepared.load("stl10", tmp_path, None, *part))
        assert prepared.digests("stl10", tmp_path, None, *part) == loaded
        seen.add(loaded)
    assert len(seen) == 6


# --- augmentation


@pytest.mark.parametrize("padding", [0, 1, 3, 4])
def test_padding_reflects_without_repeating_the_border(padding):
    images = random_data(shape=(2, 5, 7)).train.images
    padded = augmentation.pad(images, padding)
    around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    np.testing.assert_array_equal(padded, np.pad(images, around, "reflect"))


def test_the_centre_has_as_much_on_either_side():
    images = random_data(shape=(2, 7, 10)).train.images
    np.testing.assert_array_equal(augmentation.centre(images, 5)[..., :4], images[:, :, 1:6, 2:6])
    np.testing.assert_array_equal(augmentation.centre(images[..., 1:], 7), images[..., 2:9])
    assert augmentation.centre(images, None) is images
    with pytest.raises(ValueError, match="crop_side = 8 is more than the images' 10x7 pixels"):
        augmentation.centre(images, 8)


def uniform(counts):
    """Whether counts are those of equally likely cells; wrong once in a million."""
    return stats.chisquare(counts).pvalue > 1e-6


def test_random_crops_are_slices_uniform_over_all_places_and_independent():
    y, x = torch.meshgrid(torch.arange(9), torch.arange(11), indexing="ij")
    images = torch.stack([torch.stack([y, x, torch.full_like(x, i)]) for i in range(5)])
    index = torch.randint(5, (24_000,), generator=torch.Generator().manual_seed(1))

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        return augmentation.random_crop(images.to(torch.uint8), index, 6, 9, generator)

    crops = drawn(0).long()  # pixels say where they were
    top, left = crops[:, :2, 0, 0].T
    assert crops.shape == (24_000, 3, 6, 9) and (crops[:, 2] == index[:, None, None]).all()
    assert (crops[:, 0] == (top[:, None] + torch.arange(6))[:, :, None]).all()
    assert (crops[:, 1] == (left[:, None] + torch.arange(9))[:, None]).all()
    place = top * 3 + left  # 4 tops and 3 lefts
    assert uniform(torch.bincount(place, minlength=12))
    assert uniform(torch.bincount(place[:-1:2] * 12 + place[1::2], minlength=144))  # neighbours
    assert torch.equal(crops, drawn(0)) and not torch.equal(crops, drawn(1))


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


# --- real images


@pytest.mark.data
def test_cifar10_is_the_published_data_set(cifar10_root):
    data = prepared.load("cifar10", cifar10_root)
    assert data.train.images.shape == (50_000, 3, 32, 32)
    assert data.test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(data.train.labels).tolist() == [5000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.classes == prepared.classes("cifar10", cifar10_root) == datasets.CLASSES["cifar10"]
    pixels = data.train.images / np.float32(255)
    mean, std = (f((0, 2, 3), dtype=np.float64) for f in (pixels.mean, pixels.std))
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-4)  # as is often cited
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=1e-4)
    split = datasets.hold_out(data, "cat")
    assert len(split.train) == 45_000 and split.is_anomaly.mean() == 0.1
    # in the publisher's order: frog, truck, ...
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
