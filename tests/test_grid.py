"""python -m semlib grid, with real Snakemake where marked: failures, kills, and the same command.

The quick tests put a program in Snakemake's place that only fails.
"""

import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading

import helpers
import nbformat
import pytest
import yaml
from helpers import ROOT, contents, environment, semlib, start, until

from workbench.batch import gpus, grid, notebooks
from workbench.cli import main
from workbench.experiment import create
from workbench.results import names
from workbench.runs import machine, plan, store

HOLD_OUTS = ["zero", "two", "three"]


def prepare(folder, **changes):
    """Data and a tiny benchmark.yaml; (words, environment, experiment)."""
    helpers.tiny_data(folder / "data")
    (folder / "fragile.py").write_text(helpers.FRAGILE)
    (folder / "watched.py").write_text(WATCHED)
    file, experiment = helpers.tiny_benchmark(folder, **{"hold_out": HOLD_OUTS} | changes)
    places = {"SEMLIB_DATA": folder / "data", "PYTHONPATH": helpers.semlib_path(folder)}
    return ["grid", file], places, experiment


def save(path, **values):
    path.write_text(yaml.safe_dump(values))
    return path


def done_files(folder):
    return sorted(path.stem for path in folder.rglob("*.done"))


@pytest.mark.notebook
def test_a_failed_hold_out_keeps_its_traceback_and_alone_runs_again(tmp_path, monkeypatch):
    """Also without a home folder, and with braces in the outputs' path."""
    methods = ["classification", "fragile:loss"]
    outputs = tmp_path / "{profile} {}"
    command, places, experiment = prepare(tmp_path, methods=methods, outputs=str(outputs))
    places["HOME"] = "/proc/no home"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken").touch()
    first = semlib(*command, **places)
    cause = "failed: holdout-tiny-two: RuntimeError: broken on purpose (its traceback is in "
    assert first.returncode != 0 and first.stdout.splitlines()[-2].startswith(cause), first.stdout
    assert first.stdout.count("failed: ") == 1
    finished = {(record.hold_out, record.method) for record in store.finished(experiment)}
    assert finished == {*itertools.product(HOLD_OUTS, methods)} - {("two", "fragile:loss")}
    assert done_files(tmp_path) == ["holdout-tiny-three", "holdout-tiny-zero"]
    folder = experiment.folder
    notebook = nbformat.read(folder / "holdout-tiny-two.unfinished.ipynb", 4)
    shown = itertools.chain(*(cell.get("outputs", ()) for cell in notebook.cells))
    (error,) = [output for output in shown if output.output_type == "error"]
    assert error.evalue == "broken on purpose" and "fragile" in "".join(error.traceback)
    table = "benchmark-tiny-zero-two-three"
    assert not (folder / f"{table}.csv").exists()

    (tmp_path / "broken").unlink()
    before = contents(folder, ("run.lock",))
    before = {k: v for k, v in before.items() if ".grid" not in k and "holdout-tiny-two" not in k}
    second = semlib(*command, **places)
    assert second.returncode == 0, second.stdout + second.stderr
    after = contents(folder, ("run.lock",))
    assert {name: after[name] for name in before} == before
    assert done_files(tmp_path) == [table, *(f"holdout-tiny-{k}" for k in sorted(HOLD_OUTS))]
    assert len(store.finished(experiment)) == 6 and "6 of 6 runs are finished" in second.stdout
    assert {f"{table}.{ending}" for ending in ("ipynb", "csv", "png")} <= after.keys()
    assert "not run" not in second.stdout and (folder / f"{table}.csv").read_text().count("\n") == 5
    check_lines(second, experiment, "two", table)


def check_lines(done, experiment, hold_out, table):
    """A line for the one job that ran and for the table; what Snakemake says is in its log."""
    assert "\r" not in done.stdout + done.stderr and "jobid" not in done.stdout + done.stderr
    about, first, second = done.stdout.splitlines()[:3]
    log = experiment.folder / ".grid" / "benchmark" / "snakemake.log"
    assert about.endswith(str(log)) and "3 of 3 steps" in log.read_text()
    records = {r.method: r for r in store.finished(experiment) if r.hold_out == hold_out}
    values = [f"{100 * r.metrics['msp@upright']:.2f} {names.label(m)}" for m, r in records.items()]
    assert first.startswith(f"tiny, {hold_out} held out: MSP {', '.join(values)}; ")
    assert first.endswith(" (1 of 2 jobs)") and second.endswith(f"{table}.ipynb (2 of 2 jobs)")


@pytest.mark.notebook
def test_a_killed_grid_goes_on_by_the_same_command(tmp_path):
    """SIGKILL of the process group while runs train."""
    how = {"hold_out": ["zero", "two"], "methods": "classification", "epochs": 150}
    command, places, experiment = prepare(tmp_path, **how)
    with (tmp_path / "log").open("w") as log:
        killed = start(*command, places=places, stdout=log, stderr=log, start_new_session=True)
    until(lambda: list(tmp_path.rglob("checkpoint.pt")), killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    table = "benchmark-tiny-zero-two"
    assert list(tmp_path.rglob(".snakemake")) and table not in done_files(tmp_path)

    again = semlib(*command, **places)
    assert again.returncode == 0, again.stdout + again.stderr
    assert done_files(tmp_path) == [table, "holdout-tiny-two", "holdout-tiny-zero"]
    assert len(store.finished(experiment)) == 2 and "2 of 2 runs are finished" in again.stdout


@pytest.mark.notebook
def test_the_grid_of_a_notebook_about_several_experiments(tmp_path):
    """lambda_search: a job for each weight, then the notebook, which trains nothing."""
    _, places, _ = prepare(tmp_path, hold_out="none", methods=["classification", "rotation"])
    search = {"settings": [str(tmp_path / "benchmark.yaml")], "hold_out": "none", "scores": ["msp"]}
    search |= {"auxiliary_weights": {"rotation": [0.25, 4]}, "evaluate_on": "validation"}
    search |= {"profile": "test", "outputs": str(tmp_path / "outputs"), "missing": "train"}
    done = semlib("grid", save(tmp_path / "lambda_search.yaml", **search, trials=1), **places)
    assert done.returncode == 0, done.stdout + done.stderr
    notebooks = [*(f"holdout-tiny-none-{k}" for k in range(3)), "lambda_search"]
    assert done_files(tmp_path) == notebooks
    folder = tmp_path / "outputs" / "test"
    assert sorted(path.stem for path in folder.glob("*.ipynb")) == notebooks
    records = [store.read_record(path.parent) for path in folder.rglob("record.json")]
    assert {r.settings["evaluate_on"] for r in records} == {"validation"}
    assert {r.train_images for r in records} == {204}
    accuracy = {r.settings.get("auxiliary_weight"): r.metrics["accuracy@upright"] for r in records}
    assert accuracy.keys() == {None, 0.25, 4.0}  # None: of plain classification
    best = max((0.25, 4.0), key=accuracy.get)
    chosen = (folder / "auxiliary_weights.csv").read_text().splitlines()
    assert chosen[1].startswith(f"tiny,rotation,{best},")


# --- GPUs


WATCHED = '''
import os
import time
from pathlib import Path


def loss(net, images):
    """Writes once a process which GPU it has, from when to when, once there are many images."""
    global begun
    begun = globals().get("begun") or time.time()
    if len(images) > 16:
        note = Path(__file__).with_name(f"seen-{os.getpid()}")
        note.write_text(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {begun} {time.time()}")
    return net(images, head="mine").square().mean()


loss.heads = {"mine": 2}
'''


@pytest.mark.notebook
def test_side_by_side_each_job_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    """Pretended GPUs, three jobs at once on two of them."""
    how = {"methods": ["watched:loss"], "trials": 2, "epochs": 30, "device": "cpu"}
    command, places, experiment = prepare(tmp_path, **how)
    monkeypatch.syspath_prepend(tmp_path)
    done = semlib(*command, "--gpus", "5,7", "--split", "trial", "--jobs", 3, **places)
    assert done.returncode == 0, done.stdout + done.stderr
    notebooks = list(tmp_path.rglob("holdout-tiny-*-watched_loss-*.ipynb"))
    assert len(store.finished(experiment)) == len(notebooks) == 6
    seen = [path.read_text().split() for path in tmp_path.glob("seen-*")]
    assert len(seen) == 6 and {gpu for gpu, *_ in seen} == {"5", "7"}
    held = sorted((gpu, float(begun), float(ended)) for gpu, begun, ended in seen)
    assert all(one[0] != other[0] or one[2] < other[1] for one, other in itertools.pairwise(held))
    spans = sorted((begun, ended) for _, begun, ended in held)
    assert any(one[1] > other[0] for one, other in itertools.pairwise(spans))  # side by side


OWNER = """
import tempfile, time
from workbench.batch import gpus
tempfile.gettempdir = lambda: {folder!r}
with gpus.claim(["0"]) as gpu:
    print(gpu, flush=True)
    time.sleep(99)
"""


def test_a_gpu_is_freed_when_its_owner_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    words = [sys.executable, "-c", OWNER.format(folder=str(tmp_path))]
    owner = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "0\n"
    with gpus.claim(["0", "1", "2"]) as one, gpus.claim(["0", "1", "2"]) as other:
        assert (one, other) == ("1", "2") and os.environ["CUDA_VISIBLE_DEVICES"] == other
    threading.Timer(0.5, owner.kill).start()
    with gpus.claim(["0"]) as gpu:  # waits for the kill
        assert gpu == "0" and owner.wait() == -signal.SIGKILL
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


# --- jobs, and what is left to do


COUNTS = [("class", 1, 10), ("method", 1, 20), ("trial", 1, 60)]
COUNTS += [("class", 5, 2), ("class", 4, 3), ("trial", 99, 6)]


@pytest.mark.parametrize("split, classes, count", COUNTS)
def test_jobs_are_the_runs_of_a_table_each_once(split, classes, count):
    table3 = create({"profile": "fast", "missing": "train", "first_trial": 2})
    parts = grid.jobs([table3], split, classes)
    assert len(parts) == count == len(set(grid.names(parts, split)))
    homes = [run.home for run in itertools.chain(*map(plan.planned, parts))]
    assert sorted(homes) == sorted(run.home for run in plan.planned(table3)) and len(homes) == 60
    assert grid.jobs([table3, table3], split, classes) == parts  # two tables of the same runs
    assert not grid.jobs([table3.model_copy(update={"missing": "skip"})], split, classes)


def test_a_dry_run_counts_the_runs_and_their_time_and_writes_nothing(tmp_path, monkeypatch, capsys):
    """By the median of what this device took."""
    own = {"methods": "classification", "trials": 1, "precision": "float32"}
    experiment = helpers.made_up(tmp_path, dataset="cifar10", **own)
    for record, device in zip(store.finished(experiment), ("abacus", "slide rule"), strict=False):
        store.rewrite(record, device=device, seconds=100.0)
    monkeypatch.setattr(machine, "device_name", lambda device: "abacus")
    common = {"dataset": "cifar10", "outputs": str(tmp_path), "profile": "made_up"}
    common |= {"trials": 3, "missing": "train", "precision": "float32"}
    files = []
    for name, method in (("table3_cifar10", "rotation"), ("masking_ablation", "center_mask")):
        methods = ["classification", method]
        files.append(str(save(tmp_path / f"{name}.yaml", **common, methods=methods)))
    before = contents(tmp_path)
    words = ["grid", *files, "--dry-run", "--split", "method", "--jobs", "2"]
    assert main(words) == 0 and contents(tmp_path) == before
    first, second, both, last = capsys.readouterr().out.splitlines()
    left = "10 of 60 runs are finished, 50 are missing: 20 s of training, 10 s side by side"
    left += "; the time of 30 is unknown"
    assert first.startswith("table3_cifar10 (cifar10): ") and left in first and left in second
    assert both.startswith("all, each run once: 10 of 90 runs are finished, 80 are missing: 20 s")
    assert last.startswith("30 jobs, ") and last.endswith("times by medians on abacus")
    assert len(store.finished(experiment)) == 10


@pytest.mark.parametrize("scores", [["msp", "knn", "odin", "vim"], ["odin"]], ids=len)
def test_a_dry_run_counts_finished_runs_that_lack_scores(tmp_path, capsys, scores):
    """On a machine without the data too, and beside runs that another device has made."""
    common = {"dataset": "cifar10", "methods": "classification", "hold_out": ["cat", "dog"]}
    common |= {"precision": "float32"}
    helpers.made_up(tmp_path, **common, trials=1)
    common |= {"outputs": str(tmp_path), "profile": "made_up", "trials": 2, "missing": "train"}
    common |= {"data_root": str(tmp_path / "no data"), "scores": scores}
    file = save(tmp_path / "table3_cifar10.yaml", **common)
    assert main(["grid", str(file), "--dry-run", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    text = "2 of 4 runs are finished, 2 are missing: 2 s of training, 1 s side by side\n"
    if scores != ["odin"]:
        text = "0 of 4 runs are finished, 4 are missing: 2 s of training, 1 s side by side"
        text += ", 2 of them only to be scored: they lack knn, vim (2 can't be,"
    assert text in said


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A grid of two finished runs whose Snakemake writes a line into `starts` and has status 3."""
    how = {"dataset": "digits", "hold_out": ["1", "4"], "methods": "classification", "trials": 1}
    how |= {"temperature": 10, "epsilon": 5e-05, "weight_decay": 0.01, "crop_padding": 1}
    how |= {"keep_weights": False, "missing": "train", "data_root": str(tmp_path / "data")}
    experiment = helpers.made_up(tmp_path / "outputs", **how)
    file = save(tmp_path / "benchmark.yaml", **experiment.model_dump(mode="json"))
    program = tmp_path / "snakemake"
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/starts\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return ["grid", str(file)], experiment


def test_a_grid_fails_if_snakemake_does(failing, capsys):
    assert main(failing[0]) == 3
    *_, first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("failed: holdout-digits-1: it was not run: ")
    assert second.startswith("failed: holdout-digits-4: it was not run")
    assert last.startswith("2 failed; ") and "the same command runs only what failed" in last


def test_the_hold_out_notebook_of_one_class_does_not_wait_for_itself(failing):
    words, experiment = failing
    main([*words, "--notebook", "holdout", "-p", "hold_out", "1"])
    config = yaml.safe_load((experiment.folder / ".grid" / "holdout" / "config.yaml").read_text())
    needs = [job["needs"] for _, job in sorted(config["jobs"].items())]
    assert needs == [["holdout-digits-1-0"], []]


def test_a_job_is_told_every_setting_of_its_runs(failing, tmp_path):
    """By a copy: the user's file may be edited while the grid runs."""
    words, experiment = failing
    main([*words, "--jobs", "3", "-p", "threads", "2"])
    experiment = experiment.model_copy(update={"threads": 2})
    assert "--cores 6" in (tmp_path / "starts").read_text()
    where = experiment.folder / ".grid" / "benchmark"
    files = sorted(where.glob("holdout-*.yaml"))
    told = [notebooks.parameters(grid.HOLDOUT, [file], [])[1] for file in files]
    assert [e for (e,) in told] == grid.jobs([experiment])
    (table,) = where.glob("benchmark*.yaml")
    given, told = notebooks.parameters(ROOT / "notebooks" / "benchmark.ipynb", [table], [])
    assert told == (experiment,) and given["epsilon"] == 5e-05  # a number, not text
    assert words[-1] not in (where / "config.yaml").read_text()


def test_a_job_whose_run_was_deleted_runs_again_and_no_other(failing):
    words, experiment = failing
    folder = experiment.folder / ".grid" / "benchmark"
    main(words)
    for name in "14":
        (folder / f"holdout-digits-{name}.done").touch()
    main(words)
    assert done_files(folder) == ["holdout-digits-1", "holdout-digits-4"]
    shutil.rmtree(next(run.home for run in plan.planned(experiment) if run.hold_out == "4"))
    main(words)
    assert done_files(folder) == ["holdout-digits-1"]


ERROR = "a line\nerror: ValueError: x\nits traceback is in o/h.unfinished.ipynb\n"
CAUSES = [
    (ERROR, "ValueError: x (its traceback is in"),
    ("Traceback:\n  File\nImportError: no module\n\n", "ImportError: no module ("),
    ("", "it ended without a word, as if killed ("),
    (None, "it was not run: no such executor ("),
]


@pytest.mark.parametrize("log, said", CAUSES)
def test_a_failed_jobs_cause_is_the_last_error_of_its_log(tmp_path, log, said):
    (tmp_path / "snakemake.log").write_text("Using profile\nno such executor\n\n")
    if log is not None:
        (tmp_path / "job.log").write_text(log)
    cause = grid._cause(tmp_path / "job.log")
    assert cause.startswith(said) and "\n" not in cause


def test_a_grid_whose_lock_is_held_starts_nothing(failing, tmp_path, capsys):
    words, experiment = failing
    main(words)
    (tmp_path / "starts").unlink()
    with (experiment.folder / ".grid" / "benchmark" / "grid.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        error = "error: this grid is running already"
        assert main(words) == 1 and capsys.readouterr().err.startswith(error)
    assert not (tmp_path / "starts").exists()


WRONG = [
    (["--gpus", "98,99"], "--gpus: 98, 99 is not here; choose from "),
    (["--on", "moon"], "--on: no profile 'moon'; choose from local, slurm, or a folder"),
    (["-p", "outputs", "/proc/none"], "outputs: /proc/none/test can't be written to (No such file"),
    (["--notebook", "table9"], "choose --notebook from appendix_d_baseline"),
]


@pytest.mark.parametrize("words, said", WRONG)
def test_a_grid_that_can_not_run_is_one_clear_line(tmp_path, monkeypatch, words, said):
    command, places, _ = prepare(tmp_path)
    monkeypatch.setenv("SEMLIB_DATA", str(places["SEMLIB_DATA"]))
    helpers.refused(*command, *words, said=[said])
    assert not list(tmp_path.glob("outputs/**/*.*"))
