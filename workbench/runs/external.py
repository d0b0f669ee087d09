"""Import the scores of a network trained elsewhere as a record beside semlib's (docs/external.md).

Of its training nothing is known: the record's address is of the data set, the held-out class, the
method's name, the trial, and the settings and digest of the images.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from semlib.datasets import Dataset
from workbench.experiment import EXTERNAL, SCORES, ConfigError, Experiment, create
from workbench.files import one_line, short
from workbench.images.checks import check_parts
from workbench.images.digests import digests_of
from workbench.runs import plan, scoring, store
from workbench.runs.plan import Run
from workbench.runs.store import Record

TEXTS = ("dataset", "hold_out", "method")
NUMBERED = ("labels", "predicted")  # int (N,): the data set's numbers of the classes
NO_SCORE = {*TEXTS, *NUMBERED, "trial"}
Arrays = Mapping[str, np.ndarray]


def add(file: Path, parameters: Mapping[str, Any]) -> Record:
    """Import the scores in an .npz file, whose arrays docs/external.md lists.

    parameters: of the experiment beside whose runs it belongs. ConfigError, one line, says what is
    wrong with the file, before anything is written.
    """
    try:
        arrays, sha256 = _read(file)
        run, names = _run(arrays, parameters)
        data = plan.load(run.experiment)
        check_parts(data)
        run = replace(run, data=digests_of(data))
        kept = _checked(run, arrays, names, data)
        found = store.find(run)
        if found is None:  # else its folder may be read-only: no lock
            with store.lock(run):
                found = store.find(run) or _write(run, kept, data, sha256)
        other = f"{short(found.home)} has other scores of {run.title}, and none is overwritten"
        do = "choose another method or trial, or delete this folder"
        _require(found.external == sha256, f"{other}; {do}")
        return found
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _require(condition: Any, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _read(file: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of the file, and its SHA-256."""
    try:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
        for name, array in arrays.items():  # NumPy gives a member that is no .npy as bytes
            _require(isinstance(array, np.ndarray), f"{name} is no array")
    except OSError as error:
        raise ConfigError(f"can't be read ({error.strerror or one_line(error)})") from None
    except Exception as error:  # truncated, one array, pickled objects: NumPy raises many kinds
        what = "isn't an .npz of plain arrays, as numpy.savez writes it"
        raise ConfigError(f"{what} ({one_line(error)})") from None
    absent = ", ".join(name for name in (*TEXTS, *NUMBERED) if name not in arrays)
    _require(not absent, f"lacks {absent}; it has {', '.join(arrays) or 'nothing'}")
    return arrays, sha256


def _run(arrays: Arrays, parameters: Mapping[str, Any]) -> tuple[Run, dict[str, str]]:
    """The run that the file is of, on data yet unknown, and its arrays by the scores' names."""
    dataset, hold_out, method = (_text(name, arrays[name]) for name in TEXTS)
    trial = arrays.get("trial", np.array(0))
    _require(trial.size == 1 and trial.dtype.kind in "iu", "trial: should be one whole number")
    names = [name for name in arrays if name not in NO_SCORE]
    _require(names, f"has no score; add an array for each: {', '.join(SCORES)}, or your own name")
    for what, name in [("method", method), *(("score", name) for name in names)]:
        wanted = f"should be up to 100 letters, digits, _ and -, not {name[:200]!r}"
        _require(re.fullmatch(r"[\w-]{1,100}", name), f"{what}: {wanted}")
    scores = {name if name in SCORES else EXTERNAL + name: name for name in names}
    own = {"hold_out": hold_out, "methods": EXTERNAL + method, "scores": list(scores)}
    which = {"first_trial": trial.item(), "trials": 1}
    experiment = create({"dataset": dataset} | dict(parameters) | own | which)
    same = experiment.dataset_name == Path(dataset).name
    _require(same, f"is of {Path(dataset).name!r}, not of dataset {experiment.dataset_name!r}")
    held_out = None if hold_out == "none" else hold_out
    return Run(experiment, held_out, experiment.methods[0], experiment.first_trial), scores


def _text(name: str, array: np.ndarray) -> str:
    one = array.size == 1 and array.dtype.kind in "Uiu"  # class 3 of the digits
    _require(one, f"{name}: should be one text, not {array.dtype} {array.shape}")
    return str(array.item())


def _checked(run: Run, arrays: Arrays, scores: Mapping, data: Dataset) -> dict[str, np.ndarray]:
    """The arrays of scores.npz. Both statistics' are the same: an outside network has its own."""
    known = ", ".join([*data.classes, "none"])
    is_class = run.hold_out is None or run.hold_out in data.classes
    unknown = f"hold-out {run.hold_out!r} is not a class of {data.name}"
    _require(is_class, f"{unknown}; choose from {known}")
    count = len(data.test)
    for name in (*NUMBERED, *scores.values()):
        wanted = f"should be ({count},), one for each of {data.name}'s {count} test images"
        _require(arrays[name].shape == (count,), f"{name}: {wanted}, not {arrays[name].shape}")
    label = data.test.labels
    for k in np.flatnonzero(arrays["labels"] != label):
        found = f"the first at index {k}: {arrays['labels'][k]} for {label[k]}"
        what = f"labels: aren't those of {data.name}'s test images, {found}"
        raise ConfigError(f"{what}; give the scores of all test images in the data set's order")
    predicted = arrays["predicted"]
    trained = {k: name for k, name in enumerate(data.classes) if name != run.hold_out}
    choices = ", ".join(f"{k} {name}" for k, name in trained.items())
    for value in predicted.tolist():
        wrong = f"predicted: {value!r} is no class that was trained"
        _require(value in trained, f"{wrong}; choose from {choices}")
    kept = {"predicted": predicted.astype(np.int16)}
    for name, how in plan.how_scored(run.experiment).items():
        values = _numbers(scores[name], arrays[scores[name]])
        is_msp = "is minus the largest probability, never positive; change its sign or name"
        _require(name != "msp" or not (values > 0).any(), f"msp: {is_msp}")
        kept[name] = scoring.ranks(values) if how.get("stored") == "ranks" else values
    again = {plan.array_name(name, "upright"): kept[name] for name in kept}
    is_anomaly = np.array([data.classes[k] == run.hold_out for k in label])
    return {"label": label.astype(np.int16), "is_anomaly": is_anomaly} | kept | again


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    wanted = f"{name}: should be {len(values)} numbers, higher = more anomalous"
    _require(values.dtype.kind in "fiu", f"{wanted}, not {values.dtype}")
    _require(not np.isnan(values).any(), f"{wanted}, not {np.isnan(values).sum()} NaN")
    doubles = values.astype(np.float64)
    if len(np.unique(doubles)) < len(np.unique(values)):  # whole numbers beyond 2^53, long doubles
        return scoring.ranks(values).astype(np.float64)
    return doubles


def _write(run: Run, arrays: dict, data: Dataset, sha256: str) -> Record:
    # scores of the same trained network on other test images stay
    home = run.homes[1 if store.trained(run) else 0]
    return store.new_record(
        home,
        run,
        classes=data.classes,
        metrics=scoring.measures(arrays),
        scoring=plan.how_scored(run.experiment),
        scores_sha256=store.write_scores(home / "scores.npz", arrays),
        skew=float(arrays["is_anomaly"].mean()),
        train_images=len(data.train),
        seconds=0.0,
        device="unknown",
        precision="unknown",
        threads=0,
        versions={name: version(name) for name in ("semlib", "numpy")},
        commit=None,
        external=sha256,
    )


def check(experiment: Experiment) -> None:
    """ConfigError if a method or score called external: was not imported for the data set."""
    known: dict[str, set[str]] = {"methods": set(), "scores": set()}
    folder = experiment.folder / "runs" / experiment.dataset_name
    for path in folder.glob(f"*/{EXTERNAL[:-1]}.*/**/record.json"):
        with suppress(ValueError):
            record = store.read_record(path.parent)
            known["methods"].add(record.method)
            known["scores"] |= record.scoring.keys() - {*SCORES}
    for field, imported in known.items():
        none = "none: nothing is imported yet (python -m semlib import FILE.npz -p profile NAME)"
        choices = ", ".join(sorted(imported)) or none
        for name in getattr(experiment, field):
            if name.startswith(EXTERNAL) and name not in imported:
                what = f"{field}: {name} was not imported into {short(folder)}"
                raise ConfigError(f"{what}; choose from {choices}")
