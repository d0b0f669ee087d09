"""What was reported from the field: each a wrong number, or a place where nothing worked."""

import io
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, contents, made_up, picture_folder, refused, semlib, tiny_words

from workbench.cli import main
from workbench.files import save_atomically
from workbench.results import tables
from workbench.results.inspector.selection import Results
from workbench.runs import store

# --- names


def test_the_labels_of_a_run_are_those_of_other_runs(tmp_path):
    experiment = made_up(tmp_path, 60, dataset="digits", hold_out=["3", "4"], trials=1)
    other = made_up(tmp_path, 70, dataset="digits", hold_out="5", methods="rotation", trials=1)
    with pytest.warns(UserWarning, match="labels or classes differ from other runs'"):
        assert len(store.collect(experiment.folder)) == 4
    assert len(store.finished(other)) == 1  # by itself


def test_a_folder_called_cifar10_never_has_the_papers_numbers_beside_it(tmp_path):
    which = {"dataset": "cifar10", "trials": 1}
    own = made_up(tmp_path / "own", 60, data=store.Digests("1" * 64, "2" * 64), **which)
    real = made_up(tmp_path / "real", 60, **which)
    for experiment, beside in ((own, False), (real, True)):
        records = store.finished(experiment)
        table = tables.by_class(experiment, records)
        assert ("paper" in table.columns.unique("statistic")) == beside
        paper = Results(records).published("cat", "Rotation-augmented", "MSP")
        assert np.isnan(paper[0]) != beside
    stl10 = made_up(tmp_path / "stl10", 60, dataset="stl10", trials=1)
    table = tables.by_class(stl10, store.finished(stl10))
    assert "paper" not in table.columns.unique("statistic")


def test_a_folder_wins_when_it_is_named_with_a_slash(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path / "data"))
    picture_folder(tmp_path / "digits")
    with pytest.warns(UserWarning, match="the data set of that name is taken, not the folder"):
        assert main(["data", "prepare", "digits"]) == 0
    assert "10 classes" in capsys.readouterr().out
    assert main(["data", "prepare", "./digits"]) == 0
    assert "3 classes: ant, bee, cat" in capsys.readouterr().out


def test_cells_of_a_table_are_no_formulas_in_a_spreadsheet():
    values = pd.DataFrame({"file": ["=1+1", "+2", "-3", "@x", "a=b", ""], "x": -1.5})
    text = tables.csv_text(values.set_index("file"))
    found = pd.read_csv(io.StringIO(text), keep_default_na=False)
    assert found.file.tolist() == ["'=1+1", "'+2", "'-3", "'@x", "a=b", ""]
    assert found.x.tolist() == [-1.5] * 6


# --- hints


def layout(root, where, name="a.png"):
    for part in ("train", "test"):
        path = root / where.replace("PART", part)
        path.mkdir(parents=True)
        (path / name).write_text("no picture")


HINTS = {
    "one level too deep": ("birds/PART/ant", "a.png", "name {root}/birds"),
    "train in train": ("PART/PART/ant", "a.png", "train holds folders alone"),
    "images between": ("PART/images/ant", "a.png", "images holds folders alone: if they are"),
    "HEIC": ("PART/ant", "a.heic", "HEIC: convert it"),
    "bands": ("PART/ant", "a.tif", "of more than four bands? save three"),
    "DICOM": ("PART/ant", "a.dcm", "DICOM: save its picture"),
    "a video": ("PART/ant", "a.mp4", "a video: save frames"),
}


@pytest.mark.parametrize("hint", HINTS)
def test_a_hint_says_what_to_do(tmp_path, monkeypatch, hint):
    where, name, said = HINTS[hint]
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path / "data"))
    layout(tmp_path / "own", where, name)
    refused("data", "prepare", tmp_path / "own", said=[said.format(root=tmp_path / "own")])


def test_a_detector_that_can_not_be_fitted_is_known_before_training(tmp_path):
    picture_folder(tmp_path / "few", count=6)
    words = {"dataset": tmp_path / "few", "hold_out": "ant", "scores": "[msp, vim]"}
    words |= {"data_root": tmp_path / "data", "batch_size": 8}
    said = ["vim: no training feature lies outside", "leave vim out"]
    refused("run", "notebooks/holdout.ipynb", *tiny_words(tmp_path, **words), said=said)
    assert not (tmp_path / "outputs").exists()


# --- machines

REFUSE = """
import errno, os, sys
WHAT, FOLDER = os.environ["REFUSE"].split(":", 1)

def refuse(event, arguments):
    path = arguments[0] if arguments else ""
    if not isinstance(path, str) or not path.startswith(FOLDER):
        return
    writes = event in ("os.mkdir", "os.rename", "os.remove")
    writes |= event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if WHAT == "chmod" and event == "os.chmod":
        raise PermissionError(errno.EPERM, "Operation not permitted", path)
    if WHAT == "writes" and writes:
        raise OSError(errno.EROFS, "Read-only file system", path)
    if WHAT == "name" and writes and "?" in path:
        raise OSError(errno.EINVAL, "Invalid argument", path)
    if WHAT == "rename" and event == "os.rename":
        raise OSError(errno.EXDEV, "Invalid cross-device link", path)

sys.addaudithook(refuse)
"""


@pytest.mark.notebook
def test_a_class_name_that_the_disk_refuses_is_one_line(tmp_path):
    """exFAT has no file with a ? in its name; the images lie on another disk."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(REFUSE)
    picture_folder(tmp_path / "own", count=6)
    for part in ("train", "test"):
        (tmp_path / "own" / part / "ant").rename(tmp_path / "own" / part / "ant?")
    given = {"dataset": tmp_path / "own", "hold_out": "ant?", "batch_size": 8}
    words = tiny_words(tmp_path, **given, outputs=tmp_path / "disk")
    path = helpers.semlib_path(tmp_path / "hook")
    places = {"SEMLIB_DATA": tmp_path / "data", "REFUSE": f"name:{tmp_path / 'disk'}"}
    done = semlib("run", "notebooks/holdout.ipynb", *words, **places, PYTHONPATH=path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Invalid argument" in error and "ant?" in error


@pytest.mark.notebook
def test_without_chmod_all_works_and_what_is_read_only_can_be_looked_at(tmp_path):
    """exFAT and CIFS; then a folder of results that can only be read; a rename across devices."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(REFUSE)
    disk = tmp_path / "disk"
    picture_folder(disk / "own", count=6)
    given = {"dataset": disk / "own", "hold_out": "ant", "batch_size": 8}
    words = ["run", "notebooks/holdout.ipynb", *tiny_words(disk, **given)]
    places = {"SEMLIB_DATA": disk / "data", "PYTHONPATH": helpers.semlib_path(tmp_path / "hook")}

    def run(what, *more):
        return semlib(*words, *more, **places | {"REFUSE": f"{what}:{disk}"})

    done = run("rename")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "cross-device" in done.stderr and "Traceback" not in done.stderr
    done = run("chmod")
    assert done.returncode == 0, done.stderr
    before = contents(disk)
    assert any(name.endswith("record.json") for name in before)
    done = run("writes", "-p", "learning_rate", "0.2")
    error = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and error.startswith("error: outputs: ") and "Read-only" in error
    out = tmp_path / "elsewhere" / "x.ipynb"
    words[words.index("train")] = "skip"
    done = run("writes", "-o", out)
    assert done.returncode == 0 and out.exists(), done.stderr
    assert contents(disk) == before


@pytest.mark.notebook
def test_csv_figure_and_notebook_of_one_name_are_of_one_experiment(tmp_path, capsys):
    """Those of a notebook with -o lie beside it; without it a line says what is replaced."""
    made_up(tmp_path, 60, dataset="digits", profile="x")
    words = ["run", str(ROOT / "notebooks/benchmark.ipynb")]
    given = {"profile": "x", "dataset": "digits", "outputs": tmp_path, "missing": "skip"}
    given |= {"methods": "[classification, rotation]", "trials": 3, "epochs": 200}
    given |= {"architecture": "wrn-28-10", "flip": "true", "batch_size": 512}
    words += helpers.parameters(**given)
    assert main([*words, "-p", "statistics", "mixed"]) == 0
    before = contents(tmp_path / "x", but=("run.lock",))
    other = tmp_path / "other" / "benchmark-digits.ipynb"
    assert main([*words, "-p", "statistics", "upright", "-o", str(other)]) == 0
    assert contents(tmp_path / "x", but=("run.lock",)) == before
    made = {path.name for path in other.parent.iterdir()}
    assert made == {path.name for path in (tmp_path / "x").iterdir() if path.is_file()}
    capsys.readouterr()
    assert main([*words, "-p", "statistics", "upright"]) == 0
    assert "statistics mixed, now upright" in capsys.readouterr().out


def test_where_a_rename_fails_the_error_names_the_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match=r"cross-device link: '.*table.csv'"):
        save_atomically(tmp_path / "table.csv", lambda file: None)
    assert not [*tmp_path.iterdir()]


DEMO = "params/demo/benchmark.yaml"
NOBODY = """
import pwd

def gone(*_):
    raise KeyError("uid not found")

pwd.getpwuid = pwd.getpwnam = gone
"""


@pytest.mark.parametrize("lack", ["fcntl", "home"])
def test_without_fcntl_one_line_and_without_a_home_all_works(tmp_path, lack):
    if lack == "fcntl":
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['fcntl'] = None\n")
        done = semlib("parameters", PYTHONPATH=helpers.semlib_path(tmp_path))
        said = "error: semlib needs Linux or macOS (on Windows its subsystem for Linux)\n"
        assert done.returncode == 1 and done.stderr == said
    else:
        (tmp_path / "sitecustomize.py").write_text(NOBODY)
        own = helpers.environment(SEMLIB_DATA=tmp_path, PYTHONPATH=helpers.semlib_path(tmp_path))
        del own["HOME"]
        how = {"cwd": ROOT, "env": own, "capture_output": True, "text": True}
        for words in (["data", "prepare", "digits"], ["grid", DEMO, "--dry-run"]):
            done = subprocess.run([sys.executable, "-m", "semlib", *words], **how)
            assert done.returncode == 0, done.stderr
