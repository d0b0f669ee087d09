"""python -m semlib: what is refused, what a notebook leaves, and how failures and kills end."""

import json
import os
import re
import subprocess
import sys

import helpers
import nbformat
import pytest
import yaml
from helpers import ROOT, contents, parameters, refused, semlib, tiny, tiny_data, tiny_words
from nbclient import NotebookClient

from workbench.batch import notebooks
from workbench.cli import main
from workbench.experiment import Experiment
from workbench.runs import store

NOTEBOOK = "notebooks/holdout.ipynb"
ENDLESS = {"epochs": 100_000, "evaluate_every": 100_000}


def run(tmp_path, *options, notebook=NOTEBOOK, **changes):
    """`python -m semlib run` of the tiny hold-out."""
    tiny_data(tmp_path / "data")
    given = [notebook, *tiny_words(tmp_path, **{"epochs": 2} | changes), *options]
    return semlib("run", *given, SEMLIB_DATA=tmp_path / "data")


def test_help_and_parameters_need_no_torch():
    code = "import sys; from workbench.cli import main; main(['parameters']); "
    command = [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"]
    done = subprocess.run(command, env=helpers.environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "| `auxiliary_weight` | number | 0.5 |" in done.stdout


def test_relative_paths_count_from_the_current_folder(tmp_path, monkeypatch, capsys):
    helpers.pets(tmp_path / "here", 0)
    (tmp_path / "here" / "x.yaml").write_text("epochs: three\n")
    (tmp_path / "here" / "digits").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = {*ROOT.iterdir()}

    def say(*words):
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    status, out, _ = say("data", "prepare", "pets", "--root", "prepared", "--side", 16)
    assert status == 0 and out.startswith("pets: 24 training and 12 test images of 3x16x16\n")
    assert [*(tmp_path / "here" / "prepared").glob("folder-pets-*.npz")]
    own = {"data_root": "prepared", "image_side": 16, "outputs": tmp_path / "outputs"}
    notebook = ROOT / NOTEBOOK
    for dataset in ("pets", "./pets", "../here/pets"):
        given = parameters(dataset=dataset, hold_out="cta", **own)
        status, _, error = say("run", notebook, *given)
        assert status == 2 and "'cta' is not a class of pets; choose from ant, bee, cow" in error
    several = parameters(dataset="[pets, digits]", hold_out="cta", **own)
    assert "'cta' is not a class of pets" in say("run", notebook, *several)[2]
    assert "epochs: should be" in say("run", notebook, "-f", "x.yaml")[2]
    long = f"[{', '.join(f'class {k}' for k in range(99))}]"  # longer than a file's name can be
    assert "'class 0' is not a class of digits" in say("run", notebook, "-p", "hold_out", long)[2]
    assert say("data", "check", "digits")[1].startswith("digits: 1197")  # no folder, a name
    assert {*ROOT.iterdir()} == before and not (tmp_path / "here" / "outputs").exists()


def test_a_profile_without_runs_is_refused_with_the_choices_and_an_import_names_its_own(tmp_path):
    where = parameters(outputs=tmp_path, profile="dmeo", missing="skip")
    choices = [f"profile: {tmp_path}/dmeo has no runs; choose from cpu, demo, fast, paper, or -p m"]
    for words in (["run", NOTEBOOK], ["grid", "params/demo/benchmark.yaml"]):
        refused(*words, *where, said=choices, place=tmp_path)
    refused("import", "scores.npz", *parameters(outputs=tmp_path), said=["-p profile NAME"])


def from_root(path) -> str:
    """The path as counted from the checkout's root: from another folder it leads elsewhere."""
    return os.path.relpath(path, ROOT)


@pytest.mark.notebook
def test_lab_and_plain_papermill_meet_in_the_same_files(tmp_path):
    """Executed in notebooks/, as Lab does, and then by papermill from the root.

    The learning rate is text to PyYAML (1e-1): the run is the same, and trained once.
    """
    tiny_data(tmp_path / "data")
    outputs = tmp_path / "outputs" / "demo"
    places = {"data_root": from_root(tmp_path / "data")}
    places |= {"outputs": from_root(tmp_path / "outputs")}
    settings = helpers.TINY | {"methods": "classification", "profile": "demo", "epochs": 2}
    settings |= {"flip": False, "schedule": "one_cycle", "learning_rate": 0.1, "dropout": 0.0}
    notebook = nbformat.read(ROOT / "notebooks" / "benchmark.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    values = settings | places
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    (record,) = store.finished(tiny(tmp_path, **settings))
    before = contents(outputs / "runs", ("run.lock",))

    demo = yaml.safe_load((ROOT / "params" / "demo" / "benchmark.yaml").read_text())
    over = {name: value for name, value in values.items() if demo.get(name, "") != value}
    over.pop("learning_rate", None)
    (tmp_path / "rate.yaml").write_text("learning_rate: 1e-1\n")
    files = ["-f", "params/demo/benchmark.yaml", "-f", str(tmp_path / "rate.yaml")]
    command = [sys.executable, "-m", "papermill", "notebooks/benchmark.ipynb"]
    command += [str(tmp_path / "out.ipynb"), *files, *parameters(**over)]
    how = {"cwd": ROOT, "env": helpers.environment(), "capture_output": True, "text": True}
    done = subprocess.run(command, timeout=300, **how)
    assert done.returncode == 0, done.stderr
    assert contents(outputs / "runs", ("run.lock",)) == before
    assert record.settings["learning_rate"] == 0.1
    left_at_default = set(re.findall("unknown parameter: (.*)", done.stderr))
    assert left_at_default <= set(Experiment.model_fields)
    table = (outputs / "benchmark-tiny-one.csv").read_text()
    assert f"{100 * record.metrics['msp@upright']:.2f}" in table


@pytest.mark.notebook
@pytest.mark.parametrize("hold_out", ["one", "none"])
def test_an_executed_notebook_is_a_page_to_read(tmp_path, hold_out):
    """With curves, without progress bars and the checkout's path. `none` is a hold_out too."""
    out = tmp_path / "out.ipynb"
    changes = {"methods": "[classification, rotation]", "auxiliary_weight": "5e-1"}
    options = ["-o", out, "--done", tmp_path / "done"]
    done = run(tmp_path, *options, hold_out=hold_out, **changes)
    assert done.returncode == 0, done.stderr
    # before it trains, on the terminal: what, and how long by a few steps
    said = "tiny, classification, rotation: 0 of 2 runs are finished, 2 are missing: "
    assert said in done.stderr and "of training (by a few steps tried just now)" in done.stderr
    outputs = []
    for cell in nbformat.read(out, 4).cells:
        outputs += cell.get("outputs", ())
    assert not [output for output in outputs if output.output_type == "stream"]
    assert str(ROOT) not in out.read_text() and "epoch/s" not in out.read_text()
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= (2 if hold_out == "one" else 1)
    assert "Rotation-augmented" in json.dumps(outputs) and (tmp_path / "done").exists()
    records = [json.loads(path.read_text()) for path in (tmp_path / "outputs").rglob("record.json")]
    weights = {r["method"]: r["settings"].get("auxiliary_weight") for r in records}
    assert weights["rotation"] == 0.5 and set(weights) == {"classification", "rotation"}


@pytest.mark.notebook
def test_nothing_does_not_replace_a_table_a_figure_or_a_notebook(tmp_path):
    def benchmark(**changes):
        return run(tmp_path, notebook="notebooks/benchmark.ipynb", **changes)

    assert benchmark().returncode == 0
    before = contents(tmp_path / "outputs", ("run.lock",))
    made = {f"test/benchmark-tiny-one.{ending}" for ending in ("csv", "png", "ipynb")}
    assert made <= {*before}
    said = benchmark(flip="yes", missing="skip").stdout
    assert "nothing is finished with these settings" in said
    assert "benchmark-tiny-one.ipynb stays" in said
    assert before.items() <= contents(tmp_path / "outputs").items()
    assert benchmark(flip="yes", learning_rate=1e12, schedule="step").returncode == 1
    assert before.items() <= contents(tmp_path / "outputs").items()
    (left,) = (tmp_path / "outputs").rglob("*.unfinished.ipynb")
    assert "FloatingPointError" in left.read_text()
    assert benchmark(flip="yes").returncode == 0  # another complete table takes the place
    after = contents(tmp_path / "outputs")
    assert not left.exists() and all(after[name] != before[name] for name in made)


@pytest.mark.notebook
def test_a_notebook_whose_kernel_died_is_kept_so_far(tmp_path):
    sources = ("profile = 'demo'", "import os\nos._exit(9)", "1")
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "n.ipynb")
    done = semlib("run", tmp_path / "n.ipynb", "-p", "outputs", tmp_path)
    assert done.returncode == 1 and "error: DeadKernelError" in done.stderr
    *_, stopped, after = nbformat.read(tmp_path / "demo" / "n.unfinished.ipynb", 4).cells
    assert stopped.metadata.papermill.start_time and not after.metadata.papermill.start_time


BEFORE = [
    ({"epochs": 3, "threads": 4, "methods": "rotation"}, "epochs 3, now 7"),
    ({"epochs": 7}, "methods as by default, now rotation"),
    ({"epochs": 7, "methods": "rotation", "trials": 2}, "trials 2, now as by default"),
    ({"epochs": 7, "methods": "rotation", "device": "cpu"}, None),
    (None, None),
]


@pytest.mark.parametrize(("before", "said"), BEFORE)
def test_replacing_a_notebook_is_said(tmp_path, monkeypatch, capsys, before, said):
    def refuse(*args):
        raise RuntimeError("not executed here")

    monkeypatch.setenv("SEMLIB_DATA", str(tiny_data(tmp_path / "data")))
    monkeypatch.setattr(notebooks, "execute", refuse)
    always = {"dataset": "tiny", "hold_out": "one", "missing": "train", "profile": "test"}
    always |= {"outputs": str(tmp_path / "outputs")}
    out = tiny(tmp_path, **always).output("holdout", ".ipynb")
    out.parent.mkdir(parents=True)
    metadata = {"papermill": {"parameters": always | before}} if before else {}
    nbformat.write(nbformat.v4.new_notebook(metadata=metadata), out)
    now = parameters(**always, epochs=7, methods="rotation")
    assert main(["run", NOTEBOOK, *now]) == 1
    *replaced, executing = capsys.readouterr().out.splitlines()
    assert executing == f"executing {NOTEBOOK} -> {out}"
    changed = "made with other parameters (its runs stay)"
    expected = [f"this replaces {out} and its tables, {changed}: {said}"] if said else []
    assert replaced == expected
