"""Data sets from files of their publishers' formats, made here: ODIN's sets, STL-10, ImageNet's."""

import hashlib
import io
import tarfile
import warnings

import numpy as np
import pytest
from helpers import cells
from PIL import Image
from torchvision.datasets import STL10

from semlib import datasets
from semlib.datasets import DataError, imagenet, ood
from workbench.images import ilsvrc, prepared
from workbench.results import plots

table1 = cells("table1_imagenet_subsets")
RANDOM = np.random.default_rng(0)


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def tar_bytes(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


# --- ODIN's sets


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Write an archive of LSUN (resize), and take its md5 and count for the publisher's."""

    def write(members):
        content = tar_bytes(members)
        (tmp_path / "LSUN_resize.tar.gz").write_bytes(content)
        count = sum("LSUN_resize/LSUN_resize/" in name and "._" not in name for name in members)
        md5 = hashlib.md5(content).hexdigest()
        source = ood.SOURCES["lsun_resize"]._replace(md5=md5, count=count)
        monkeypatch.setitem(ood.SOURCES, "lsun_resize", source)
        return tmp_path

    return write


def pictures(count, side=32):
    return RANDOM.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_an_archive_of_the_publisher_is_read_in_the_order_of_its_names(archive):
    images = pictures(5)
    inside = "LSUN_resize/LSUN_resize"
    members = {f"{inside}/lsun_{k}.png": encoded(images[k]) for k in (3, 0, 4, 1, 2)}
    others = {"LSUN_resize/readme.txt": b"no image", f"{inside}/._lsun_0.png": b"a Mac's"}
    found = datasets.load_ood("lsun_resize", archive(members | others))
    assert found.dtype == np.uint8 and np.array_equal(found, images.transpose(0, 3, 1, 2))


def test_larger_images_give_their_centre_and_a_whole_folder_serves_as_well(tmp_path, monkeypatch):
    image = pictures(1, 36)[0]
    (tmp_path / "LSUN" / "test").mkdir(parents=True)
    (tmp_path / "LSUN" / "test" / "0.png").write_bytes(encoded(image))
    with pytest.raises(DataError, match=r"lsun_crop should have 10000 images; .* has 1$"):
        datasets.load_ood("lsun_crop", tmp_path)
    monkeypatch.setitem(ood.SOURCES, "lsun_crop", ood.SOURCES["lsun_crop"]._replace(count=1))
    (found,) = datasets.load_ood("lsun_crop", tmp_path)
    assert np.array_equal(found, image[2:34, 2:34].transpose(2, 0, 1))
    (tmp_path / "LSUN" / "test" / "0.png").write_bytes(encoded(image[:, :31]))
    with pytest.raises(DataError, match=r"0\.png has fewer than 32x32 pixels"):
        datasets.load_ood("lsun_crop", tmp_path)


def test_an_archive_that_is_damaged_another_or_hostile_is_refused_or_harmless(archive):
    inside = "LSUN_resize/LSUN_resize/a.png"
    with pytest.raises(DataError, match=r"a\.png can't be read as an image"):
        datasets.load_ood("lsun_resize", archive({inside: encoded(pictures(1)[0])[:60]}))
    hostile = {"../escaped.png": b"x", "/tmp/semlib-escaped.png": b"x"}
    root = archive(hostile | {inside: encoded(pictures(1)[0])})
    whole = (root / "LSUN_resize.tar.gz").read_bytes()
    (root / "LSUN_resize.tar.gz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"LSUN_resize\.tar\.gz has md5 .* damaged"):
        datasets.load_ood("lsun_resize", root)
    (root / "LSUN_resize.tar.gz").write_bytes(whole)
    before = {*root.parent.iterdir(), *root.iterdir()}
    assert len(datasets.load_ood("lsun_resize", root)) == 1  # nothing is unpacked
    assert {*root.parent.iterdir(), *root.iterdir()} == before


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
    crops, again = (datasets.load_ood("tiny_imagenet_crop", tmp_path) for _ in range(2))
    assert np.array_equal(crops, again)
    for crop, image in zip(crops, images.transpose(0, 3, 1, 2), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image, (3, 32, 32))[0]
        assert (windows == crop).all((2, 3, 4)).sum() == 1


@pytest.mark.data
def test_appendix_ds_sets_are_those_whose_numbers_are_in_the_readme(cifar10_root):
    for name, sha256 in (("crop", "13aeb441459deaa2"), ("resize", "6340a53858b3b90c")):
        images = datasets.load_ood(f"tiny_imagenet_{name}", cifar10_root)
        assert images.shape == (10_000, 3, 32, 32) and images.dtype == np.uint8
        assert hashlib.sha256(images.tobytes()).hexdigest().startswith(sha256)


def test_what_is_not_here_is_said_with_the_file_to_put_where(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", offline)
    with pytest.raises(datasets.NotAvailable, match=r"isun .*no network.* put iSUN\.tar\.gz"):
        datasets.load_ood("isun", tmp_path)
    with pytest.raises(DataError, match=r"choose from tiny_imagenet_crop, .*isun"):
        datasets.load_ood("svhn", tmp_path)
    assert not list(tmp_path.iterdir())


# --- STL-10


@pytest.fixture
def stl10(tmp_path, monkeypatch):
    """STL-10's binary files, 50 training and 20 test images; their md5 are the publisher's."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    made = {}
    for part, count in (("train", 50), ("test", 20)):
        images = RANDOM.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        labels = np.arange(count) % 10
        made[part] = images, labels
        (folder / f"{part}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())  # by column
        (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())  # from 1
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / "class_names.txt").write_text("\n".join(datasets.CLASSES["stl10"]))
    folds = np.stack([RANDOM.permutation(50)[:8] for _ in range(10)])
    np.savetxt(folder / "fold_indices.txt", folds, fmt="%d")
    for part in ("train_list", "test_list"):
        names = [name for name, _ in getattr(STL10, part)]
        digests = [hashlib.md5((folder / name).read_bytes()).hexdigest() for name in names]
        monkeypatch.setattr(STL10, part, [[*pair] for pair in zip(names, digests, strict=True)])
    return tmp_path, made, folds


def test_stl10_is_prepared_from_the_publishers_files_with_its_folds(stl10):
    root, made, folds = stl10
    for data in (datasets.load("stl10", root), prepared.load("stl10", root)):
        for part, (images, labels) in zip((data.train, data.test), made.values(), strict=True):
            assert np.array_equal(part.images, images) and np.array_equal(part.labels, labels)
        assert data.classes[0] == "airplane" and data.classes[7] == "monkey"
    fold = prepared.load("stl10", root, fold=3)
    assert np.array_equal(fold.train.images, made["train"][0][folds[3]]) and len(fold.test) == 20
    for name, which in (("stl10", 10), ("digits", 0)):
        with pytest.raises(DataError, match=f"{name} has no fold {which}; only stl10 has"):
            prepared.load(name, root, fold=which)


def test_validation_images_come_from_training_and_no_test_image_is_read(stl10):
    root, made, _ = stl10
    prepared.load("stl10", root)
    with np.load(root / "stl10.npz") as file:
        kept = {name: file[name] for name in file.files if not name.startswith("test")}
    np.savez(root / "stl10.npz", **kept)  # no test image is left
    data, again = (prepared.load("stl10", root, validation=True) for _ in range(2))
    assert np.bincount(data.test.labels).tolist() == [1] * 10
    assert np.bincount(data.train.labels).tolist() == [4] * 10
    assert np.array_equal(data.test.images, again.test.images)
    found = np.concatenate([data.train.images, data.test.images])
    whole = made["train"][0]
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in whole)


# --- the ImageNet subsets

SPIDERS = imagenet.SUBSETS["imagenet_spider"]
pytestmark = pytest.mark.filterwarnings("ignore:imagenet_spider has")


def photograph(k, size=(20, 30)):
    return encoded(np.full((*size, 3), 8 * k, np.uint8), "JPEG")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An ILSVRC2012 folder of the spiders: two training and one validation image a class, grey."""
    for k, wnid in enumerate(SPIDERS):
        for part, count in (("train", 2), ("val", 1)):
            (tmp_path / part / wnid).mkdir(parents=True)
            for j in range(count):
                (tmp_path / part / wnid / f"{j}.JPEG").write_bytes(photograph(4 * k + j))
    monkeypatch.setenv("SEMLIB_ILSVRC", str(tmp_path))
    return tmp_path


def spiders(data_root):
    return prepared.load("imagenet_spider", data_root, side=16)


def greys(part):
    assert (np.ptp(part.images.reshape(len(part), -1), axis=1) <= 2).all()
    return np.rint(part.images.mean((1, 2, 3)) / 8).astype(int).tolist()


def test_a_subset_is_read_from_its_folders_in_the_papers_order_and_says_how_few(root, tmp_path):
    fewer = "imagenet_spider has 12 of 7800 training and 6 of 300 test images"
    with pytest.warns(UserWarning, match=fewer):
        data = spiders(tmp_path / "data")
    assert data.train.images.shape == (12, 3, 16, 16) and data.classes == tuple(SPIDERS.values())
    assert greys(data.train) == [0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21]
    assert greys(data.test) == [0, 4, 8, 12, 16, 20]
    assert data.train.labels.tolist() == np.repeat(np.arange(6), 2).tolist()
    assert imagenet.COUNTS["imagenet_spider"] == (7800, 300)  # as many as Table 1: no warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ilsvrc.warn_if_fewer(datasets.Dataset("imagenet_spider", range(7800), range(300), ()))


def test_a_missing_class_is_named_and_a_missing_folder_says_what_to_do(root, tmp_path, monkeypatch):
    (root / "val" / "n01774384" / "0.JPEG").unlink()
    with pytest.raises(DataError, match=r"of black widow \(val/n01774384\); .*notebooks.md says"):
        spiders(tmp_path / "data")
    monkeypatch.delenv("SEMLIB_ILSVRC")
    with pytest.raises(DataError, match=r"name it in \$SEMLIB_ILSVRC"):
        spiders(tmp_path / "data")


def test_table_1_counts_what_is_here_and_shows_samples_of_it(root, tmp_path, monkeypatch):
    wnid, name = next(iter(SPIDERS.items()))
    (root / "val" / wnid / "0.JPEG").unlink()
    counts = {subset: table1.counted(subset) for subset in imagenet.SUBSETS}
    assert counts["imagenet_spider"].loc[name].tolist() == [2, 0]
    assert counts["imagenet_dog"].to_numpy().sum() == 0
    sizes = table1.table_1(counts)
    assert sizes.loc["spider"].tolist() == [6, 6, 12, 7800, 5, 300]
    assert sizes.loc["dog"].tolist() == [0, 12, 0, 14864, 0, 600]
    members = table1.table_7(counts)
    assert members["spider"][0] == f"{name} (2 + 0)" and members["dog"][0] == "Ibizan hound"
    shown = table1.samples_of("imagenet_spider", 1)
    assert list(shown) == list(SPIDERS.values())
    assert {images.shape for images in shown.values()} == {(1, 3, 256, 256)}
    cars = table1.samples_of("imagenet_car", 1)
    assert len(cars["cab"]) == 0
    none = {"none": np.empty((0, 3, 8, 8), np.uint8)}
    assert len(plots.samples(shown | none, "spiders").axes) == 7
    (text,) = plots.samples(cars, "cars").axes[0].texts
    assert "no images of it here" in text.get_text()
    monkeypatch.setenv("SEMLIB_ILSVRC", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere is no folder"):
        table1.counted("imagenet_spider")


def test_table_1_counts_a_prepared_file_where_there_is_no_folder(root, tmp_path, monkeypatch):
    prepared.load("imagenet_spider", tmp_path / "data")
    before = table1.samples_of("imagenet_spider", 1)
    monkeypatch.delenv("SEMLIB_ILSVRC")
    counts = table1.counted("imagenet_spider", data_root=tmp_path / "data")
    assert counts.to_numpy().tolist() == [[2, 1]] * 6
    after = table1.samples_of("imagenet_spider", 1, data_root=tmp_path / "data")
    assert all((before[name] == after[name]).all() for name in before)
