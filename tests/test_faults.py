"""Faults that runs and grids survive: signals, disks, clocks, other processes (and test_runs)."""

import os
import shutil
import signal
import subprocess
import time
from functools import partial

import helpers
import kills
import nbformat
import psutil
import pytest
from helpers import contents, semlib, start, tiny, tiny_benchmark, tiny_words, until

from workbench import runs
from workbench.batch import notebooks
from workbench.runs import plan, store

ROOT_USER = pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
FILES = {"record.json", "scores.npz", "history.csv", "weights.pt"}


@pytest.fixture
def disk(folder):
    """A small tmpfs at folder/outputs; it is unmounted at the end."""
    place = folder / "outputs"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    yield
    subprocess.run(["umount", place], check=True)


def command(folder, *words, **changes):
    """`semlib run` of holdout.ipynb on the tiny data."""
    place = ["-o", folder / "out.ipynb"]
    given = tiny_words(folder, **{"epochs": 40} | changes)
    return ["run", "notebooks/holdout.ipynb", *given, *place, *words]


def started(folder, *words, **how):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    places = {"SEMLIB_DATA": folder / "data", "PYTHONPATH": helpers.semlib_path(folder)}
    return start(*words, places=places, **pipes, **how)


def kernels(process):
    """Its own kernels: tests beside this one have others."""
    below = psutil.Process(process.pid).children(recursive=True)
    return {p.pid for p in below if p.is_running() and notebooks.KERNEL in p.cmdline()}


# --- signals


@pytest.mark.notebook
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_stops_the_kernel_and_the_same_command_goes_on(folder, number):
    """Ctrl-C in a terminal reaches the kernel too."""
    long = {"epochs": 4000, "checkpoint_every": 20, "evaluate_every": 4000}
    # In the background of a shell, as CI may be, Ctrl-C is ignored by all that is started
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = command(folder, **long)
    process = started(folder, *words, start_new_session=True, preexec_fn=heard)
    until(lambda: list(folder.rglob("checkpoint.pt")), process)
    mine = kernels(process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    last = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 130 and last.startswith("stopped; the same command goes on")
    assert mine and not any(map(psutil.pid_exists, mine)) and not list(folder.rglob("record.json"))


@pytest.mark.notebook
def test_a_kernel_killed_in_a_grid_runs_again_by_itself(folder):
    """The notebook then looks completed; the grid runs it a second time and ends whole."""
    file, experiment = tiny_benchmark(folder, epochs=300, methods="classification", hold_out="one")
    process = started(folder, "grid", file)
    until(lambda: list(folder.rglob("checkpoint.pt")), process)
    for pid in kernels(process):
        os.kill(pid, signal.SIGKILL)
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0 and "1 of 1 runs are finished" in said
    log = folder / "outputs" / "test" / ".grid" / "benchmark" / "holdout-tiny-one.log"
    assert "DeadKernelError" not in log.read_text()  # the second one's
    runs.complete(whole := experiment.model_copy(update={"outputs": str(folder / "whole")}))
    assert helpers.scores(experiment) == helpers.scores(whole)


# --- disks


@ROOT_USER
def test_a_full_disk_is_named_and_leaves_nothing_half_written(folder, disk):
    experiment = tiny(folder, methods="classification")
    (run,) = plan.planned(experiment)
    filler = folder / "outputs" / "filler"
    filler.write_bytes(bytes((64 << 20) - (400 << 10)))  # room for the lock, not for a checkpoint
    with pytest.raises(OSError, match=r"No space left on device: '.*checkpoint\.pt'"):
        runs.complete(experiment)
    assert not [*run.home.glob("*.npz"), *run.home.glob(".*.part")] and store.find(run) is None
    filler.unlink()
    runs.complete(experiment)
    runs.complete(whole := tiny(folder, methods="classification", outputs=str(folder / "whole")))
    assert helpers.scores(experiment) == helpers.scores(whole)
    assert {path.name for path in run.home.iterdir()} - {"run.lock"} == FILES


# --- time


@pytest.mark.notebook
def test_a_grid_whose_files_are_of_tomorrow_runs_what_is_missing_alone(folder):
    file, experiment = tiny_benchmark(folder, methods="classification", hold_out=["one", "two"])
    assert semlib("grid", file, SEMLIB_DATA=folder / "data").returncode == 0
    tomorrow = time.time() + 86400
    for path in (folder / "outputs").rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    lost, kept = plan.planned(experiment)
    shutil.rmtree(lost.home)
    before = contents(kept.home)
    done = semlib("grid", file, SEMLIB_DATA=folder / "data")
    assert done.returncode == 0 and "2 of 2 runs are finished" in done.stdout, done.stderr
    assert contents(kept.home) == before
    table = folder / "outputs" / "test" / "benchmark-tiny-one-two.ipynb"
    assert table.stat().st_mtime < tomorrow - 3600  # made anew


# --- other processes


@pytest.mark.notebook
def test_a_grid_and_a_tables_notebook_at_once_train_each_run_once(folder):
    """Over one outputs folder; a user's loss counts the trainings."""
    (folder / "counted.py").write_text(
        "import os, pathlib\n\n\ndef loss(net, images):\n"
        "    place = pathlib.Path(__file__).parent / f'trained-{os.getpid()}'\n"
        "    place.open('a').write('x')\n"
        "    return net(images, head='mine').square().mean()\n\n\nloss.heads = {'mine': 2}\n"
    )
    which = {"methods": "counted:loss", "hold_out": ["one", "two", "three"]}
    file, _ = tiny_benchmark(folder, epochs=10, **which)
    table = ["run", "notebooks/benchmark.ipynb", "-f", file, "-o", folder / "table.ipynb"]
    pair = [started(folder, *words) for words in (["grid", file], table)]
    said = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert len(list((folder / "outputs").rglob("record.json"))) == 3
    calls = [path.stat().st_size for path in folder.glob("trained-*")]
    # runs, epochs, steps; each process tries the loss once before it trains
    assert sum(calls) - len(calls) == 3 * 10 * 3
    nbformat.validate(nbformat.read(folder / "table.ipynb", 4))


# --- everything at random


@pytest.mark.slow
@pytest.mark.notebook
def test_ten_kills_of_grids_change_no_score(tmp_path):
    lines = kills.run(tmp_path, 10, "-p", "hold_out", "[3, 7]", "-p", "epochs", "12", pause=(3, 12))
    assert "10 kills" in lines[-1]
