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
from workbench.files import one_line, remove_leftovers, short
from workbench.images import prepared
from workbench.images.digests import Digests, digests_of
from workbench.runs import plan, scoring, store
from workbench.runs.plan import Run
from workbench.runs.store import Record

TEXTS = ("dataset", "hold_out", "method")
NUMBERED = ("labels", "predicted")  # int (N,): the data set's numbers of the classes
IF_NOT_HERE = ("classes", "train_digest", "test_digest")  # of a data set that isn't prepared here
NO_SCORE = {*TEXTS, *NUMBERED, "trial", *IF_NOT_HERE}
Arrays = Mapping[str, np.ndarray]


def add(file: Path, parameters: Mapping[str, Any]) -> Record:
    """Import the scores in an .npz file, whose arrays docs/external.md lists.

    parameters: of the experiment beside whose runs it belongs. ConfigError, one line, says what is
    wrong with the file, before anything is written.
    """
    try:
        arrays, sha256 = _read(file)
        run, names = _run(arrays, parameters)
        classes, digests, data = _images(arrays, run.experiment)
        run = replace(run, data=digests)
        kept = _checked(run, arrays, names, classes, data)
        if store.find(run):  # its folder may be read-only: no lock
            return _write(run, kept, classes, data, sha256)
        with store.lock(run):
            return _write(run, kept, classes, data, sha256)
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
    one = array.size == 1 and array.dtype.kind in "USiu"  # class 3 of the digits
    _require(one, f"{name}: should be one text, not {array.dtype} {array.shape}")
    value = array.ravel()[0].item()
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _images(arrays: Arrays, e: Experiment) -> tuple[tuple[str, ...], Digests, Dataset | None]:
    """The data set's class names and digests, and the data set (None: it isn't here).

    The file must agree with a data set that is here, and describe any other.
    """
    said = {name: arrays[name] for name in IF_NOT_HERE if name in arrays}
    digests = {name: _text(name, said[name]) for name in said if name != "classes"}
    for name, digest in digests.items():
        wanted = f"should be 64 hexadecimal digits, as in a record.json, not {digest[:200]!r}"
        _require(re.fullmatch("[0-9a-f]{64}", digest), f"{name}: {wanted}")
    classes = tuple(map(str, said["classes"].ravel() if "classes" in said else ()))
    if prepared.exists(e.dataset, e.data_root, e.image_side):
        data = plan.load(e)
        names = ", ".join(data.classes)
        same = "classes" not in said or classes == data.classes
        _require(same, f"classes: should be those of {data.name} in its order: {names}")
        here = {"train_digest": digests_of(data).train, "test_digest": digests_of(data).test}
        for name, digest in digests.items():
            other = f"{name}: is of other images than {data.name} has here, {here[name]}"
            _require(digest == here[name], other)
        return data.classes, digests_of(data), data
    absent = ", ".join(name for name in IF_NOT_HERE if name not in said)
    where = f"{e.dataset_name} isn't prepared in {prepared.data_root(e.data_root)}"
    do = "prepare it (python -m semlib data prepare NAME), choose data_root"
    _require(
        not absent, f"{where}, so labels can't be compared with its own: {do}, or add {absent}"
    )
    unique = len(set(classes)) == len(classes) >= 3
    folders = all(Path(name).name == name not in ("", "..") for name in classes)
    wanted = "three names or more, each once, without /, for folders are named so"
    _require(unique and folders, f"classes: should be {wanted}")
    return classes, Digests(**{name.partition("_")[0]: digests[name] for name in digests}), None


def _checked(
    run: Run, arrays: Arrays, scores: Mapping, classes: tuple[str, ...], data: Dataset | None
) -> dict[str, np.ndarray]:
    """The arrays of scores.npz. Both statistics' are the same: an outside network has its own."""
    choices = ", ".join([*classes, "none"])
    known = run.hold_out is None or run.hold_out in classes
    unknown = f"hold-out {run.hold_out!r} is not a class of {run.dataset}"
    _require(known, f"{unknown}; choose from {choices}")
    length = len(data.test) if data else arrays["labels"].size
    images = f"{run.dataset}'s {length} test images" if data else f"the {length} labels"
    for name in (*NUMBERED, *scores.values()):
        shape = arrays[name].shape
        wanted = f"should be ({length},), one for each of {images}"
        _require(shape == (length,) != (0,), f"{name}: {wanted}, not {shape}")
    for name in NUMBERED:
        _check_classes(name, arrays[name], classes)
    label = arrays["labels"]
    predicted = arrays["predicted"]
    if data:
        _check_labels(label, data)
    anomaly = classes.index(run.hold_out) if run.hold_out else -1
    is_anomaly = label == anomaly
    if run.hold_out:
        of = f"are {anomaly}, the held-out class {run.hold_out}"
        some = 0 < is_anomaly.sum() < length
        both = "there should be images of it and of others"
        _require(some, f"labels: {is_anomaly.sum()} of {length} {of}; {both}")
        wrong = (predicted == anomaly).sum()
        do = f"which was not trained; choose from {_numbered(classes)}"
        _require(not wrong, f"predicted: {wrong} {of}, {do}")
    kept = {"predicted": predicted.astype(np.int16)}
    for name, how in plan.how_scored(run.experiment).items():
        values = _numbers(scores[name], arrays[scores[name]])
        kept[name] = scoring.ranks(values) if how.get("stored") == "ranks" else values
    again = {plan.array_name(name, "upright"): kept[name] for name in kept}
    return {"label": label.astype(np.int16), "is_anomaly": is_anomaly} | kept | again


def _check_classes(name: str, values: np.ndarray, classes: tuple[str, ...]) -> None:
    whole = values.dtype.kind in "iu"
    _require(whole, f"{name}: should be whole numbers (N,), not {values.dtype} {values.shape}")
    for wrong in np.setdiff1d(values, np.arange(len(classes))):
        raise ConfigError(f"{name}: {wrong} is no class; choose from {_numbered(classes)}")


def _check_labels(label: np.ndarray, data: Dataset) -> None:
    for k in np.flatnonzero(label != data.test.labels):
        found = f"the first at index {k}: {label[k]} for {data.test.labels[k]}"
        what = f"labels: aren't those of {data.name}'s test images, {found}"
        raise ConfigError(f"{what}; give the scores of all test images in the data set's order")


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    wanted = f"{name}: should be {len(values)} numbers, higher = more anomalous"
    _require(values.dtype.kind in "fiu", f"{wanted}, not {values.dtype}")
    values = values.astype(np.float64)
    _require(not np.isnan(values).any(), f"{wanted}, not {np.isnan(values).sum()} NaN")
    return values


def _numbered(classes: tuple[str, ...]) -> str:
    return ", ".join(f"{number} {name}" for number, name in enumerate(classes))


def _write(
    run: Run, arrays: dict, classes: tuple[str, ...], data: Dataset | None, sha256: str
) -> Record:
    """Write the record; ConfigError if it is there with other scores: none is overwritten."""
    if found := store.find(run):
        other = f"{short(found.home)} has other scores of {run.title}"
        do = "choose another method or trial, or delete this folder"
        _require(found.external == sha256, f"{other}, and none is overwritten; {do}")
        return found
    # scores of the same trained network on other test images stay
    home = run.homes[1 if store.trained(run) else 0]
    remove_leftovers(home)
    return store.new_record(
        home,
        run,
        classes=classes,
        metrics=scoring.measures(arrays),
        scoring=plan.how_scored(run.experiment),
        scores_sha256=store.write_scores(home / "scores.npz", arrays),
        skew=float(arrays["is_anomaly"].mean()),
        train_images=len(data.train) if data else None,
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
    wanted = {"methods": set(experiment.methods) - set(experiment.trained_methods)}
    wanted["scores"] = {name for name in experiment.scores if name.startswith(EXTERNAL)}
    if not any(wanted.values()):
        return
    known: dict[str, set[str]] = {"methods": set(), "scores": set()}
    folder = experiment.folder / "runs" / experiment.dataset_name
    for path in folder.glob(f"*/{EXTERNAL[:-1]}.*/**/record.json"):
        with suppress(ValueError):
            record = store.read_record(path.parent)
            known["methods"].add(record.method)
            known["scores"] |= record.scoring.keys() - {*SCORES}
    for field, names in wanted.items():
        absent = sorted(names - known[field])
        none = "none: nothing is imported yet (python -m semlib import FILE.npz)"
        choices = ", ".join(sorted(known[field])) or none
        what = f"{field}: {', '.join(absent)} was not imported into {short(folder)}"
        _require(not absent, f"{what}; choose from {choices}")
