"""Data sets read from files of their publishers' formats, made here: STL-10, the ImageNet subsets,
ODIN's OOD sets.
"""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import warnings

import numpy as np
import pytest
from helpers import environment
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import STL10

from semlib import datasets
from semlib.datasets import DataError, imagenet, ood
from workbench.images import prepared
from workbench.results import imagenet_subsets, plots

RANDOM = np.random.default_rng(0)


def encoded(pixels, kind="PNG", mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


def tar_bytes(members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# --- ODIN's sets


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Write an archive of the LSUN (resize) set with these members, and take its md5 for the
    publisher's.
    """

    def write(members):
        content = tar_bytes(members, "w:gz")
        (tmp_path / "LSUN_resize.tar.gz").write_bytes(content)
        count = sum(
            name.startswith("LSUN_resize/LSUN_resize/") and "._" not in name for name in members
        )
        source = ood.SOURCES["lsun_resize"]._replace(
            md5=hashlib.md5(content).hexdigest(), count=count
        )
        monkeypatch.setitem(ood.SOURCES, "lsun_resize", source)
        return tmp_path

    return write


def pictures(count, side=32):
    return RANDOM.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_an_archive_of_the_publisher_is_read_in_the_order_of_its_names(archive):
    images = pictures(5)
    names = [f"LSUN_resize/LSUN_resize/lsun_{k}.png" for k in (3, 0, 4, 1, 2)]
    members = {name: encoded(image) for name, image in zip(names, images, strict=True)}
    root = archive(
        members
        | {
            "LSUN_resize/readme.txt": b"not an image",
            "LSUN_resize/LSUN_resize/._lsun_0.png": b"a Mac's",
        }
    )
    found = datasets.load_ood("lsun_resize", root)
    assert found.dtype == np.uint8 and np.array_equal(
        found, images[[1, 3, 4, 0, 2]].transpose(0, 3, 1, 2)
    )
    (root / "LSUN_resize.tar.gz").unlink()
    assert np.array_equal(datasets.load_ood("lsun_resize", root), found)  # prepared once


def test_larger_images_give_their_centre_and_a_whole_folder_serves_as_well(tmp_path, monkeypatch):
    image = pictures(1, 36)[0]
    (tmp_path / "LSUN" / "test").mkdir(parents=True)
    (tmp_path / "LSUN" / "test" / "0.png").write_bytes(encoded(image))
    with pytest.raises(DataError, match="lsun_crop should have 10000 images; 1 were found"):
        datasets.load_ood("lsun_crop", tmp_path)
    monkeypatch.setitem(ood.SOURCES, "lsun_crop", ood.SOURCES["lsun_crop"]._replace(count=1))
    assert np.array_equal(
        datasets.load_ood("lsun_crop", tmp_path)[0], image[2:34, 2:34].transpose(2, 0, 1)
    )


def test_an_archive_that_is_damaged_another_or_hostile_is_refused_or_harmless(archive, tmp_path):
    with pytest.raises(DataError, match=r"lsun_1\.png can't be read as an image"):
        datasets.load_ood(
            "lsun_resize",
            archive({"LSUN_resize/LSUN_resize/lsun_1.png": encoded(pictures(1)[0])[:60]}),
        )
    inside = "LSUN_resize/LSUN_resize/a.png"
    root = archive(
        {"../escaped.png": b"x", "/tmp/semlib-escaped.png": b"x", inside: encoded(pictures(1)[0])}
    )
    whole = (root / "LSUN_resize.tar.gz").read_bytes()
    (root / "LSUN_resize.tar.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"LSUN_resize\.tar\.gz has md5 .* damaged"):
        datasets.load_ood("lsun_resize", root)
    (root / "LSUN_resize.tar.gz").write_bytes(whole)
    before = {*root.parent.iterdir(), *root.parent.parent.iterdir()}
    assert len(datasets.load_ood("lsun_resize", root)) == 1  # nothing is unpacked
    assert {*root.parent.iterdir(), *root.parent.parent.iterdir()} == before


def test_tiny_imagenets_test_images_make_crop_and_resize(tmp_path, monkeypatch):
    for name in ("tiny_imagenet_crop", "tiny_imagenet_resize"):
        monkeypatch.setitem(ood.SOURCES, name, ood.SOURCES[name]._replace(count=3))
    folder = tmp_path / "tiny-imagenet-200" / "test" / "images"
    folder.mkdir(parents=True)
    images = pictures(3, 64)
    for k, image in enumerate(images):
        (folder / f"test_{k}.JPEG").write_bytes(encoded(image))
    resized = datasets.load_ood("tiny_imagenet_resize", tmp_path)
    assert np.array_equal(resized, images[:, ::2, ::2].transpose(0, 3, 1, 2))
    crops = datasets.load_ood("tiny_imagenet_crop", tmp_path)
    (tmp_path / "ood-tiny_imagenet_crop.npz").unlink()
    assert np.array_equal(
        datasets.load_ood("tiny_imagenet_crop", tmp_path), crops
    )  # the same each time
    for crop, image in zip(crops, images.transpose(0, 3, 1, 2), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image, (3, 32, 32))[0]
        assert (windows == crop).all((2, 3, 4)).sum() == 1


def test_what_is_not_here_is_said_with_the_file_to_put_where(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", offline)
    with pytest.raises(DataError, match=r"isun isn't here .*no network.* put iSUN\.tar\.gz"):
        datasets.load_ood("isun", tmp_path)
    with pytest.raises(DataError, match=r"choose from tiny_imagenet_crop, .*isun"):
        datasets.load_ood("svhn", tmp_path)
    assert not list(tmp_path.iterdir())


# --- STL-10


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    """STL-10's binary files with 50 training and 20 test images, their md5 taken for the
    publisher's.
    """
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    made = {}
    for part, count in (("train", 50), ("test", 20)):
        made[part] = (
            RANDOM.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8),
            np.arange(count) % 10,
        )
        (folder / f"{part}_X.bin").write_bytes(
            made[part][0].transpose(0, 1, 3, 2).tobytes()
        )  # column-major
        (folder / f"{part}_y.bin").write_bytes(
            (made[part][1] + 1).astype(np.uint8).tobytes()
        )  # from 1
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("\n".join(prepared.classes("stl10", tmp_path)))
    folds = np.stack([RANDOM.permutation(50)[:8] for _ in range(10)])
    (folder / "fold_indices.txt").write_text("\n".join(" ".join(map(str, fold)) for fold in folds))
    for name in ("train_list", "test_list"):
        files = [
            (file, hashlib.md5((folder / file).read_bytes()).hexdigest())
            for file, _ in getattr(STL10, name)
        ]
        monkeypatch.setattr(STL10, name, [list(file) for file in files])
    return tmp_path, made, folds


def test_stl10_is_prepared_from_the_publishers_files_with_its_folds(stl10):
    root, made, folds = stl10
    data = prepared.load("stl10", root)
    for part, (images, labels) in zip((data.train, data.test), made.values(), strict=True):
        assert np.array_equal(part.images, images) and np.array_equal(part.labels, labels)
    assert data.classes[0] == "airplane" and data.classes[7] == "monkey"
    fold = prepared.load("stl10", root, fold=3)
    assert np.array_equal(fold.train.images, made["train"][0][folds[3]]) and len(fold.test) == 20
    with pytest.raises(DataError, match="no fold 10"):
        prepared.load("stl10", root, fold=10)


def test_validation_images_come_from_training_and_no_test_image_is_read(stl10, monkeypatch):
    root, made, _ = stl10
    prepared.load("stl10", root)
    with np.load(root / "stl10.npz") as file:
        kept = {name: file[name] for name in file.files if not name.startswith("test")}
    np.savez(root / "stl10.npz", **kept)  # no test image is left
    data, again = (prepared.load("stl10", root, validation=True) for _ in range(2))
    assert (
        np.bincount(data.test.labels).tolist() == [1] * 10
        and np.bincount(data.train.labels).tolist() == [4] * 10
    )
    assert np.array_equal(data.test.images, again.test.images)
    found = np.concatenate([data.train.images, data.test.images])
    assert sorted(image.tobytes() for image in found) == sorted(
        image.tobytes() for image in made["train"][0]
    )


# --- the ImageNet subsets

SPIDERS = imagenet.SUBSETS["imagenet_spider"]


def photograph(k, size=(20, 30), kind="JPEG", mode=None):
    return encoded(np.full((*size, 3), 8 * k, np.uint8), kind, mode)


@pytest.fixture
def ilsvrc(tmp_path, monkeypatch):
    """An ILSVRC2012 folder of the spiders: two training and one validation photograph a class, each
    of one grey.
    """
    for k, wnid in enumerate(SPIDERS):
        for part, count in (("train", 2), ("val", 1)):
            (tmp_path / part / wnid).mkdir(parents=True)
            for j in range(count):
                (tmp_path / part / wnid / f"{j}.JPEG").write_bytes(photograph(4 * k + j))
    monkeypatch.setenv("SEMLIB_ILSVRC", str(tmp_path))
    return tmp_path


def greys(part):
    assert (np.ptp(part.images.reshape(len(part), -1), axis=1) <= 2).all()
    return np.rint(part.images.mean((1, 2, 3)) / 8).astype(int).tolist()


def test_a_subset_is_read_from_its_folders_in_the_papers_order_and_says_how_few(ilsvrc, tmp_path):
    with pytest.warns(
        UserWarning, match="imagenet_spider has 12 of 7800 training and 6 of 300 test images"
    ):
        data = prepared.load("imagenet_spider", tmp_path / "data", side=16)
    assert data.train.images.shape == (12, 3, 16, 16) and data.classes == tuple(SPIDERS.values())
    assert greys(data.train) == [4 * k + j for k in range(6) for j in range(2)] and greys(
        data.test
    ) == [4 * k for k in range(6)]
    assert data.train.labels.tolist() == np.repeat(np.arange(6), 2).tolist()
    assert imagenet.COUNTS["imagenet_spider"] == (7800, 300)  # as many as Table 1: no warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        imagenet.warn_if_fewer(datasets.Dataset("imagenet_spider", range(7800), range(300), ()))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_photographs_are_converted_and_a_corrupt_one_is_named(ilsvrc, tmp_path, mode):
    file = ilsvrc / "train" / next(iter(SPIDERS)) / "0.JPEG"
    file.write_bytes(photograph(20, mode=mode))
    with pytest.warns(UserWarning):
        assert greys(prepared.load("imagenet_spider", tmp_path / "data", side=16).train)[0] == 20
    file.write_bytes(photograph(20)[:200])
    with pytest.raises(DataError, match=r"0\.JPEG can't be read as an image"):
        prepared.load("imagenet_spider", tmp_path / "other", side=16)
    assert not list((tmp_path / "other").glob("*.npz"))


def test_a_missing_class_is_named_and_a_missing_folder_says_what_to_do(
    ilsvrc, tmp_path, monkeypatch
):
    for file in (ilsvrc / "val" / "n01774384").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"no images of black widow \(val/n01774384\)$"):
        prepared.load("imagenet_spider", tmp_path / "data", side=16)
    (ilsvrc / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(
        photograph(1)
    )  # unpacked and not sorted
    with pytest.raises(
        DataError,
        match=r"black widow .*; those in val/ itself are of no known class, sort them into val/<syn",
    ):
        prepared.load("imagenet_spider", tmp_path / "data", side=16)
    monkeypatch.delenv("SEMLIB_ILSVRC")
    with pytest.raises(DataError, match=r"name it in \$SEMLIB_ILSVRC"):
        prepared.load("imagenet_spider", tmp_path / "data", side=16)


def test_the_original_tar_files_give_the_same_as_the_folders(ilsvrc, tmp_path, monkeypatch):
    with pytest.warns(UserWarning):
        folders = prepared.load("imagenet_spider", tmp_path / "data", side=16)
    tars = tmp_path / "tars"
    tars.mkdir()
    train, val, truth = {"n00000001.tar": tar_bytes({"x.JPEG": photograph(1)})}, {}, []
    for k, wnid in enumerate(SPIDERS):
        images = {
            f"{wnid}_{path.name}": path.read_bytes()
            for path in sorted((ilsvrc / "train" / wnid).iterdir())
        }
        train[f"{wnid}.tar"] = tar_bytes(images)
        val[f"ILSVRC2012_val_{len(val) + 1:08}.JPEG"] = photograph(1)  # another class's between two
        val[f"ILSVRC2012_val_{len(val) + 1:08}.JPEG"] = (
            ilsvrc / "val" / wnid / "0.JPEG"
        ).read_bytes()
        truth += [7, k + 1]
    rows = [(k + 1, wnid) for k, wnid in enumerate([*SPIDERS, "n00000001"])]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])})
    kit = {
        "meta.mat": meta.getvalue(),
        "ILSVRC2012_validation_ground_truth.txt": "\n".join(map(str, truth)).encode(),
    }
    (tars / imagenet.TRAIN_TAR).write_bytes(tar_bytes(train))
    (tars / imagenet.VAL_TAR).write_bytes(tar_bytes(val))
    (tars / imagenet.DEVKIT).write_bytes(
        tar_bytes({f"kit/data/{name}": content for name, content in kit.items()}, "w:gz")
    )
    monkeypatch.setenv("SEMLIB_ILSVRC", str(tars))
    with pytest.warns(UserWarning):
        data = prepared.load("imagenet_spider", tmp_path / "other", side=16)
    assert data.digests == folders.digests
    (tars / imagenet.VAL_TAR).write_bytes(tar_bytes(dict(list(val.items())[2:])))
    with pytest.raises(
        DataError, match=r"ILSVRC2012_img_val\.tar lacks 1 images, ILSVRC2012_val_00000002\.JPEG"
    ):
        prepared.load("imagenet_spider", tmp_path / "third", side=16)
    (tars / imagenet.TRAIN_TAR).write_bytes(tar_bytes(train)[:5000])
    with pytest.raises(DataError, match=r"ILSVRC2012_img_train\.tar can't be read|no images of"):
        prepared.load("imagenet_spider", tmp_path / "third", side=16)


class Twice(dict):
    """Members of which the first is there once before, as another image."""

    def items(self):
        return [(next(iter(self)), photograph(31)), *super().items()]


def train_tar(ilsvrc, place, order=1, prefix="", also=(), kind=dict):
    """The training images as the tar of tars in another order, with a prefix to each name, beside
    the folder val/.
    """
    inner = {}
    for wnid in SPIDERS:
        files = sorted((ilsvrc / "train" / wnid).iterdir())[::order]
        images = {f"{prefix}{path.name}": path.read_bytes() for path in files}
        inner[f"{prefix}{wnid}.tar"] = tar_bytes(kind(dict(also) | images))
    place.mkdir()
    (place / "val").symlink_to(ilsvrc / "val")
    (place / imagenet.TRAIN_TAR).write_bytes(tar_bytes(dict(list(inner.items())[::order])))
    return place


@pytest.mark.filterwarnings("ignore:imagenet_spider has")
def test_one_set_of_images_has_one_digest_whatever_the_container(ilsvrc, tmp_path):
    before = prepared.load("imagenet_spider", tmp_path / "data", side=16).digests
    left = {"._0.JPEG": b"a Mac's", "Thumbs.db": b"Windows's"}
    containers = [
        train_tar(ilsvrc, tmp_path / "turned", order=-1),
        train_tar(ilsvrc, tmp_path / "dotted", prefix="./"),
        train_tar(ilsvrc, tmp_path / "mac", also=left),
        train_tar(ilsvrc, tmp_path / "twice", kind=Twice),  # the later is unpacked over the first
    ]
    for name, content in left.items():
        for wnid in SPIDERS:
            (ilsvrc / "train" / wnid / name).write_bytes(content)
            (ilsvrc / "val" / wnid / name).write_bytes(content)
    for k, place in enumerate([*containers, ilsvrc]):
        assert (
            prepared.load("imagenet_spider", tmp_path / f"data{k}", 16, ilsvrc=str(place)).digests
            == before
        ), place
    (ilsvrc / "train" / wnid / "2.JPEG").symlink_to("gone")
    with pytest.raises(
        DataError, match=r"holds 1 entry besides files and folders, the first is 2\.JPEG"
    ):
        prepared.load("imagenet_spider", tmp_path / "last", side=16)


def test_table_1_counts_what_is_here_and_shows_samples_of_it(ilsvrc, tmp_path, monkeypatch):
    wnid, name = next(iter(SPIDERS.items()))
    (ilsvrc / "val" / wnid / "0.JPEG").unlink()
    counts = {s: imagenet_subsets.counted(s) for s in imagenet.SUBSETS}
    assert (
        counts["imagenet_spider"].loc[name].tolist() == [2, 0]
        and counts["imagenet_dog"].to_numpy().sum() == 0
    )
    sizes = imagenet_subsets.sizes(counts)
    assert sizes.loc["spider"].tolist() == [6, 6, 12, 7800, 5, 300] and sizes.loc[
        "dog"
    ].tolist() == [0, 12, 0, 14864, 0, 600]
    assert (
        imagenet_subsets.members(counts)["spider"][0] == f"{name} (2 + 0)"
        and imagenet_subsets.members(counts)["dog"][0] == "Ibizan hound"
    )
    shown = imagenet_subsets.samples("imagenet_spider", 1)
    assert list(shown) == list(SPIDERS.values()) and {
        images.shape for images in shown.values()
    } == {(1, 3, 256, 256)}
    assert len(imagenet_subsets.samples("imagenet_car", 1)["cab"]) == 0
    assert (
        len(plots.samples(shown | {"none": np.empty((0, 3, 8, 8), np.uint8)}, "spiders").axes) == 7
    )
    assert (
        "no images of it here"
        in plots.samples(imagenet_subsets.samples("imagenet_car", 1), "cars")
        .axes[0]
        .texts[0]
        .get_text()
    )
    monkeypatch.setenv("SEMLIB_ILSVRC", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere is no folder"):
        imagenet_subsets.counted("imagenet_spider")


def test_table_1_counts_a_prepared_file_where_there_is_no_folder(ilsvrc, tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="12 of 7800"):
        prepared.load("imagenet_spider", tmp_path / "data")
    before = imagenet_subsets.samples("imagenet_spider", 1)
    monkeypatch.delenv("SEMLIB_ILSVRC")
    assert (
        imagenet_subsets.counted("imagenet_spider", data_root=tmp_path / "data").to_numpy().tolist()
        == [[2, 1]] * 6
    )
    after = imagenet_subsets.samples("imagenet_spider", 1, data_root=tmp_path / "data")
    assert all((before[name] == after[name]).all() for name in before)


PREPARE = """
import resource, sys
from semlib import datasets
from workbench.results import plots, imagenet_subsets
prepared.load("imagenet_dog", sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)
"""


@pytest.mark.slow
def test_preparing_the_hounds_stays_under_4_gigabytes(tmp_path):
    """As many files as Table 1 says, hard links to one photograph a class."""
    for part, wnid in (
        (part, wnid) for part in ("train", "val") for wnid in imagenet.SUBSETS["imagenet_dog"]
    ):
        (tmp_path / part / wnid).mkdir(parents=True)
        first = tmp_path / part / wnid / "0.JPEG"
        first.write_bytes(photograph(9, (375, 500)))
        fewer = {"n02092339": 1300, "n02091635": 738, "n02088632": 1136, "n02090379": 1290}
        for k in range(1, fewer.get(wnid, 1300) if part == "train" else 50):
            os.link(first, first.with_name(f"{k}.JPEG"))
    command = [
        sys.executable,
        "-W",
        "error::UserWarning",
        "-c",
        PREPARE,
        tmp_path / "data",
    ]  # all are there: no warning
    done = subprocess.run(
        command, env=environment(SEMLIB_ILSVRC=tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 4
