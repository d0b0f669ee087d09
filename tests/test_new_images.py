"""A folder of images without labels, scored with a finished run."""

import itertools
import os
import tracemalloc

import helpers
import numpy as np
import pandas as pd
import pytest
from helpers import change_data, parameters, pets, tiny, tiny_data
from PIL import Image
from scipy.stats import percentileofscore
from sklearn.metrics import roc_auc_score

from semlib import metrics
from workbench import runs
from workbench.cli import main
from workbench.images import prepared
from workbench.results import plots
from workbench.runs import external, new_images, plan, scoring

pytestmark = pytest.mark.usefixtures("one_thread")
SCORES = ("msp", "odin", "knn", "energy")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an image folder pets/, and a run on some of it with bee held out."""
    folder = tmp_path_factory.mktemp("pets")
    settings = {"dataset": str(pets(folder, seed=0)), "hold_out": "bee", "image_side": 8}
    settings |= {"train_per_class": 5, "first_trial": 1, "epsilon": 0.01, "batch_size": 8}
    how = {"methods": "classification", "epochs": 1, "scores": SCORES}
    (record,) = runs.complete(tiny(folder, **settings, **how))
    return folder, record


@pytest.fixture
def on_tiny(folder):
    (record,) = runs.complete(tiny(folder, methods="classification", epochs=1))
    return folder, record


def score(folder, record, images, *words, status=0) -> pd.DataFrame | None:
    given = parameters(data_root=folder / "data", threads=1)
    out = folder / "found" / "new.csv"
    assert main(["score", str(record.home), str(images), *given, "-o", str(out), *words]) == status
    return None if status else pd.read_csv(out, dtype={"predicted": str})


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_the_runs_own_test_images_score_as_in_its_record(trained, statistics):
    """The mean percentile of the anomalies is the AUROC."""
    folder, record = trained
    words = parameters(dataset=folder / "pets", statistics=statistics)
    table = score(folder, record, folder / "pets" / "test", *words)
    arrays = record.scores()
    is_anomaly = arrays["is_anomaly"]
    predicted = arrays[plan.array_name("predicted", statistics)]
    pairs = itertools.product(("ant", "bee", "cow"), range(4))
    files = [f"{name}/{n}.png" for name, n in pairs]
    assert table.file.tolist() == files
    assert table.predicted.tolist() == [record.classes[k] for k in predicted]
    columns = ["file", "predicted"]
    for name in SCORES:
        columns += [name, f"{name}_percentile"]
    assert table.columns.tolist() == columns
    keys = {how["score"]: key for key, how in record.scoring.items()}
    for name in SCORES:
        values = table[name]
        kept = arrays[plan.array_name(keys[name], statistics)]
        if name in ("msp", "odin"):
            np.testing.assert_allclose(values, kept, rtol=1e-6)
        else:
            np.testing.assert_array_equal(scoring.ranks(values), kept)
        percentile = table[f"{name}_percentile"][is_anomaly].mean()
        assert percentile == pytest.approx(100 * roc_auc_score(is_anomaly, kept), abs=0.01)


def test_without_a_word_the_statistics_are_those_of_the_runs_table(folder, capsys):
    how = {"methods": "classification", "epochs": 1, "statistics": "upright"}
    (record,) = runs.complete(tiny(folder, **how))
    images = pets(folder, seed=0) / "test"
    found = score(folder, record, images)
    assert "upright statistics" in capsys.readouterr().out
    assert found.equals(score(folder, record, images, *parameters(statistics="upright")))
    assert not found.equals(score(folder, record, images, *parameters(statistics="mixed")))


def test_the_percentiles_of_many_images_take_little_memory():
    normal, values = (np.random.default_rng(k).integers(0, 50, 5000) for k in range(2))
    tracemalloc.start()
    found = new_images._percentiles(normal, np.r_[values, -np.inf, np.inf])
    assert tracemalloc.get_traced_memory()[1] < 5000**2 / 10
    tracemalloc.stop()
    assert found[:9].tolist() == percentileofscore(normal, values[:9], "mean").round(2).tolist()
    assert found[-2:].tolist() == [0, 100]


def test_the_first_class_can_be_the_held_out_one(folder):
    how = {"methods": "classification", "epochs": 1, "hold_out": "zero"}
    (record,) = runs.complete(tiny(folder, **how, scores=["msp", "energy"]))
    table = score(folder, record, grey(folder / "new"))
    assert table.predicted[0] in ("one", "two", "three") and table.notna().all(axis=None)


def test_what_can_be_read_is_scored_the_rest_is_named_and_a_file_is_enough(on_tiny, capsys):
    """A name that a spreadsheet would take for a formula gets an apostrophe."""
    folder, record = on_tiny
    grey(folder / "new")
    (folder / "new" / "a.png").rename(folder / "new" / "=A1.png")
    (folder / "new" / "text.png").write_text("no picture")
    table = score(folder, record, folder / "new")
    assert table.file.tolist() == ["'=A1.png", "text.png"] and table.msp.notna().tolist() == [1, 0]
    assert "text.png can't be read as an image" in table.error[1]
    assert "1 of 2 files can't be read: column error\n1 images" in capsys.readouterr().out
    alone = score(folder, record, folder / "new" / "=A1.png")
    assert alone.file.tolist() == ["'=A1.png"] and alone.msp[0] == table.msp[0]


def test_images_of_another_size_and_in_colour_are_prepared_as_the_data_set_is(on_tiny):
    """The shorter side to 8 pixels, the centre, grey; hidden files and Windows' are passed over."""
    folder, record = on_tiny
    random = np.random.default_rng(0)
    pictures = {}
    (folder / "new" / "below" / ".hidden").mkdir(parents=True)
    for name, (width, height) in {"a.png": (30, 20), "below/c.tif": (9, 40)}.items():
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        picture.save(folder / "new" / name)
        scale = 8 / min(width, height)
        size = [max(8, round(n * scale)) for n in (width, height)]
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = ((n - 8) // 2 for n in size)
        pictures[name] = np.asarray(picture.crop((left, top, left + 8, top + 8)).convert("L"))
    for name in ("Thumbs.db", ".notes", "below/.hidden/d.png"):
        (folder / "new" / name).write_bytes(b"no image")
    table = score(folder, record, folder / "new")
    assert table.file.tolist() == list(pictures)
    net = runs.network(record, prepared.load("tiny", folder / "data"))
    images = np.stack([*pictures.values()])[:, None]
    predicted, found = metrics.score(net, images, {"msp": metrics.max_softmax})
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
    texts = []
    shown = []
    for axis in figure.axes:
        texts += [text.get_text().splitlines()[0] for text in axis.texts]
        shown += [image.get_array().max() for image in axis.images]
    assert texts == table.file[order].tolist() and shown == order.tolist()
    assert "ODIN" in figure.get_suptitle()


def test_a_files_name_can_be_any_bytes(on_tiny):
    folder, record = on_tiny
    (folder / "new").mkdir()
    with (folder / "new" / os.fsdecode(b"\xff, $x_.png")).open("wb") as file:
        Image.new("L", (8, 8)).save(file, "PNG")
    words = parameters(data_root=folder / "data", threads=1)
    out = folder / "new.csv"
    assert main(["score", str(record.home), str(folder / "new"), *words, "-o", str(out)]) == 0
    assert b'"\xff, $x_.png",' in out.read_bytes()


def test_without_o_the_table_goes_into_the_runs_profile(on_tiny, monkeypatch):
    folder, record = on_tiny
    grey(folder / "new")
    words = [str(folder / "new"), *parameters(data_root=folder / "data", threads=1)]
    name = f"score-new-tiny-one-classification-{record.home.name}"
    assert main(["score", str(record.home), *words]) == 0
    assert (folder / "outputs" / "test" / f"{name}.csv").exists()
    record.home.rename(folder / "mine")
    monkeypatch.chdir(folder / "data")
    assert main(["score", str(folder / "mine"), *words]) == 0
    assert {path.suffix for path in (folder / "data").glob(f"{name}.*")} == {".csv", ".png"}


WRONG = {
    "no run": ("RUN/.. new", ("record.json is not a record", "name a finished run's folder")),
    "no folder": ("RUN absent", ("absent holds no image", "name a folder of images")),
    "no image": ("RUN empty", ("empty holds no image", "name a folder of images")),
    "no picture": ("RUN spoilt", ("text.png can't be read as an image",)),
    "a run's setting": ("RUN new -p epochs 3", ("epochs: is of the finished run", "statistics")),
    "unknown": ("RUN new -p epoch 3", ("epoch", "choose from", "data_root")),
    "other data": ("RUN new -p dataset digits", ("dataset: the run is of tiny, not of digits",)),
    "no table": ("RUN new -o new.txt", ("--out", "new.txt", ".csv")),
}


def grey(folder) -> str:
    """A folder with one image."""
    folder.mkdir()
    Image.new("L", (8, 8)).save(folder / "a.png")
    return str(folder)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusing")
    tiny_data(folder / "data")
    (record,) = runs.complete(tiny(folder, methods="classification", epochs=1))
    for name in ("new", "empty", "spoilt"):
        grey(folder / name)
    (folder / "empty" / "a.png").rename(folder / "empty" / ".hidden")
    (folder / "spoilt" / "a.png").rename(folder / "spoilt" / "text.png")
    (folder / "spoilt" / "text.png").write_text("no picture")
    return folder, record


def refused(folder, words, *said):
    given = parameters(data_root=folder / "data") if "dataset" not in words else []
    helpers.refused("score", *words, *given, said=said, place=folder)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_can_not_be_scored_is_one_line_and_nothing_is_written(refusing, monkeypatch, wrong):
    folder, record = refusing
    monkeypatch.chdir(folder)
    words, said = WRONG[wrong]
    refused(folder, words.replace("RUN", str(record.home)).split(), *said)


def test_a_run_without_its_weights_or_its_images_is_refused(on_tiny):
    folder, record = on_tiny
    words = [str(record.home), grey(folder / "new")]
    change_data(folder, test_images=lambda images: 255 - images)
    refused(folder, words, "was scored on other test images than tiny has now")
    change_data(folder, train_images=lambda images: 255 - images)
    refused(folder, words, "was trained on other images")
    whole = (record.home / "scores.npz").read_bytes()
    (record.home / "scores.npz").write_bytes(whole[:-9])
    refused(folder, words, "can't be used", "scores.npz", "name a finished run's folder")
    (record.home / "scores.npz").write_bytes(whole)
    (record.home / "weights.pt").unlink()
    refused(folder, words, "its weights were not kept (keep_weights)", "another profile")
    labels = prepared.load("tiny", folder / "data").test.labels
    what = {"dataset": "tiny", "hold_out": "one", "method": "new", "labels": labels}
    np.savez(folder / "new.npz", **what, predicted=labels * (labels != 1), msp=-labels)
    places = {"outputs": str(folder), "data_root": str(folder / "data")}
    words[0] = str(external.add(folder / "new.npz", places).home)
    refused(folder, words, "external:new", "was trained elsewhere", "choose a run")


def test_a_run_on_a_folder_asks_for_the_folder(trained):
    folder, record = trained
    words = [str(record.home), str(folder / "pets" / "test")]
    said = "dataset: pets was trained on, and a record keeps no path"
    refused(folder, words, said, "add -p dataset /path/to/pets", "-p data_root")


def test_odin_with_other_settings_is_compared_with_its_own(on_tiny):
    """At temperature 1 without a step it is MSP; without settings it is the record's."""
    folder, record = on_tiny
    settings = {"temperature": 1, "epsilon": 0}
    new = grey(folder / "new")
    plain, other = (score(folder, record, new, *words) for words in ([], parameters(**settings)))
    percentiles = other.odin_percentile.tolist()
    assert percentiles == other.msp_percentile.tolist() == plain.msp_percentile.tolist() > [1]
    assert other.odin.tolist() == other.msp.tolist() != plain.odin.tolist()
