"""python -m semlib grid, with real Snakemake: side by side, failures and kills keep what is done,
the same command goes on.

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
import time

import helpers
import nbformat
import pytest
import yaml
from helpers import (
    FRAGILE,
    ROOT,
    contents,
    environment,
    semlib,
    semlib_path,
    tiny_benchmark,
    tiny_data,
)

from workbench.batch import gpus, grid, notebooks
from workbench.cli import main
from workbench.experiment import create
from workbench.files import file_name
from workbench.results import names
from workbench.runs import machine, plan, store

HOLD_OUTS = ["zero", "two", "three"]
TWO = "benchmark-tiny-zero-two.done"


def prepare(folder, **changes):
    """Data and a tiny benchmark.yaml; (words, environment, experiment)."""
    tiny_data(folder / "data")
    (folder / "fragile.py").write_text(FRAGILE)
    file, experiment = tiny_benchmark(folder, **{"hold_out": HOLD_OUTS} | changes)
    return (
        ["grid", file],
        {"SEMLIB_DATA": folder / "data", "PYTHONPATH": semlib_path(folder)},
        experiment,
    )


def done_files(folder):
    return sorted(path.name for path in folder.rglob("*.done"))


@pytest.mark.notebook
def test_a_failed_hold_out_keeps_its_traceback_and_alone_runs_again(tmp_path, monkeypatch):
    command, places, experiment = prepare(tmp_path, methods=["classification", "fragile:loss"])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken").touch()
    first = semlib(*command, **places)
    cause = "failed: tiny-two: RuntimeError: broken on purpose (its traceback is in "
    assert first.returncode != 0 and first.stdout.splitlines()[-2].startswith(cause), first.stdout
    assert first.stdout.count("failed: ") == 1
    finished = {(record.hold_out, record.method) for record in store.finished(experiment)}
    wanted = {(hold_out, method) for hold_out in HOLD_OUTS for method in experiment.methods}
    assert finished == wanted - {("two", "fragile:loss")}
    assert done_files(tmp_path) == ["tiny-three.done", "tiny-zero.done"]
    folder = tmp_path / "outputs" / "test"
    notebook = nbformat.read(folder / "holdout-tiny-two.unfinished.ipynb", 4)
    errors = [
        o for cell in notebook.cells for o in cell.get("outputs", ()) if o.output_type == "error"
    ]
    assert errors[0].evalue == "broken on purpose" and any(
        "fragile" in line for line in errors[0].traceback
    )
    table = "benchmark-tiny-zero-two-three"
    assert not (folder / f"{table}.csv").exists()

    (tmp_path / "broken").unlink()
    before = {
        k: v
        for k, v in contents(folder, ("run.lock",)).items()
        if ".grid" not in k and "holdout-tiny-two" not in k
    }
    second = semlib(*command, **places)
    assert second.returncode == 0, second.stdout + second.stderr
    after = contents(folder, ("run.lock",))
    assert {name: after[name] for name in before} == before
    assert done_files(tmp_path) == [
        f"{table}.done",
        "tiny-three.done",
        "tiny-two.done",
        "tiny-zero.done",
    ]
    assert len(store.finished(experiment)) == 6 and "6 of 6 runs are finished" in second.stdout
    added = {name.split("/")[0] for name in set(after) - set(before) if ".grid" not in name}
    assert added == {
        "runs",
        "holdout-tiny-two.ipynb",
        f"{table}.ipynb",
        f"{table}.csv",
        f"{table}.png",
    }
    assert "not run" not in second.stdout and (folder / f"{table}.csv").read_text().count("\n") == 5


@pytest.mark.notebook
def test_a_grid_prints_a_line_for_each_job_and_snakemakes_own_go_into_a_log(tmp_path):
    """Also without a home folder, and with braces in the outputs' path."""
    how = {
        "methods": ["classification", "rotation"],
        "hold_out": ["zero", "two"],
        "outputs": str(tmp_path / "{profile} {}"),
    }
    command, places, experiment = prepare(tmp_path, **how)
    done = semlib(*command, **places, HOME="/proc/no home")
    assert done.returncode == 0 and "\r" not in done.stdout + done.stderr, done.stderr
    first, *jobs = done.stdout.splitlines()[:4]
    log = experiment.folder / ".grid" / "benchmark" / "snakemake.log"
    assert (
        first.startswith("2 jobs, ")
        and first.endswith(str(log))
        and "4 of 4 steps" in log.read_text()
    )
    found = {
        (r.hold_out, r.method): 100 * r.metrics["msp@upright"] for r in store.finished(experiment)
    }
    for name in ("zero", "two"):
        means = [f"{found[name, m]:.2f} {names.label(m)}" for m in experiment.methods]
        (said,) = [
            line
            for line in jobs
            if line.startswith(f"tiny, {name} held out: MSP {', '.join(means)}; ")
        ]
        assert said.endswith(" s")
    assert (
        jobs[2].endswith("benchmark-tiny-zero-two.ipynb")
        and "jobid" not in done.stdout + done.stderr
    )


@pytest.mark.notebook
def test_a_killed_grid_goes_on_by_the_same_command(tmp_path):
    """SIGKILL of the whole process group while runs train; meanwhile a second grid is refused in
    one line.
    """
    command, places, experiment = prepare(
        tmp_path, hold_out=["zero", "two"], methods="classification", epochs=150
    )
    words = [sys.executable, "-m", "semlib", *map(str, command)]
    log = (tmp_path / "log").open("w")
    grid = subprocess.Popen(
        words, cwd=ROOT, env=environment(**places), stdout=log, stderr=log, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("checkpoint.pt")):
        assert grid.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    stopped = []  # jobs in sessions of their own are stopped too, as when a machine goes down
    os.killpg(grid.pid, signal.SIGSTOP)
    refused = semlib(*command, **places)
    assert refused.returncode == 1 and refused.stderr.startswith(
        "error: this grid is running already"
    )
    assert refused.stderr.count("\n") == 1 and not stopped
    os.killpg(grid.pid, signal.SIGKILL)
    grid.wait()
    log.close()
    locks = list((tmp_path / "outputs").rglob(".snakemake/locks/*"))
    assert locks and TWO not in done_files(tmp_path)  # what Snakemake alone would stumble over

    again = semlib(*command, **places)
    assert again.returncode == 0, again.stdout + again.stderr
    assert done_files(tmp_path) == [TWO, "tiny-two.done", "tiny-zero.done"]
    assert len(store.finished(experiment)) == 2 and "2 of 2 runs are finished" in again.stdout


@pytest.mark.notebook
def test_the_grid_of_a_notebook_about_several_experiments(tmp_path):
    """lambda_search: a job for each weight, each told all of its settings; then the notebook, which
    trains nothing.
    """
    _, places, _ = prepare(tmp_path, hold_out="none", methods=["classification", "rotation"])
    search = {
        "settings": [str(tmp_path / "benchmark.yaml")],
        "auxiliary_weights": {"rotation": [0.25, 4]},
        "profile": "test",
    }
    search |= {
        "hold_out": "none",
        "evaluate_on": "validation",
        "scores": ["msp"],
        "missing": "train",
        "trials": 1,
    }
    (tmp_path / "lambda_search.yaml").write_text(
        yaml.safe_dump(search | {"outputs": str(tmp_path / "outputs")})
    )
    done = semlib("grid", tmp_path / "lambda_search.yaml", **places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done_files(tmp_path) == [
        "lambda_search.done",
        *(f"tiny-none-{k}.done" for k in range(3)),
    ]
    homes = list((tmp_path / "outputs").rglob("record.json"))
    records = [store.read_record(path.parent) for path in homes]
    assert sorted((r.method, r.settings.get("auxiliary_weight")) for r in records) == [
        ("classification", None), ("rotation", 0.25), ("rotation", 4.0)
    ]  # fmt: skip
    assert {r.settings["evaluate_on"] for r in records} == {"validation"} and {
        r.train_images for r in records
    } == {204}
    best = max(
        (r for r in records if r.method == "rotation"), key=lambda r: r.metrics["accuracy@upright"]
    )
    chosen = (tmp_path / "outputs" / "test" / "auxiliary_weights.csv").read_text().splitlines()
    assert chosen[1].startswith(f"tiny,rotation,{best.settings['auxiliary_weight']},")
    folder = tmp_path / "outputs" / "test"
    assert {path.name for path in folder.glob("*.ipynb")} == {
        "lambda_search.ipynb",
        *(f"holdout-tiny-none-{k}.ipynb" for k in range(3)),
    }


# --- jobs, GPUs, what is left to do


WATCHED = '''
import os
import time
from pathlib import Path


def loss(net, images):
    """Writes once a process which GPU it has, from when to when; not where it is tried on a few images."""
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
    """Pretended GPUs, three jobs at once on two of them; without --gpus the environment stays as it
    is.
    """
    command, places, experiment = prepare(
        tmp_path, methods=["watched:loss"], trials=2, epochs=30, device="cpu"
    )
    (tmp_path / "watched.py").write_text(WATCHED)
    monkeypatch.syspath_prepend(tmp_path)
    done = semlib(*command, "--gpus", "5,7", "--split", "trial", "--jobs", 3, **places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        len(store.finished(experiment))
        == 6
        == len(list(tmp_path.rglob("holdout-tiny-*-watched_loss-*.ipynb")))
    )
    seen = [path.read_text().split() for path in tmp_path.glob("seen-*")]
    assert len(seen) == 6 and {gpu for gpu, *_ in seen} == {"5", "7"}
    held = sorted((gpu, float(begun), float(ended)) for gpu, begun, ended in seen)
    assert all(one[0] != other[0] or one[2] < other[1] for one, other in itertools.pairwise(held))
    spans = sorted((begun, ended) for _, begun, ended in held)
    assert any(
        one[1] > other[0] for one, other in itertools.pairwise(spans)
    )  # they did run side by side


def test_a_gpu_is_freed_when_its_owner_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    code = f"""
import tempfile, time
from workbench.batch import gpus
tempfile.gettempdir = lambda: {str(tmp_path)!r}
with gpus.claim(["0"]) as gpu:
    print(gpu, flush=True)
    time.sleep(99)
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "0\n"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with gpus.claim(["0", "1"]) as gpu:
        assert gpu == "1" == os.environ["CUDA_VISIBLE_DEVICES"]
    killer = threading.Timer(0.5, owner.kill)
    killer.start()
    with gpus.claim(["0"]) as gpu:  # waits for the kill
        assert gpu == "0" and owner.wait() == -signal.SIGKILL
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None


def test_two_claims_at_once_are_of_two_gpus():
    with gpus.claim(["98", "99"]) as one, gpus.claim(["98", "99"]) as other:
        assert {one, other} == {"98", "99"}


def test_no_job_is_lost_to_another_ones_name():
    same = create({"dataset": "digits", "hold_out": "3"})
    parts = [
        same,
        same.model_copy(update={"epochs": 2}),
        same.model_copy(update={"hold_out": ("3-0",)}),
    ]
    assert len(set(grid.names(parts, "class"))) == 3
    assert grid.names(parts[::2], "class") == ["digits-3", file_name("digits", "3-0")]


@pytest.mark.parametrize(
    "split, classes, count",
    [
        ("class", 1, 10),
        ("method", 1, 20),
        ("trial", 1, 60),
        ("class", 5, 2),
        ("class", 4, 3),
        ("trial", 99, 6),
    ],
)
def test_jobs_are_the_runs_of_a_table_each_once(split, classes, count):
    table3 = [create({"profile": "fast", "missing": "train", "first_trial": 2})]
    parts = grid.jobs(table3, split, classes)
    assert len(parts) == count == len(set(grid.names(parts, split)))
    homes = [run.home for part in parts for run in plan.planned(part)]
    assert sorted(homes) == sorted(run.home for run in plan.planned(table3[0])) and len(homes) == 60
    assert grid.jobs([*table3, *table3], split, classes) == parts  # two tables of the same runs
    assert not grid.jobs([table3[0].model_copy(update={"missing": "skip"})], split, classes)


def test_a_dry_run_counts_the_runs_and_their_time_and_writes_nothing(tmp_path, monkeypatch, capsys):
    """By the median of what this device took."""
    experiment = helpers.made_up(tmp_path, dataset="cifar10", methods="classification", trials=1)
    for record, device in zip(store.finished(experiment), ("abacus", "slide rule"), strict=False):
        store.rewrite(record, device=device, seconds=100.0)
    monkeypatch.setattr(machine, "device_name", lambda device: "abacus")
    settings = {
        "dataset": "cifar10",
        "outputs": str(tmp_path),
        "profile": "made_up",
        "trials": 3,
        "missing": "train",
    }
    for name in ("table3_cifar10", "masking_ablation"):
        methods = ["classification", "rotation" if name == "table3_cifar10" else "center_mask"]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings | {"methods": methods}))
    before = contents(tmp_path)
    files = [tmp_path / f"{name}.yaml" for name in ("table3_cifar10", "masking_ablation")]
    words = ["grid", *map(str, files), "--dry-run", "--split", "method", "--jobs", "2"]
    assert main(words) == 0 and contents(tmp_path) == before
    first, second, both, last = capsys.readouterr().out.splitlines()
    left = "10 of 60 runs are finished, 50 are missing: 20 s of training, 10 s side by side; the time of 30 is unknown, for"
    assert first.startswith("table3_cifar10 (cifar10): ") and left in first and left in second
    assert both.startswith("all, each run once: 10 of 90 runs are finished, 80 are missing: 20 s")
    assert last.startswith("30 jobs, ") and last.endswith("times are medians on abacus")
    assert len(store.finished(experiment)) == 10


def test_a_dry_run_says_which_scores_finished_runs_lack(tmp_path, capsys):
    """On a machine without the data too, and beside runs that another device has made."""
    helpers.made_up(
        tmp_path, dataset="cifar10", methods="classification", trials=1, hold_out=["cat", "dog"]
    )
    settings = {
        "dataset": "cifar10",
        "outputs": str(tmp_path),
        "profile": "made_up",
        "trials": 2,
        "missing": "train",
    }
    settings |= {
        "data_root": str(tmp_path / "no data"),
        "methods": "classification",
        "hold_out": ["cat", "dog"],
    }
    file = tmp_path / "table3_cifar10.yaml"
    for scores, lacks in ((["msp", "knn", "odin", "vim"], "knn, vim"), (["odin"], None)):
        file.write_text(yaml.safe_dump(settings | {"scores": scores}))
        assert main(["grid", str(file), "--dry-run"]) == 0
        said = capsys.readouterr().out
        counts = (
            "0 of 4 runs are finished, 4 are missing"
            if lacks
            else "2 of 4 runs are finished, 2 are missing"
        )
        assert f"{counts}: 2 s of training" in said and "unknown" not in said
        assert ("only to be scored" in said) == bool(lacks)
        assert (
            not lacks
            or f", 2 of them only to be scored: they lack {lacks} (2 can't be, for their weights are not here)\n"
            in said
        )


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A grid of two finished runs, (arguments, experiment). Snakemake's place: each start a line in
    `starts`, then status 3.

    That of grids with what the file `fails` says in their name, at first of all.
    """
    how = {"dataset": "digits", "hold_out": ["1", "4"], "methods": "classification", "trials": 1}
    unnamed = {
        "temperature": 10,
        "epsilon": 0.02,
        "weight_decay": 0.01,
        "crop_padding": 1,
        "keep_weights": False,
    }
    experiment = helpers.made_up(
        tmp_path / "outputs", **how, **unnamed, missing="train", data_root=str(tmp_path / "data")
    )
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    program = tmp_path / "snakemake"
    (tmp_path / "fails").touch()
    lines = (
        "#!/bin/sh",
        f"cd {tmp_path}",
        'echo "$*" >> starts',
        'case "$*" in *"$(cat fails)"*) exit 3;; esac',
        "",
    )
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return ["grid", str(tmp_path / "benchmark.yaml")], experiment


def test_a_grid_fails_if_snakemake_does(failing, tmp_path, capsys):
    assert main(failing[0]) == 3
    *_, first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("failed: digits-1: it was not run: ") and second.startswith(
        "failed: digits-4: it was not run"
    )
    assert "the same command runs only what failed again" in last
    search = {
        "settings": [failing[0][1]],
        "auxiliary_weights": {"rotation": [2]},
        "hold_out": "none",
        "profile": "made_up",
    }
    search |= {
        "methods": ["classification", "rotation"],
        "missing": "train",
        "outputs": str(tmp_path / "outputs"),
    }
    (tmp_path / "lambda_search.yaml").write_text(yaml.safe_dump(search))
    (tmp_path / "fails").write_text("lambda_search")
    assert main(failing[0]) == 0 and main([*failing[0], str(tmp_path / "lambda_search.yaml")]) == 3
    waits = yaml.safe_load((tmp_path / "benchmark.yaml").read_text()) | {"auxiliary_weight": None}
    (tmp_path / "table3_cifar10.yaml").write_text(yaml.safe_dump(waits))
    main(
        ["grid", *(str(tmp_path / f"{name}.yaml") for name in ("lambda_search", "table3_cifar10"))]
    )
    assert (
        "not begun, for lack of a chosen auxiliary weight: table3_cifar10"
        in capsys.readouterr().out
    )
    assert "table3_cifar10" not in (tmp_path / "starts").read_text()


def test_a_job_is_told_every_setting_of_its_runs(failing, tmp_path):
    words, experiment = failing
    main([*words, "--jobs", "3", "-p", "threads", "2"])
    experiment, where = (
        experiment.model_copy(update={"threads": 2}),
        experiment.folder / ".grid" / "benchmark",
    )
    assert "--cores 6" in (tmp_path / "starts").read_text()
    told = [
        notebooks.parameters(grid.HOLDOUT, [file], [])[1]
        for file in sorted((where / "holdout").glob("*.yaml"))
    ]
    assert [e for (e,) in told] == grid.jobs([experiment])
    (table,) = (where / "table").glob("*.yaml")
    assert notebooks.parameters(ROOT / "notebooks" / "benchmark.ipynb", [table], [])[1] == (
        experiment,
    )


def test_a_job_whose_run_was_deleted_runs_again_and_no_other(failing):
    words, experiment = failing
    folder = experiment.folder / ".grid" / "benchmark" / "holdout"
    main(words)
    for name in "14":
        (folder / f"digits-{name}.done").touch()
    main(words)
    assert done_files(folder) == ["digits-1.done", "digits-4.done"]
    shutil.rmtree(next(run.home for run in plan.planned(experiment) if run.hold_out == "4"))
    main(words)
    assert done_files(folder) == ["digits-1.done"]


LOGS = {
    "an error": (
        "a line\nerror: ValueError: x\nits traceback is in o/h.unfinished.ipynb\n",
        "ValueError: x (its traceback is in",
    ),
    "before the kernel": (
        "Traceback:\n  File\nImportError: no module\n\n",
        "ImportError: no module (",
    ),
    "killed": ("", "it ended without a word, as if killed ("),
    "not run": (None, "it was not run: no such executor ("),
}


@pytest.mark.parametrize("case", LOGS)
def test_a_failed_jobs_cause_is_the_last_error_of_its_log(tmp_path, case):
    text, said = LOGS[case]
    log = tmp_path / "holdout" / "job.log"
    (tmp_path / "snakemake.log").write_text("Using profile\nno such executor\n\n")
    if text is not None:
        log.parent.mkdir()
        log.write_text(text)
    assert grid._cause(log).startswith(said) and "\n" not in grid._cause(log)


def test_a_grid_whose_lock_is_held_starts_nothing(failing, tmp_path, capsys):
    words, experiment = failing
    main(words)
    (tmp_path / "starts").unlink()
    with (experiment.folder / ".grid" / "benchmark" / "grid.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(words) == 1 and "this grid is running already" in capsys.readouterr().err
    assert not (tmp_path / "starts").exists()


@pytest.mark.notebook
def test_a_file_edited_while_a_grid_runs_and_between_two(tmp_path, monkeypatch):
    """The first grid does what it was told at its start; the second what the file says then,
    without losing the first's.
    """
    command, places, experiment = prepare(
        tmp_path, hold_out=["zero"], methods=["classification", "watched:loss"], epochs=20
    )
    (tmp_path / "watched.py").write_text(WATCHED)
    monkeypatch.syspath_prepend(tmp_path)
    words, file = [sys.executable, "-m", "semlib", *map(str, command)], tmp_path / "benchmark.yaml"
    first = subprocess.Popen(
        words, cwd=ROOT, env=environment(**places), stdout=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob("seen-*")):
        assert first.poll() is None
        time.sleep(0.05)
    file.write_text(file.read_text().replace("epochs: 20", "epochs: 2"))
    said, _ = first.communicate(timeout=200)
    edited = experiment.model_copy(update={"epochs": 2})
    assert (
        first.returncode == 0 and "2 of 2 runs are finished" in said and not store.finished(edited)
    )
    kept = contents(experiment.folder / "runs", ("run.lock",))
    second = semlib(*command, **places)
    assert second.returncode == 0 and "2 of 2 runs are finished" in second.stdout, (
        second.stdout + second.stderr
    )
    assert len(store.finished(edited)) == len(store.finished(experiment)) == 2
    after = contents(experiment.folder / "runs", ("run.lock",))
    assert {name: after[name] for name in kept} == kept
    table = (experiment.folder / "benchmark-tiny-zero.ipynb").read_text()
    assert "2 epochs" in table and "20 epochs" not in table


@pytest.mark.notebook
def test_tables_wait_for_the_search_of_their_weight_and_others_do_not(tmp_path):
    """lambda_search and a table whose weight it chooses, in one command; a search that fails holds
    back that table alone.
    """
    _, places, _ = prepare(tmp_path, methods=["classification", "rotation"])
    common = yaml.safe_load((tmp_path / "benchmark.yaml").read_text()) | {"hold_out": "zero"}
    search = {
        "settings": [str(tmp_path / "base.yaml")],
        "auxiliary_weights": {"rotation": [0.25, 4]},
        "hold_out": "none",
    }
    search |= {
        "evaluate_on": "validation",
        "profile": "test",
        "outputs": str(tmp_path / "outputs"),
        "scores": ["msp"],
    }
    files = {"base": common, "lambda_search": search | {"missing": "train", "trials": 1}}
    files |= {
        "table3_cifar10": common | {"auxiliary_weight": None},
        "masking_ablation": common | {"methods": "classification"},
    }
    for name, values in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    order = [
        tmp_path / f"{name}.yaml"
        for name in ("masking_ablation", "table3_cifar10", "lambda_search")
    ]

    broken = search | {"missing": "train", "trials": 1, "learning_rate": 1e12}
    (tmp_path / "lambda_search.yaml").write_text(yaml.safe_dump(broken))
    first = semlib("grid", *order, **places)
    assert (
        first.returncode == 1
        and "not begun, for lack of a chosen auxiliary weight: table3_cifar10" in first.stdout
    )
    names = {path.name for path in (tmp_path / "outputs" / "test").glob("*.ipynb")}
    assert (
        "masking_ablation-tiny-zero.ipynb" in names
        and "table3_cifar10-tiny-zero.ipynb" not in names
    )

    (tmp_path / "lambda_search.yaml").write_text(yaml.safe_dump(files["lambda_search"]))
    second = semlib("grid", *order, **places)
    assert second.returncode == 0, second.stdout + second.stderr
    chosen = (
        (tmp_path / "outputs" / "test" / "auxiliary_weights.csv")
        .read_text()
        .splitlines()[1]
        .split(",")[2]
    )
    (record,) = (store.read_record(p.parent) for p in tmp_path.rglob("zero/rotation/*/record.json"))
    assert record.settings["auxiliary_weight"] == float(chosen)


@pytest.mark.notebook
@pytest.mark.parametrize(
    "words, said",
    [
        (["--gpus", "98,99"], "--gpus: 98, 99 is not here; choose from "),
        (["--on", "moon"], "--on: no profile 'moon'; choose from local, slurm, or a folder"),
        (["-p", "outputs", "/proc/none"], "outputs: /proc/none/test can't be written to"),
        (["--notebook", "table9"], "choose --notebook from appendix_d_baseline"),
    ],
)
def test_a_grid_that_can_not_run_is_one_clear_line(tmp_path, words, said):
    command, places, _ = prepare(tmp_path)
    done = semlib(*command, *words, **places)
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: ")
        and said in done.stderr
        and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.*"))
