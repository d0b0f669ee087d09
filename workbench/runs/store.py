"""The store of finished runs, read without torch.

A run is finished when its record.json is there, is of the test images that are here, and the arrays
in its scores.npz are those that the record was written for: `find` says so, and everything asks it.
Scores of other test images than the first lie below in test_<digest8>/, with a record of their own.
"""

import errno
import hashlib
import io
import itertools
import json
import os
import platform
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from workbench import own
from workbench.experiment import EXTERNAL, ConfigError, Experiment, Scoring, create
from workbench.files import fingerprint, folder_name, one_line, save_atomically, short
from workbench.images.checks import class_name
from workbench.images.digests import Digests
from workbench.runs import plan, verify
from workbench.runs.plan import Run

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
OWNER = "run.owner"  # a file that says who holds the run's lock
PATIENCE = 5.0  # seconds of waiting for a lock until it is said for whom
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what some network file systems answer
# by scores.npz files, with their fingerprints, and records that were whole
_checked: dict[Any, dict[str, Any]] = {}


Line = Annotated[str, Field(pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]  # of characters that are seen


class Outdated(ValueError):
    """A record of a run that was trained by another recipe."""


def now() -> str:
    """The time in UTC, as records keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Record(BaseModel):
    """record.json: what a finished run was and gave. Fractions, not percent; no paths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: int
    dataset: Line
    hold_out: str | None
    method: Line
    trial: int
    address: Digest
    settings: dict[str, Any]  # those that the weights depend on
    sources: dict[str, str]  # digest of each of the user's functions that training called
    train_digest: Digest
    test_digest: Digest
    classes: tuple[str, ...]  # numbered by `label` and `predicted` in scores.npz
    metrics: dict[str, float]  # accuracy, and each score's average precision; again @upright
    scoring: dict[str, dict[str, Any]]  # score's key in scores.npz -> how it was computed
    scores_sha256: dict[str, str]  # of each array in scores.npz, and of the file
    weights_sha256: str | None = None  # of weights.pt, kept or not
    statistics: str = "mixed"  # batch norm's in the table for which it was trained
    skew: float
    train_images: int | None = None  # of the whole data set
    drawn_images: int | None = None  # trained on: without the held-out class, of train_per_class
    drawn_sha256: Digest | None = None  # of their indices in the data set, int64
    seconds: float  # of training
    device: Line
    precision: Line
    threads: int
    versions: dict[str, Line]
    commit: Line | None  # + where semlib, workbench, params, notebooks or workflow differed from it
    finished: Line = Field(default_factory=now)
    # SHA-256 of the file of imported scores; device and precision are then unknown, seconds 0
    external: Digest | None = None

    _home: Path = PrivateAttr()

    @model_validator(mode="after")
    def _plain(self) -> "Record":
        if self.dataset != folder_name(self.dataset):
            raise ValueError("dataset should be a folder's name, not a path")
        if len({class_name(name, "classes") for name in self.classes}) < len(self.classes):
            raise ValueError("classes should name each class only once")
        for name in plan.classes_of(self.hold_out):
            class_name(name, "hold_out")
        # whoever runs it chooses what is run, where and how it is scored
        if wrong := self.settings.keys() & Experiment.model_fields.keys() - plan.WEIGHTS_DEPEND_ON:
            names = ", ".join(sorted(wrong))
            raise ValueError(f"{names} is no setting of data, network or training")
        return self

    @property
    def home(self) -> Path:
        return self._home

    @property
    def run_home(self) -> Path:
        """The folder of the run's weights and history."""
        return self.home.parent if self.home.name.startswith("test_") else self.home

    @property
    def data(self) -> Digests:
        return Digests(self.train_digest, self.test_digest)

    @property
    def place(self) -> Path:
        """Where its folder belongs, as seen from its profile's runs/."""
        address = plan.address(self, self.settings, self.sources, self.train_digest, self.recipe)
        return plan.place(self, address)

    @property
    def run(self) -> Run:
        """Its run, with the settings of training that it keeps; all else is at its default."""
        experiment = create(self.settings | {"dataset": self.dataset})
        return Run(experiment, self.hold_out, self.method, self.trial)

    def edited(self) -> list[str]:
        """The user's functions of its training that are not here as they were. Imports nothing."""
        names = (self.method, str(self.settings.get("architecture", "")))
        named = {name for name in names if ":" in name} | self.sources.keys()
        return [name for name in named if not own.is_here(name, self.sources.get(name, ""))]

    def key(self, how: Mapping[str, Any]) -> str | None:
        """The key of the score that was computed in this way, or None."""
        return next((key for key, other in self.scoring.items() if other == dict(how)), None)

    def measures(self) -> list[tuple[str, str, float]]:
        """Each metric: batch-norm statistics, a score's key or "accuracy", and the fraction."""
        names = {name: plan.key_and_statistics(name) for name in self.metrics}
        return [(names[name][1], names[name][0], value) for name, value in self.metrics.items()]

    def scores(self, *names: str) -> dict[str, np.ndarray]:
        """scores.npz, or these arrays of it, (N,) over the test images.

        label and predicted (int16), is_anomaly (bool), and each score: float64, or dense ranks from
        0 (uint16) where `scoring` says so, which average precision and other measures of ranking
        need no more than. plan.array_name names a score's array for either batch-norm statistics.
        """
        wanted = {name: self.scores_sha256[name] for name in names} if names else self.scores_sha256
        return read_scores(self._home / "scores.npz", wanted)

    def check(self) -> dict[str, Any]:
        """`verify.facts`. ValueError if scores.npz is damaged or differs from the record.

        An unchanged file is read once a process.
        """
        path = self._home / "scores.npz"
        now = fingerprint(path)
        asked = (path, now, text := self.model_dump_json())
        if now is None or asked not in _checked:
            whole = now and hashlib.sha256(path.read_bytes()).hexdigest()
            if whole != self.scores_sha256.get(path.name):
                self.scores()  # a killed process may have added arrays and not written the record
            _checked[asked] = verify.facts(text, self)
        return _checked[asked]

    def history(self) -> pd.DataFrame:
        """history.csv: losses, test accuracy, average precisions and seconds of evaluated epochs.

        @upright statistics are those of the last epochs alone. Where the record is of other test
        images than the training's, there are no test measures. ValueError names a damaged file.
        """
        path = self.run_home / "history.csv"
        try:
            table = pd.read_csv(path).astype(float).astype({"epoch": int})
        except Exception as error:
            raise ValueError(f"{path} is not a history ({one_line(error)})") from None
        if self.run_home == self.home:
            return table
        return table.filter(regex="^(epoch|.*loss|seconds)$")


# --- which runs are finished

Progress = list[tuple[Run, Record | None]]  # runs, each with its record if it is finished


def progress(experiment: Experiment, data: Digests | None = None) -> Progress:
    """Every planned run with its record if it is finished for this data, or for what is here.

    Where the data is not here, records are matched by their settings. ConfigError if these are of
    several versions of it.
    """
    runs = plan.planned(experiment, data)
    if runs[0].data:
        return [(run, find(run)) for run in runs]
    found = [(run, _on_any_data(run)) for run in runs]
    versions = Counter(itertools.chain.from_iterable(records for _, records in found))
    if len(versions) > 1:
        which = ", ".join(f"{digests} ({count} runs)" for digests, count in versions.most_common())
        where = f"{short(experiment.folder)} has runs on several versions of {runs[0].dataset}"
        do = "prepare the one to show (python -m semlib data prepare NAME)"
        raise ConfigError(f"dataset: {where}, {which}, and none is here; {do}")
    return [(run, next(iter(records.values()), None)) for run, records in found]


def _on_any_data(run: Run) -> dict[str, Record]:
    """The run's records, whatever images it was trained on, by the digests of these."""
    records = [_usable(path.parent, run) for path in paths(run)]
    return {str(record.data): record for record in records if record}


def finished(experiment: Experiment) -> list[Record]:
    """The records of the experiment's runs that are finished."""
    return _alike([record for _, record in progress(experiment) if record])


def missing(experiment: Experiment) -> list[Run]:
    """The runs to train or to score: not finished, or without one of the experiment's scores."""
    return to_do(experiment, progress(experiment))


def to_do(settings: Scoring, found: Progress) -> list[Run]:
    """Of runs with their records those to train or to score with these settings."""
    trained = (pair for pair in found if not pair[0].external)
    return [run for run, record in trained if not record or missing_scores(record, settings)]


def missing_scores(record: Record | None, settings: Scoring) -> dict[str, dict[str, Any]]:
    """How each score is computed that a record lacks; imported ones are not waited for."""
    if record and record.external:
        return {}
    wanted = plan.how_scored(settings)
    computed = {name: how for name, how in wanted.items() if not name.startswith(EXTERNAL)}
    known = record.scoring.values() if record else ()
    return {name: how for name, how in computed.items() if how not in known}


def find(run: Run) -> Record | None:
    """The run's record if it is finished for its data; a warning names a damaged one."""
    for home in run.homes:
        record = _usable(home, run)
        if record and record.data == run.data:
            return record
    return None


def trained(run: Run) -> Record | None:
    """The record that lies with the run's weights, whatever its test images."""
    return _usable(run.home, run)


def paths(run: Run) -> list[Path]:
    """Records of this run, and of any that differs only in settings, sources or data."""
    return sorted(run.home.parent.glob(f"trial_{run.trial}-*/**/record.json"))


def _usable(home: Path, run: Run) -> Record | None:
    """The record in a folder, if it is whole and of this run on some data."""
    if not (home / "record.json").exists():
        return None
    with _damage_warned("not used", []):
        record = read_record(home)
        if run.address_for(record.train_digest) == record.address:
            record.check()
            return record
        if record.run_home == run.home:
            raise ValueError(f"{home / 'record.json'} is of another run")
    return None


def collect(profile: Path) -> list[Record]:
    """Every record in a profile's folder, whatever its settings and data.

    Warnings name those that can't be read or were moved, and count those of another recipe.
    """
    records = []
    outdated: list[Outdated] = []
    # the folders are counted out: ** would not follow a data set's folder that is a link
    for path in sorted(profile.glob("runs/*/*/*/**/record.json")):
        with _damage_warned("not shown", outdated):
            record = read_record(path.parent)
            home = profile / "runs" / record.place
            if not (home.exists() and home.samefile(record.run_home)):  # Cat may be cat here
                raise ValueError(f"{path} is of another run: it was moved, copied or changed")
            record.check()
            records.append(record)
    if outdated:
        said = f"{len(outdated)} records in {short(profile)}, {outdated[0]}"
        warnings.warn(f"not shown: {said}", stacklevel=2)
    return _alike(records)


def _alike(records: list[Record]) -> list[Record]:
    """Without those whose classes or labels differ from others' of the same test images.

    A warning names each.
    """
    kinds = [(r.test_digest, r.classes, r.scores_sha256["label"]) for r in records]
    usual: dict[str, Any] = {}
    for kind, _ in Counter(kinds).most_common():
        usual.setdefault(kind[0], kind)
    kept = []
    for record, kind in zip(records, kinds, strict=True):
        with _damage_warned("not shown", []):
            if usual[record.test_digest] != kind:
                others = "labels or classes differ from other runs' of the same test images"
                raise ValueError(f"{record.home / 'record.json'}: {others}")
            kept.append(record)
    return kept


@contextmanager
def _damage_warned(what: str, outdated: list[Outdated]) -> Generator[None, None, None]:
    """Warn of a record that is damaged; add one of another recipe to `outdated`."""
    try:
        yield
    except Outdated as error:
        outdated.append(error)
    except ValueError as error:
        warnings.warn(f"{what}: {error}", stacklevel=5)


def unused_runs(experiments: Iterable[Experiment]) -> list[str]:
    """Why finished runs with the experiments' settings are not used, a sentence for each reason."""
    reasons = {}
    folders = set()
    for run in itertools.chain.from_iterable(map(plan.planned, experiments)):
        for path in paths(run):
            used = path.parent in run.homes and not run.external
            if not used and (reason := _why_unused(run, path.parent)):
                reasons[path] = reason
                folders.add(short(run.experiment.folder))
    where = ", ".join(sorted(folders))
    counts = Counter(reasons.values())
    return [
        f"{count} finished {'run' if count == 1 else 'runs'} in {where} not used: {reason}."
        for reason, count in counts.items()
    ]


def _why_unused(run: Run, home: Path) -> str | None:
    """Why a record with the run's settings is not used for it; None if its settings differ."""
    try:
        record = read_record(home)
    except Outdated as error:
        return str(error)
    except ValueError:
        return None
    if plan.non_default(record.settings) != plan.non_default(run.settings):
        return None
    if edited := dict(run.sources.items() - record.sources.items()):
        return f"another version of {', '.join(sorted(edited))}"
    if run.data and record.data != run.data:
        return f"of other data ({record.data}) than is here now ({run.data})"
    return None


@contextmanager
def lock(run: Run, wait: bool = True) -> Generator[None, None, None]:
    """Hold the run's file lock, which ends with its process; none on a file system without locks.

    After a few seconds of waiting a line says for whom. Without `wait` filelock.Timeout.
    """
    run.home.mkdir(parents=True, exist_ok=True)
    owner = run.home / OWNER
    # no soft lock: an old lock's file would be taken for one that is held
    held = FileLock(run.home / "run.lock", fallback_to_soft=False)
    try:
        try:
            held.acquire(timeout=PATIENCE if wait else 0)
        except Timeout:
            if not wait:
                raise
            who = owner.read_text() if owner.exists() else "another process"
            print(f"waiting for {run.title}: {who} is at it", file=sys.stderr, flush=True)
            held.acquire(timeout=-1)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        since = f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"
        who = f"process {os.getpid()} on {platform.node()}, since {since},"
        save_atomically(owner, lambda file: file.write(who.encode()))
        yield
    finally:
        owner.unlink(missing_ok=True)
        held.release()


# --- reading and writing


def read_record(home: Path) -> Record:
    """The record in a run's folder; ValueError names a file that isn't one, Outdated its recipe."""
    path = home / "record.json"
    try:
        fields = json.loads(path.read_bytes())
        recipe = fields["recipe"]
        is_current = recipe == plan.recipe_of(fields["method"])
        record = Record(**fields) if is_current else None
    except Exception as error:  # it can hold anything
        raise ValueError(f"{path} is not a record ({one_line(error, 100)})") from None
    if record is None:
        raise Outdated(f"of recipe {recipe}, and semlib trains by recipe {plan.RECIPE}")
    record._home = home
    return record


def new_record(home: Path, run: Run, **fields: Any) -> Record:
    """Write the record of a run that was just made; fields: all that the Run does not say."""
    assert run.data is not None
    same = ("dataset", "hold_out", "method", "trial", "address", "settings", "sources")
    which = {name: getattr(run, name) for name in same}
    which |= {"train_digest": run.data.train, "test_digest": run.data.test}
    return write_record(home, recipe=plan.recipe_of(run.method), **which, **fields)


def rewrite(record: Record, home: Path | None = None, /, **changes: Any) -> Record:
    """Write the record with these fields changed, in its place or into another folder."""
    return write_record(home or record.home, **record.model_dump() | changes)


def write_record(home: Path, /, **fields: Any) -> Record:
    """Write record.json, last and atomically: it alone says that the run is finished."""
    record = Record(**fields)
    text = json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    save_atomically(home / "record.json", lambda file: file.write(text.encode()))
    return read_record(home)


def write_scores(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write scores.npz; the SHA-256 of each array by its name, and of the file by the file's."""
    whole = io.BytesIO()
    # records are committed: bzip2 makes ranks a tenth smaller than np.savez_compressed does
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_BZIP2) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    save_atomically(path, lambda file: file.write(whole.getbuffer()))
    digests = {name: _sha256(array) for name, array in arrays.items()}
    return digests | {path.name: hashlib.sha256(whole.getbuffer()).hexdigest()}


def read_scores(path: Path, sha256: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of scores.npz that have a SHA-256 here; ValueError if one is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in sha256 if name != path.name}
    except Exception as error:  # truncated or bit-flipped: zipfile, zlib and NumPy raise many kinds
        raise ValueError(f"{path} can't be read ({one_line(error)})") from None
    damaged = [name for name, array in arrays.items() if _sha256(array) != sha256[name]]
    if damaged:
        what = f"{', '.join(damaged)} is not what its record was written for"
        raise ValueError(f"{path} is damaged: {what}")
    return arrays


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
