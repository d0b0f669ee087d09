"""The grid on a real SLURM cluster, while jobs fail and are killed, and slurmd crashes."""

import itertools
import re
import subprocess
import sys

import pytest
import yaml
from helpers import CLASSES, FRAGILE, ROOT, semlib_path, tiny_benchmark, tiny_data
from slurm_cluster import Cluster, install

from workbench.experiment import Experiment
from workbench.runs import plan, store

pytestmark = pytest.mark.slurm
# this cluster has no accounting, and a test no time
OWN = {"slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 2}
OWN |= {"latency-wait": 5}
RESOURCES = {"slurm_partition": "long", "gpu": 1, "mem_mb": 2000}


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    install()
    with Cluster(tmp_path / "slurm") as cluster:
        yield cluster


@pytest.fixture
def start(cluster, tmp_path):
    """Starts a grid of tiny runs on the cluster; its output goes into tmp_path/log."""

    def start(resources: dict, retries: int, **how) -> tuple[subprocess.Popen, Experiment]:
        tiny_data(tmp_path / "data")
        file, experiment = tiny_benchmark(tmp_path, **how)
        slurm = ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"
        (tmp_path / "profile").mkdir()
        profile = yaml.safe_load(slurm.read_text()) | OWN | {"retries": retries}
        (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
        places = {"SEMLIB_DATA": str(tmp_path / "data"), "PYTHONPATH": semlib_path(tmp_path)}
        words = [sys.executable, "-m", "semlib", "grid", file, "--on", tmp_path / "profile"]
        words += ["--jobs", 4, "-p", "threads", 1]
        for name, value in resources.items():
            words += ["--resource", name, value]
        with (tmp_path / "log").open("w") as log:
            how = {"cwd": ROOT, "env": cluster.environment | places, "stdout": log, "stderr": log}
            return subprocess.Popen(list(map(str, words)), **how), experiment

    return start


def test_a_grid_on_slurm_ends_complete_but_for_what_fails_on_purpose(
    cluster, start, tmp_path, monkeypatch
):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    (tmp_path / "broken").touch()
    monkeypatch.syspath_prepend(tmp_path)
    how = {"hold_out": "all", "methods": ["classification", "fragile:loss"], "epochs": 30}
    grid, experiment = start(RESOURCES, 1, **how)

    def jobs(name: str) -> list:
        wanted = f"holdout-tiny-{name}"
        return [job for job in cluster.jobs() if re.search(wanted, job.comment)]

    runs = {(run.hold_out, run.method): run.home for run in plan.planned(experiment)}
    home = runs["zero", "classification"]
    begun = (home / "checkpoint.pt", home / "record.json")
    cluster.wait(lambda: any(path.exists() for path in begun), 600)
    cluster.kill_job(jobs("zero")[0].number)
    cluster.kill_slurmd()
    cluster.start_slurmd()
    status = grid.wait(1200)
    text = (tmp_path / "log").read_text()
    assert status == 1 and "7 of 8 runs are finished" in text, text
    finished = {(record.hold_out, record.method) for record in store.finished(experiment)}
    every = set(itertools.product(CLASSES, experiment.methods))
    assert every - finished == {("two", "fragile:loss")}, text
    assert "failed: holdout-tiny-two: RuntimeError: broken on purpose (its traceback is in" in text
    cluster.wait(lambda: all(job.state in ("COMPLETED", "FAILED") for job in cluster.jobs()))
    states = {name: [job.state for job in jobs(name)] for name in CLASSES}
    assert states["zero"] == ["FAILED", "COMPLETED"], states
    assert states["two"] == ["FAILED", "FAILED"], states
    assert states["one"][-1] == states["three"][-1] == "COMPLETED", states


@pytest.mark.parametrize(
    "resources, words",
    [
        ({"slurm_partition": "nowhere"}, "sbatch: error: invalid partition specified: nowhere"),
        ({"slurm_partition": "long", "mem_mb": 10**9}, "sbatch: error: Memory"),
        ({"slurm_partition": "long", "runtime": 1}, "SLURM status is: 'TIMEOUT'"),
    ],
)
def test_why_the_cluster_refused_or_ended_a_job_is_on_the_terminal_and_in_its_log(
    start, tmp_path, resources, words
):
    how = {"hold_out": "two", "methods": ["classification"], "epochs": 10**6}
    grid, experiment = start(resources, 0, **how)
    assert grid.wait(600) == 1
    text = (tmp_path / "log").read_text()
    said = next(line for line in text.splitlines() if line.startswith("failed: "))
    assert words in said
    (log,) = experiment.folder.glob(".grid/*/holdout-*.log")
    assert words in log.read_text()
