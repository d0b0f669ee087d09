"""One run: load, hold out, train, score, record. And all unfinished runs of an experiment."""

import hashlib
import io
import math
import platform
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import Timeout
from torch import nn
from tqdm import tqdm

from semlib import datasets, training
from semlib.datasets import Dataset, Split
from workbench import checkpoint
from workbench.cells import using
from workbench.checkpoint import Checkpoint
from workbench.experiment import ConfigError, Experiment
from workbench.files import ROOT, remove_leftovers, save_atomically
from workbench.images.digests import digests_of
from workbench.runs import build, estimate, machine, scoring, store
from workbench.runs.checks import check, check_data
from workbench.runs.live import Live, announce, watched
from workbench.runs.plan import Run, load
from workbench.runs.scoring import MSP, Scorer
from workbench.runs.store import Progress, Record

CHECKPOINT = "checkpoint.pt"
FORM = 2  # of what a checkpoint holds: one of another form is not resumed from
# Files that decide what a run is: a commit with changes to them is marked
CODE = ("semlib", "workbench", "params", "notebooks", "workflow")


def complete(experiment: Experiment, **functions: Any) -> list[Record]:
    """The records of all the experiment's runs; with missing: train, unfinished runs are trained.

    functions: methods, scores and network from a notebook's cells, as of `runs.using`.

    A run that diverges, or that can't be scored, doesn't keep the others from finishing. The error
    raised at the end lists such runs: FloatingPointError, or ConfigError where a finished run can't
    be scored anew. What a user's task raised is raised as it is.
    """
    if functions:
        experiment = using(experiment, **functions)
    check(experiment)
    found = store.progress(experiment)
    if experiment.missing == "train":
        missing = store.to_do(experiment, found)
        for run, record in found:
            if record and run not in missing:  # its process may have been killed just after it
                for left in (CHECKPOINT, store.OWNER):
                    (run.home / left).unlink(missing_ok=True)
                remove_leftovers(run.home)
        if missing:
            _train_missing(experiment, found)
            found = store.progress(experiment)
    return [record for _, record in found if record]


def _train_missing(experiment: Experiment, found: Progress) -> None:
    data = load(experiment)
    check_data(experiment, data)
    if found[0][0].data != digests_of(data):  # it had to be fetched
        found = store.progress(experiment, digests_of(data))
    if experiment.compile:
        torch.compiler.reset()  # past eight compiled networks in a process PyTorch compiles no more
    shown = Live("loss", "accuracy, %", "average precision of MSP, %") if watched() else None
    in_kernel = "ipykernel" in sys.modules
    measure = partial(seconds, data=data) if in_kernel else lambda run: math.nan
    what = f"{experiment.dataset_name}, {', '.join(experiment.methods)}"
    announce(f"{what}: {estimate.of_missing(experiment, found, measure)}")
    failed = _finish_all(store.to_do(experiment, found), data, shown)
    _clear_progress()
    if shown and shown.lines:
        shown.draw(anew=True)
    if failed:
        _raise(failed)


def seconds(run: Run, data: Dataset | None = None) -> float:
    """About how long a run's training takes, by a few steps.

    NaN of users' functions and compiled networks, and where images have to be fetched first.
    """
    if run.sources or run.experiment.compile or run.data is None:
        return math.nan
    data = data or load(run.experiment)
    machine.set_up(run.experiment)
    split = run.split(data)
    each = math.nan
    for size in (min(16, run.experiment.batch_size), run.experiment.batch_size):
        recipe = replace(build.recipe(run), epochs=3, batch_size=size)
        images = datasets.ImageSet(split.train.images[:size], split.train.labels[:size])
        net = build.network(run, split)
        where = machine.device(run.experiment)
        times = []
        started = time.perf_counter()
        with suppress(FloatingPointError):  # of which the run itself will tell
            for _ in training.train(net, images, recipe, build.loss(run), device=where):
                times.append(time.perf_counter() - started)
                if sum(times) > 1:
                    break
                started = time.perf_counter()
        each = min(times, default=math.nan) / size
        if sum(times) > 1:  # a whole batch of a large network takes minutes on a CPU
            break
    return each * len(split.train) * run.experiment.epochs


def _finish_all(runs: list[Run], data: Dataset, shown: Live | None) -> dict[Run, Exception]:
    """Finish each run; why those that could not be were not."""
    queue = deque((run, False) for run in runs)
    failed = {}
    while queue:
        run, wait = queue.popleft()
        if shown:
            shown.title = f"{run.title}; {len(queue)} of {len(runs)} runs after this one"
        try:
            finish(run, data, wait, shown)
        except Timeout:  # another process trains it: the others first
            queue.append((run, True))
        except Exception as error:  # a user's task can raise any
            if ":" not in run.method and not isinstance(error, FloatingPointError | ConfigError):
                raise
            failed[run] = error
    return failed


def _raise(failed: dict[Run, Exception]) -> None:
    """Raise what a user's task raised first, else one error with all messages."""
    kind: type[Exception] = ConfigError
    messages = []
    for run, error in failed.items():
        if not isinstance(error, FloatingPointError | ConfigError):
            error.add_note(f"not finished: {'; '.join(run.title for run in failed)}")
            raise error
        if isinstance(error, FloatingPointError):
            kind = FloatingPointError
        messages.append(str(error) if isinstance(error, ConfigError) else f"{run.title}: {error}")
    raise kind("; ".join(messages))


def finish(run: Run, data: Dataset, wait: bool = True, shown: Live | None = None) -> Record:
    """Train and score a run unless it is finished; a finished one gets the scores that it lacks.

    run.data: the digests of data. While another process trains it: wait, or filelock.Timeout.
    shown: the figure that training draws into.
    """
    with store.lock(run, wait):
        if record := store.find(run) or store.trained(run):
            return _score_from_weights(run, record, data)
        return _train(run, data, shown)


# --- a new run


def _train(run: Run, data: Dataset, shown: Live | None) -> Record:
    scorer = Scorer(run, data, MSP | store.missing_scores(None, run.experiment))
    hardware = machine.set_up(run.experiment)
    stamp: dict[str, Any] = {"form": FORM, "address": run.address, "data": list(digests_of(data))}
    if run.experiment.average_last_epochs > 1:
        stamp["scoring"] = scorer.scores  # the history holds what is averaged
    used = hardware | {"compile": run.experiment.compile}
    kept = Checkpoint(run.home / CHECKPOINT, stamp, used)
    net = build.network(run, scorer.split)
    history = _history(run, net, scorer, kept, shown)
    record = store.find(run)  # where locks do nothing another process may have been quicker
    if record is None:
        record = _write(run, net, scorer, history, hardware)
    kept.path.unlink(missing_ok=True)
    scorer.check()
    return record


def _history(
    run: Run, net: nn.Module, scorer: Scorer, kept: Checkpoint, shown: Live | None
) -> list[dict[str, float]]:
    """Train the network from its checkpoint, or anew; a row for each evaluated epoch."""
    e = run.experiment
    saved = kept.load()
    history, seconds = saved["progress"] if saved else ([], 0.0)
    started = time.perf_counter()
    for state in _states(run, net, scorer.split, saved and saved["training"], bool(shown)):
        epoch = state["epoch"]
        measured = {}
        seconds += time.perf_counter() - started
        if epoch % e.checkpoint_every == 0 or epoch == e.epochs:
            kept.save({"training": state, "progress": (history, seconds)})
        is_last = epoch > e.epochs - e.average_last_epochs
        if is_last or epoch // e.evaluate_every > (epoch - 1) // e.evaluate_every:
            # after the checkpoint: if scoring is killed no epoch is trained again
            measured = scorer.score(net) if is_last else scorer.score(net, ["mixed"], "msp")
            losses = {name: state[name] for name in ("epoch", "loss", "auxiliary_loss")}
            row = {name: value for name, value in losses.items() if value is not None}
            history.append(row | measured | {"seconds": round(seconds, 3)})
        if shown:
            percent = [100 * measured.get(name, math.nan) for name in ("accuracy", "msp")]
            shown.add(run.method, epoch, state["loss"], *percent)
        started = time.perf_counter()
    return history


def _states(
    run: Run, net: nn.Module, split: Split, saved: Any, quiet: bool
) -> Iterator[dict[str, Any]]:
    """State.state_dict() after each epoch, first the saved one: it may not be evaluated yet.

    quiet: no progress bar.
    """
    e = run.experiment
    device = machine.device(e)
    if saved:
        net.to(device).to(memory_format=torch.channels_last)
        net.load_state_dict(saved["net"])
        yield saved
    torch.backends.cudnn.benchmark = True  # the fastest convolutions for shapes that stay the same
    how: dict[str, Any] = {"seed": run.trial, "device": device, "compile": e.compile}
    how |= {"transform": build.transform(run, split), "resume": saved}
    states = training.train(net, split.train, build.recipe(run), build.loss(run), **how)
    title = f"{run.hold_out or 'none'}, {run.method}, trial {run.trial}"
    bar = {"initial": saved["epoch"] if saved else 0, "mininterval": 1, "disable": quiet}
    for state in tqdm(states, title, e.epochs, leave=False, unit="epoch", **bar):
        yield state.state_dict()


def _write(run: Run, net: nn.Module, scorer: Scorer, history: list, hardware: dict) -> Record:
    """Write a trained run's files, its record last."""
    e = run.experiment
    data = scorer.data
    sha256 = store.write_scores(run.home / "scores.npz", scorer.arrays)
    table = pd.DataFrame(history).to_csv(index=False)
    save_atomically(run.home / "history.csv", lambda file: file.write(table.encode()))
    weights = io.BytesIO()
    torch.save(net.state_dict(), weights)
    if e.keep_weights:
        save_atomically(run.home / "weights.pt", lambda file: file.write(weights.getbuffer()))
    drawn = datasets.training_indices(data, *run.subset)
    versions = {name: version(name) for name in ("semlib", "torch", "numpy")}
    return store.new_record(
        run.home,
        run,
        classes=data.classes,
        metrics=_averaged(history[-e.average_last_epochs :], scoring.measures(scorer.arrays)),
        scoring=scorer.scored,
        scores_sha256=sha256,
        weights_sha256=hashlib.sha256(weights.getbuffer()).hexdigest(),
        statistics=e.statistics,
        skew=float(scorer.split.is_anomaly.mean()),
        train_images=len(data.train),
        drawn_images=len(drawn),
        drawn_sha256=hashlib.sha256(drawn.tobytes()).hexdigest(),
        seconds=history[-1]["seconds"],
        versions=versions | {"python": platform.python_version()},
        commit=_commit(),
        **hardware,
    )


def _averaged(rows: list[dict[str, float]], measures: dict[str, float]) -> dict[str, float]:
    """The measures' means over the rows of the last epochs, of those that are in each of them."""
    if len(rows) == 1:
        return measures
    complete = [name for name in measures if all(name in row for row in rows)]
    return {name: float(np.mean([row[name] for row in rows])) for name in complete}


# --- new scores of a finished run, from its kept weights


def _score_from_weights(run: Run, record: Record, data: Dataset) -> Record:
    """Add the scores that the record lacks; those that it has stay as they are.

    Scored on other test images, the same training gets a further record below the first, which
    stays too.
    """
    e = run.experiment
    home = record.home
    old = record.scores() if record.data == run.data else {}
    if not old:
        home = run.homes[1]
        fresh = {"metrics": {}, "scoring": {}, "commit": _commit(), "finished": store.now()}
        record = record.model_copy(update=fresh)
    wanted = ({} if old else MSP) | store.missing_scores(record, e)
    if not wanted:
        return record
    if e.average_last_epochs > 1:
        late = f"is finished, so {', '.join(wanted)} can't be averaged over epochs any more"
        raise ConfigError(f"{run.title}: {late}; choose another profile")
    scorer = Scorer(run, data, wanted)
    net = network(record, data).to(machine.device(e))
    # channels last as in training: the scores are then the same to the bit
    measured = scorer.score(net.to(memory_format=torch.channels_last))
    if scorer.scored:
        changes = {
            "test_digest": digests_of(data).test,
            "metrics": record.metrics | measured | record.metrics,  # accuracy stays
            "scoring": record.scoring | scorer.scored,
            "scores_sha256": store.write_scores(home / "scores.npz", old | scorer.arrays | old),
            "skew": float(scorer.split.is_anomaly.mean()),
        }
        record = store.rewrite(record, home, **changes)
    scorer.check()
    return record


def network(record: Record, data: Dataset) -> nn.Module:
    """The network of a finished run with its trained weights and mixed statistics, on the CPU.

    data: what it was trained on. ConfigError if the weights are not here, or not of this data.
    """
    run = record.run
    path = record.run_home / "weights.pt"
    if why := _unusable(run, record, data, path):
        raise ConfigError(f"{run.title}: {why}")
    net = build.network(run, run.split(data))
    net.load_state_dict(checkpoint.read(path))
    return net


def _unusable(run: Run, record: Record, data: Dataset, weights: Path) -> str | None:
    """Why a finished run's network can't be made, and what to do; None if it can."""
    if record.external:
        return "was trained elsewhere, and its weights are not here; choose a run of semlib's"
    if not weights.exists():
        lost = "its weights were not kept (keep_weights), or are another machine's"
        do = "choose scores that it has, or another profile to train it again"
        return f"{lost}, so it can't be scored anew; {do} (-p profile NAME -p missing train)"
    if digests_of(data).train != record.train_digest:
        now = f"{data.name} has now ({digests_of(data)})"
        return f"was trained on other images ({record.data}) than {now}"
    if edited := record.edited():
        return f"was trained with another version of {', '.join(edited)}"
    if hashlib.sha256(weights.read_bytes()).hexdigest() != record.weights_sha256:
        return f"{weights} is damaged or another run's; choose another profile to train it again"
    return None


def _commit() -> str | None:
    """The checkout's git commit, with + if CODE differs from it; None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}+" if changed else commit


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _clear_progress() -> None:
    """Take the progress bars out of a notebook's cell: the executed notebook is read as a page."""
    if "ipykernel" in sys.modules:
        from IPython.display import clear_output

        clear_output()
