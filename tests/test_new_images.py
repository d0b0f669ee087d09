"""A folder of images without labels, scored with a finished run."""

import io
import os

import numpy as np
import pandas as pd
import pytest
from helpers import contents, made_up, parameters, pets, tiny, tiny_data
from PIL import Image
from sklearn.metrics import roc_auc_score

from semlib import metrics
from workbench import runs
from workbench.cli import main
from workbench.images import prepared
from workbench.results import plots
from workbench.runs import external, store

pytestmark = pytest.mark.usefixtures("one_thread")
SCORES = ("msp", "odin", "knn", "energy")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an image folder pets/, and a run on some of it with bee held out: the folder
    and the record.
    """
    folder = tmp_path_factory.mktemp("pets")
    settings = {
        "dataset": str(pets(folder, seed=0)),
        "hold_out": "bee",
        "methods": "classification",
        "image_side": 8,
    }
    settings |= {"train_per_class": 5, "first_trial": 1, "epsilon": 0.01}
    (record,) = runs.complete(tiny(folder, **settings, batch_size=8, epochs=1, scores=SCORES))
    return folder, record


@pytest.fixture
def on_tiny(tmp_path):
    tiny_data(tmp_path / "data")
    (record,) = runs.complete(tiny(tmp_path, methods="classification", epochs=1))
    return tmp_path, record


def score(folder, record, images, *words, status=0) -> pd.DataFrame | None:
    given = parameters(data_root=folder / "data", threads=1)
    out = folder / "found" / "new.csv"
    assert main(["score", str(record.home), str(images), *given, "-o", str(out), *words]) == status
    return None if status else pd.read_csv(out, dtype={"predicted": str})


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_the_runs_own_test_images_score_as_in_its_record(trained, statistics):
    """Prepared from their files alike, so alike in every score; the mean percentile of the
    anomalies is the AUROC.
    """
    folder, record = trained
    end = "" if statistics == "mixed" else "@upright"
    words = ["-p", "dataset", str(folder / "pets"), "-p", "statistics", statistics]
    table = score(folder, record, folder / "pets" / "test", *words)
    arrays = record.scores()
    assert table.file.tolist() == [
        f"{name}/{n}.png" for name in ("ant", "bee", "cow") for n in range(4)
    ]
    assert table.predicted.tolist() == [record.classes[k] for k in arrays[f"predicted{end}"]]
    assert table.columns.tolist()[2:] == [
        name for score in SCORES for name in (score, f"{score}_percentile")
    ]
    for name in SCORES:
        values, kept = table[name], arrays[name + end]
        if name in ("msp", "odin"):
            np.testing.assert_allclose(values, kept, rtol=1e-6)
        else:
            np.testing.assert_array_equal(np.unique(values, return_inverse=True)[1], kept)
        auroc = roc_auc_score(arrays["is_anomaly"], kept)
        assert table[f"{name}_percentile"][arrays["is_anomaly"]].mean() == pytest.approx(
            100 * auroc, abs=0.01
        )


def test_images_of_another_size_and_in_colour_are_prepared_as_the_data_set_is(on_tiny):
    """Literally: the shorter side to 8 pixels, the centre, grey; hidden files and what Windows
    leaves are passed over.
    """
    folder, record = on_tiny
    random, pictures = np.random.default_rng(0), {}
    (folder / "new" / "below" / ".hidden").mkdir(parents=True)
    for k, (name, size) in enumerate(
        {"a.png": (8, 8), "below/b.png": (30, 20), "below/c.tif": (9, 40)}.items()
    ):
        pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
        picture = Image.fromarray(pixels[..., 0] if not k else pixels)
        picture.save(folder / "new" / name)
        scale = 8 / min(size)
        picture = picture.convert("RGB").resize(
            [max(8, round(n * scale)) for n in size], Image.Resampling.BILINEAR
        )
        left, top = ((n - 8) // 2 for n in picture.size)
        pictures[name] = np.asarray(picture.crop((left, top, left + 8, top + 8)).convert("L"))
    for name in ("Thumbs.db", ".notes", "below/.hidden/d.png"):
        (folder / "new" / name).write_bytes(b"no image")
    table = score(folder, record, folder / "new")
    assert table.file.tolist() == list(pictures)
    net = runs.network(record, prepared.load("tiny", folder / "data"))
    predicted, found = metrics.score(
        net, np.stack([*pictures.values()])[:, None], {"msp": metrics.max_softmax}
    )
    assert table.predicted.tolist() == [("zero", "two", "three")[k] for k in predicted]
    np.testing.assert_allclose(table.msp, found["msp"], atol=1e-6)
    arrays = record.scores()
    normal = arrays["msp"][~arrays["is_anomaly"]]
    expected = [100 * ((normal < s).mean() + (normal == s).mean() / 2) for s in table.msp]
    np.testing.assert_allclose(table.msp_percentile, expected, atol=0.006)


def test_the_sheet_shows_the_most_anomalous_by_the_first_score(trained):
    folder, record = trained
    words = parameters(dataset=folder / "pets", scores="[odin, msp]")
    table = score(folder, record, folder / "pets" / "test", *words)
    assert table.columns.tolist()[2:] == ["odin", "odin_percentile", "msp", "msp_percentile"]
    with Image.open(folder / "found" / "new.png") as sheet:
        assert sheet.format == "PNG" and min(sheet.size) > 300
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 2, 2), np.uint8)
    figure = plots.most_anomalous(table, images, count=5, columns=2)
    order = table.odin.sort_values(ascending=False, kind="stable").index[:5]
    assert [
        text.get_text().splitlines()[0] for axis in figure.axes for text in axis.texts
    ] == table.file[order].tolist()
    assert [
        image.get_array().max() for axis in figure.axes for image in axis.images
    ] == order.tolist()
    assert [len(axis.images) for axis in figure.axes] == [2, 2, 1]
    assert "ODIN" in figure.get_suptitle()


def test_a_files_name_can_be_any_bytes(on_tiny):
    folder, record = on_tiny
    (folder / "new").mkdir()
    Image.new("L", (8, 8)).save(buffer := io.BytesIO(), "PNG")
    (folder / "new" / os.fsdecode(b"\xff, $x_.png")).write_bytes(buffer.getvalue())
    given = parameters(data_root=folder / "data", threads=1)
    assert (
        main(
            ["score", str(record.home), str(folder / "new"), *given, "-o", str(folder / "new.csv")]
        )
        == 0
    )
    assert b'"\xff, $x_.png",' in (folder / "new.csv").read_bytes()


def test_without_o_the_table_goes_into_the_runs_profile(on_tiny, monkeypatch):
    folder, record = on_tiny
    (folder / "new").mkdir()
    Image.new("RGB", (20, 20)).save(folder / "new" / "black.png")
    words = [str(folder / "new"), *parameters(data_root=folder / "data", threads=1)]
    assert main(["score", str(record.home), *words]) == 0
    assert (
        folder / "outputs" / "test" / f"score-new-tiny-one-classification-{record.home.name}.csv"
    ).exists()
    record.home.rename(folder / "mine")
    monkeypatch.chdir(folder / "data")
    assert main(["score", str(folder / "mine"), *words]) == 0
    assert {
        path.suffix
        for path in (folder / "data").glob("score-new-tiny-one-classification-trial_0-*.*")
    } == {".csv", ".png"}


WRONG = {
    "no run": (["RUN/..", "new"], ("record.json is not a record", "name a finished run's folder")),
    "no folder": (["RUN", "absent"], ("absent holds no image", "name a folder of images")),
    "no image": (["RUN", "empty"], ("empty holds no image", "name a folder of images")),
    "no picture": (["RUN", "spoilt"], ("text.png can't be read as an image",)),
    "a run's setting": (
        ["RUN", "new", "-p", "epochs", "3"],
        ("epochs: is of the finished run", "scores", "statistics"),
    ),
    "unknown": (["RUN", "new", "-p", "epoch", "3"], ("epoch", "choose from", "data_root")),
    "not scored": (
        ["RUN", "new", "-p", "scores", "knn"],
        ("not scored by knn", "choose from msp, odin"),
    ),
    "other ODIN": (
        ["RUN", "new", "-p", "temperature", "9"],
        ("not scored by odin with these settings",),
    ),
    "other data": (
        ["RUN", "new", "-p", "dataset", "digits"],
        ("dataset: the run is of tiny, not of digits",),
    ),
    "no table": (["RUN", "new", "-o", "new.txt"], ("--out", "new.txt", ".csv")),
}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusing")
    tiny_data(folder / "data")
    (record,) = runs.complete(tiny(folder, methods="classification", epochs=1))
    for name in ("new", "empty", "spoilt"):
        (folder / name).mkdir()
        (folder / name / ".hidden").write_text("")
    Image.new("L", (8, 8)).save(folder / "new" / "a.png")
    (folder / "spoilt" / "text.png").write_text("no picture")
    return folder, record


def refused(folder, capsys, words, said):
    before = contents(folder)
    capsys.readouterr()
    given = parameters(data_root=folder / "data") if "dataset" not in words else []
    assert main(["score", *words, *given]) == 2
    out, error = capsys.readouterr()
    error = error[error.rindex("\r") + 1 :] if "\r" in error else error  # after a progress bar
    assert out == "" and error.lstrip().startswith("error: ") and error.count("\n") == 1
    assert all(text in error for text in said), error
    assert contents(folder) == before


@pytest.mark.parametrize("wrong", WRONG)
def test_what_can_not_be_scored_is_one_line_and_nothing_is_written(
    refusing, capsys, monkeypatch, wrong
):
    folder, record = refusing
    monkeypatch.chdir(folder)
    words, said = WRONG[wrong]
    refused(folder, capsys, [word.replace("RUN", str(record.home)) for word in words], said)


def test_a_run_without_its_weights_or_its_images_is_refused(on_tiny, capsys):
    folder, record = on_tiny
    (folder / "new").mkdir()
    Image.new("L", (8, 8)).save(folder / "new" / "a.png")
    words = [str(record.home), str(folder / "new")]
    with np.load(folder / "data" / "tiny.npz") as prepared:
        arrays = dict(prepared)
    np.savez(
        folder / "data" / "tiny.npz", **arrays | {"train_images": 255 - arrays["train_images"]}
    )
    refused(folder, capsys, words, ("was trained on other images",))
    whole = (record.home / "scores.npz").read_bytes()
    (record.home / "scores.npz").write_bytes(whole[:-9])
    refused(folder, capsys, words, ("can't be used", "scores.npz", "name a finished run's folder"))
    (record.home / "scores.npz").write_bytes(whole)
    (record.home / "weights.pt").unlink()
    refused(folder, capsys, words, ("its weights were not kept (keep_weights)", "another profile"))
    labels = arrays["test_labels"]
    what = {
        "dataset": "tiny",
        "hold_out": "one",
        "method": "new",
        "labels": labels,
        "predicted": labels * (labels != 1),
    }
    np.savez(folder / "new.npz", **what, msp=labels)
    np.savez(folder / "data" / "tiny.npz", **arrays)
    imported = external.add(
        folder / "new.npz", {"outputs": str(folder), "data_root": str(folder / "data")}
    )
    refused(
        folder,
        capsys,
        [str(imported.home), words[1]],
        ("external:new", "was trained elsewhere", "choose a run"),
    )
    made = made_up(
        folder / "elsewhere", methods="classification", trials=1, hold_out="8", dataset="digits"
    )
    (other,) = store.finished(made)
    refused(folder, capsys, [str(other.home), words[1]], ("digits", "its weights were not kept"))


def test_a_run_on_a_folder_asks_for_the_folder(trained, capsys):
    """A record keeps no path."""
    folder, record = trained
    words = [str(record.home), str(folder / "pets" / "test")]
    refused(
        folder,
        capsys,
        words,
        (
            "dataset: pets was trained on, and a record keeps no path",
            "add -p dataset /path/to/pets",
            "-p data_root",
        ),
    )


def test_of_two_odins_the_one_that_is_asked_for_is_compared_with_its_own(on_tiny):
    """At temperature 1 without a step it is MSP; without settings it is the record's plain one."""
    folder, _ = on_tiny
    (record,) = runs.complete(
        tiny(folder, methods="classification", epochs=1, temperature=1, epsilon=0)
    )
    (folder / "new").mkdir()
    Image.new("L", (8, 8)).save(folder / "new" / "a.png")
    plain, other = (
        score(folder, record, folder / "new", *more)
        for more in ([], parameters(temperature=1, epsilon=0))
    )
    assert (
        other.odin_percentile.tolist()
        == other.msp_percentile.tolist()
        == plain.msp_percentile.tolist()
        > [1]
    )
    assert other.odin.tolist() == other.msp.tolist() != plain.odin.tolist()


def test_ranks_need_the_test_images_that_they_are_of(on_tiny, capsys):
    folder, _ = on_tiny
    (record,) = runs.complete(
        tiny(folder, methods="classification", epochs=1, scores=("msp", "energy"))
    )
    (folder / "new").mkdir()
    Image.new("L", (8, 8)).save(folder / "new" / "a.png")
    with np.load(folder / "data" / "tiny.npz") as prepared:
        arrays = dict(prepared)
    np.savez(folder / "data" / "tiny.npz", **arrays | {"test_images": 255 - arrays["test_images"]})
    assert score(folder, record, folder / "new", "-p", "scores", "msp") is not None
    refused(
        folder,
        capsys,
        [str(record.home), str(folder / "new")],
        ("of energy ranks are kept", "test images aren't here"),
    )
