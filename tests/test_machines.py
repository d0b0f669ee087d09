"""What a machine has set (environment, kernels, quotas) changes no number and stops no run."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import helpers
import nbformat
import numpy as np
import pytest
import torch
from helpers import ROOT, environment, semlib, tiny, tiny_benchmark, tiny_data, tiny_words
from nbclient import NotebookClient

from semlib.datasets import DataError
from workbench import runs
from workbench.batch import grid, notebooks
from workbench.cli import main
from workbench.images import checks, prepared
from workbench.runs import plan, store

HOLDOUT = "notebooks/holdout.ipynb"


@pytest.mark.notebook
def test_a_machines_own_settings_change_no_number_and_no_figure(tmp_path):
    """Agg as backend, TeX in matplotlibrc, IPython's startup files, another environment's kernel, a
    long TMPDIR, no HOME, ASCII output, braces in the outputs' path."""
    data = tiny_data(tmp_path / "data")
    spec = {"argv": ["/no/such/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    spec |= {"display_name": "Python 3", "language": "python"}
    files = {
        "ipython/profile_default/startup/mine.py": "weight_decay = 0.1\nmy_constant = 3\n",
        "startup.py": "my_other_constant = 3\nepochs = 1\n",
        "jupyter/kernels/python3/kernel.json": json.dumps(spec),
        "matplotlibrc": "text.usetex: True\nsavefig.dpi: 3\nfont.size: 40\n",
        "long" * 25 + "/file": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    machine_has = {"MPLBACKEND": "Agg", "MATPLOTLIBRC": tmp_path / "matplotlibrc", "LC_ALL": "C"}
    machine_has |= {"IPYTHONDIR": tmp_path / "ipython", "JUPYTER_PATH": tmp_path / "jupyter"}
    machine_has |= {"TMPDIR": tmp_path / ("long" * 25), "PYTHONSTARTUP": tmp_path / "startup.py"}
    machine_has |= {"HOME": "/proc/no home", "PYTHONIOENCODING": "ascii"}
    scores = []
    notebooks = []
    for name, changes in (("out {profile} {}", machine_has), ("outputs", {})):
        words = tiny_words(tmp_path, outputs=tmp_path / name, trials=2)  # 2: for a ± in the table
        done = semlib("run", HOLDOUT, *words, SEMLIB_DATA=data, **changes)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert (r"\xb1" if changes else "±") in done.stdout
        records = store.collect(tmp_path / name / "test")
        scores.append({record.address: record.scores_sha256 for record in records})
        notebooks += (tmp_path / name / "test").glob("*.ipynb")
    assert scores[0] == scores[1] and len(scores[0]) == 2
    first, second = map(pictures, notebooks)
    assert first == second != []


@pytest.mark.notebook
def test_plain_papermill_or_lab_shows_figures_too(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = "from workbench.results import plots\nplots.note('a figure');"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    there = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=there).execute()
    assert ["image/png" in output.data for output in notebook.cells[0].outputs] == [True]


def pictures(notebook):
    cells = nbformat.read(notebook, 4).cells
    outputs = itertools.chain(*(cell.get("outputs", []) for cell in cells))
    return [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]


def test_a_containers_memory_is_what_counts_as_free(tmp_path, monkeypatch):
    """Of its group and those above; files kept in memory while nothing else needs it are free."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10**9}))
    places = (tmp_path / "fs", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("4:memory:/\n0::/a/b\n")
    assert checks.free_memory(*places) == 10**9
    stat = "anon 1000\nactive_file 700\ninactive_file 40\nshmem 9\n"
    for group, limit in (("a", "max"), ("a/b", "5000")):
        (tmp_path / "fs" / group).mkdir(parents=True)
        for name, text in {"max": f"{limit}\n", "current": "3000\n", "stat": stat}.items():
            (tmp_path / "fs" / group / f"memory.{name}").write_text(text)
    assert checks.free_memory(*places) == 2740
    (tmp_path / "fs" / "a" / "memory.max").write_text("4000\n")
    assert checks.free_memory(*places) == 1740
    with pytest.raises(DataError, match=r"take 10.0 GB of memory"):
        checks.check_memory(10**10, "images")


def test_system_wide_start_up_files_stay_out_of_a_kernel(tmp_path, monkeypatch):
    for kind in ("system", "environment"):
        (tmp_path / kind / "startup").mkdir(parents=True)
        (tmp_path / kind / "startup" / "mine.py").write_text(f"{kind} = 3\n")
    (tmp_path / "sitecustomize.py").write_text(
        "from IPython.core import application\n"
        f"application.SYSTEM_CONFIG_DIRS.append({str(tmp_path / 'system')!r})\n"
        f"application.ENV_CONFIG_DIRS.append({str(tmp_path / 'environment')!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", helpers.semlib_path(tmp_path))
    code = "import sys; print({'system', 'environment'} & {*globals()}, sys.path[0] == '')"
    cell = nbformat.v4.new_code_cell(code)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with notebooks._kernels(1, tmp_path):
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert cell.outputs[0].text == "set() False\n"


def test_a_quota_bounds_the_jobs_and_a_kernels_threads(tmp_path, monkeypatch, capsys):
    for place in (grid, notebooks):
        monkeypatch.setattr(place, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setenv("SEMLIB_DATA", str(tiny_data(tmp_path / "data")))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    file, _ = tiny_benchmark(tmp_path, hold_out="all", device="cpu")
    assert main(["grid", str(file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 jobs, 3 side by side with 1 thread each" in said
    assert said.endswith("times by a few steps tried just now\n") and "unknown" not in said
    with notebooks._kernels(None, tmp_path):
        assert os.environ["OMP_NUM_THREADS"] == "3"
    with notebooks._kernels(2, tmp_path):
        assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.fixture
def no_bfloat16(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)


def test_bfloat16_is_said_to_be_emulated_where_it_is(folder, no_bfloat16):
    said = "precision: bfloat16 is emulated on this processor or GPU"
    with pytest.warns(UserWarning, match=said):
        runs.check(tiny(folder, precision="bfloat16", device="cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for precision in ("float32", "auto"):
            runs.check(tiny(folder, precision=precision, device="cpu"))
        runs.check(tiny(folder, precision="bfloat16", device="cpu", missing="skip"))


@pytest.mark.parametrize("table", ["table3_cifar10", "table4_stl10", "masking_ablation"])
def test_a_gpus_records_are_found_on_a_machine_without_one(tmp_path, table):
    """As on a SLURM cluster's login node: the precision is named, so nothing has to be asked of the
    device.
    """
    path = ROOT / "params" / "fast" / f"{table}.yaml"
    given = [("outputs", str(tmp_path)), ("data_root", str(tmp_path / "data"))]
    (experiment,) = notebooks.parameters(ROOT / "notebooks" / f"{table}.ipynb", [path], given)[1]
    (run, *_) = plan.planned(experiment)
    run = replace(run, data=prepared.Digests("1" * 64, "2" * 64))
    label = np.arange(20) % 10
    arrays = {"label": label, "predicted": label, "is_anomaly": label == 0, "msp": np.arange(20.0)}
    made = helpers.finish(run, prepared.classes(run.dataset), arrays, {"msp": {}})
    gpu = made.model_dump() | {"device": "NVIDIA H100 80GB HBM3", "precision": "bfloat16"}
    store.write_record(run.home, **gpu)
    (record,) = store.finished(experiment)
    assert record.device.startswith("NVIDIA") and record.precision == "bfloat16"


@pytest.mark.slow
def test_an_installed_package_says_what_needs_the_checkout_and_does_the_rest(tmp_path):
    for package in ("semlib", "workbench"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / "site" / package, ignore=ignored)
    (tmp_path / "mine.yaml").write_text("dataset: digits\n")
    how = {"cwd": tmp_path, "env": environment(PYTHONPATH=tmp_path / "site"), "timeout": 300}

    def python(*words):
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, **how, capture_output=True, text=True)

    clone = "needs a clone of the repository"
    for words, said in ((["grid", "mine.yaml"], clone), (["run", HOLDOUT], "no such file")):
        done = python("-m", "semlib", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith("error: ") and said in done.stderr
    prepared = python("-m", "semlib", "data", "prepare", "digits", "--root", tmp_path / "data")
    assert prepared.returncode == 0
    assert "# Parameters" in python("-m", "semlib", "parameters").stdout
    settings = {"dataset": "digits", "hold_out": "3", "trials": 1, "methods": "classification"}
    settings |= {"architecture": "wrn-10-1", "epochs": 1, "batch_size": 64, "norm_batch": None}
    code = "from workbench import runs; from workbench.experiment import create; "
    code += f"e = create({settings | {'missing': 'train'}}); print(len(runs.complete(e)), e.folder)"
    done = python("-c", code)
    estimate, last = done.stdout.splitlines()
    said = "digits, classification: 0 of 1 runs are finished, 1 are missing"
    assert estimate.startswith(said), done.stderr
    assert last.split() == ["1", str(tmp_path / "outputs" / "paper")]
