"""python -m semlib run: what is refused, what a notebook leaves, and how failures and kills end."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import psutil
import pytest
import yaml
from helpers import ROOT, TINY, contents, environment, parameters, semlib, tiny, tiny_data
from nbclient import NotebookClient

from workbench.batch import notebooks
from workbench.cli import main
from workbench.experiment import Experiment
from workbench.results import report
from workbench.runs import store

NOTEBOOK = "notebooks/holdout.ipynb"
SMALL = TINY | {"methods": "classification", "epochs": 2}  # for a command line


def words(tmp_path, **changes) -> list[str]:
    return parameters(**SMALL | {"outputs": tmp_path / "outputs"} | changes)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epoch": 3}, ("'epoch'", "epochs", "learning_rate")),
        ({"learning_rate": "fast"}, ("learning_rate", "number", "'fast'")),
        ({"epochs": "true"}, ("epochs", "integer", "True")),
        ({"dropout": ".nan"}, ("dropout", "finite", "nan")),
        ({"hold_out": "cta"}, ("'cta'", "zero, one, two, three, all, none")),
        ({"architecture": "resnet-18"}, ("'resnet-18'", "wrn-D-K")),
        ({"dataset": "cifar10"}, ("cifar10.npz", "can't be read", "delete it")),
        ("a missing file", ("absent.yaml", "no such file")),
        ("not a mapping", ("list.yaml", "name: value")),
    ],
    ids=str,
)
def test_a_wrong_input_is_one_line_and_nothing_is_started(tmp_path, wrong, said):
    tiny_data(tmp_path / "data")
    (tmp_path / "data" / "cifar10.npz").write_bytes(
        (tmp_path / "data" / "tiny.npz").read_bytes()[:5000]
    )
    (tmp_path / "list.yaml").write_text("- epochs: 3\n")
    files = {
        "a missing file": ["-f", "absent.yaml"],
        "not a mapping": ["-f", tmp_path / "list.yaml"],
    }
    given = (
        words(tmp_path, **wrong) if isinstance(wrong, dict) else [*words(tmp_path), *files[wrong]]
    )
    before = contents(tmp_path)
    done = semlib("run", NOTEBOOK, *given, SEMLIB_DATA=tmp_path / "data")
    assert (
        done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    )
    assert all(text in done.stderr for text in said), done.stderr
    assert (
        done.stdout == "" and contents(tmp_path) == before and not (tmp_path / "outputs").exists()
    )


def relative(path) -> str:
    """A path as counted from the checkout's root: from another folder it leads elsewhere."""
    up = len(ROOT.parts) - 1
    return "../" * up + str(path.relative_to("/"))


@pytest.mark.notebook
def test_lab_and_plain_papermill_meet_in_the_same_files(tmp_path):
    """Executed with notebooks/ as the kernel's folder, as Lab does; then by papermill from the
    root, with -f and -p.

    The learning rate is text to PyYAML (1e-1) and a number to the other: the run is the same, and
    nothing is trained twice.
    """
    tiny_data(tmp_path / "data")
    places = {"data_root": relative(tmp_path / "data"), "outputs": relative(tmp_path / "outputs")}
    settings = (
        SMALL
        | places
        | {
            "profile": "demo",
            "learning_rate": 0.1,
            "dropout": 0.0,
            "flip": False,
            "schedule": "one_cycle",
        }
    )
    notebook = nbformat.read(ROOT / "notebooks" / "benchmark.ipynb", 4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in settings.items())
    resources = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()

    experiment = tiny(
        tmp_path, **{name: value for name, value in settings.items() if name not in places}
    )
    (record,) = store.finished(experiment)
    runs = contents(tmp_path / "outputs" / "demo" / "runs", ("run.lock",))

    demo = yaml.safe_load((ROOT / "params" / "demo" / "benchmark.yaml").read_text())
    over = {
        name: value
        for name, value in settings.items()
        if demo.get(name, object()) != value and name != "learning_rate"
    }
    (tmp_path / "rate.yaml").write_text("learning_rate: 1e-1\n")
    command = [
        sys.executable,
        "-m",
        "papermill",
        "notebooks/benchmark.ipynb",
        str(tmp_path / "out.ipynb"),
    ]
    command += [
        "-f",
        "params/demo/benchmark.yaml",
        "-f",
        str(tmp_path / "rate.yaml"),
        *parameters(**over),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "outputs" / "demo" / "runs", ("run.lock",)) == runs
    assert record.settings["learning_rate"] == 0.1
    assert set(re.findall("unknown parameter: (.*)", done.stderr)) <= set(
        Experiment.model_fields
    )  # left at their default
    table = (tmp_path / "outputs" / "demo" / "benchmark-tiny-one.csv").read_text()
    assert f"{100 * record.metrics['msp@upright']:.2f}" in table


@pytest.mark.notebook
@pytest.mark.parametrize("hold_out", ["one", "none"])
def test_an_executed_notebook_is_a_page_to_read(tmp_path, hold_out):
    """With curves and without residue: no progress bars, no paths of the checkout. `none` too is a
    value of hold_out.
    """
    tiny_data(tmp_path / "data")
    out, finished = tmp_path / "out.ipynb", tmp_path / "done"
    given = words(
        tmp_path, hold_out=hold_out, methods="[classification, rotation]", auxiliary_weight="5e-1"
    )
    done = semlib(
        "run", NOTEBOOK, *given, "-o", out, "--done", finished, SEMLIB_DATA=tmp_path / "data"
    )
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(out, 4)
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert not [output for output in outputs if output.output_type == "stream"]
    assert str(ROOT) not in out.read_text() and "epoch/s" not in out.read_text()
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= (2 if hold_out == "one" else 1)
    assert "Rotation-augmented" in json.dumps(outputs) and finished.exists()
    records = [json.loads(path.read_text()) for path in (tmp_path / "outputs").rglob("record.json")]
    assert sorted(record["method"] for record in records) == ["classification", "rotation"]
    assert [r["settings"]["auxiliary_weight"] for r in records if r["method"] == "rotation"] == [
        0.5
    ]  # 5e-1 by -p


@pytest.mark.notebook
def test_a_notebook_whose_kernel_died_says_so_where_it_stopped_and_in_the_report(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(source)
        for source in ("profile = 'demo'", "import os\nos._exit(9)", "1")
    ]
    cells[0].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "n.ipynb"
    )
    done = semlib("run", tmp_path / "n.ipynb", "-p", "outputs", tmp_path)
    assert done.returncode == 1 and "error: DeadKernelError" in done.stderr
    *_, stopped, after = nbformat.read(tmp_path / "demo" / "n.unfinished.ipynb", 4).cells
    assert [output.ename for output in stopped.outputs] == ["DeadKernelError"] and not after.outputs
    assert (
        "failed: DeadKernelError"
        in report.write(tmp_path, "demo").read_text().partition("</nav>")[0]
    )


def test_what_no_cell_says_is_added_to_the_last_that_began(tmp_path):
    began = (True, True, False)
    cells = [
        nbformat.v4.new_code_cell(metadata={"papermill": {"start_time": "2026" if one else None}})
        for one in began
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    notebooks.say_why(tmp_path / "n.ipynb", TimeoutError("a cell took too long"))
    said = [
        [output.evalue for output in cell.outputs]
        for cell in nbformat.read(tmp_path / "n.ipynb", 4).cells
    ]
    assert said == [[], ["a cell took too long"], []]


@pytest.mark.notebook
def test_a_training_that_fails_leaves_its_traceback(tmp_path):
    tiny_data(tmp_path / "data")
    out, finished = tmp_path / "out.ipynb", tmp_path / "done"
    given = words(tmp_path, learning_rate=1e12, schedule="step")
    done = semlib(
        "run", NOTEBOOK, *given, "-o", out, "--done", finished, SEMLIB_DATA=tmp_path / "data"
    )
    assert (
        done.returncode == 1
        and "error: FloatingPointError: " in done.stderr
        and "Traceback" not in done.stderr
    )
    assert not out.exists()
    errors = [
        o
        for cell in nbformat.read(out.with_suffix(".unfinished.ipynb"), 4).cells
        for o in cell.get("outputs", ())
        if o.output_type == "error"
    ]
    assert [error.ename for error in errors] == ["FloatingPointError"]
    assert "epoch 1" in errors[0].evalue and "learning rate" in errors[0].evalue
    assert not finished.exists() and not list((tmp_path / "outputs").rglob("record.json"))


def without_progress(said):
    return [
        line
        for line in said.splitlines()
        if line.strip() and "epoch/s" not in line and "s/epoch" not in line
    ]


@pytest.mark.notebook
def test_a_killed_kernel_is_a_failure(tmp_path):
    tiny_data(tmp_path / "data")
    given = words(tmp_path, epochs=100_000, evaluate_every=100_000)
    command = [
        sys.executable,
        "-m",
        "semlib",
        "run",
        NOTEBOOK,
        *given,
        "-o",
        tmp_path / "out.ipynb",
        "--done",
        tmp_path / "done",
    ]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=environment(SEMLIB_DATA=tmp_path / "data"),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("checkpoint.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    (kernel,) = [
        p
        for p in psutil.Process(process.pid).children(recursive=True)
        if notebooks.KERNEL in p.cmdline()
    ]
    kernel.kill()
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1 and [line.split()[0] for line in without_progress(said)] == [
        "error:",
        "the",
    ], said
    assert not (tmp_path / "done").exists() and not list(tmp_path.rglob("record.json"))


@pytest.mark.notebook
def test_ctrl_c_ends_with_one_line(tmp_path):
    tiny_data(tmp_path / "data")
    given = words(tmp_path, epochs=100_000, evaluate_every=100_000)
    command = list(map(str, [sys.executable, "-m", "semlib", "run", NOTEBOOK, *given]))
    places = {
        "cwd": ROOT,
        "env": environment(SEMLIB_DATA=tmp_path / "data"),
        "start_new_session": True,
    }
    process = subprocess.Popen(command, **places, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("checkpoint.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert without_progress(said) == ["stopped; the same command goes on from the last checkpoint"]


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({"epochs": 3, "threads": 4, "methods": "rotation"}, "epochs 3, now 7"),
        ({"epochs": 7}, "methods as by default, now rotation"),
        ({"epochs": 7, "methods": "rotation", "trials": 2}, "trials 2, now as by default"),
        ({"epochs": 7, "methods": "rotation", "device": "cpu"}, None),
        (None, None),
    ],
)
def test_a_notebook_of_other_parameters_is_replaced_with_a_word(
    tmp_path, monkeypatch, capsys, before, said
):
    monkeypatch.setenv("SEMLIB_DATA", str(tiny_data(tmp_path / "data")))
    monkeypatch.setattr(
        notebooks, "execute", lambda *args: (_ for _ in ()).throw(RuntimeError("not executed here"))
    )
    always = {
        "dataset": "tiny",
        "hold_out": "one",
        "missing": "train",
        "profile": "test",
        "outputs": str(tmp_path / "outputs"),
    }
    out = tiny(tmp_path, **always).output("holdout", ".ipynb")
    out.parent.mkdir(parents=True)
    metadata = {"papermill": {"parameters": always | before}} if before else {}
    nbformat.write(nbformat.v4.new_notebook(metadata=metadata), out)
    assert (
        main(["run", NOTEBOOK, *parameters(**always | {"epochs": 7, "methods": "rotation"})]) == 1
    )
    lines = capsys.readouterr().out.splitlines()
    expected = (
        [f"this replaces {out} and its tables, made with other parameters (its runs stay): {said}"]
        if said
        else []
    )
    assert lines == [*expected, f"executing {NOTEBOOK} -> {out}"]


@pytest.mark.data
@pytest.mark.slow
def test_an_epoch_on_cifar10_finds_cats_better_than_chance(cifar10_root, tmp_path):
    out = tmp_path / "out.ipynb"
    given = [
        "-f",
        "params/cpu/table3_cifar10.yaml",
        *parameters(hold_out="cat", epochs=1, trials=1, methods="classification", threads=1),
    ]
    done = semlib(
        "run",
        NOTEBOOK,
        *given,
        "-p",
        "outputs",
        tmp_path / "outputs",
        "-o",
        out,
        SEMLIB_DATA=cifar10_root,
    )
    assert done.returncode == 0, done.stderr
    (home,) = (path.parent for path in (tmp_path / "outputs").rglob("record.json"))
    arrays = dict(np.load(home / "scores.npz", allow_pickle=False))
    assert {name: array.shape for name, array in arrays.items()} == dict.fromkeys(arrays, (10_000,))
    assert (arrays["label"][arrays["is_anomaly"]] == 3).all() and arrays["is_anomaly"].sum() == 1000
    assert (np.bincount(arrays["label"]) == 1000).all() and 3 not in arrays["predicted"]
    record = json.loads((home / "record.json").read_text())
    assert record["skew"] == 0.1 < record["metrics"]["msp"] and record["metrics"]["accuracy"] > 0.2
    text = out.read_text()
    assert '"image/png"' in text and str(ROOT) not in text and str(cifar10_root) not in text
