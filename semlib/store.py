"""The store of finished runs, read without torch.

A run's home is outputs/<profile>/runs/<data set>/<hold_out or none>/<method>/trial_<k>-<fingerprint8>/. The run is finished
when its record.json is there and the arrays in its scores.npz are those that the record was written for.
"""

import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from semlib import config, datasets
from semlib.config import Experiment
from semlib.files import one_line, save_atomically

RECIPE = 1  # raised when the meaning of training changes, so that older runs aren't taken for new ones

# Fields that leave a run's training as it is. All others are in its fingerprint, unless at their default: a setting that
# is added later, with a default that changes nothing, leaves finished runs where they are.
_WHICH = {"profile", "dataset", "hold_out", "methods", "trials", "first_trial", "scores", "missing"}
_WHERE = {"data_root", "ilsvrc", "outputs"}
_SCORING = {"temperature", "epsilon"}
_MACHINE = {"device", "threads", "compile", "evaluate_every", "checkpoint_every", "keep_weights", "score_batch"}
_AUXILIARY = {"auxiliary_weight", "auxiliary_augment"}  # nothing to methods without an auxiliary task


class Record(BaseModel):
    """record.json: what a finished run was and gave. Fractions, not percent; no paths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    hold_out: str | None
    method: str
    trial: int
    fingerprint: str
    settings: dict[str, Any]
    classes: tuple[str, ...]  # of the data set, which `label` and `predicted` in scores.npz number
    metrics: dict[str, float]  # accuracy, and the average precision of each score
    scoring: dict[str, dict[str, Any]]  # name in scores.npz -> the score and its settings
    scores_sha256: dict[str, str]  # of each array in scores.npz
    skew: float
    train_images: int | None = None  # of the data set, the held-out class's included
    seconds: float  # of training
    device: str
    precision: str
    threads: int
    versions: dict[str, str]
    commit: str | None
    data_digest: str
    finished: str  # UTC

    _home: Path = PrivateAttr()

    @property
    def home(self) -> Path:
        return self._home

    def scores(self) -> dict[str, np.ndarray]:
        """scores.npz: label, predicted (int16), is_anomaly (bool), and a float64 array (N,) for each score."""
        return read_scores(self._home / "scores.npz", self.scores_sha256)

    def history(self) -> pd.DataFrame:
        """history.csv: per evaluated epoch the losses, test accuracy, average precision and seconds of training.

        ValueError names a file that is damaged.
        """
        path = self._home / "history.csv"
        try:
            return pd.read_csv(path).astype(float).astype({"epoch": int})
        except Exception as error:
            raise ValueError(f"{path} is not a history ({one_line(error)})") from None

    def key(self, scoring: Mapping[str, Any]) -> str | None:
        """The name of the array that was scored this way, or None."""
        return next((key for key, how in self.scoring.items() if how == dict(scoring)), None)


@dataclass(frozen=True)
class Run:
    """One training of a table: a held-out class (None: no class), a method, a trial."""

    experiment: Experiment
    hold_out: str | None
    method: str
    trial: int

    @property
    def title(self) -> str:
        return f"{self.experiment.dataset_name}, {self.hold_out or 'nothing'} held out, {self.method}, trial {self.trial}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the run's training depends on, besides its data."""
        skipped = _WHICH | _WHERE | _SCORING | _MACHINE
        skipped |= _AUXILIARY if self.method in ("classification", "center_mask") else set()
        skipped |= set() if self.method == "center_mask" else {"mask_fill"}
        skipped |= set() if self.method == "cpc" else {"cpc_negatives", "cpc_augment"}
        return self.experiment.model_dump(mode="json", exclude=skipped)

    @property
    def fingerprint(self) -> str:
        source = source_digest(self.method) if ":" in self.method else None
        what = [RECIPE, self.experiment.dataset_name, self.hold_out, self.method, source, self.trial, chosen(self.settings)]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @property
    def home(self) -> Path:
        place = _place(self.experiment.dataset_name, self.hold_out, self.method, self.trial, self.fingerprint)
        return self.experiment.folder / "runs" / place

    def record(self) -> Record | None:
        """The record, if the run is finished; a damaged one is named in a warning and counts as not finished."""
        if not (self.home / "record.json").exists():
            return None
        try:
            record = read_record(self.home)
            record.scores()
            if record.fingerprint != self.fingerprint:
                raise ValueError(f"{self.home / 'record.json'} is of another run")
        except ValueError as error:
            warnings.warn(f"not used: {error}", stacklevel=2)
            return None
        return record


def chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's settings that are not at their default; a default that came later is in no older record."""
    return {name: value for name, value in settings.items() if value != Experiment.model_fields[name].default}


def source_digest(name: str) -> str:
    """Eight hex digits of the file that holds a user's function, with its heads and helpers: edited, it is another method."""
    source = inspect.getsource(inspect.getmodule(config.function(name)))
    return hashlib.sha256(source.encode()).hexdigest()[:8]


def scoring(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """How each of the experiment's scores is computed, as records keep it."""
    odin = {"temperature": experiment.temperature, "epsilon": experiment.epsilon}
    return {
        name: {"score": name} | (odin if name == "odin" else {"source": source_digest(name)} if ":" in name else {})
        for name in experiment.scores
    }


def held_out(experiment: Experiment) -> list[str | None]:
    """The held-out classes that the experiment asks for, [None] for none. ConfigError names the choices."""
    try:
        known = datasets.classes(experiment.dataset, experiment.data_root)
    except ValueError as error:
        raise config.ConfigError(str(error)) from None
    if experiment.hold_out == ("all",):
        return list(known)
    if experiment.hold_out == ("none",):
        return [None]
    for name in experiment.hold_out:
        if name not in known:
            options = ", ".join([*known, "all", "none"])
            raise config.ConfigError(f"hold-out {name!r} is not a class of {experiment.dataset_name}; choose from {options}")
    return list(experiment.hold_out)


def plan(experiment: Experiment) -> list[Run]:
    """Every run of the experiment, the first trial of all classes first."""
    where = held_out(experiment)
    trials = range(experiment.first_trial, experiment.first_trial + experiment.trials)
    return [Run(experiment, h, m, t) for t in trials for h in where for m in experiment.methods]


def finished(experiment: Experiment) -> list[Record]:
    """The records of the experiment's runs that are finished."""
    return [record for run in plan(experiment) if (record := run.record())]


def missing(experiment: Experiment) -> list[Run]:
    """The runs that are not finished, or lack one of the experiment's scores."""
    wanted = scoring(experiment).values()
    records = ((run, run.record()) for run in plan(experiment))
    return [run for run, record in records if record is None or any(record.key(how) is None for how in wanted)]


def collect(profile: Path) -> list[Record]:
    """Every record in a profile's folder, whatever its settings.

    One that can't be read, or that lies where another run's belongs, is named in a warning and passed over.
    """
    records = []
    for path in sorted(profile.glob("runs/**/record.json")):
        try:
            record = read_record(path.parent)
            if path.parent != profile / "runs" / _place(
                record.dataset, record.hold_out, record.method, record.trial, record.fingerprint
            ):
                raise ValueError(f"{path} is of another run: it was moved or copied there")
            records.append(record)
        except ValueError as error:
            warnings.warn(f"not shown: {error}", stacklevel=2)
    return records


def _place(dataset: str, hold_out: str | None, method: str, trial: int, fingerprint: str) -> Path:
    """A run's folder, as seen from its profile's runs/."""
    return Path(dataset, hold_out or "none", method.replace(":", "."), f"trial_{trial}-{fingerprint[:8]}")


def read_record(home: Path) -> Record:
    """The record in a run's folder; ValueError names a file that isn't one."""
    path = home / "record.json"
    try:
        record = Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} is not a record ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{name}: " for name in first["loc"][:1])
        raise ValueError(f"{path} is not a record ({where}{one_line(first['msg'])})") from None
    record._home = home
    return record


def write_record(home: Path, **fields: Any) -> Record:
    """Write record.json, last and atomically: it alone says that the run is finished."""
    record = Record(**fields)
    text = json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    save_atomically(home / "record.json", lambda file: file.write(text.encode()))
    return read_record(home)


def write_scores(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write scores.npz and return each array's SHA-256."""
    save_atomically(path, lambda file: np.savez(file, **arrays))
    return {name: _sha256(array) for name, array in arrays.items()}


def read_scores(path: Path, sha256: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of scores.npz with these SHA-256; ValueError names a file that is damaged.

    Further arrays are passed over: a process was killed after it added them and before it wrote the record anew.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in sha256}
    except Exception as error:  # truncated or bit-flipped: zipfile, zlib and NumPy raise many kinds
        raise ValueError(f"{path} can't be read ({one_line(error)})") from None
    damaged = [name for name, array in arrays.items() if _sha256(array) != sha256[name]]
    if damaged:
        raise ValueError(f"{path} is damaged: {', '.join(damaged)} is not what its record was written for")
    return arrays


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
