"""Scores of a network trained elsewhere, imported as a record beside semlib's own
(docs/external.md).

The address of such a record is of the data set, the held-out class, the method's name, the trial,
and the settings and digest of the images: of what trained the network nothing is known.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from semlib import datasets
from workbench.experiment import EXTERNAL, SCORES, ConfigError, Experiment, create
from workbench.files import one_line, remove_leftovers, short
from workbench.images import prepared
from workbench.images.prepared import Digests, digests_of
from workbench.runs import plan, scoring, store
from workbench.runs.plan import Run
from workbench.runs.store import Record

TEXTS = ("dataset", "hold_out", "method")
NUMBERED = ("labels", "predicted")  # int (N,): the data set's numbers of the classes
IF_NOT_HERE = (
    "classes",
    "train_digest",
    "test_digest",
)  # of a data set that isn't prepared on this machine
OPTIONAL = ("trial", *IF_NOT_HERE)


def add(file: Path, parameters: Mapping[str, Any]) -> Record:
    """The record of the scores in an .npz file; parameters: of the experiment beside whose runs it
    belongs.

    The file: dataset, hold_out (a class, or none), method and optionally trial; labels and
    predicted, int (N,), of all test images in the data set's order and numbering; an array (N,) for
    each score, higher = more anomalous, named as semlib's own are, or otherwise as you like.
    ConfigError, one line, says what is wrong with it, before anything is written.
    """
    try:
        return _add(file, parameters)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _add(file: Path, parameters: Mapping[str, Any]) -> Record:
    arrays, sha256 = _read(file)
    run, scores = _run(arrays, parameters)
    classes, digests, data = _images(arrays, run.experiment)
    run = Run(run.experiment, run.hold_out, run.method, run.trial, digests)
    kept = _kept(run, arrays, scores, classes, data.test.labels if data else None)
    with (
        nullcontext() if store.find(run) else store.alone(run)
    ):  # a finished run's folder may be read-only
        if found := store.find(run):
            if found.external == sha256:
                return found
            raise ConfigError(
                f"{short(found.home)} has other scores of {run.title}, and none is overwritten; choose another method or "
                "trial, or delete this folder"
            )
        home = run.homes[
            store.trained(run) is not None
        ]  # scores of the same trained network on other test images stay
        remove_leftovers(home)
        return store.new_record(
            home,
            run,
            classes=classes,
            metrics=scoring.measures(kept),
            scoring=plan.scoring(run.experiment),
            scores_sha256=store.write_scores(home / "scores.npz", kept),
            skew=float(kept["is_anomaly"].mean()),
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
    """ConfigError if the experiment names an external method or score of which nothing was imported
    for its data set.
    """
    wanted = {"methods": set(experiment.methods) - set(experiment.trained)}
    wanted["scores"] = {name for name in experiment.scores if name.startswith(EXTERNAL)}
    if not any(wanted.values()):
        return
    records = []
    folder = experiment.folder / "runs" / experiment.dataset_name
    for path in folder.glob(f"*/{EXTERNAL[:-1]}.*/**/record.json"):
        with suppress(ValueError):
            records.append(store.read_record(path.parent))
    known = {"methods": {record.method for record in records}}
    known["scores"] = {how["score"] for record in records for how in record.scoring.values()} - {
        *SCORES
    }
    for field, names in wanted.items():
        if absent := sorted(names - known[field]):
            choices = (
                ", ".join(sorted(known[field]))
                or "none: nothing is imported yet (python -m semlib import FILE.npz)"
            )
            raise ConfigError(
                f"{field}: {absent[0]} was not imported into {short(folder)}; choose from {choices}"
            )


def _read(file: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of the file, and its SHA-256."""
    try:
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
        if no_array := [
            name for name, array in arrays.items() if not isinstance(array, np.ndarray)
        ]:
            raise ValueError(
                f"{no_array[0]} is no array"
            )  # NumPy hands over as bytes what isn't in its format
    except OSError as error:
        raise ConfigError(f"can't be read ({error.strerror or one_line(error)})") from None
    except (
        Exception
    ) as error:  # truncated, bit-flipped, one array alone, pickled objects: NumPy raises many kinds
        raise ConfigError(
            f"isn't an .npz of plain arrays, as numpy.savez writes it ({one_line(error)})"
        ) from None
    if absent := [name for name in (*TEXTS, *NUMBERED) if name not in arrays]:
        raise ConfigError(f"lacks {', '.join(absent)}; it has {', '.join(arrays) or 'nothing'}")
    return arrays, sha256


def _run(
    arrays: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
) -> tuple[Run, dict[str, str]]:
    """The run that the file is of, on data yet unknown, and by the record's name of each score the
    file's.
    """
    texts = {name: _one(name, arrays[name], "US") for name in TEXTS}
    trial = int(_one("trial", arrays["trial"], "iu")) if "trial" in arrays else 0
    if not re.fullmatch(r"[\w-]{1,100}", texts["method"]):
        raise ConfigError(
            f"method: should be up to 100 letters, digits, _ and -, not {texts['method'][:200]!r}"
        )
    names = [name for name in arrays if name not in (*TEXTS, *NUMBERED, *OPTIONAL)]
    for name in names:
        if not re.fullmatch(r"[\w-]{1,100}", name):
            raise ConfigError(
                f"score {name[:200]!r} should be named by up to 100 letters, digits, _ and -"
            )
    if not names:
        raise ConfigError(
            f"has no score; add an array for each, named {', '.join(SCORES)}, or as you like"
        )
    scores = {name if name in SCORES else EXTERNAL + name: name for name in names}
    given = {"dataset": texts["dataset"]} | dict(parameters)
    own = {
        "hold_out": texts["hold_out"],
        "methods": EXTERNAL + texts["method"],
        "first_trial": trial,
        "trials": 1,
    }
    experiment = create(given | own | {"scores": list(scores)})
    if experiment.dataset_name != (named := Path(texts["dataset"]).name):
        raise ConfigError(
            f"is of the data set {named!r}, not of {experiment.dataset_name!r}, the parameter dataset"
        )
    hold_out = None if texts["hold_out"] == "none" else texts["hold_out"]
    return Run(experiment, hold_out, experiment.methods[0], trial), scores


def _one(name: str, array: np.ndarray, kinds: str) -> Any:
    """The one value of an array; digits as text too where text is asked for."""
    if array.size == 1 and array.dtype.kind in kinds + "iu" * ("U" in kinds):
        value = array.ravel()[0].item()
        return (
            value
            if kinds == "iu"
            else value.decode(errors="replace")
            if isinstance(value, bytes)
            else str(value)
        )
    what = "one whole number" if kinds == "iu" else "one text"
    raise ConfigError(f"{name}: should be {what}, not {array.dtype} {array.shape}")


def _images(
    arrays: Mapping[str, np.ndarray], experiment: Experiment
) -> tuple[tuple[str, ...], Digests, datasets.Dataset | None]:
    """The class names and digests of the data set, and the data set itself (None: it isn't here).

    A data set that is here says all of it, and what the file says must agree; of any other the file
    says it.
    """
    e, given = experiment, {name: arrays[name] for name in IF_NOT_HERE if name in arrays}
    said = {name: _digest(name, given[name]) for name in IF_NOT_HERE[1:] if name in given}
    names = tuple(map(str, given["classes"].ravel())) if "classes" in given else None
    if prepared.exists(e.dataset, e.data_root, e.image_side):
        data = plan.load(e)
        here = {"train_digest": digests_of(data).train, "test_digest": digests_of(data).test}
        if names not in (None, data.classes):
            raise ConfigError(
                f"classes: should be those of {data.name} in its order: {', '.join(data.classes)}"
            )
        for name, digest in said.items():
            if digest != here[name]:
                raise ConfigError(
                    f"{name}: is of other images than {data.name} has here, {here[name]}"
                )
        return data.classes, digests_of(data), data
    if absent := [name for name in IF_NOT_HERE if name not in given]:
        raise ConfigError(
            f"{e.dataset_name} isn't prepared in {prepared.data_root(e.data_root)}, so labels can't be compared with "
            f"its own: prepare it (python -m semlib data prepare NAME), choose data_root, or add {', '.join(absent)}"
        )
    assert names is not None
    if (
        len(set(names)) < len(names)
        or len(names) < 3
        or not all(Path(name).name == name not in ("", "..") for name in names)
    ):
        raise ConfigError(
            "classes: should be three names or more, each once, without /, for folders are named so"
        )
    return names, Digests(said["train_digest"], said["test_digest"]), None


def _digest(name: str, array: np.ndarray) -> str:
    text = _one(name, array, "US")
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ConfigError(
            f"{name}: should be 64 hexadecimal digits, as in a record.json, not {text[:200]!r}"
        )
    return text


def _kept(
    run: Run,
    arrays: Mapping[str, np.ndarray],
    scores: Mapping[str, str],
    classes: tuple[str, ...],
    labels: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """The arrays of scores.npz, checked. Both statistics' are the same: an outside network has its
    own.
    """
    if run.hold_out is not None and run.hold_out not in classes:
        choices = ", ".join([*classes, "none"])
        raise ConfigError(
            f"hold-out {run.hold_out!r} is not a class of {run.dataset}; choose from {choices}"
        )
    for name in NUMBERED:
        values = arrays[name]
        if values.ndim != 1 or not values.size or values.dtype.kind not in "iu":
            raise ConfigError(
                f"{name}: should be whole numbers (N,), not {values.dtype} {values.shape}"
            )
        if (wrong := np.setdiff1d(values, np.arange(len(classes)))).size:
            more = f" and {wrong.size - 1} more" * (wrong.size > 1)
            choices = _numbered(classes)
            raise ConfigError(
                f"{name}: {wrong[0]}{more} is no class, the held-out one included; choose from {choices}"
            )
    label, predicted = (arrays[name] for name in NUMBERED)
    length = len(label if labels is None else labels)
    for name in (*NUMBERED, *scores.values()):
        if arrays[name].shape != (length,):
            of = (
                f"{run.dataset}'s {length} test images"
                if labels is not None
                else f"the {length} labels"
            )
            raise ConfigError(
                f"{name}: should be ({length},), one for each of {of}, not {arrays[name].shape}"
            )
    if labels is not None and (wrong := np.flatnonzero(label != labels)).size:
        raise ConfigError(
            f"labels: {wrong.size} of {length} aren't those of {run.dataset}'s test images, the first at index {wrong[0]}: "
            f"{label[wrong[0]]} for {labels[wrong[0]]}; give the scores of all test images in the data set's order"
        )
    anomaly = -1 if run.hold_out is None else classes.index(run.hold_out)
    is_anomaly = label == anomaly
    if is_anomaly.all() or is_anomaly.any() != (run.hold_out is not None):
        some = f"labels: {is_anomaly.sum()} of {length} are {anomaly}, the held-out class {run.hold_out}"
        raise ConfigError(f"{some}; there should be images of it and of others")
    if (count := (predicted == anomaly).sum()) and run.hold_out is not None:
        raise ConfigError(
            f"predicted: {count} are {anomaly}, the held-out class {run.hold_out}, which was not trained; number the other "
            f"classes as the data set does: {_numbered(classes)}"
        )
    kept = {
        "label": label.astype(np.int16),
        "predicted": predicted.astype(np.int16),
        "is_anomaly": is_anomaly,
    }
    for name, how in plan.scoring(run.experiment).items():
        values = arrays[scores[name]]
        if values.dtype.kind not in "fiu" or np.isnan(values).any():
            found = (
                f"{np.isnan(values).sum()} NaN" if values.dtype.kind == "f" else str(values.dtype)
            )
            raise ConfigError(
                f"{scores[name]}: should be {length} numbers, higher = more anomalous, not {found}"
            )
        kept[name] = (
            scoring.ranks(values) if how.get("stored") == "ranks" else values.astype(np.float64)
        )
    return kept | {name + plan.STATISTICS["upright"]: kept[name] for name in ("predicted", *scores)}


def _numbered(classes: tuple[str, ...]) -> str:
    return ", ".join(f"{number} {name}" for number, name in enumerate(classes))
