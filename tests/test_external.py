"""Scores of a network trained elsewhere: imported, checked, and shown beside semlib's own."""

import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import helpers
import numpy as np
import pytest
from helpers import ROOT, contents, environment, made_up, parameters, tiny
from sklearn.metrics import average_precision_score

from workbench import runs
from workbench.cli import main
from workbench.experiment import ConfigError, create
from workbench.images import prepared
from workbench.results import plots, show, stats, tables
from workbench.results.inspector.page import Page
from workbench.results.inspector.selection import Choice, Results, grouped
from workbench.runs import plan, store

METHOD = "external:vit-b16"


def scores(folder, name="scores", seed=0, without=(), **changes):
    """An .npz of made-up scores of the tiny data set with the class one held out."""
    random = np.random.default_rng(seed)
    labels = np.arange(100) // 25
    arrays = {"dataset": "tiny", "hold_out": "one", "method": "vit-b16", "labels": labels}
    arrays["predicted"] = np.where(labels == 1, 3, labels)
    arrays["msp"] = random.normal(labels == 1).round(1) - 9
    arrays["energy"] = random.normal(size=100).round(1)
    arrays["margin"] = random.integers(0, 9, 100)
    kept = {key: value for key, value in (arrays | changes).items() if key not in without}
    np.savez(folder / f"{name}.npz", **kept)
    return folder / f"{name}.npz"


def places(folder) -> dict:
    return {"outputs": folder / "outputs", "data_root": folder / "data", "profile": "test"}


def add(folder, file, status=0, **changes) -> None:
    assert main(["import", str(file), *parameters(**places(folder) | changes)]) == status


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """What the document's code wrote, and the experiment with its scores beside made-up ones."""
    folder = tmp_path_factory.mktemp("perceptron")
    text = (ROOT / "docs" / "external.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=folder, env=environment(), timeout=100, check=True)
    named = re.search(r"-m semlib (import .*)", text)[1]
    named = named.replace("scores.npz", str(folder / "scores.npz")).split()
    which = {"dataset": "digits", "hold_out": "8", "profile": "mine", "trials": 1}
    labels = prepared.load("digits").test.labels
    experiment = made_up(folder, label=labels, methods="classification", **which)
    assert main([*named, "-p", "outputs", str(folder)]) == 0
    methods = ("classification", "external:perceptron")
    names = ("msp", "energy", "external:margin")
    with np.load(folder / "scores.npz") as file:
        return dict(file), create(experiment.model_dump() | {"methods": methods, "scores": names})


def test_the_documents_loop_is_imported(imported):
    outside, both = imported
    own, record = store.finished(both)
    data = prepared.load("digits")
    assert (own.method, own.external, record.method) == (both.methods[0], None, both.methods[1])
    assert record.data == own.data and record.train_images == len(data.train)
    is_anomaly = outside["labels"] == 8
    assert np.array_equal(outside["labels"], data.test.labels) and record.skew == is_anomaly.mean()
    right = data.test.labels == outside["predicted"]
    expected = {"accuracy": right[~is_anomaly].mean()}
    for name in both.scores:
        values = outside[name.removeprefix("external:")]
        expected[name] = average_precision_score(is_anomaly, values)
    expected |= {f"{name}@upright": value for name, value in expected.items()}
    assert record.metrics == pytest.approx(expected) and record.metrics["accuracy"] > 0.9


def test_imported_scores_stand_beside_semlibs_own(imported):
    _, both = imported
    own, record = records = store.finished(both)
    margin = 100 * record.metrics["external:margin"]
    gain = 100 * (record.metrics["msp"] - own.metrics["msp"])
    table = tables.by_class(both, records).loc["8"]
    assert table["external:perceptron", "external:margin", "mean"] == margin
    assert table["classification", "msp", "mean"] == 100 * own.metrics["msp"]
    assert "perceptron (1)" in show.summary(both, records)
    gained = stats.gains([(both, records)])
    gained = gained.query("method == 'external:perceptron' and measure == 'msp'").gain
    assert gained.tolist() == pytest.approx([gain] * 2)  # of both statistics
    (members,) = grouped(store.collect(both.folder), both).values()
    for statistics in plan.STATISTICS:
        results = Results(members, statistics)
        choice = Choice(("8",), results.methods, ("MSP", "margin"), (0,))
        assert results.methods == ("Classification-only", "perceptron")
        rows = results.selection(choice, 0.1).query("method == 'perceptron' and score == 'margin'")
        assert rows.average_precision.tolist() == [margin]
        assert "perceptron" in str(Page(results).panels(choice, 0.1))
    assert plots.precision_recall(both, records) and plots.learning_curves(both, [record])


@pytest.mark.notebook
def test_the_documents_command_shows_what_was_imported(tmp_path, capfd):
    """In a table's notebook, which trains nothing."""
    words = (ROOT / "docs" / "external.md").read_text().replace("\\\n", " ")
    words = re.search(r"-m semlib (run .*)", words)[1].replace('"', "").replace(", ", ",").split()
    labels = prepared.load("digits").test.labels
    file = tmp_path / "scores.npz"
    what = {"dataset": "digits", "method": "perceptron", "labels": labels, "energy": labels}
    what |= {"margin": -labels, "msp": (labels == 8) - 1.0}
    for name in ("7", "8"):
        np.savez(file, hold_out=name, predicted=np.where(labels == int(name), 0, labels), **what)
        assert main(["import", str(file), *parameters(outputs=tmp_path, profile="mine")]) == 0
    assert main([*words, *parameters(outputs=tmp_path, trials=1, hold_out="[7,8]")]) == 0
    out = capfd.readouterr().out
    assert re.search(r"^8 .*100\.00", out, flags=re.M) and "perceptron (2)" in out
    assert "2 of 4 runs are finished." in out and not list(tmp_path.rglob("weights.pt"))
    assert (tmp_path / "mine" / "benchmark-digits-7-8.png").exists()


NPZ = "isn't an .npz of plain arrays, as numpy.savez writes it"
CLASSES = "choose from 0 zero, 2 two, 3 three"
ORDER = "labels: aren't those of tiny's test images, the first at index"
LABELS = np.arange(100) // 25
FEWER = {name: np.zeros(99, int) for name in ("labels", "predicted", "msp")}
HIGH = np.array(["high"] * 100)
NANS = np.where(np.arange(100) % 50, 0, np.nan)
WRONG = {  # what is in the file, or how an array is changed; what is said
    "no such file": (None, "No such file"),
    "no npz": (b"labels", NPZ),
    "one array": (np.arange(3), NPZ),
    "pickled": ({"msp": np.array([None] * 100)}, NPZ),
    "no array": ("text in a member", f"{NPZ} (msp is no array"),
    "no labels": ({"without": ("labels", "method")}, "lacks method, labels; it has dataset, hold"),
    "no score": ({"without": ("msp", "energy", "margin")}, "has no score; add an array for each:"),
    "short": ({"msp": np.zeros(99)}, "msp: should be (100,), one for each of tiny's 100 test"),
    "logits": ({"logits": np.zeros((100, 4))}, "test images, not (100, 4)"),
    "fewer images": (FEWER, "labels: should be (100,)"),
    "nan": ({"energy": NANS}, "energy: should be 100 numbers, higher = more anomalous, not 2 NaN"),
    "text": ({"msp": HIGH}, "msp: should be 100 numbers, higher = more anomalous, not <U4"),
    "order": ({"labels": np.arange(100) % 4}, f"{ORDER} 1: 1 for 0; give the scores of all"),
    "split's labels": ({"labels": LABELS - 1}, f"{ORDER} 0: -1 for 0"),
    "predicted anomaly": ({"predicted": LABELS}, f"1 is no class that was trained; {CLASSES}"),
    "no class": ({"predicted": LABELS / 2}, f"0.5 is no class that was trained; {CLASSES}"),
    "unknown data set": ({"dataset": "cub"}, "data set 'cub' is unknown and not a folder; choose"),
    "unknown class": ({"hold_out": "four"}, "'four' is not a class of tiny; choose from zero, one"),
    "all classes": ({"hold_out": "all"}, "zero, one, two, three, none"),
    "method": ({"method": "ViT B/16"}, "letters, digits, _ and -, not 'ViT B/16'"),
    "two methods": ({"method": ["a", "b"]}, "method: should be one text, not <U1 (2,)"),
    "score's name": ({"my score": np.zeros(100)}, "letters, digits, _ and -, not 'my score'"),
    "positive msp": ({"msp": 1 - LABELS / 9}, "msp: is minus the largest probability, never"),
    "trial": ({"trial": 0.5}, "trial: should be one whole number"),
    "negative trial": ({"trial": -1}, "first_trial: should be greater than or equal to 0, not -1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_file_is_one_line_and_nothing_is_written(folder, wrong):
    what, said = WRONG[wrong]
    file = scores(folder, **(what if isinstance(what, dict) else {}))
    if what is None:
        file.unlink()
    elif isinstance(what, str):
        file = scores(folder, without=("msp",))
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("msp.npy", what)
    elif isinstance(what, bytes):
        file.write_bytes(what)
    elif isinstance(what, np.ndarray):
        with file.open("wb") as opened:
            np.save(opened, what)
    refused(folder, file, said)


def refused(folder, file, *said, **changes):
    words = ["import", file, *parameters(**places(folder) | changes)]
    helpers.refused(*words, said=said, place=folder, but=("tiny.digests.json",))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epoch": 3}, ("'epoch'", "epochs")),
        ({"dataset": "digits"}, ("'tiny'", "'digits'")),
        ({"profile": "../up"}, ("profile",)),
    ],
)
def test_a_wrong_parameter_is_one_line_too(folder, changes, said):
    refused(folder, scores(folder), *said, **changes)


FINE = np.random.default_rng(0).normal(2.0 * (LABELS == 1))
DOUBTFUL = {
    "float16": ({"energy": (500 + FINE).astype(np.float16)}, "More than half of the images share"),
    "overflow": ({"mine": np.where(FINE > 1, np.inf, -np.inf)}, "More than half of the images"),
    "a constant": ({"mine": np.zeros(100)}, "share a score (constant, float16, overflow?): mine"),
    "the sign": ({"energy": -FINE}, "below the share of anomalies (should the sign be changed?)"),
    "shifted classes": ({"predicted": (LABELS > 1) * 2}, None),
    "other numbers": ({"predicted": np.array([3, 3, 0, 2])[LABELS]}, "Accuracy at chance (are pre"),
    "fine": ({}, None),
}


@pytest.mark.parametrize("what", DOUBTFUL)
def test_ties_the_wrong_sign_and_accuracy_at_chance_are_one_line(folder, capsys, what):
    changes, said = DOUBTFUL[what]
    add(folder, scores(folder, without=("msp", "margin"), **{"energy": FINE} | changes))
    lines = capsys.readouterr().out.splitlines()
    lines = [line for line in lines if "(" in line and "?)" in line]
    assert len(lines) == (said is not None) and (not said or said in lines[0])


def test_large_whole_numbers_are_ranked_as_given(folder):
    ranks = np.argsort(np.argsort(FINE, kind="stable"), kind="stable")
    expected = pytest.approx(average_precision_score(LABELS == 1, ranks))
    for k, numbers in enumerate((2**53 + ranks, np.longdouble(2**53) * 2 + ranks)):
        changes = {"mine": numbers, "energy": numbers, "method": f"m{k}"}
        add(folder, scores(folder, without=("msp", "margin"), **changes))
        (record,) = store.finished(tiny(folder, methods=f"external:m{k}"))
        assert record.metrics["external:mine"] == record.metrics["energy"] == expected


def test_what_was_imported_stays(folder):
    add(folder, first := scores(folder))
    before = contents(folder / "outputs")
    add(folder, first)
    assert contents(folder / "outputs") == before
    other = scores(folder, "other", seed=1)
    said = "has other scores of tiny, one held out, external:vit-b16, trial 0"
    refused(folder, other, said, "another method or trial")
    add(folder, scores(folder, "next", seed=1, trial=1))
    found = store.finished(tiny(folder, methods=METHOD, trials=2))
    assert [(record.trial, record.method) for record in found] == [(0, METHOD), (1, METHOD)]
    assert {path.parent.parent.name for path in folder.rglob("record.json")} == {"external.vit-b16"}


def test_several_files_at_once_and_a_wrong_one_leaves_the_others(folder, capsys):
    files = [scores(folder, f"trial {k}", seed=k, trial=k) for k in range(3)]
    files.insert(1, scores(folder, "wrong", without=["labels"]))
    words = [*map(str, files), *parameters(**places(folder))]
    assert main(["import", *words]) == 2
    said = capsys.readouterr()
    assert said.err.count("error:") == 1 and f"{files[1]}: lacks labels" in said.err
    assert said.out.count("trial_") == 3 and said.out.count("shown in the inspector") == 1
    assert len(store.finished(tiny(folder, methods=METHOD, trials=3))) == 3
    files[1].unlink()
    assert main(["import", *words]) == 2  # a file that isn't there
    del words[1]
    assert main(["import", *words]) == 0


def test_an_import_waits_for_another_of_the_same_name(folder, capsys, monkeypatch):
    """Otherwise the record of one could come to stand beside the scores of the other."""
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    add(folder, file := scores(folder))
    (run,) = plan.planned(tiny(folder, methods=METHOD))
    (run.home / "record.json").unlink()
    with ThreadPoolExecutor(1) as other, store.lock(run):
        imported = other.submit(add, folder, file)
        with pytest.raises(TimeoutError):
            imported.result(timeout=2)
        said = "waiting for tiny, one held out, external:vit-b16, trial 0"
        assert said in capsys.readouterr().err and not (run.home / "record.json").exists()
    assert store.find(run)


def test_a_file_that_is_there_is_found_in_a_folder_that_is_read_only(folder, monkeypatch):
    file = scores(folder)
    add(folder, file)
    before = contents(folder)

    def refuse(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr(store, "save_atomically", refuse)
    add(folder, file)
    assert contents(folder) == before


def test_scores_that_were_damaged_are_imported_again(folder):
    file = scores(folder)
    experiment = tiny(folder, methods=METHOD)
    add(folder, file)
    (path,) = (folder / "outputs").rglob("scores.npz")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="not used"):
        assert store.finished(experiment) == []
    with pytest.warns(UserWarning, match="not used"):
        add(folder, file)
    assert store.finished(experiment) == store.collect(experiment.folder) != []


def test_scores_are_of_the_images_that_they_were_compared_with(folder):
    """Of other images there is a further record; with other test images it is below the first."""
    file = scores(folder)
    experiment = tiny(folder, methods=METHOD)
    add(folder, file)
    with np.load(folder / "data" / "tiny.npz") as opened:
        arrays = dict(opened)
    for part in ("test", "train"):
        arrays[f"{part}_images"] = arrays[f"{part}_images"] ^ 1
        np.savez(folder / "data" / "tiny.npz", **arrays)
        assert store.finished(experiment) == []
        assert "other data" in store.unused_runs([experiment])[0]
        add(folder, file)
        assert len(store.finished(experiment)) == 1
    paths = sorted(len(path.relative_to(folder).parts) for path in folder.rglob("record.json"))
    assert paths == [8, 8, 9] and len(store.collect(experiment.folder)) == 3


def test_no_training_waits_for_what_can_only_be_imported(folder):
    add(folder, scores(folder))
    names = ("msp", "energy", "external:margin")
    both = tiny(folder, methods=("classification", METHOD), scores=names, epochs=1, trials=2)
    records = runs.complete(both)
    own, outside, second = records
    assert (own.method, outside.method, second.method) == ("classification", METHOD, own.method)
    assert own.metrics.keys() >= {"msp", "energy"} and "external:margin" not in own.metrics
    assert runs.complete(both) == records and store.missing(both) == []
    said = " ".join(show.remarks(both, records))
    assert "3 of 4 runs" in said and "vit-b16 (1)" in said
    text = show.formatted(tables.by_class(both, records)).to_string(line_width=200)
    assert text.count("not run") == 2  # margin of the classifier, for the class and on average


@pytest.mark.parametrize(("field", "known"), [("methods", METHOD), ("scores", "external:margin")])
def test_a_misspelt_name_is_refused_with_those_that_were_imported(folder, field, known):
    wrong = tiny(folder, **{field: "external:x"})
    with pytest.raises(ConfigError, match=r"choose from none.*semlib import"):
        runs.complete(wrong)
    add(folder, scores(folder))
    said = f"{field}: external:x was not imported into .*; choose from {known}"
    with pytest.raises(ConfigError, match=said):
        runs.complete(wrong)
    assert not list((folder / "outputs").rglob("weights.pt"))


def test_a_later_recipe_leaves_them_as_they_are(folder, monkeypatch):
    add(folder, scores(folder))
    found = store.finished(tiny(folder, methods=METHOD))
    monkeypatch.setattr(plan, "RECIPE", plan.RECIPE + 1)
    assert len(found) == 1 and store.finished(tiny(folder, methods=METHOD)) == found


def test_settings_of_the_images_tell_tables_apart(folder):
    """With 20 labels a class it is another training, on other data than with all of them."""
    add(folder, scores(folder))
    add(folder, scores(folder, "few", seed=1, method="few"), train_per_class=20)
    found = store.finished(tiny(folder, methods=(METHOD, "external:few")))
    assert [record.method for record in found] == [METHOD]
    for changes in ({}, {"epochs": 1}, {"train_per_class": 20, "batch_size": 32}):
        runs.complete(tiny(folder, methods="classification", **changes))
    found = grouped(store.collect(folder / "outputs" / "test"), tiny(folder)).values()
    outside = sorted([record.method for record in members][1:] for members in found)
    assert outside == [["external:few"], [METHOD], [METHOD]]


def test_nothing_may_be_held_out(folder):
    add(folder, scores(folder, hold_out="none"))
    (record,) = store.finished(tiny(folder, methods=METHOD, hold_out="none"))
    assert record.hold_out is None and set(record.metrics) == {"accuracy", "accuracy@upright"}


def test_a_dry_grid_counts_what_is_trained_or_says_that_nothing_is(folder, capsys):
    add(folder, scores(folder))
    words = parameters(**places(folder) | {"dataset": "tiny", "hold_out": "one", "trials": 1})
    capsys.readouterr()
    for split in ("class", "method"):
        more = ["-p", "methods", f"[classification, {METHOD}]", "--split", split, "--dry-run"]
        assert main(["grid", "params/demo/benchmark.yaml", *words, *more]) == 0
        out = capsys.readouterr().out
        assert "0 of 1 runs are finished, 1 are missing" in out and "1 jobs" in out
    words += ["-p", "missing", "skip", "--dry-run"]
    assert main(["grid", "params/demo/benchmark.yaml", *words]) == 0
    assert "benchmark (tiny): trains nothing" in capsys.readouterr().out
