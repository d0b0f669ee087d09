"""One run: load -> hold out -> train -> score -> record. And all runs of an experiment that aren't
finished yet.
"""

import hashlib
import io
import platform
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import Timeout
from tqdm import tqdm

from semlib import auxiliary, datasets, holdout, metrics, models, training
from semlib.datasets import augmentation
from semlib.models.cpc import patches
from semlib.randomness import seeded
from semlib.training import Recipe
from workbench import checkpoint, own, own_network
from workbench.checkpoint import Checkpoint
from workbench.experiment import EXTERNAL, ConfigError, Experiment, Network, create
from workbench.files import ROOT, remove_leftovers, save_atomically
from workbench.runs import external, machine, plan, scoring, store
from workbench.runs.plan import Run, load
from workbench.runs.scoring import MSP
from workbench.runs.store import Record

CHECKPOINT = "checkpoint.pt"
EMULATED = "precision: bfloat16 is emulated on this processor or GPU, and slower than float32"
FEW_STEPS = 5  # of a training: fewer are warned of


def complete(experiment: Experiment) -> list[Record]:
    """The records of all the experiment's runs; with missing: train, what isn't finished is trained
    first.

    A run whose loss isn't finite, or one of whose scores fails, doesn't keep the others from
    finishing; the error raised at the end lists such runs: FloatingPointError, or ConfigError where
    a finished run can't be scored anew. What a user's task raises is raised at the end as it is.
    """
    check(experiment)
    if experiment.missing == "skip":
        return store.finished(experiment)
    missing, failed, unusable, raised = store.missing(experiment), [], [], None
    if missing:
        data = load(experiment)
        check_data(experiment, data)
        missing = store.missing(experiment, data.digests)
        if experiment.compile:
            torch.compiler.reset()  # of other networks in this process: past eight, PyTorch would stop compiling
    for run in plan.planned(experiment):
        if run not in missing:  # killed after its record, before this
            Checkpoint(run.home / CHECKPOINT).remove()
            (run.home / store.OWNER).unlink(missing_ok=True)
    queue = deque((run, False) for run in missing)
    while queue:
        run, wait = queue.popleft()
        try:
            finish(run, data, wait)
        except Timeout:  # another process trains it: the others first
            queue.append((run, True))
        except FloatingPointError as error:
            failed.append(f"{run.title}: {error}")
        except ConfigError as error:
            unusable.append(str(error))
        except Exception as error:  # a user's task can raise any
            if ":" not in run.method:
                raise
            raised = raised or error
    _clear_progress()
    if raised:
        raised.add_note(
            f"not finished: {'; '.join(run.title for run in store.missing(experiment))}"
        )
        raise raised
    if failed or unusable:
        raise (FloatingPointError if failed else ConfigError)("; ".join([*failed, *unusable]))
    return store.finished(experiment)


def check(experiment: Experiment) -> None:
    """ConfigError, one line, if the experiment names a class, network, method, score or device that
    there isn't.
    """
    plan.held_out(experiment)
    if ":" in experiment.architecture:
        own.function(experiment.architecture)
    else:
        try:
            models.groups(experiment.architecture, experiment.widen_factor)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if "cpc" in experiment.methods and experiment.architecture not in models.CPC:
        found, choices = experiment.architecture, ", ".join(models.CPC)
        raise ConfigError(
            f"methods: cpc needs a network that encodes patches, not {found}; choose architecture {choices}"
        )
    for method in experiment.trained:
        _task(method, experiment)
    external.check(experiment)
    plan.scoring(experiment)
    machine.device(experiment)
    if (experiment.missing, experiment.precision) == (
        "train",
        "bfloat16",
    ) and not machine.has_bfloat16(experiment):
        warnings.warn(EMULATED, stacklevel=2)


def check_data(experiment: Experiment, data: datasets.Dataset) -> None:
    """ConfigError if the experiment can't be trained on images of this size and number, or its
    network doesn't take them.

    DataError if a class has no images.
    """
    datasets.check_parts(data)
    height, width = data.train.images.shape[2:]
    per_class, where = experiment.train_per_class, plan.held_out(experiment)
    side, most = (
        min(height, width),
        min(len(datasets.training_images(data, name, per_class)) for name in where),
    )
    for name, limit in {"crop_side": side, "crop_padding": side - 1, "batch_size": most}.items():
        if (getattr(experiment, name) or 0) > limit:
            of = f" with train_per_class {per_class}" * (per_class is not None)
            has = f"{data.name} has {most} images to train on{of}, of {width}x{height} pixels"
            raise ConfigError(f"{name}: {getattr(experiment, name)} is more than {limit}; {has}")
    if experiment.trained:
        _check_steps(experiment, most)
    if "rotation" in experiment.methods and height != width and not experiment.crop_side:
        raise ConfigError(
            f"methods: rotation needs square images, and {data.name} has {width}x{height} pixels; choose crop_side "
            f"(at most {side}), or prepare the images square"
        )
    if "cpc" in experiment.methods:
        try:
            patches(
                torch.zeros(1, 1, experiment.crop_side or height, experiment.crop_side or width)
            )
        except ValueError as error:
            raise ConfigError(
                f"methods: {error}; choose a larger crop_side or image_side"
            ) from None
    users = [name for name in experiment.scores if ":" in name and not name.startswith(EXTERNAL)]
    for method in experiment.trained:
        if users or ":" in method + experiment.architecture:
            _try(Run(experiment, where[0], method, experiment.first_trial), data, users)
        users = []  # tried once


def _check_steps(experiment: Experiment, images: int) -> None:
    """ConfigError if one_cycle's only step has its first learning rate, 0; a warning if the steps
    are too few to learn much.
    """
    e, steps = experiment, experiment.epochs * (images // experiment.batch_size)
    count = f"{steps} training step{'s' * (steps > 1)}"
    said = f"epochs: {e.epochs} with batch_size {e.batch_size} and {images} images make {count}"
    do = "choose more epochs or a smaller batch_size"
    if steps == 1 and e.schedule == "one_cycle":
        raise ConfigError(f"{said}, and the learning rate of one_cycle's first step is 0; {do}")
    if steps < FEW_STEPS:
        warnings.warn(f"{said}, too few to learn much; {do}", stacklevel=3)


def _try(run: Run, data: datasets.Dataset, scores: list[str]) -> None:
    """ConfigError, one line, if a user's network, task or score doesn't work; on a few images, and
    a network of its own.
    """
    split, e, where = _split(run, data), run.experiment, machine.device(run.experiment)
    spread = split.train.images[:: max(1, len(split.train) // scoring.FEW)][: scoring.FEW]
    images = augmentation.to_float(torch.from_numpy(augmentation.centre(spread, e.crop_side)))
    doing = f"architecture: {e.architecture}" if ":" in e.architecture else f"methods: {run.method}"
    try:
        with seeded(run.trial, where):
            net = _network(run, split)
            if ":" in e.architecture:
                own_network.check(
                    net, {"classification": len(split.classes)} | _heads(run), images[:2]
                )
                for name in {*e.scores} & {*metrics.OF_THE_HEAD}:
                    metrics.linear_head(net, name)
            net.to(where).to(memory_format=torch.channels_last)
            doing = f"methods: {run.method}"
            if ":" in run.method:
                _try_task(run, net, images.to(where))
            for name in scores:
                doing = "scores"
                scoring.attempt(run, net, split, name)
    except Exception as error:  # a user's code can raise any
        raise ConfigError(
            f"{doing}: {metrics.failure(error)} (tried on a few images, nothing was trained)"
        ) from error


def _try_task(run: Run, net: torch.nn.Module, images: torch.Tensor) -> None:
    """ValueError unless the user's task gives a loss with a gradient; what it raises itself passes."""
    task = own.function(run.method)
    bfloat16 = machine.precision(run.experiment) == "bfloat16"
    with torch.enable_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        loss = task(
            net.train(), images[: max(1, run.experiment.batch_size // getattr(task, "share", 1))]
        )
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        what = (
            f"a tensor {tuple(loss.shape)}"
            if isinstance(loss, torch.Tensor)
            else f"a {type(loss).__name__}"
        )
        raise ValueError(f"its loss should be a tensor of one number with a gradient, not {what}")
    if not loss.isfinite():
        raise ValueError(f"its loss is {loss.item()} before any training")
    loss.backward()


def finish(run: Run, data: datasets.Dataset, wait: bool = True) -> Record:
    """Train and score a run unless it is finished; add the scores that a finished one lacks, from
    its kept weights.

    While another process is at it: wait for that, or without `wait` raise filelock.Timeout.
    """
    run = replace(run, data=data.digests)
    with store.alone(run, wait):
        remove_leftovers(run.home)
        if record := store.find(run):
            return _add_scores(run, record, data)
        first = store.trained(run)
        return _score_other_images(run, first, data) if first else _train(run, data)


def _train(run: Run, data: datasets.Dataset) -> Record:
    experiment, split = run.experiment, _split(run, data)
    net = _network(run, split)
    where, precision = machine.device(experiment), machine.precision(experiment)
    hardware = {
        "device": machine.device_name(where),
        "threads": _threads(experiment),
        "precision": precision,
    }
    wanted = MSP | plan.scoring(experiment)
    functions = scoring.functions(wanted)
    arrays, broken = {}, {}  # of the last evaluation; scores that failed, with the reason

    def evaluate(epoch: int) -> dict[str, float]:
        nonlocal arrays
        if epoch > experiment.epochs - experiment.average_last_epochs:
            usable = {name: f for name, f in functions.items() if name not in broken}
            arrays, failed = scoring.score(run, net, data, split, wanted, usable)
        else:
            msp = {"msp": functions["msp"]}
            arrays, failed = scoring.score(run, net, data, split, MSP, msp, ["mixed"])
        broken.update(failed)
        if "msp" in broken:
            raise FloatingPointError(broken["msp"])
        return scoring.measures(arrays)

    stamp: dict[str, Any] = {"address": run.address, "data": list(data.digests)}
    stamp |= {"scoring": wanted} if experiment.average_last_epochs > 1 else {}
    kept = Checkpoint(run.home / CHECKPOINT, stamp, hardware | {"compile": experiment.compile})
    torch.backends.cudnn.benchmark = True  # the fastest convolutions for shapes that stay the same
    history = _history(run, net, split, kept, evaluate, where)
    if first := store.find(run):
        # another process's, on a file system where locks do nothing: the first record stands
        kept.remove()
        return first
    scored = {name: how for name, how in wanted.items() if name in arrays}
    record = _keep(run, data, net, history, scored, arrays, hardware)
    kept.remove()
    _raise(broken)
    return record


def _history(
    run: Run,
    net: torch.nn.Module,
    split: datasets.Split,
    kept: Checkpoint,
    evaluate: Callable[[int], dict[str, float]],
    where: str,
) -> list[dict[str, float]]:
    """Train the network from its checkpoint, or anew; a row for each evaluated epoch."""
    e = run.experiment
    saved = kept.load()
    history, seconds = saved["progress"] if saved else ([], 0.0)
    begin = saved["training"]["epoch"] if saved else 0
    states = training.train(
        net,
        split.train,
        recipe(e),
        _task(run.method, e),
        seed=run.trial,
        transform=_transform(run, split),
        device=where,
        compile=e.compile,
        resume=saved and saved["training"],
    )
    if (
        history and "seconds" not in history[-1]
    ):  # stopped between its checkpoint and its evaluation
        net.to(where).to(memory_format=torch.channels_last)
        net.load_state_dict(saved["training"]["net"])
        history[-1] |= evaluate(begin) | {"seconds": round(seconds, 3)}
    bar = tqdm(
        states,
        f"{run.hold_out or 'none'}, {run.method}, trial {run.trial}",
        e.epochs,
        initial=begin,
        unit="epoch",
        leave=False,
        mininterval=1,
    )
    started = time.perf_counter()
    for state in bar:
        seconds += time.perf_counter() - started
        final = state.epoch > e.epochs - e.average_last_epochs
        due = final or state.epoch // e.evaluate_every > (state.epoch - 1) // e.evaluate_every
        if due:
            history.append({"epoch": state.epoch, "loss": state.loss})
            if state.auxiliary_loss is not None:
                history[-1]["auxiliary_loss"] = state.auxiliary_loss
        if state.epoch % e.checkpoint_every == 0 or state.epoch == e.epochs:
            kept.save({"training": state.state_dict(), "progress": (history, seconds)})
        if due:  # after the checkpoint: what fails here costs no training
            history[-1] |= evaluate(state.epoch) | {"seconds": round(seconds, 3)}
        started = time.perf_counter()
    return history


def recipe(experiment: Experiment) -> Recipe:
    names = {field.name for field in fields(Recipe)} - {"bfloat16"}
    chosen = {name: getattr(experiment, name) for name in names}
    return Recipe(**chosen, bfloat16=machine.precision(experiment) == "bfloat16")


def _task(method: str, experiment: Experiment) -> auxiliary.Loss | None:
    """A method's auxiliary loss: built in, the user's function, or None (center_mask masks only)."""
    if method in ("classification", "center_mask"):
        return None
    if method == "cpc":
        how = {"negatives": experiment.cpc_negatives, "augment": experiment.cpc_augment}
        return partial(auxiliary.cpc, **how)
    return auxiliary.rotation if method == "rotation" else own.task(method)


def _raise(broken: dict[str, str]) -> None:
    """FloatingPointError if scores failed; the others are in the record by now."""
    if broken:
        raise FloatingPointError("; ".join(broken.values()))


def _keep(
    run: Run,
    data: datasets.Dataset,
    net: torch.nn.Module,
    history: list[dict[str, float]],
    wanted: dict[str, dict],
    arrays: dict[str, np.ndarray],
    hardware: dict[str, Any],
) -> Record:
    """Write a trained run's files, its record last."""
    experiment = run.experiment
    sha256 = store.write_scores(run.home / "scores.npz", arrays)
    last = history[-experiment.average_last_epochs :]
    columns = pd.DataFrame(history).to_csv(index=False)
    save_atomically(run.home / "history.csv", lambda file: file.write(columns.encode()))
    weights = io.BytesIO()
    torch.save(net.state_dict(), weights)
    if experiment.keep_weights:
        save_atomically(run.home / "weights.pt", lambda file: file.write(weights.getbuffer()))
    return store.new_record(
        run.home,
        run,
        classes=data.classes,
        metrics={
            name: value
            if experiment.average_last_epochs == 1
            else float(np.mean([row[name] for row in last]))
            for name, value in scoring.measures(arrays).items()
            if all(name in row for row in last)
        },
        scoring=wanted,
        scores_sha256=sha256,
        weights_sha256=hashlib.sha256(weights.getbuffer()).hexdigest(),
        skew=float(arrays["is_anomaly"].mean()),
        train_images=len(data.train),
        seconds=history[-1]["seconds"],
        **hardware,
        versions={"python": platform.python_version()}
        | {name: version(name) for name in ("semlib", "torch", "numpy")},
        commit=_commit(),
    )


def _add_scores(run: Run, record: Record, data: datasets.Dataset) -> Record:
    """Add the scores that the record lacks. None is overwritten: the source that is asked for has
    the plain name, an older one and other settings have names of their own.
    """
    lacking = store.lacking(record, plan.scoring(run.experiment))
    wanted = {name: how for name, how in lacking.items() if record.key(how) is None}
    arrays, broken = _from_weights(run, record, data, wanted) if wanted else ({}, {})
    for name, how in lacking.items():
        if name in record.scoring and plan.same_settings(how, record.scoring[name]):
            record = _rename(record, name, _own_name(record.scoring[name]))
        if key := record.key(how):
            record = _rename(record, key, name)
    wanted = {name: how for name, how in wanted.items() if name not in broken}
    if not wanted:
        _raise(broken)
        return record
    names = {
        name: name if name not in record.scoring else _own_name(how) for name, how in wanted.items()
    }
    added = {
        names[name] + end: arrays[name + end] for name in names for end in plan.STATISTICS.values()
    }
    measured = scoring.measures(
        {"label": arrays["label"], "is_anomaly": arrays["is_anomaly"]} | added
    )
    record = store.rewrite(
        record,
        scores_sha256=store.write_scores(record.home / "scores.npz", record.scores() | added),
        metrics=record.metrics | measured,
        scoring=record.scoring | {names[name]: how for name, how in wanted.items()},
    )
    _raise(broken)
    return record


def _rename(record: Record, name: str, own: str) -> Record:
    """The record with a score renamed. A kill in between leaves an array that is passed over."""
    arrays, names = record.scores(), {name + end: own + end for end in plan.STATISTICS.values()}
    sha256 = store.write_scores(
        record.home / "scores.npz", arrays | {new: arrays[old] for old, new in names.items()}
    )
    return store.rewrite(
        record,
        scores_sha256={key: value for key, value in sha256.items() if key not in names},
        metrics={names.get(key, key): value for key, value in record.metrics.items()},
        scoring={own if key == name else key: how for key, how in record.scoring.items()},
    )


def _score_other_images(run: Run, first: Record, data: datasets.Dataset) -> Record:
    """A record of the same training scored on other test images, below the first, which stays."""
    wanted = MSP | plan.scoring(run.experiment)
    arrays, broken = _from_weights(run, first, data, wanted)
    home = run.homes[1]
    record = store.rewrite(
        first,
        home,
        test_digest=data.digests.test,
        metrics=scoring.measures(arrays),
        scoring={name: how for name, how in wanted.items() if name not in broken},
        scores_sha256=store.write_scores(home / "scores.npz", arrays),
        skew=float(arrays["is_anomaly"].mean()),
        commit=_commit(),
        finished=store.now(),
    )
    _raise(broken)
    return record


def _from_weights(
    run: Run, record: Record, data: datasets.Dataset, wanted: dict[str, dict]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of these scores from the run's kept weights, and those that failed."""
    if run.experiment.average_last_epochs > 1:
        raise ConfigError(
            f"{run.title}: is finished, so {', '.join(wanted)} can't be averaged over epochs any more; choose another profile"
        )
    # channels last as in training: the scores are then the same to the bit
    net = (
        network(record, data)
        .to(machine.device(run.experiment))
        .to(memory_format=torch.channels_last)
    )
    return scoring.score(run, net, data, _split(run, data), wanted, scoring.functions(wanted))


def network(record: Record, data: datasets.Dataset) -> torch.nn.Module:
    """The network of a finished run, its weights and mixed batch-norm statistics as trained, on the
    CPU.

    data: what it was trained on. ConfigError if the weights were not kept, can't be read, or are
    not of this data or network.
    """
    run, path = _run_of(record), weights(record)
    if data.digests.train != record.train_digest:
        raise ConfigError(
            f"{run.title}: was trained on other images ({record.data}) than {data.name} has now ({data.digests})"
        )
    if run.sources != record.sources:
        raise ConfigError(
            f"{run.title}: was trained with another version of {', '.join(run.sources)}"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != record.weights_sha256:
        raise ConfigError(
            f"{run.title}: {path} is damaged or another run's; choose scores that it has, or another profile"
        )
    net = _network(run, _split(run, data))
    try:
        net.load_state_dict(checkpoint.read(path))
    except ValueError as error:
        raise ConfigError(f"{run.title}: {error}; choose scores that it has") from error
    except (TypeError, RuntimeError) as error:
        raise ConfigError(
            f"{run.title}: {path} isn't of its network; choose scores that it has"
        ) from error
    return net


def weights(record: Record) -> Path:
    """The kept weights of a finished run; ConfigError if there are none."""
    path, title = record.trained / "weights.pt", _run_of(record).title
    if record.external:
        raise ConfigError(
            f"{title}: was trained elsewhere, and its weights are not here; choose a run that semlib trained"
        )
    if not path.exists():
        raise ConfigError(
            f"{title}: its weights were not kept (keep_weights), so it can't be scored anew; "
            "choose scores that it has, or another profile to train it again"
        )
    return path


def _run_of(record: Record) -> Run:
    return Run(
        create(record.settings | {"dataset": record.dataset}),
        record.hold_out,
        record.method,
        record.trial,
    )


def _own_name(how: dict[str, Any]) -> str:
    """my_score:energy(version=1,source=1a2b...): a score's name where another source or setting has
    the plain one.
    """
    return f"{how['score']}({','.join(f'{k}={v}' for k, v in how.items() if k != 'score')})"


def _split(run: Run, data: datasets.Dataset) -> datasets.Split:
    return datasets.hold_out(data, run.hold_out, run.experiment.train_per_class, run.trial)


def _network(run: Run, split: datasets.Split) -> torch.nn.Module:
    """The run's network with its initial weights."""
    e = run.experiment
    loss = _task(run.method, e)
    if ":" in e.architecture:
        build = own.function(e.architecture)
        return holdout.network(split, build, loss, run.trial, e.crop_side)
    settings = {name: getattr(e, name) for name in Network.model_fields if name != "architecture"}
    return holdout.network(split, e.architecture, loss, run.trial, e.crop_side, **settings)


def _heads(run: Run) -> dict[str, int]:
    return dict(getattr(_task(run.method, run.experiment), "heads", None) or {})


def _transform(
    run: Run, split: datasets.Split
) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None:
    """The method's extra augmentation of classification batches, applied after crop and flip."""
    if run.method != "center_mask":
        return None
    mean, fill = holdout.pixel_statistics(split.train.images)[0], run.experiment.mask_fill
    fills = torch.tensor(mean if fill is None else [fill] * len(mean), dtype=torch.float32)[
        :, None, None
    ]  # (C, 1, 1)
    return lambda images, generator: augmentation.center_mask(
        images, fills.to(images.device), generator
    )


def _threads(experiment: Experiment) -> int:
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    return torch.get_num_threads()


def _commit() -> str | None:
    """The checkout's git commit, with + if code, parameters or notebooks differ from it; None
    outside a checkout.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        commit, changed = (
            subprocess.run(
                [*git, *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (
                ["rev-parse", "HEAD"],
                [
                    "status",
                    "--porcelain",
                    "--",
                    "semlib",
                    "workbench",
                    "params",
                    "notebooks",
                    "workflow",
                ],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _clear_progress() -> None:
    """Take the progress bars out of a notebook's cell; the executed notebook is to be read as a
    page.
    """
    if "ipykernel" in sys.modules:
        from IPython.display import clear_output

        clear_output()
