"""One run: load, hold out, train, score, record. And all unfinished runs of an experiment."""

import hashlib
import io
import platform
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
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
from workbench.checkpoint import Checkpoint
from workbench.experiment import ConfigError, Experiment
from workbench.files import ROOT, remove_leftovers, save_atomically
from workbench.runs import build, machine, plan, scoring, store
from workbench.runs.checks import check, check_data
from workbench.runs.plan import Run, load
from workbench.runs.scoring import MSP, Scorer
from workbench.runs.store import Record

CHECKPOINT = "checkpoint.pt"
# Files that decide what a run is: a commit with changes to them is marked
CODE = ("semlib", "workbench", "params", "notebooks", "workflow")


def complete(experiment: Experiment) -> list[Record]:
    """The records of all the experiment's runs; with missing: train, unfinished runs are trained.

    A run that diverges, or that can't be scored, doesn't keep the others from finishing. The error
    raised at the end lists such runs: FloatingPointError, or ConfigError where a finished run can't
    be scored anew. What a user's task raised is raised as it is.
    """
    check(experiment)
    if experiment.missing == "train":
        _train_missing(experiment)
    return store.finished(experiment)


def _train_missing(experiment: Experiment) -> None:
    missing = store.missing(experiment)
    if missing:
        data = load(experiment)
        check_data(experiment, data)
        missing = store.missing(experiment, data.digests)
    for run in plan.planned(experiment):
        if run not in missing:  # its process may have been killed just after it wrote the record
            Checkpoint(run.home / CHECKPOINT).remove()
            (run.home / store.OWNER).unlink(missing_ok=True)
    if not missing:
        return
    if experiment.compile:
        torch.compiler.reset()  # past eight compiled networks in a process PyTorch compiles no more
    errors = _finish_all(missing, data)
    _clear_progress()
    _raise(errors)


def _finish_all(runs: list[Run], data: Dataset) -> list[tuple[Run, Exception]]:
    """Finish each run; those that could not be, with the reason."""
    queue = deque((run, False) for run in runs)
    errors = []
    while queue:
        run, wait = queue.popleft()
        try:
            finish(run, data, wait)
        except Timeout:  # another process trains it: the others first
            queue.append((run, True))
        except (FloatingPointError, ConfigError) as error:
            errors.append((run, error))
        except Exception as error:  # a user's task can raise any
            if ":" not in run.method:
                raise
            errors.append((run, error))
    return errors


def _raise(errors: list[tuple[Run, Exception]]) -> None:
    """Raise what a user's task raised first; else one error with all messages; nothing for none."""
    kind, messages = ConfigError, []
    for run, error in errors:
        if isinstance(error, ConfigError):
            messages.append(str(error))
        elif isinstance(error, FloatingPointError):
            kind = FloatingPointError
            messages.append(f"{run.title}: {error}")
        else:
            error.add_note(f"not finished: {'; '.join(run.title for run, _ in errors)}")
            raise error
    if messages:
        raise kind("; ".join(messages))


def finish(run: Run, data: Dataset, wait: bool = True) -> Record:
    """Train and score a run unless it is finished; a finished one gets the scores that it lacks.

    run.data: the digests of data. While another process trains it: wait, or filelock.Timeout.
    """
    with store.lock(run, wait):
        remove_leftovers(run.home)
        if record := store.find(run):
            return _add_scores(run, record, data)
        if record := store.trained(run):
            return _score_other_images(run, record, data)
        return _train(run, data)


# --- a new run


def _train(run: Run, data: Dataset) -> Record:
    scorer = Scorer(run, data, MSP | plan.scoring(run.experiment))
    hardware = machine.set_up(run.experiment)
    kept = _checkpoint(run, scorer, hardware)
    net = build.network(run, scorer.split)
    history, arrays = _history(run, net, scorer, kept)
    record = store.find(run)  # of another process that was quicker, where locks do nothing
    if record is None:
        record = _record(run, data, net, history, scorer, arrays, hardware)
    kept.remove()
    scorer.check()
    return record


def _checkpoint(run: Run, scorer: Scorer, hardware: dict[str, Any]) -> Checkpoint:
    stamp: dict[str, Any] = {"address": run.address, "data": list(run.data)}
    if run.experiment.average_last_epochs > 1:
        stamp["scoring"] = scorer.scores  # history holds their measures
    used = hardware | {"compile": run.experiment.compile}
    return Checkpoint(run.home / CHECKPOINT, stamp, used)


def _history(
    run: Run, net: nn.Module, scorer: Scorer, kept: Checkpoint
) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    """Train the network: a row for each evaluated epoch, and the last one's arrays of scores."""
    e = run.experiment
    saved = kept.load()
    history, seconds = saved["progress"] if saved else ([], 0.0)
    started = time.perf_counter()
    for state in _states(run, net, scorer.split, saved and saved["training"]):
        epoch = state["epoch"]
        seconds += time.perf_counter() - started
        if epoch % e.checkpoint_every == 0 or epoch == e.epochs:
            kept.save({"training": state, "progress": (history, seconds)})
        is_last = epoch > e.epochs - e.average_last_epochs
        if is_last or epoch // e.evaluate_every > (epoch - 1) // e.evaluate_every:
            # after the checkpoint: if it fails or is killed no epoch is trained again
            arrays = scorer.arrays(net) if is_last else scorer.arrays(net, ["mixed"], "msp")
            if "msp" in scorer.failed:
                raise FloatingPointError(scorer.failed["msp"])
            losses = {name: state[name] for name in ("epoch", "loss", "auxiliary_loss")}
            row = {name: value for name, value in losses.items() if value is not None}
            history.append(row | scoring.measures(arrays) | {"seconds": round(seconds, 3)})
        started = time.perf_counter()
    return history, arrays


def _states(
    run: Run, net: nn.Module, split: Split, saved: dict[str, Any] | None
) -> Iterator[dict[str, Any]]:
    """State.state_dict() after each epoch; a saved one comes first, to be evaluated if it is due."""
    device = machine.device(run.experiment)
    if saved:
        net.to(device).to(memory_format=torch.channels_last)
        net.load_state_dict(saved["net"])
        yield saved
    torch.backends.cudnn.benchmark = True  # the fastest convolutions for shapes that stay the same
    states = training.train(
        net,
        split.train,
        build.recipe(run),
        build.loss(run),
        seed=run.trial,
        transform=build.transform(run, split),
        device=device,
        compile=run.experiment.compile,
        resume=saved,
    )
    title = f"{run.hold_out or 'none'}, {run.method}, trial {run.trial}"
    begin, epochs = saved["epoch"] if saved else 0, run.experiment.epochs
    how = {"initial": begin, "unit": "epoch", "leave": False, "mininterval": 1}
    for state in tqdm(states, title, epochs, **how):
        yield state.state_dict()


def _record(
    run: Run,
    data: Dataset,
    net: nn.Module,
    history: list[dict[str, float]],
    scorer: Scorer,
    arrays: dict[str, np.ndarray],
    hardware: dict[str, Any],
) -> Record:
    """Write a trained run's files, its record last."""
    e = run.experiment
    sha256 = store.write_scores(run.home / "scores.npz", arrays)
    table = pd.DataFrame(history).to_csv(index=False)
    save_atomically(run.home / "history.csv", lambda file: file.write(table.encode()))
    weights = io.BytesIO()
    torch.save(net.state_dict(), weights)
    if e.keep_weights:
        save_atomically(run.home / "weights.pt", lambda file: file.write(weights.getbuffer()))
    drawn = datasets.training_images(data, run.hold_out, e.train_per_class, run.trial)
    return store.new_record(
        run.home,
        run,
        classes=data.classes,
        metrics=_averaged(history[-e.average_last_epochs :], scoring.measures(arrays)),
        scoring=scorer.scored,
        scores_sha256=sha256,
        weights_sha256=hashlib.sha256(weights.getbuffer()).hexdigest(),
        skew=float(arrays["is_anomaly"].mean()),
        train_images=len(data.train),
        drawn_images=len(drawn),
        drawn_sha256=hashlib.sha256(drawn.astype("<i8").tobytes()).hexdigest(),
        seconds=history[-1]["seconds"],
        versions={name: version(name) for name in ("semlib", "torch", "numpy")}
        | {"python": platform.python_version()},
        commit=_commit(),
        **hardware,
    )


def _averaged(rows: list[dict[str, float]], measures: dict[str, float]) -> dict[str, float]:
    """The measures' means over the rows of the last epochs; none if a score failed in one of them."""
    if len(rows) == 1:
        return measures
    complete = [name for name in measures if all(name in row for row in rows)]
    return {name: float(np.mean([row[name] for row in rows])) for name in complete}


# --- new scores of a finished run, from its kept weights


def _add_scores(run: Run, record: Record, data: Dataset) -> Record:
    """Add the scores that the record lacks; the others stay as they are."""
    wanted = store.lacking(record, plan.scoring(run.experiment))
    if not wanted:
        return record
    scorer = Scorer(run, data, wanted, taken=record.scoring)
    arrays = _from_weights(run, record, data, scorer)
    new = {name: arrays[name] for name in arrays if name not in record.scores_sha256}
    if scorer.scored:
        truth = {"label": arrays["label"], "is_anomaly": arrays["is_anomaly"]}
        path = record.home / "scores.npz"
        record = store.rewrite(
            record,
            scores_sha256=store.write_scores(path, record.scores() | new),
            metrics=record.metrics | scoring.measures(truth | new),
            scoring=record.scoring | scorer.scored,
        )
    scorer.check()
    return record


def _score_other_images(run: Run, trained: Record, data: Dataset) -> Record:
    """Score the trained network on other test images; this record lies below the first."""
    scorer = Scorer(run, data, MSP | plan.scoring(run.experiment))
    arrays = _from_weights(run, trained, data, scorer)
    home = run.homes[1]
    record = store.rewrite(
        trained,
        home,
        test_digest=data.digests.test,
        metrics=scoring.measures(arrays),
        scoring=scorer.scored,
        scores_sha256=store.write_scores(home / "scores.npz", arrays),
        skew=float(arrays["is_anomaly"].mean()),
        commit=_commit(),
        finished=store.now(),
    )
    scorer.check()
    return record


def _from_weights(run: Run, record: Record, data: Dataset, scorer: Scorer) -> dict[str, np.ndarray]:
    if run.experiment.average_last_epochs > 1:
        names = ", ".join(scorer.scores)
        late = f"is finished, so {names} can't be averaged over epochs any more"
        raise ConfigError(f"{run.title}: {late}; choose another profile")
    net = network(record, data).to(machine.device(run.experiment))
    # channels last as in training: the scores are then the same to the bit
    return scorer.arrays(net.to(memory_format=torch.channels_last))


def network(record: Record, data: Dataset) -> nn.Module:
    """The network of a finished run with its trained weights and mixed statistics, on the CPU.

    data: what it was trained on. ConfigError if the weights were not kept, can't be read, or are
    not of this data or network.
    """
    run, path = record.run, weights(record)
    reason = None
    if data.digests.train != record.train_digest:
        now = f"{data.name} has now ({data.digests})"
        reason = f"was trained on other images ({record.data}) than {now}"
    elif run.sources != record.sources:
        reason = f"was trained with another version of {', '.join(run.sources)}"
    elif hashlib.sha256(path.read_bytes()).hexdigest() != record.weights_sha256:
        do = "choose scores that it has, or another profile"
        reason = f"{path} is damaged or another run's; {do}"
    if reason:
        raise ConfigError(f"{run.title}: {reason}")
    net = build.network(run, run.split(data))
    try:
        net.load_state_dict(checkpoint.read(path))
    except (ValueError, TypeError, RuntimeError) as error:  # the last two: of another network
        what = error if isinstance(error, ValueError) else f"{path} isn't of its network"
        raise ConfigError(f"{run.title}: {what}; choose scores that it has") from error
    return net


def weights(record: Record) -> Path:
    """The kept weights of a finished run; ConfigError if there are none."""
    path, reason = record.trained / "weights.pt", None
    if record.external:
        reason = "was trained elsewhere, and its weights are not here; choose a run of semlib's"
    elif not path.exists():
        do = "choose scores that it has, or another profile to train it again"
        reason = f"its weights were not kept (keep_weights), so it can't be scored anew; {do}"
    if reason:
        raise ConfigError(f"{record.run.title}: {reason}")
    return path


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
