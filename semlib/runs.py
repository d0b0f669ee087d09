"""One run: load -> hold out -> train -> score -> record. And all runs of an experiment that aren't finished yet."""

import errno
import platform
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from semlib import auxiliary, config, datasets, metrics, models, store, training
from semlib.config import ConfigError, Experiment
from semlib.datasets import augmentation
from semlib.files import ROOT, remove_leftovers, save_atomically
from semlib.store import Record, Run

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what some network file systems answer


def complete(experiment: Experiment) -> list[Record]:
    """The records of all the experiment's runs; with missing: train, what isn't finished is trained first.

    A run whose loss isn't finite doesn't keep the others from finishing; it is named in a FloatingPointError at the end.
    """
    check(experiment)
    missing = store.missing(experiment) if experiment.missing == "train" else []
    for run in store.plan(experiment):
        if run not in missing and experiment.missing == "train":  # killed after its record, before this
            _remove_checkpoints(run)
    here = datasets.prepared(experiment.dataset, experiment.data_root, experiment.image_side)
    data = load(experiment) if missing or (here and store.finished(experiment)) else None
    if missing and experiment.compile:
        torch.compiler.reset()  # of other networks in this process: past eight, PyTorch would stop compiling
    failed = []
    queue = deque((run, False) for run in missing)
    while queue:
        run, wait = queue.popleft()
        try:
            finish(run, data, wait)
        except Timeout:  # another process trains it: the others first
            queue.append((run, True))
        except FloatingPointError as error:
            failed.append(f"{run.title}: {error}")
    _clear_progress()
    if data:
        _compare_digests(experiment, data)
    if failed:
        raise FloatingPointError("; ".join(failed))
    return store.finished(experiment)


def _compare_digests(experiment: Experiment, data: datasets.Dataset) -> None:
    """A warning if finished runs are of other data than there is now: a folder's images have changed, say."""
    digest = datasets.digest(data)
    other = [record for record in store.finished(experiment) if record.data_digest != digest]
    if other:
        was, now = other[0].data_digest[:8], digest[:8]
        said = f"{len(other)} finished runs are of other data (digest {was}) than {data.name} is now ({now})"
        warnings.warn(f"{said}; another profile trains on what is here now", stacklevel=3)


def load(experiment: Experiment) -> datasets.Dataset:
    """The experiment's data; with evaluate_on: validation, `test` is made of training images and no test image is read."""
    e, validation = experiment, experiment.evaluate_on == "validation"
    return datasets.load(e.dataset, e.data_root, e.image_side, e.fold, validation, e.ilsvrc)


def check(experiment: Experiment) -> None:
    """ConfigError, one line, if the experiment names a class, network, method, score or device that there isn't."""
    store.held_out(experiment)
    try:
        models.groups(experiment.architecture, experiment.widen_factor)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if "cpc" in experiment.methods and experiment.architecture not in models.CPC:
        found, choices = experiment.architecture, ", ".join(models.CPC)
        raise ConfigError(f"methods: cpc needs a network that encodes patches, not {found}; choose architecture {choices}")
    for method in experiment.methods:
        auxiliary.find(method, experiment)
    store.scoring(experiment)
    device(experiment)


def check_data(experiment: Experiment, data: datasets.Dataset) -> None:
    """ConfigError if the experiment can't be trained on images of this size and number."""
    height, width = data.train.images.shape[2:]
    left_out = [np.sum(data.train.labels == data.classes.index(name)) for name in store.held_out(experiment) if name]
    side, most = min(height, width), len(data.train) - max(left_out, default=0)
    for name, limit in {"crop_side": side, "crop_padding": side - 1, "batch_size": most}.items():
        if (getattr(experiment, name) or 0) > limit:
            has = f"{data.name} has {most} images to train on, of {width}x{height} pixels"
            raise ConfigError(f"{name}: {getattr(experiment, name)} is more than {limit}; {has}")


def finish(run: Run, data: datasets.Dataset, wait: bool = True) -> Record:
    """Train and score a run unless it is finished; add the scores that a finished one lacks, from its kept weights.

    While another process is at it: wait for that, or without `wait` raise filelock.Timeout.
    """
    run.home.mkdir(parents=True, exist_ok=True)
    with _alone(run.home / "run.lock", wait):
        remove_leftovers(run.home)
        record = run.record()
        return _train(run, data) if record is None else _add_scores(run, record, data)


@contextmanager
def _alone(path: Path, wait: bool) -> Iterator[None]:
    """Holds a file lock, which is freed when its owner dies; nothing on a file system without locks. filelock.Timeout."""
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def _train(run: Run, data: datasets.Dataset) -> Record:
    experiment, split = run.experiment, datasets.hold_out(data, run.hold_out)
    where, bfloat16, threads = device(experiment), autocast(experiment), _threads(experiment)
    digest = datasets.digest(data)
    net = _network(run, data, split)
    msp = {"msp": {"score": "msp"}}  # every record has it: learning curves show it, and it costs nothing
    wanted = msp | store.scoring(experiment)
    scored = {}  # epoch -> arrays, the last one only

    def evaluate(epoch: int) -> dict[str, float]:
        last = epoch > experiment.epochs - experiment.average_last_epochs
        arrays = _score(run, net, data, split, wanted if last else msp)
        scored.clear()
        scored[epoch] = arrays
        return _measures(arrays)

    torch.backends.cudnn.benchmark = True  # the fastest convolutions for shapes that stay the same
    checkpoint = run.home / "checkpoint.pt"
    history = training.train(
        net,
        split.train,
        experiment,
        auxiliary.find(run.method, experiment),
        seed=run.trial,
        transform=_transform(run, net),
        device=where,
        autocast=bfloat16,
        evaluate=evaluate,
        checkpoint=checkpoint,
        stamp={"fingerprint": run.fingerprint, "data": digest}
        | ({"scoring": wanted} if experiment.average_last_epochs > 1 else {}),
        machine={
            "device": device_name(where),
            "threads": threads,
            "bfloat16": bfloat16,
            "compile": experiment.compile,
        },
        description=f"{run.hold_out or 'none'}, {run.method}, trial {run.trial}",
    )
    if first := run.record():  # another process's, on a file system where locks do nothing: the first record stands
        _remove_checkpoints(run)
        return first
    arrays = scored.get(experiment.epochs) or _score(run, net, data, split, wanted)  # resumed after its last epoch
    sha256 = store.write_scores(run.home / "scores.npz", arrays)
    last = history[-experiment.average_last_epochs :]
    columns = pd.DataFrame(history).to_csv(index=False)
    save_atomically(run.home / "history.csv", lambda file: file.write(columns.encode()))
    if experiment.keep_weights:
        save_atomically(run.home / "weights.pt", lambda file: torch.save(net.state_dict(), file))
    record = store.write_record(
        run.home,
        dataset=experiment.dataset_name,
        hold_out=run.hold_out,
        method=run.method,
        trial=run.trial,
        fingerprint=run.fingerprint,
        settings=run.settings,
        classes=data.classes,
        metrics={
            name: value if experiment.average_last_epochs == 1 else float(np.mean([row[name] for row in last]))
            for name, value in _measures(arrays).items()
        },
        scoring=wanted,
        scores_sha256=sha256,
        skew=float(split.is_anomaly.mean()),
        train_images=len(data.train),
        seconds=history[-1]["seconds"],
        device=device_name(where),
        precision="bfloat16" if bfloat16 else "float32",
        threads=threads,
        versions={"python": platform.python_version()} | {name: version(name) for name in ("semlib", "torch", "numpy")},
        commit=_commit(),
        data_digest=digest,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _remove_checkpoints(run)
    return record


def _add_scores(run: Run, record: Record, data: datasets.Dataset) -> Record:
    """Nothing that is there changes; a score with other settings than the stored one is kept under a name of its own."""
    added = {
        name if name not in record.scoring else _own_name(how): how
        for name, how in store.scoring(run.experiment).items()
        if record.key(how) is None
    }
    if not added:
        return record
    if run.experiment.average_last_epochs > 1:
        raise ConfigError(f"{run.title}: finished without {', '.join(added)}, which can't be averaged over epochs any more")
    weights = run.home / "weights.pt"
    if not weights.exists():
        raise ConfigError(
            f"{run.title}: finished without {', '.join(added)}, and its weights were not kept (keep_weights); "
            "choose scores that it has, or another profile to train it again"
        )
    if datasets.digest(data) != record.data_digest:
        raise ConfigError(f"{run.title}: was trained on other data than {data.name} is now; choose another profile")
    split = datasets.hold_out(data, run.hold_out)
    # channels last as in training: the scores are then the same to the bit
    net = _network(run, data, split).to(device(run.experiment), memory_format=torch.channels_last)
    try:
        net.load_state_dict(training.read(weights))
    except ValueError as error:
        raise ConfigError(f"{run.title}: {error}; choose scores that it has") from error
    except (TypeError, RuntimeError) as error:
        raise ConfigError(f"{run.title}: {weights} isn't of its network; choose scores that it has") from error
    arrays = _score(run, net, data, split, added)
    fields = record.model_dump() | {
        "scores_sha256": store.write_scores(run.home / "scores.npz", record.scores() | {name: arrays[name] for name in added}),
        "metrics": _measures(arrays) | record.metrics,
        "scoring": record.scoring | added,
    }
    return store.write_record(run.home, **fields)


def _remove_checkpoints(run: Run) -> None:
    for file in training.checkpoints(run.home / "checkpoint.pt"):
        file.unlink(missing_ok=True)


def _own_name(how: dict[str, Any]) -> str:
    return f"{how['score']}({','.join(f'{k}={v}' for k, v in how.items() if k != 'score')})"


def _network(run: Run, data: datasets.Dataset, split: datasets.Split) -> models.WideResNet:
    """The run's network with its initial weights: those of the trunk are the same for every method of a trial."""
    pixels = split.train.images
    means, squares = zip(*(_moments(pixels[:, c]) for c in range(pixels.shape[1])), strict=True)
    std = np.sqrt(np.subtract(squares, np.square(means))).clip(1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.trial)
        return models.build(
            run.experiment.architecture,
            classes=len(split.classes),
            image_shape=augmentation.centre(pixels[:1], run.experiment.crop_side).shape[1:],
            dropout=run.experiment.dropout,
            heads=getattr(auxiliary.find(run.method, run.experiment), "heads", None),
            norm_batch=run.experiment.norm_batch,
            mean=means,
            std=std,
            stem_stride=run.experiment.stem_stride,
            widen_factor=run.experiment.widen_factor,
        )


def _transform(run: Run, net: models.WideResNet) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None:
    """What the method does to the images of a classification step, after crop and flip."""
    if run.method != "center_mask":
        return None
    fill = run.experiment.mask_fill
    return lambda images, generator: augmentation.center_mask(
        images, net.mean if fill is None else torch.full_like(net.mean, fill), generator
    )


def _moments(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and mean square of uint8 pixels in [0, 1], from their histogram: exact, and no float copy of the images."""
    counts = sum(np.bincount(part.ravel(), minlength=256) for part in np.array_split(pixels, 64))  # bincount copies to int64
    share, values = counts / pixels.size, np.arange(256) / 255
    return float(share @ values), float(share @ values**2)


def _score(run: Run, net: Any, data: datasets.Dataset, split: datasets.Split, wanted: dict[str, dict]) -> dict[str, np.ndarray]:
    """The arrays of scores.npz."""
    functions = {name: _function(how) for name, how in wanted.items()}
    images = augmentation.centre(split.test.images, run.experiment.crop_side)
    predicted, scores = metrics.score(net, images, functions, run.experiment.score_batch)
    for name, values in scores.items():
        if np.isnan(values).any():
            raise FloatingPointError(f"score {name} is NaN for {np.isnan(values).sum()} of {len(values)} test images")
    return {
        "label": data.test.labels.astype(np.int16),
        "predicted": split.kept[predicted].astype(np.int16),
        "is_anomaly": split.is_anomaly,
        **scores,
    }


def _function(how: dict[str, Any]) -> Callable[..., torch.Tensor]:
    name, settings = how["score"], {k: v for k, v in how.items() if k in ("temperature", "epsilon")}
    return (
        partial(metrics.odin, **settings) if name == "odin" else metrics.max_softmax if name == "msp" else config.function(name)
    )


def _measures(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """Accuracy over normal test images and, if a class is held out, the average precision of each score."""
    label, predicted, is_anomaly = arrays["label"], arrays["predicted"], arrays["is_anomaly"]
    scores = {k: v for k, v in arrays.items() if k not in ("label", "predicted", "is_anomaly")} if is_anomaly.any() else {}
    precisions = {name: metrics.average_precision(is_anomaly, values) for name, values in scores.items()}
    return {"accuracy": metrics.accuracy(label, predicted, is_anomaly), **precisions}


def device(experiment: Experiment) -> str:
    devices = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(f"cuda:{k}" for k in range(torch.cuda.device_count())),
    ]
    if experiment.device not in ("auto", *devices):
        raise ConfigError(f"device: {experiment.device!r} is not here; choose from auto, {', '.join(devices)}")
    return ("cuda" if "cuda" in devices else "cpu") if experiment.device == "auto" else experiment.device


def autocast(experiment: Experiment) -> bool:
    """Whether to train in bfloat16: as asked, or where the processor computes in it."""
    if experiment.precision != "auto":
        return experiment.precision == "bfloat16"
    if device(experiment).startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _threads(experiment: Experiment) -> int:
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    return torch.get_num_threads()


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checkout's git commit, with + if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _clear_progress() -> None:
    """Take the progress bars out of a notebook's cell; the executed notebook is to be read as a page."""
    if "ipykernel" in sys.modules:
        from IPython.display import clear_output

        clear_output()
