"""What people's images, names and files really look like, mostly through the command line; and what
is refused of it.
"""

import os
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import CLASSES, ROOT, contents, environment, made_up, parameters, tiny, tiny_data
from PIL import Image

from semlib import datasets
from semlib.datasets import Dataset, ImageSet, folder
from workbench import runs
from workbench.cli import main
from workbench.experiment import ConfigError, create
from workbench.files import file_name
from workbench.images import prepared
from workbench.results import names, plots, show, tables
from workbench.runs import plan, store


def ants(root, classes=("ant", "bee", "cat"), size=(16, 16), count=2):
    """train/<class>/<k>.png, and the same in test/; every picture of a colour of its own."""
    for part in ("train", "test"):
        for j, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                colour = (10 * j, 100 * k, 255 if part == "train" else 0)
                Image.new("RGB", size, colour).save(root / part / name / f"{k}.png")
    return root


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


# --- what a folder holds


def test_every_image_below_a_class_is_read_whatever_its_depth_and_leftovers_are_not(tmp_path, say):
    root = ants(tmp_path / "own")
    for deep in ("train/ant/2019", "train/ant/2019/may", "test/cat/b"):
        (root / deep).mkdir()
        Image.new("RGB", (9, 9), (200, 0, 0)).save(root / deep / "x.png")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (9, 9), (0, 200, 0)).save(tmp_path / "elsewhere" / "y.png")
    (root / "train" / "bee" / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "train" / "bee" / "z.png").symlink_to(tmp_path / "elsewhere" / "y.png")
    for left in ("train/__MACOSX", "train/ant/@eaDir", "test/.git"):
        (root / left).mkdir()
        (root / left / "0.png").write_text("no image")
    for left in (
        "train/ant/._0.png",
        "train/ant/Thumbs.db",
        "train/bee/Desktop.ini",
        "test/.DS_Store",
    ):
        (root / left).write_text("no image")
    status, out, _ = prepare(say, root)
    assert status == 0 and "10 training and 7 test images" in out
    data = prepared.load(str(root), side=16)
    assert np.bincount(data.train.labels).tolist() == [4, 4, 2]
    assert data.train.images[[2, 3], :, 0, 0].tolist() == [[200, 0, 0]] * 2


STRANGE = {
    "a link to nothing": lambda root: (root / "train" / "ant" / "b.png").symlink_to(root / "gone"),
    "a link to nothing below": lambda root: (
        (root / "test" / "bee" / "c").mkdir(),
        (root / "test" / "bee" / "c" / "b.png").symlink_to(root / "gone"),
    ),
    "a class that is a link to nothing": lambda root: (root / "train" / "b.png").symlink_to(
        root / "gone"
    ),
    "a pipe": lambda root: os.mkfifo(root / "train" / "cat" / "b.png"),
    "a link to itself": lambda root: (root / "train" / "cat" / "b.png").symlink_to("b.png"),
    "a link to a folder above": lambda root: (root / "train" / "cat" / "b.png").symlink_to(
        root / "train" / "cat"
    ),
    "an image beside the classes": lambda root: Image.new("L", (9, 9)).save(
        root / "train" / "b.png"
    ),
    "a flat test image": lambda root: Image.new("L", (9, 9)).save(root / "test" / "b.png"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_neither_image_nor_folder_is_counted_and_named(tmp_path, say, what):
    root = ants(tmp_path / "own")
    STRANGE[what](root)
    refused(prepare(say, root), "holds 1 entry besides", "b.png")
    assert not [*tmp_path.glob("data/*")]


@pytest.mark.parametrize(
    ("part", "other"), [("test", "val"), ("test", "validation"), ("train", "Training")]
)
def test_a_part_of_another_name_is_offered(tmp_path, say, part, other):
    root = ants(tmp_path / "own")
    (root / part).rename(root / other)
    refused(prepare(say, root), f"has no {part}/", f"rename {other}/ to {part}/")


def test_a_flat_test_folder_and_one_that_can_not_be_read_are_named(tmp_path, say, monkeypatch):
    root = ants(tmp_path / "own")
    (root / "test").rename(tmp_path / "kept")
    (root / "test").mkdir()
    for k in range(5):
        Image.new("L", (9, 9)).save(root / "test" / f"{k}.png")
    refused(prepare(say, root), "no class folders in test/ but 5 files", "test/<class>/*")

    def barred(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", barred)  # root reads any folder
    refused(prepare(say, root), root / "train", "can't be read (Permission denied)")


def test_of_many_damaged_files_ten_are_named_and_the_rest_counted(tmp_path, say):
    root = ants(tmp_path / "own", count=8)
    spoilt = sorted(root.glob("t*/*/[0-5].png"))[:14]
    for path in spoilt:
        path.write_text("no image")
    status, _, error = prepare(say, root)
    assert (
        status == 2
        and "14 images" in error
        and "and 4 more" in error
        and error.count("can't be read as an image") == 10
    )
    assert error.count("\n") == 1 and not [*tmp_path.glob("data/*.npz")]


# --- names


COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
NO_NAMES = [
    "all",
    "none",
    " ant",
    "ant ",
    "a\nb",
    "a\tb",
    "a\x1bb",
    "a\u200bb",
    os.fsdecode(b"caf\xe9"),
]


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_a_class_whose_name_would_not_mean_itself_is_refused(tmp_path, say, name):
    refused(
        prepare(say, ants(tmp_path / "own", ("ant", "bee", name))),
        "can't be a class's name",
        "rename it",
    )
    tiny_data(tmp_path / "data")
    if name.isascii():
        spoil(tmp_path, classes=np.array(["zero", "one", "two", name]))
        refused(say("data", "check", "tiny"), "can't be a class's name", "tiny.npz")
        refused(say("run", "notebooks/holdout.ipynb", *few(tmp_path)), "can't be a class's name")


@pytest.mark.parametrize("name", ["a/b", "", ".", ".."])
def test_a_prepared_class_that_is_no_folders_name_is_refused(tmp_path, say, name):
    tiny_data(tmp_path / "data")
    spoil(tmp_path, classes=np.array(["zero", "one", "two", name]))
    refused(say("data", "check", "tiny"), "can't be a class's name")


def test_bytes_numbers_and_decomposed_names_are_no_names(tmp_path, say):
    tiny_data(tmp_path / "data")
    for wrong in (np.array([b"a", b"b", b"c", b"d"]), np.arange(4.0)):
        spoil(tmp_path, classes=wrong)
        refused(say("data", "check", "tiny"), "classes should be names", "text")
    spoil(tmp_path, classes=np.array(["zero", "one", "two", APART]))
    refused(say("data", "check", "tiny"), "composed form")


def test_names_of_folders_are_composed_and_found_in_either_form(tmp_path, say):
    root = ants(tmp_path / "own", ("ant", "bee", APART))
    (root / "test" / APART).rename(root / "test" / COMPOSED)
    assert prepare(say, root)[0] == 0
    assert (
        prepared.classes(str(root))
        == ("ant", "bee", COMPOSED)
        == prepared.load(str(root), side=16).classes
    )
    assert create({"hold_out": APART}).hold_out == (COMPOSED,)
    (root / "test" / APART).mkdir()
    refused(prepare(say, root), "two folders called café")


def test_files_and_data_sets_whose_names_are_not_utf8(tmp_path, say):
    root = ants(tmp_path / "own")
    odd = os.fsdecode(b"\xe9.png")
    Image.new("RGB", (9, 9)).save(root / "train" / "ant" / "a.png")
    (root / "train" / "ant" / "a.png").rename(root / "train" / "ant" / odd)
    assert prepare(say, root)[0] == 0
    (root / "train" / "ant" / odd).write_text("no image")
    refused(prepare(say, root), "\\udce9.png", "can't be read as an image")
    (root / "train" / "ant" / odd).unlink()
    root.rename(tmp_path / os.fsdecode(b"\xe9"))
    refused(prepare(say, tmp_path / os.fsdecode(b"\xe9")), "can't be a data set's name")


ODD = (
    "average",
    "Average",
    "cifar10",
    "msp",
    "accuracy",
    "cpc",
    "Tomato:healthy",
    "Potato:healthy",
    "a$b$c",
    "_x",
    "<b>",
)


def own(root, classes):
    """A prepared data set of these classes, root/own.npz."""
    images = np.random.default_rng(0).integers(0, 256, (8 * len(classes), 1, 8, 8), dtype=np.uint8)
    part = ImageSet(images, np.arange(len(images)) % len(classes))
    datasets.loading.write(root / "own.npz", Dataset("own", part, part, tuple(classes)))
    return root


def test_every_name_means_itself_in_tables_files_and_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMLIB_DATA", str(own(tmp_path / "data", ODD)))
    experiment = made_up(tmp_path / "outputs", 96, dataset="own", data_root=None, trials=2)
    records = store.finished(experiment)
    assert len(records) == len(ODD) * 4
    table = tables.by_class(experiment, records)
    text = show.formatted(table)
    shown = [*ODD, "Average / all"]
    assert list(text.index) == shown
    assert [row.split("  ")[0] for row in show.as_text(table).splitlines()[-len(shown) :]] == shown
    means = {
        r: np.mean(
            [x.metrics["msp"] * 100 for x in records if (x.hold_out, x.method) == (r, "rotation")]
        )
        for r in ODD
    }
    for name, mean in means.items():
        assert text.loc[name, ("Rotation-augmented", "MSP")].startswith(f"{mean:.2f}")
    assert text.iloc[-1]["Rotation-augmented", "MSP"].startswith(
        f"{np.mean([*means.values()]):.2f}"
    )
    tables.save(table, tmp_path / "table.csv")
    rows = [line.split(",")[0] for line in (tmp_path / "table.csv").read_text().splitlines()]
    assert rows == ["hold_out", *ODD, "average / all"]
    assert names.without_average(table).index.tolist() == list(ODD)
    figure = plots.precision_recall(experiment, records)
    assert [axis.get_title() for axis in figure.axes] == list(ODD)
    assert not any(axis.title.get_parse_math() for axis in figure.axes)
    figure.savefig(tmp_path / "figure.png", dpi=20)


def test_the_average_keeps_its_name_where_no_class_has_it(tmp_path):
    experiment = made_up(tmp_path, dataset="digits", trials=1)
    table = tables.by_class(experiment, store.finished(experiment))
    assert table.index[-1] == "average" and show.formatted(table).index[-1] == "Average"


def test_distinct_things_have_distinct_files_and_short_names(tmp_path):
    def named(notebook="holdout", **changes):
        return create({"profile": "x", "dataset": "own"} | changes).output(notebook, ".ipynb").name

    several = [
        ("a b",),
        ("a_b",),
        ("+",),
        ("-",),
        ("a", "b"),
        ("a-b",),
        ("b", "a"),
        ("a",),
        ("é" * 120,),
    ]
    several += [tuple(f"a class of a rather long name {k}" for k in range(n)) for n in (15, 16)]
    found = [named(hold_out=names) for names in several]
    found += [
        named(dataset=f"/x/{name}")
        for name in ("a", "b", "own-a", "holdout", "out", "a b", "x" * 250, "x" * 249)
    ]
    found += [named("benchmark", dataset=f"/x/{name}") for name in ("bench", "mark", "benchmark")]
    assert (
        len({name.lower() for name in found}) == len(found)
        and max(len(name.encode()) for name in found) < 150
    )
    assert named() == "holdout-own.ipynb" and named(hold_out="cat") == "holdout-own-cat.ipynb"
    assert named("table3_cifar10", dataset="cifar10") == "table3_cifar10.ipynb"
    assert (
        file_name("a", "b") != file_name("a-b")
        and file_name("few_labels", "20_a_class") == "few_labels-20_a_class"
    )


def test_jobs_of_a_grid_have_distinct_short_names():
    from workbench.batch import grid

    every = ["a b", "a_b", "+", "*", "x" * 200, "x" * 201]
    parts = [create({"dataset": "/x/own", "hold_out": name}) for name in every]
    found = grid.names(parts, "class")
    assert len(set(found)) == len(found) and max(map(len, found)) < 150
    assert [
        grid.names([part], "class")[0] for part in parts
    ] == found  # whatever else is run with it


@pytest.mark.parametrize("dataset", ["..", "../", ".", "/", "/tmp/.."])
def test_records_stay_in_runs_whatever_the_data_sets_path(tmp_path, dataset):
    try:
        experiment = create({"dataset": dataset, "outputs": str(tmp_path)})
    except ConfigError as error:
        assert "has no name" in str(error) and dataset[0] == "/"
        return
    place = plan.Run(experiment, "cat", "rotation", 0).home.relative_to(tmp_path / "paper" / "runs")
    assert place.parts[1:3] == ("cat", "rotation") and ".." not in place.parts


@pytest.mark.parametrize("value", ["no", "yes", "1.5", "2024-01-01", "null", "~"])
def test_a_class_that_yaml_takes_for_something_else_is_to_be_quoted(tmp_path, say, value):
    tiny_data(tmp_path / "data")
    (tmp_path / "x.yaml").write_text(f"hold_out: {value}\n")
    words = few(tmp_path, but="hold_out")
    refused(
        say("run", "notebooks/holdout.ipynb", "-f", tmp_path / "x.yaml", *words),
        "hold_out",
        "quotes",
    )


# --- pixels


def spoil(tmp_path, **arrays):
    """Change arrays of the tiny data set."""
    with np.load(tmp_path / "data" / "tiny.npz") as file:
        whole = {name: file[name] for name in file.files}
    np.savez(tmp_path / "data" / "tiny.npz", **whole | arrays)


def few(tmp_path, but="", **changes):
    """Parameters of a small run on the tiny data set, as words."""
    small = {
        "dataset": "tiny",
        "hold_out": "one",
        "missing": "train",
        "architecture": "wrn-10-1",
        "norm_batch": "none",
    }
    small |= {
        "outputs": tmp_path / "outputs",
        "batch_size": 32,
        "epochs": 1,
        "trials": 1,
        "methods": "classification",
    }
    return parameters(**{name: value for name, value in (small | changes).items() if name != but})


def disc(mode):
    """A dark disc that is drawn in alpha alone: its colour is black everywhere."""
    y, x = np.mgrid[:16, :16] - 7.5
    alpha = Image.fromarray(np.where(x**2 + y**2 < 25, 255, 0).astype(np.uint8))
    image = Image.merge("LA", [Image.new("L", (16, 16)), alpha])
    if mode == "P":
        indices = Image.fromarray((np.asarray(alpha) // 255).astype(np.uint8)).convert("P")
        indices.putpalette([0, 0, 0, 0, 0, 0])
        indices.info["transparency"] = 0
        return indices
    return image.convert(mode)


@pytest.mark.parametrize("file", ["RGBA.png", "LA.png", "P.png", "P.gif", "RGBA.webp", "RGBA.tiff"])
def test_what_is_transparent_is_white(tmp_path, say, file):
    mode, kind = file.split(".")
    root, how = ants(tmp_path / "own"), {"lossless": True} if kind == "webp" else {}
    disc(mode).save(root / "train" / "ant" / f"x.{kind}", **how)
    assert prepare(say, root)[0] == 0
    image = prepared.load(str(root), side=16).train.images[2]
    assert image[:, 0, 0].tolist() == [255] * 3 and image[:, 8, 8].tolist() == [0] * 3


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 128)).save(tmp_path / "a.png")
    assert folder.decode(tmp_path / "a.png", 8)[:, 0, 0].tolist() == [255, 127, 127]


def test_a_transparent_grey_of_16_bits_is_white(tmp_path):
    Image.fromarray(np.full((16, 16), 300, np.uint16)).save(tmp_path / "a.png", transparency=300)
    assert (folder.decode(tmp_path / "a.png", 8) == 255).all()


def greys(root, most, count=2, kind="png"):
    """A folder of 16-bit greys: ramps from 0 to `most` in the first training image, half as far in
    all others.
    """
    ants(root, count=count)
    for k, path in enumerate(
        sorted(root.glob("train/*/*.png")) + sorted(root.glob("test/*/*.png"))
    ):
        ramp = (
            np.linspace(0, most if k == 0 else most // 2, 256)
            .round()
            .astype(np.uint16)
            .reshape(16, 16)
        )
        path.unlink()
        Image.fromarray(ramp).save(path.with_suffix(f".{kind}"))
    return root


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize(
    ("most", "bits"), [(255, 8), (1023, 10), (1024, 12), (4095, 12), (4096, 16), (65535, 16)]
)
def test_greys_of_fewer_than_16_bits_keep_their_levels_by_one_scale(tmp_path, most, bits, kind):
    root = greys(tmp_path / "own", most, kind=kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = prepared.load(str(root), tmp_path / "data", side=16)
    assert [
        f"above {2**bits - 1}" in str(w.message) for w in caught if "16-bit" in str(w.message)
    ] == [True] * (bits < 16)
    assert (
        data.train.images[0].max() == most >> bits - 8
        and data.test.images.max() == most // 2 >> bits - 8
    )
    assert len(np.unique(data.train.images[0])) == min(256, (most >> bits - 8) + 1)


def test_one_bright_image_keeps_the_scale_of_all(tmp_path):
    root = greys(tmp_path / "own", 4000)
    Image.fromarray(np.full((16, 16), 60000, np.uint16)).save(root / "test" / "bee" / "x.png")
    assert prepared.load(str(root), tmp_path / "data", side=16).train.images.max() == 4000 >> 8


def png16(values):
    """An RGB or RGBA PNG of 16 bits a channel, which Pillow doesn't write. values: uint16 (H, W, 3
    or 4).
    """
    import struct
    import zlib

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(
        ">IIBBBBB", values.shape[1], values.shape[0], 16, {3: 2, 4: 6}[values.shape[2]], 0, 0, 0
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("most", [4000, 60000])
def test_colours_of_12_bits_in_16_are_refused_and_of_16_read(tmp_path, say, most, alpha):
    root = ants(tmp_path / "own")
    values = np.linspace(0, most, 768).astype(np.uint16).reshape(16, 16, 3)
    values = (
        np.concatenate([values, np.full((16, 16, 1), 65535, np.uint16)], axis=2)
        if alpha
        else values
    )
    (root / "train" / "ant" / "x.png").write_bytes(png16(values))
    if most > 4095:
        assert prepare(say, root)[0] == 0
        assert prepared.load(str(root), side=16).train.images[2].max() == most >> 8
    else:
        refused(prepare(say, root), "1 colour images of 16 bits", "save them with 8 bits")


def test_a_prepared_folder_of_an_older_preparation_is_made_anew(tmp_path, monkeypatch):
    root = ants(tmp_path / "own")
    monkeypatch.setattr(folder, "PREPARATION", 1)
    prepared.load(str(root), tmp_path / "data", side=16)
    (path,) = (tmp_path / "data").glob("*.npz")
    before = path.stat().st_ino
    monkeypatch.undo()
    prepared.load(str(root), tmp_path / "data", side=16)
    assert path.stat().st_ino != before


def broken_exif(kind):
    beyond = b"\x01\x0f\0\x02\0\0\xff\xff\0\0\xff\0"  # the maker's name, 65,535 letters
    return (
        b"Exif\0\0"
        + {
            "points beyond": b"MM\0*\0\0\0\x08\0\x02"
            + beyond
            + b"\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\0",
            "no TIFF": b"garbage that is no TIFF header",
            "cut": b"MM\0*\0\0\0\x08\0\x0c\x01",
        }[kind]
    )


@pytest.mark.parametrize("kind", ["points beyond", "no TIFF", "cut"])
@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_damaged_metadata_do_not_keep_an_image_from_being_read(tmp_path, ending, kind):
    root = ants(tmp_path / "own")
    for k in range(3):
        Image.new("RGB", (16, 16), (200, 100, 50)).save(
            root / "train" / "ant" / f"x{k}.{ending}", exif=broken_exif(kind)
        )
    with pytest.warns(
        UserWarning, match=r"own: 3 images have damaged metadata, .*x0\.\w+ among them"
    ):
        data = prepared.load(str(root), tmp_path / "data", side=16)
    assert (
        len(data.train) == 9
        and np.abs(data.train.images[2, :, 8, 8] - np.array([200, 100, 50])).max() < 9
    )


# --- prepared files


def test_parts_that_lack_a_class_are_refused_before_training(tmp_path, say):
    for part, word in (("train", "training"), ("test", "test")):
        tiny_data(tmp_path / "data")
        with np.load(tmp_path / "data" / "tiny.npz") as file:
            keep = file[f"{part}_labels"] != 2
            spoil(
                tmp_path,
                **{f"{part}_{what}": file[f"{part}_{what}"][keep] for what in ("images", "labels")},
            )
        refused(say("data", "check", "tiny"), f"tiny has no {word} image of two")
        refused(say("run", "notebooks/holdout.ipynb", *few(tmp_path)), f"no {word} image of two")
        refused(
            say("grid", "params/demo/benchmark.yaml", *few(tmp_path)), f"no {word} image of two"
        )
    assert not (tmp_path / "outputs").exists()


def with_channels(tmp_path, channels, last=False):
    """The tiny data set with so many channels, all alike."""
    tiny_data(tmp_path / "data")
    with np.load(tmp_path / "data" / "tiny.npz") as file:
        parts = {
            f"{part}_images": np.repeat(file[f"{part}_images"], channels, 1)
            for part in ("train", "test")
        }
    spoil(
        tmp_path,
        **{
            name: images.transpose(0, 2, 3, 1) if last else images for name, images in parts.items()
        },
    )


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_images_with_the_channels_last_are_told_so(tmp_path, say, channels):
    with_channels(tmp_path, channels, last=True)
    refused(say("data", "check", "tiny"), "look like (N, H, W, C)")


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
def test_images_of_any_number_of_channels_are_shown(tmp_path, one_thread, channels):
    with_channels(tmp_path, channels)
    (record,) = runs.complete(tiny(tmp_path, methods="classification", epochs=1))
    data = prepared.load("tiny", tmp_path / "data")
    assert (
        plots.ranked_images(record, data).axes
        and plots.samples({"one": data.test.images[:2]}, "x").axes
    )
    assert plots.pixels(data.test.images[0]).shape == ((8, 8) if channels < 3 else (8, 8, 3))


@pytest.mark.parametrize(
    "verb",
    [["run", "notebooks/holdout.ipynb"], ["grid", "params/demo/benchmark.yaml"]],
    ids=" ".join,
)
def test_what_training_can_not_use_is_said_at_once(tmp_path, say, verb):
    tiny_data(tmp_path / "data")
    with np.load(tmp_path / "data" / "tiny.npz") as file:
        wide = {
            f"{part}_images": np.repeat(file[f"{part}_images"], 2, 3) for part in ("train", "test")
        }
        whole = {name: file[name] for name in file.files}
    spoil(tmp_path, **wide)
    assert "not square: rotation needs crop_side, at most 8" in say("data", "check", "tiny")[1]
    said = say(*verb, *few(tmp_path, methods="[classification, rotation]"))
    refused(said, "rotation needs square images", "16x8", "crop_side")
    kept = {part: whole[f"{part}_labels"] < 2 for part in ("train", "test")}
    two = {
        name: array[kept[name.partition("_")[0]]]
        for name, array in whole.items()
        if name != "classes"
    }
    np.savez(tmp_path / "data" / "tiny.npz", classes=np.array(CLASSES[:2]), **two)
    refused(say(*verb, *few(tmp_path, hold_out="all")), "2 classes", "at least 3")
    assert "at least 3 classes" in say("data", "check", "tiny")[1]


def test_only_what_can_be_made_again_is_to_be_deleted(tmp_path, say, monkeypatch):
    data = tiny_data(tmp_path / "data")
    for name in ("tiny", "cifar10"):
        for content, said in (
            (b"<!DOCTYPE html>", "it is no .npz file, but begins with b'<!DOCTYPE"),
            (b"PK\3\4cut", ""),
        ):
            (data / f"{name}.npz").write_bytes(content)
            status, _, error = say("data", "check", name)
            assert (
                status == 2
                and said in error
                and ("delete it" in error) == (name == "cifar10")
                and "pickle" not in error
            )
    tiny_data(data)
    with monkeypatch.context() as patch:
        patch.setattr(
            np,
            "load",
            lambda *args, **kwargs: (_ for _ in ()).throw(PermissionError(13, "Permission denied")),
        )
        status, _, error = say("data", "check", "tiny")
        assert status == 2 and "Permission denied" in error and "delete" not in error
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    status, _, error = say("data", "check", "tiny")
    assert status == 2 and "of memory" in error and "delete" not in error


# --- memory and disk


def test_images_that_can_not_fit_are_refused_before_the_first_is_decoded(
    tmp_path, say, monkeypatch
):
    root = ants(tmp_path / "own")
    monkeypatch.setattr(folder, "decode", lambda *args: pytest.fail("decoded"))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10**9}))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Disk", (), {"free": 10**12}))
    refused(
        say("data", "prepare", root, "--side", 10000),
        "12 images of 10000x10000 pixels take 3.6 GB",
        "1.0 GB are free",
    )
    refused(
        say(
            "run",
            "notebooks/holdout.ipynb",
            *few(tmp_path, dataset=root, hold_out="ant", image_side=10000),
        ),
        "3.6 GB",
    )


@pytest.mark.parametrize("where", ["unwritable", "full"])
def test_a_data_folder_that_can_not_be_written_is_found_before_decoding(
    tmp_path, say, monkeypatch, where
):
    root = ants(tmp_path / "own")
    monkeypatch.setattr(folder, "decode", lambda *args: pytest.fail("decoded"))
    if where == "unwritable":
        refused(prepare(say, root, "--root", "/dev/null/x"), "/dev/null/x")
    else:
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Disk", (), {"free": 100}))
        refused(prepare(say, root), "GB are needed", tmp_path / "data")


def test_a_large_jpeg_is_decoded_smaller_by_its_size_alone(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC).save(
        tmp_path / "a.jpg", quality=95
    )
    whole, seen = folder.decode(tmp_path / "a.jpg", 64).astype(int), []
    monkeypatch.setattr(folder, "_turn_upright", lambda image, name, found: seen.append(image.size))
    for large, width in ((20e6, 4000), (12e6, 4000), (11e6, 2000), (2e6, 1000), (1e5, 500)):
        monkeypatch.setattr(folder, "LARGE", large)
        assert np.abs(folder.decode(tmp_path / "a.jpg", 64) - whole).mean() < 2 and seen[-1] == (
            width,
            width * 3 // 4,
        )
    folder.decode(tmp_path / "a.jpg", 1600)
    assert seen[-1] == (4000, 3000)  # half would be less than is asked for


MEASURE = """
import re, sys
from pathlib import Path
from semlib import datasets
prepared.load(sys.argv[1], sys.argv[2], side=64)
print(int(re.search(r"VmHWM: *(\\d+)", Path("/proc/self/status").read_text().replace("\\t", ""))[1]) / 1024**2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most"), [("jpg", 0.5), ("png", 1.5)])
def test_photographs_of_85_megapixels_stay_in_bounds(tmp_path, kind, most):
    first = ants(tmp_path / "own") / "train" / "ant" / f"big.{kind}"
    Image.new("RGB", (10000, 8500), (90, 120, 200)).save(first)
    for k in range(23):
        os.link(first, tmp_path / "own" / "train" / "bee" / f"big{k}.{kind}")
    command = [sys.executable, "-c", MEASURE, tmp_path / "own", tmp_path / "data"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) < most, done.stdout + done.stderr


# --- commands


def test_checking_a_folder_writes_nothing(tmp_path, say):
    root = ants(tmp_path / "own")
    before = {*tmp_path.rglob("*")}
    refused(
        say("data", "check", root, "--side", 16),
        "isn't prepared at 16 pixels a side in",
        "6 training and 6 test images of 3 classes",
        f"python -m semlib data prepare {root} --side 16",
    )
    assert {*tmp_path.rglob("*")} == before
    assert prepare(say, root)[0] == 0
    before = contents(tmp_path)
    assert say("data", "check", root, "--side", 16)[0] == 0 and contents(tmp_path) == before
    Image.new("L", (9, 9)).save(root / "train" / "ant" / "x.png")
    before = contents(tmp_path)
    refused(
        say("data", "check", root, "--side", 16), "has changed since it was prepared: 7 training"
    )
    assert contents(tmp_path) == before


def test_relative_paths_count_from_where_the_user_stands(tmp_path, say, monkeypatch):
    ants(tmp_path / "here" / "own")
    (tmp_path / "here" / "x.yaml").write_text("epochs: three\n")
    monkeypatch.chdir(tmp_path / "here")
    before = {*ROOT.iterdir()}
    status, out, _ = say("data", "prepare", "own", "--root", "./prepared", "--side", 16)
    assert (
        status == 0
        and f"dataset: {tmp_path}/here/own\n" in out
        and f"data_root: {tmp_path}/here/prepared\n" in out
    )
    assert (
        len([*(tmp_path / "here" / "prepared").glob("folder-own-*.npz")]) == 1
        and {*ROOT.iterdir()} == before
    )
    words = few(
        tmp_path,
        dataset="./own",
        data_root="prepared",
        hold_out="ant",
        image_side=16,
        epochs="three",
    )
    status, out, error = say("run", "notebooks/holdout.ipynb", "-f", "x.yaml", *words)
    assert status == 2 and "epochs" in error
    assert f"dataset: {tmp_path}/here/own\n" in out and f"file: {tmp_path}/here/x.yaml\n" in out
    words = few(tmp_path, dataset="./own", data_root="prepared", hold_out="cta", image_side=16)
    refused(
        say("run", "notebooks/holdout.ipynb", *words),
        "'cta' is not a class of own; choose from ant, bee, cat",
    )
    status, out, _ = say(
        "run",
        "notebooks/holdout.ipynb",
        "-f",
        "params/demo/benchmark.yaml",
        "-p",
        "epochs",
        "three",
    )
    assert f"file: {ROOT}/params/demo/benchmark.yaml\n" in out  # not here, but at the root
    assert not (tmp_path / "here" / "outputs").exists()
    (tmp_path / "here" / "digits").mkdir()
    assert say("data", "check", "digits")[1].startswith("digits: 1197")  # a data set's name


def test_a_folder_named_by_dots_has_its_own_name(tmp_path, say, monkeypatch):
    root = ants(tmp_path / "own")
    (root / "notes").mkdir()
    monkeypatch.chdir(root / "notes")
    status, out, _ = say("data", "prepare", "..", "--side", 16)
    assert status == 0 and "own: 6 training" in out


def test_a_subset_prepared_from_another_folder_is_not_taken_for_it(tmp_path, say, monkeypatch):
    for name in ("one", "other"):
        for part in ("train", "val"):
            for wnid in datasets.imagenet.SUBSETS["imagenet_spider"]:
                (tmp_path / name / part / wnid).mkdir(parents=True)
                Image.new("RGB", (20, 20)).save(tmp_path / name / part / wnid / "a.JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("one", "one", None):
            where = ["--ilsvrc", tmp_path / name] if name else []
            assert say("data", "prepare", "imagenet_spider", "--side", 16, *where)[0] == 0
        monkeypatch.chdir(tmp_path)
        assert say("data", "prepare", "imagenet_spider", "--side", 16, "--ilsvrc", "one")[0] == 0
    refused(
        say("data", "prepare", "imagenet_spider", "--side", 16, "--ilsvrc", tmp_path / "other"),
        tmp_path / "one",
        "not of",
    )
    (path,) = (tmp_path / "data").glob("imagenet_spider*.npz")
    with np.load(path) as file:
        whole = {name: file[name] for name in file.files if name != "ilsvrc"}
    np.savez(path, **whole)  # an older file
    with pytest.warns(UserWarning, match="is used as it is"):
        say("data", "prepare", "imagenet_spider", "--side", 16, "--ilsvrc", tmp_path / "other")


@pytest.mark.parametrize("side", ["0", "7", "-3", "1.5", "wide", "10001"])
def test_a_wrong_side_is_told_the_right_ones(say, side):
    status, _, error = say("data", "prepare", "digits", f"--side={side}")
    assert status == 2 and "--side: should be a whole number from 8 to 10000" in error


def test_stopping_a_preparation_says_nothing_of_checkpoints(tmp_path, say, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "decode_all", stopped)
    status, _, error = prepare(say, ants(tmp_path / "own"))
    assert (
        status == 130
        and error == "stopped; the same command begins anew\n"
        and not [*tmp_path.glob("data/*.npz")]
    )
