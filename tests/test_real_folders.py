"""What people's images, names and files really look like, mostly through the command line."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import helpers
import numpy as np
import pytest
from helpers import change_data, contents, made_up, tiny, tiny_data, tiny_words
from helpers import picture_folder as ants
from PIL import Image, ImageCms

from semlib.datasets import Dataset, ImageSet
from workbench import runs
from workbench.cli import main
from workbench.experiment import ConfigError, create
from workbench.files import file_name
from workbench.images import folder, prepared
from workbench.results import names, plots, show, tables
from workbench.runs import plan, store

HOLDOUT = "notebooks/holdout.ipynb"
VERBS = [["run", HOLDOUT], ["grid", "params/demo/benchmark.yaml"]]


@pytest.fixture
def say(tmp_path, monkeypatch, capsys):
    """The command line in this process, data in tmp_path/data: (status, stdout, stderr)."""
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path / "data"))

    def run(*words):
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


def refused(said, *parts):
    status, _, error = said
    line = error.splitlines()[-1]
    assert status == 2 and "error: " in line and "Traceback" not in error, error
    assert all(str(part) in line for part in parts), line


def prepare(say, where, *words):
    return say("data", "prepare", where, "--side", 16, *words)


def check_tiny(say):
    return say("data", "check", "tiny")


# --- what a folder holds


def test_every_image_below_a_class_is_read_whatever_its_depth_and_leftovers_are_not(tmp_path, say):
    root = ants(tmp_path / "own")
    (tmp_path / "elsewhere").mkdir()
    for deep in ("train/ant/2019", "train/ant/2019/may", "test/cat/b", "../elsewhere"):
        (root / deep).mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (200, 0, 0)).save(root / deep / "x.png")
    (root / "train" / "bee" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "bee" / "z.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    for left in ("train/__MACOSX", "train/ant/@eaDir", "test/.git"):
        (root / left).mkdir()
        (root / left / "0.png").write_text("no image")
    for left in ("train/ant/._0.png", "train/ant/Thumbs.db", "train/Desktop.ini", "test/.DS_Store"):
        (root / left).write_text("no image")
    status, out, _ = prepare(say, root)
    assert status == 0 and "10 training and 7 test images" in out
    data = prepared.load(str(root), side=16)
    assert np.bincount(data.train.labels).tolist() == [4, 4, 2]
    assert data.train.images[[2, 3], :, 0, 0].tolist() == [[200, 0, 0]] * 2


STRANGE = {  # where, and to what it is a link (None: a pipe, "": a file)
    "a link to nothing": ("train/ant/b.png", "gone"),
    "a link to nothing below": ("test/bee/c/b.png", "gone"),
    "a class that is a link to nothing": ("train/b.png", "gone"),
    "a pipe": ("train/cat/b.png", None),
    "a link to itself": ("train/cat/b.png", "b.png"),
    "a link to a folder above": ("train/cat/b.png", "../cat"),
    "a file beside the classes": ("test/b.png", ""),
}


@pytest.mark.parametrize(("where", "to"), STRANGE.values(), ids=STRANGE)
def test_what_is_neither_image_nor_folder_is_named(tmp_path, say, where, to):
    path = ants(tmp_path / "own") / where
    path.parent.mkdir(exist_ok=True)
    if to is None:
        os.mkfifo(path)
    elif to:
        path.symlink_to(to)
    else:
        path.write_text("")
    refused(prepare(say, tmp_path / "own"), path, "is n")
    assert not [*tmp_path.glob("data/*")]


def test_a_missing_part_no_class_and_a_barred_folder_are_named(tmp_path, say, monkeypatch):
    root = ants(tmp_path / "own")
    (root / "test").rename(root / "val")
    refused(prepare(say, root), "has no test/, only train, val; lay images out as train/<class>")
    (root / "test").mkdir()
    refused(prepare(say, root), "no class folders in test/", "test/<class>/*")

    def barred(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", barred)  # root reads any folder
    refused(prepare(say, root), root / "train", "Permission denied")


def test_of_many_damaged_files_ten_are_named_and_the_rest_counted(tmp_path, say):
    root = ants(tmp_path / "own", count=8)
    for path in sorted(root.glob("t*/*/[0-5].png"))[:14]:
        path.write_text("no image")
    status, _, error = prepare(say, root)
    assert status == 2 and error.count("\n") == 1 and not [*tmp_path.glob("data/*.npz")]
    assert "14 of 48 images" in error and "and 4 more" in error
    assert error.count("can't be read as an image") == 10
    (listed,) = tmp_path.glob("data/*.unreadable.txt")
    assert f"all are in {listed}; data prepare --skip-unreadable" in error
    assert listed.read_text().count("can't be read as an image") == 14
    with pytest.warns(UserWarning, match="left out 14 of 48 images"):
        status, out, _ = prepare(say, root, "--skip-unreadable")
    assert status == 0 and "24 training and 10 test images" in out
    assert prepare(say, root)[1] == out  # later commands take what was prepared
    Image.new("RGB", (9, 9)).save(root / "test" / "ant" / "0.png")
    refused(prepare(say, root), "13 of 48 images")


# --- names

COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
NOT_UTF8 = os.fsdecode(b"caf\xe9")
FOLDERS = ["all", "none", "Average", " ant", "ant ", "a\nb", "a\x1bb", "a\u200bb", NOT_UTF8]


@pytest.mark.parametrize("name", [*FOLDERS, "a/b", "", ".", ".."], ids=ascii)
def test_a_class_whose_name_would_not_mean_itself_is_refused(tmp_path, say, name):
    if name in FOLDERS:
        said = prepare(say, ants(tmp_path / "own", ("ant", "bee", name)))
        refused(said, "can't be a class's name", "rename it")
    if name != NOT_UTF8:
        spoil(tmp_path, classes=np.array(["zero", "one", "two", name]))
        refused(check_tiny(say), "can't be a class's name", "tiny.npz")
        refused(say("run", HOLDOUT, *tiny_words(tmp_path)), "can't be a class's name")


@pytest.mark.parametrize("wrong", [[b"a", b"b", b"c", b"d"], np.arange(4.0), [*"abca"]])
def test_bytes_numbers_and_names_twice_are_no_names(tmp_path, say, wrong):
    spoil(tmp_path, classes=np.array(wrong))
    refused(check_tiny(say), "classes should be names, each once, as text")


def test_names_are_composed_and_found_in_either_form(tmp_path, say):
    spoil(tmp_path, classes=np.array(["zero", "one", "two", APART]))
    assert prepared.load("tiny").classes[-1] == prepared.classes("tiny")[-1] == COMPOSED
    root = ants(tmp_path / "own", ("ant", "bee", APART))
    (root / "test" / APART).rename(root / "test" / COMPOSED)
    assert prepare(say, root)[0] == 0
    assert prepared.classes(str(root)) == ("ant", "bee", COMPOSED)
    assert prepared.load(str(root), side=16).classes == ("ant", "bee", COMPOSED)
    assert create({"hold_out": APART}).hold_out == (COMPOSED,)
    (root / "test" / APART).mkdir()
    refused(prepare(say, root), "two folders called café")


def test_files_and_data_sets_whose_names_are_not_utf8(tmp_path, say):
    root = ants(tmp_path / "own")
    odd = root / "train" / "ant" / os.fsdecode(b"\xe9.png")
    (root / "train" / "ant" / "0.png").rename(odd)
    assert prepare(say, root)[0] == 0
    odd.write_text("no image")
    refused(prepare(say, root), "\\udce9.png", "can't be read as an image")
    odd.unlink()
    root.rename(tmp_path / os.fsdecode(b"\xe9"))
    refused(prepare(say, tmp_path / os.fsdecode(b"\xe9")), "can't be a data set's name")


ODD = ["cifar10", "msp", "accuracy", "cpc"]
ODD += ["Tomato:healthy", "Potato:healthy", "a$b$c", "_x", "<b>"]


def test_every_name_means_itself_in_tables_files_and_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path / "data"))
    images = np.random.default_rng(0).integers(0, 256, (88, 1, 8, 8), dtype=np.uint8)
    part = ImageSet(images, np.arange(88) % len(ODD))
    prepared.write(tmp_path / "data" / "own.npz", Dataset("own", part, part, tuple(ODD)))
    experiment = made_up(tmp_path / "outputs", 96, dataset="own", data_root=None, trials=2)
    records = store.finished(experiment)
    assert len(records) == len(ODD) * 4
    table = tables.by_class(experiment, records)
    text = show.formatted(table)
    shown = [*ODD, "Average"]
    assert list(text.index) == shown
    lines = show.formatted(table).to_string(line_width=200).splitlines()[-len(shown) :]
    assert [line.split("  ")[0] for line in lines] == shown
    rotation = [record for record in records if record.method == "rotation"]
    for name in ODD:
        mean = np.mean([100 * r.metrics["msp"] for r in rotation if r.hold_out == name])
        assert text.loc[name, ("Rotation-augmented", "MSP")].startswith(f"{mean:.2f}")
    tables.save(table, tmp_path / "table.csv")
    rows = [line.split(",")[0] for line in (tmp_path / "table.csv").read_text().splitlines()]
    assert rows == ["hold_out", *ODD, "average"]
    assert names.without_average(table).index.tolist() == ODD
    figure = plots.precision_recall(experiment, records)
    assert [axis.get_title() for axis in figure.axes] == ODD
    assert not any(axis.title.get_parse_math() for axis in figure.axes)
    figure.savefig(tmp_path / "figure.png", dpi=20)


def test_distinct_things_have_distinct_files_and_short_names():
    def named(notebook="holdout", **changes):
        return create({"profile": "x", "dataset": "own"} | changes).output(notebook, ".ipynb").name

    several = [("a b",), ("a_b",), ("+",), ("-",), ("a", "b"), ("a-b",), ("b", "a"), ("é" * 120,)]
    several += [tuple(f"a class of a rather long name {k}" for k in range(n)) for n in (15, 16)]
    datasets = ["a", "b", "own-a", "holdout", "out", "a b", "x" * 250, "x" * 249]
    found = [named(hold_out=classes) for classes in several]
    found += [named(dataset=f"/x/{name}") for name in datasets]
    found += [named("benchmark", dataset=f"/x/{name}") for name in ("bench", "mark", "benchmark")]
    assert len({name.lower() for name in found}) == len(found)
    assert max(len(name.encode()) for name in found) < 150
    assert named() == "holdout-own.ipynb" and named(hold_out="cat") == "holdout-own-cat.ipynb"
    assert named("table3_cifar10", dataset="cifar10") == "table3_cifar10.ipynb"
    assert file_name("a", "b") != file_name("a-b")
    assert file_name("few_labels", "20_a_class") == "few_labels-20_a_class"


@pytest.mark.parametrize("dataset", ["..", "../", ".", "/", "/tmp/.."])
def test_records_stay_in_runs_whatever_the_data_sets_path(tmp_path, dataset):
    try:
        experiment = create({"dataset": dataset, "outputs": str(tmp_path)})
    except ConfigError as error:
        assert "has no name" in str(error) and dataset[0] == "/"
        return
    place = plan.Run(experiment, "cat", "rotation", 0).home.relative_to(tmp_path / "paper" / "runs")
    assert place.parts[1:3] == ("cat", "rotation") and ".." not in place.parts


# --- pixels


def spoil(tmp_path, **arrays):
    """Write the tiny data set with other arrays."""
    tiny_data(tmp_path / "data")
    change_data(tmp_path, **{name: lambda _, new=new: new for name, new in arrays.items()})


def disc(mode):
    """A dark disc that is drawn in alpha alone: its colour is black everywhere."""
    y, x = np.mgrid[:16, :16] - 7.5
    alpha = Image.fromarray(np.where(x**2 + y**2 < 25, 255, 0).astype(np.uint8))
    image = Image.merge("LA", [Image.new("L", (16, 16)), alpha])
    if mode != "P":
        return image.convert(mode)
    indices = Image.fromarray((np.asarray(alpha) // 255).astype(np.uint8)).convert("P")
    indices.putpalette([0, 0, 0, 0, 0, 0])
    indices.info["transparency"] = 0
    return indices


@pytest.mark.parametrize("file", ["RGBA.png", "LA.png", "P.png", "P.gif", "RGBA.webp", "RGBA.tiff"])
def test_what_is_transparent_is_white(tmp_path, file):
    mode, kind = file.split(".")
    how = {"lossless": True} if kind == "webp" else {}
    disc(mode).save(tmp_path / f"x.{kind}", **how)
    image = folder.decode(tmp_path / f"x.{kind}", 16)
    assert image[:, 0, 0].tolist() == [255] * 3 and image[:, 8, 8].tolist() == [0] * 3
    Image.new("RGBA", (16, 16), (255, 0, 0, 128)).save(tmp_path / "half.png")
    assert folder.decode(tmp_path / "half.png", 8)[:, 0, 0].tolist() == [255, 127, 127]


def test_images_laid_on_white_are_counted_once(tmp_path):
    root = ants(tmp_path / "own")
    for name in ("ant", "bee"):
        disc("RGBA").save(root / "train" / name / "0.png")
    Image.new("RGBA", (16, 16), "red").save(root / "train" / "bee" / "1.png")  # opaque
    said = "own: 2 of 12 images have transparent parts, now white; .*ant/0.png is one"
    with pytest.warns(UserWarning, match=said) as seen:
        prepared.load(str(root), tmp_path / "data", side=16)
    assert len(seen) == 1


def exchanged(name="mine"):
    """sRGB's colour profile with red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))
    for old, new in ((b"rXYZ", b"----"), (b"gXYZ", b"rXYZ"), (b"----", b"gXYZ")):
        profile = profile.replace(old, new)
    return profile


PROFILES = {  # mode and colour of the picture, its profile, the colour that it shows
    "another": ("RGB", (200, 40, 30), exchanged(), (40, 200, 30)),
    "another, with alpha": ("RGBA", (200, 40, 30, 255), exchanged(), (40, 200, 30)),
    "sRGB": ("RGB", (200, 40, 30), exchanged("sRGB"), (200, 40, 30)),
    "of other channels": ("L", 90, exchanged(), (90, 90, 90)),
    "damaged": ("RGB", (200, 40, 30), exchanged()[:300], (200, 40, 30)),
}


@pytest.mark.parametrize(("mode", "colour", "profile", "shown"), PROFILES.values(), ids=PROFILES)
def test_a_colour_profile_is_applied(tmp_path, mode, colour, profile, shown):
    Image.new(mode, (16, 16), colour).save(tmp_path / "x.png", icc_profile=profile)
    found = folder.decode(tmp_path / "x.png", 8)[:, 4, 4].tolist()
    assert found == pytest.approx(shown, abs=1)


def test_a_prepared_folder_of_an_older_preparation_is_made_anew(tmp_path, monkeypatch):
    root = ants(tmp_path / "own")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "PREPARATION", 1)
        prepared.load(str(root), tmp_path / "data", side=16)
    (path,) = (tmp_path / "data").glob("*.npz")
    before = path.stat().st_ino
    prepared.load(str(root), tmp_path / "data", side=16)
    assert path.stat().st_ino != before


MAKER = b"\x01\x0f\0\x02\0\0\xff\xff\0\0\xff\0"  # the maker's name, 65,535 letters
UPRIGHT = b"\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0"
BROKEN_EXIF = {
    "points beyond": b"MM\0*\0\0\0\x08\0\x02" + MAKER + UPRIGHT,
    "no TIFF": b"garbage that is no TIFF header",
    "cut": b"MM\0*\0\0\0\x08\0\x0c\x01",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_damaged_metadata_neither_keep_an_image_from_being_read_nor_warn(tmp_path, ending, exif):
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    image.save(tmp_path / f"x.{ending}", exif=b"Exif\0\0" + exif)
    (pixels,), _ = folder.decode_all([tmp_path / f"x.{ending}"], 16, "x")
    assert np.abs(pixels[:, 8, 8].astype(int) - [200, 100, 50]).max() < 9


# --- identical pictures


def test_identical_pictures_are_counted_remarked_and_of_a_held_out_class_refused(tmp_path, say):
    """By their pixels, whatever the files are."""
    root = ants(tmp_path / "own")
    places = {"train/ant/0.png": ["test/ant/8.png", "train/ant/8.png"]}
    places["train/bee/0.png"] = ["train/cat/8.bmp", "test/cat/8.bmp"]
    places["test/ant/0.png"] = ["test/bee/9.png"]  # no training image: each class is unseen
    for old, copies in places.items():
        for new in copies:
            Image.open(root / old).save(root / new)
    said = "Identical pictures: 2 among training and test images, 2 in several classes."
    assert said in prepare(say, root)[1]
    assert prepared.duplicates(str(root), None, 16).seen == {"bee": 1, "cat": 1}
    how = {"dataset": root, "image_side": 16, "batch_size": 2}
    words = tiny_words(tmp_path, **how | {"hold_out": "[ant, cat]"})
    hidden = "hold_out: among the training images of other classes"
    refused(say("run", HOLDOUT, *words), hidden, ": 1 of cat;")
    assert not (tmp_path / "outputs").exists()
    how |= {"dataset": str(root), "methods": "classification", "epochs": 3}
    for change in ({"hold_out": "ant"}, {"hold_out": "cat", "allow_duplicates": True}):
        experiment = tiny(tmp_path, **how | change)
        assert said in show.remarks(experiment, runs.complete(experiment))


# --- prepared files


@pytest.mark.parametrize(("part", "word"), [("train", "training"), ("test", "test")])
def test_parts_that_lack_a_class_are_refused_before_training(tmp_path, say, part, word):
    images = getattr(prepared.load("tiny", tiny_data(tmp_path / "data")), part)
    kept = images[images.labels != 2]
    spoil(tmp_path, **{f"{part}_images": kept.images, f"{part}_labels": kept.labels})
    refused(check_tiny(say), f"tiny has no {word} image of two")
    for verb in VERBS:
        refused(say(*verb, *tiny_words(tmp_path)), f"tiny has no {word} image of two")
    assert not (tmp_path / "outputs").exists()


def reshaped(tmp_path, change):
    """The tiny data set, its images (N, 1, 8, 8) changed."""
    tiny_data(tmp_path / "data")
    change_data(tmp_path, train_images=change, test_images=change)


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_images_with_the_channels_last_are_told_so(tmp_path, say, channels):
    reshaped(tmp_path, lambda images: np.repeat(images, channels, 1).transpose(0, 2, 3, 1))
    refused(check_tiny(say), "look like (N, H, W, C)")


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
def test_images_of_any_number_of_channels_are_shown(tmp_path, one_thread, channels):
    reshaped(tmp_path, lambda images: np.repeat(images, channels, 1))
    (record,) = runs.complete(tiny(tmp_path, methods="classification", epochs=1))
    data = prepared.load("tiny", tmp_path / "data")
    assert plots.ranked_images(record, data).axes
    assert plots.samples({"one": data.test.images[:2]}, "x").axes
    assert plots.pixels(data.test.images[0]).shape == ((8, 8) if channels < 3 else (8, 8, 3))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_what_training_can_not_use_is_said_at_once(tmp_path, say, verb):
    reshaped(tmp_path, lambda images: np.repeat(images, 2, 3))
    said = say(*verb, *tiny_words(tmp_path, methods="[classification, rotation]"))
    refused(said, "rotation needs square images", "16x8", "crop_side")
    part = ImageSet(np.zeros((8, 1, 8, 8), np.uint8), np.arange(8) % 2)
    prepared.write(tmp_path / "data" / "tiny.npz", Dataset("tiny", part, part, helpers.CLASSES[:2]))
    refused(say(*verb, *tiny_words(tmp_path, hold_out="all")), "2 classes", "at least 3")


def test_only_a_damaged_file_may_be_deleted(tmp_path, say, monkeypatch):
    path = tiny_data(tmp_path / "data") / "tiny.npz"
    whole = path.read_bytes()
    for content in (b"<!DOCTYPE html>", b"PK\3\4cut"):
        path.write_bytes(content)
        refused(check_tiny(say), "not a zip file", "delete it to prepare it again, if you can")
    path.write_bytes(whole)

    def barred(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("numpy.load", barred)
    error = check_tiny(say)[2]
    assert "Permission denied" in error and "delete" not in error


# --- memory and disk


def test_images_that_do_not_fit_are_refused_before_the_first_is_decoded(tmp_path, say, monkeypatch):
    root = ants(tmp_path / "own")
    monkeypatch.setattr(folder, "decode", lambda *args: pytest.fail("decoded"))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10**9}))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Disk", (), {"free": 10**12}))
    said = say("data", "prepare", root, "--side", 10000)
    refused(said, "12 images of 10000x10000 pixels take 3.6 GB", "1.0 GB are free")
    words = tiny_words(tmp_path, dataset=root, hold_out="ant", image_side=10000)
    refused(say("run", HOLDOUT, *words), "3.6 GB")
    refused(prepare(say, root, "--root", "/dev/null/x"), "/dev/null/x")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Disk", (), {"free": 100}))
    refused(prepare(say, root), "GB are needed", tmp_path / "data")


def test_a_large_jpeg_is_decoded_smaller_by_its_size_alone(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=95)
    whole = folder.decode(tmp_path / "a.jpg", 64).astype(int)
    seen = []
    monkeypatch.setattr(
        folder.ImageOps, "exif_transpose", lambda image, **how: seen.append(image.size)
    )
    for pixels, width in ((20e6, 4000), (12e6, 4000), (11e6, 2000), (2e6, 1000), (1e5, 500)):
        monkeypatch.setattr(folder, "LARGE", pixels)
        assert np.abs(folder.decode(tmp_path / "a.jpg", 64) - whole).mean() < 2
        assert seen[-1] == (width, width * 3 // 4)
    folder.decode(tmp_path / "a.jpg", 1600)
    assert seen[-1] == (4000, 3000)  # half would be less than is asked for


MEASURE = """
import re, sys
from pathlib import Path
from workbench.images import prepared
prepared.load(sys.argv[1], sys.argv[2], side=64)
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024**2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most"), [("jpg", 0.5), ("png", 1.5)])
def test_photographs_of_85_megapixels_stay_in_bounds(tmp_path, kind, most):
    first = ants(tmp_path / "own") / "train" / "ant" / f"big.{kind}"
    Image.new("RGB", (10000, 8500), (90, 120, 200)).save(first)
    for k in range(23):
        os.link(first, tmp_path / "own" / "train" / "bee" / f"big{k}.{kind}")
    command = [sys.executable, "-c", MEASURE, tmp_path / "own", tmp_path / "data"]
    done = subprocess.run(command, env=helpers.environment(), capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) < most, done.stdout + done.stderr


# --- commands


def test_checking_a_folder_writes_nothing(tmp_path, say):
    root = ants(tmp_path / "own")

    def check():
        before = contents(tmp_path)
        said = say("data", "check", root, "--side", 16)
        assert contents(tmp_path) == before
        return said

    todo = f"python -m semlib data prepare {root} --side 16"
    refused(check(), "isn't prepared at 16 pixels a side in", todo)
    assert prepare(say, root)[0] == 0
    assert check()[0] == 0
    Image.new("L", (9, 9)).save(root / "train" / "ant" / "x.png")
    refused(check(), "has changed since it was prepared")
