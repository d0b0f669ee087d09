"""What a machine has set (environment, home folder, kernels, quotas) changes no number and stops no
run.
"""

import json
import os
import shutil
import subprocess
import sys
import warnings

import nbformat
import pytest
import throughput
import torch
from helpers import (
    ROOT,
    environment,
    parameters,
    semlib,
    semlib_path,
    tiny,
    tiny_benchmark,
    tiny_data,
)
from nbclient import NotebookClient

from semlib.datasets import DataError
from workbench.batch import notebooks
from workbench.cli import main
from workbench.images import checks
from workbench.runs import machine, store

HOLDOUT = "notebooks/holdout.ipynb"


def words(experiment):
    given = {
        "dataset",
        "outputs",
        "architecture",
        "epochs",
        "batch_size",
        "missing",
        "hold_out",
        "weight_decay",
        "profile",
    }
    return parameters(
        **experiment.model_dump(mode="json", include=given)
        | {"methods": "classification", "trials": 1}
    )


@pytest.mark.notebook
def test_a_machines_own_settings_change_no_number_and_no_figure(tmp_path):
    """Agg as backend, TeX in matplotlibrc, IPython's startup files, another environment's kernel, a
    long TMPDIR, no HOME, ASCII output, braces in the outputs' path."""
    data = tiny_data(tmp_path / "data")
    odd = tiny(tmp_path, outputs=str(tmp_path / "out {profile} {}"), hold_out="one")
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("weight_decay = 0.1\nmy_constant = 3\n")
    (tmp_path / "startup.py").write_text("my_other_constant = 3\nepochs = 1\n")
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {
        "argv": ["/no/such/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
    }
    (kernel / "kernel.json").write_text(json.dumps(spec | {"language": "python"}))
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.dpi: 3\nfont.size: 40\n")
    long = tmp_path / ("long" * 25)
    long.mkdir()
    machine_has = {
        "MPLBACKEND": "Agg",
        "MATPLOTLIBRC": tmp_path / "matplotlibrc",
        "IPYTHONDIR": tmp_path / "ipython",
    }
    machine_has |= {
        "JUPYTER_PATH": tmp_path / "jupyter",
        "TMPDIR": long,
        "HOME": "/proc/no home",
        "PYTHONIOENCODING": "ascii",
    }
    machine_has |= {"PYTHONSTARTUP": tmp_path / "startup.py", "LC_ALL": "C"}
    twice = parameters(trials=2)  # for there to be a ± in the table
    done = semlib("run", HOLDOUT, *words(odd), *twice, SEMLIB_DATA=data, **machine_has)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and r"\xb1" in done.stdout
    (out,) = (tmp_path / "out {profile} {}").rglob("*.ipynb")
    plain = tiny(tmp_path, hold_out="one")
    again = semlib("run", HOLDOUT, *words(plain), *twice, SEMLIB_DATA=data)
    assert again.returncode == 0, again.stderr
    scores = [
        {record.address: record.scores_sha256 for record in store.collect(e.folder)}
        for e in (odd, plain)
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 2
    (usual,) = (tmp_path / "outputs").rglob("*.ipynb")
    assert pictures(out) == pictures(usual) and pictures(out)


@pytest.mark.notebook
def test_plain_papermill_or_lab_shows_figures_too(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = "from workbench.results import plots\nplots._note('a figure');"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    assert ["image/png" in output.data for output in notebook.cells[0].outputs] == [True]


def pictures(notebook):
    outputs = [
        o
        for cell in nbformat.read(notebook, 4).cells
        if cell.cell_type == "code"
        for o in cell.outputs
    ]
    return [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]


QUOTAS = {
    "version 2": ("0::/", {"cpu.max": "150000 100000"}, 2),
    "version 2, none": ("0::/", {"cpu.max": "max 100000"}, None),
    "version 2, of a group above": (
        "0::/a/b",
        {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"},
        3,
    ),
    "version 2, the least of all": (
        "0::/a/b",
        {"a/b/cpu.max": "400000 100000", "a/cpu.max": "150000 100000"},
        2,
    ),
    "version 1": (
        "4:cpu,cpuacct:/",
        {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
        1,
    ),
    "version 1, none": (
        "4:cpu,cpuacct:/x\n0::/",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        None,
    ),
    "version 1, of another controller": (
        "3:cpuset:/",
        {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
        None,
    ),
    "nothing there": ("3:cpuset:/", {}, None),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_a_containers_quota_is_what_counts_as_cores(tmp_path, monkeypatch, case):
    of, files, cores = QUOTAS[case]
    (tmp_path / "cgroup").write_text(of + "\n")
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    assert machine.quota(tmp_path / "fs", tmp_path / "cgroup") == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setattr(machine, "quota", lambda: cores)
    assert machine.cores() == (cores or 64)


def test_a_containers_memory_is_what_counts_as_free(tmp_path, monkeypatch):
    """Of its group and those above; files that are kept in memory only while nothing else needs it
    are free.
    """
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10**9}))
    (tmp_path / "cgroup").write_text("4:memory:/\n0::/a/b\n")
    assert checks.free_memory(tmp_path / "fs", tmp_path / "cgroup") == 10**9
    for group, limit in (("a", "max"), ("a/b", "5000")):
        (tmp_path / "fs" / group).mkdir(parents=True)
        (tmp_path / "fs" / group / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "fs" / group / "memory.current").write_text("3000\n")
        (tmp_path / "fs" / group / "memory.stat").write_text(
            "anon 1000\nactive_file 700\ninactive_file 40\nshmem 9\n"
        )
    assert checks.free_memory(tmp_path / "fs", tmp_path / "cgroup") == 2740
    (tmp_path / "fs" / "a" / "memory.max").write_text("4000\n")
    assert checks.free_memory(tmp_path / "fs", tmp_path / "cgroup") == 1740
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
    monkeypatch.setenv("PYTHONPATH", semlib_path(tmp_path))
    cell = nbformat.v4.new_code_cell(
        "import sys; print({'system', 'environment'} & {*globals()}, sys.path[0] == '')"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with notebooks._kernels(1):
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert cell.outputs[0].text == "set() False\n"


def test_a_grid_has_as_many_jobs_as_the_quota_allows_and_a_kernel_as_many_threads(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(machine, "quota", lambda: 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setenv("SEMLIB_DATA", str(tiny_data(tmp_path / "data")))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    file, _ = tiny_benchmark(tmp_path, hold_out="all", device="cpu")
    assert main(["grid", str(file), "--dry-run"]) == 0
    assert "4 jobs, 3 side by side with 1 thread each" in capsys.readouterr().out
    with notebooks._kernels(None):
        assert os.environ["OMP_NUM_THREADS"] == "3"
    with notebooks._kernels(2):
        assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.fixture
def no_bfloat16(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)


def test_bfloat16_is_said_to_be_emulated_where_it_is(tmp_path, monkeypatch, no_bfloat16, capsys):
    monkeypatch.setenv("SEMLIB_DATA", str(tiny_data(tmp_path / "data")))
    monkeypatch.setattr(
        notebooks, "execute", lambda *args: (_ for _ in ()).throw(RuntimeError("not executed here"))
    )
    experiment = tiny(tmp_path, hold_out="one")
    with pytest.warns(
        UserWarning, match="precision: bfloat16 is emulated on this processor or GPU, and slower"
    ):
        main(["run", HOLDOUT, *words(experiment), *parameters(precision="bfloat16", device="cpu")])
    for precision in ("float32", "auto"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            main(
                ["run", HOLDOUT, *words(experiment), *parameters(precision=precision, device="cpu")]
            )


def test_a_benchmarks_peak_is_of_what_the_processor_computes_in(monkeypatch, no_bfloat16):
    assert list(throughput.peak("cpu", side=8)) == ["float32"]
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert list(throughput.peak("cpu", side=8)) == ["float32", "bfloat16"]


@pytest.mark.slow
def test_an_installed_package_says_what_needs_the_checkout_and_does_the_rest(tmp_path):
    shutil.copytree(
        ROOT / "semlib", tmp_path / "site" / "semlib", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "mine.yaml").write_text("dataset: digits\n")

    def python(*words):
        how = {
            "cwd": tmp_path,
            "env": environment(PYTHONPATH=tmp_path / "site"),
            "capture_output": True,
            "text": True,
        }
        return subprocess.run([sys.executable, *map(str, words)], **how, timeout=300)

    for words in (
        ["grid", "mine.yaml"],
        ["grid", "params/demo/benchmark.yaml", "--dry-run"],
        ["run", HOLDOUT],
    ):
        done = python("-m", "semlib", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert done.stderr.startswith("error: ") and "clone its repository" in done.stderr
    assert (
        python("-m", "semlib", "data", "prepare", "digits", "--root", tmp_path / "data").returncode
        == 0
    )
    assert "# Parameters" in python("-m", "semlib", "parameters").stdout
    code = "from semlib import config, datasets, runs; from workbench.runs import store; e = config.create(dict(dataset='digits', "
    code += "hold_out='3', trials=1, methods='classification', architecture='wrn-10-1', epochs=1, batch_size=64, missing='train', "
    code += "norm_batch=None)); print(len(runs.complete(e)), e.folder)"
    done = python("-c", code)
    assert done.stdout.split() == ["1", str(tmp_path / "outputs" / "paper")], done.stderr
