"""The store of finished runs, read without torch.

A run is finished when its record.json is there, is of the test images that are here, and the arrays
in its scores.npz are those that the record was written for: `find` says so, and everything asks it.
Scores on other test images than the first lie below in test_<digest8>/, with a record of their own.
"""

import errno
import hashlib
import io
import json
import os
import platform
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from workbench.experiment import EXTERNAL, ConfigError, Experiment
from workbench.files import one_line, save_atomically, short, stamp
from workbench.images.prepared import Digests
from workbench.runs import plan
from workbench.runs.plan import Run

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
OWNER = "run.owner"
PATIENCE = 5.0  # seconds until it is said who holds a run
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what some network file systems answer
_checked: set[Any] = (
    set()
)  # files of scores that were whole, by path, size, times and what they should hold


class Outdated(ValueError):
    """A record of a run that was trained by another recipe."""


class Record(BaseModel):
    """record.json: what a finished run was and gave. Fractions, not percent; no paths."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: int
    dataset: str
    hold_out: str | None
    method: str
    trial: int
    address: str
    settings: dict[str, Any]  # what training depends on besides data and source
    sources: dict[str, str]  # digest of each function of the user's that it used
    train_digest: Digest
    test_digest: Digest
    classes: tuple[str, ...]  # of the data set, which `label` and `predicted` in scores.npz number
    metrics: dict[
        str, float
    ]  # accuracy, and the average precision of each score; with @upright of those statistics
    scoring: dict[str, dict[str, Any]]  # name in scores.npz -> the score and its settings
    scores_sha256: dict[str, str]  # of each array in scores.npz, and of the file
    weights_sha256: str | None = None  # of weights.pt, kept or not
    skew: float
    train_images: int | None = None  # of the data set, the held-out class's included
    seconds: float  # of training
    device: str
    precision: str
    threads: int
    versions: dict[str, str]
    commit: str | None  # + where semlib, params, notebooks or workflow differed from it
    finished: str  # UTC
    # of a network trained elsewhere: SHA-256 of the file that its scores were imported from. Device
    # and precision are then "unknown", seconds and threads 0
    external: Digest | None = None

    _home: Path = PrivateAttr()

    @property
    def home(self) -> Path:
        return self._home

    @property
    def trained(self) -> Path:
        """The run's own folder, where its weights and history are."""
        return self._home.parent if self._home.name.startswith("test_") else self._home

    @property
    def data(self) -> Digests:
        return Digests(self.train_digest, self.test_digest)

    @property
    def place(self) -> Path:
        """Where its folder belongs, as seen from its profile's runs/."""
        address = plan.address(self, self.settings, self.sources, self.train_digest, self.recipe)
        return plan.place(self, address)

    def scores(self, *names: str) -> dict[str, np.ndarray]:
        """scores.npz, or these arrays of it: label, predicted (int16), is_anomaly (bool), and an
        array (N,) for each score.

        float64, or dense ranks from 0 (uint16) where `scoring` says so: all that average precision
        and other measures of ranking depend on. predicted and the scores once more with upright
        batch-norm statistics: msp@upright.
        """
        wanted = {name: self.scores_sha256[name] for name in names} if names else self.scores_sha256
        return read_scores(self._home / "scores.npz", wanted)

    def check(self) -> None:
        """ValueError if scores.npz is damaged; an unchanged file is read once a process."""
        path = self._home / "scores.npz"
        now = stamp(path)
        which = now and (path, *now, *self.scores_sha256.items())
        if which not in _checked:
            if now is None or hashlib.sha256(
                path.read_bytes()
            ).hexdigest() != self.scores_sha256.get(path.name):
                self.scores()  # arrays may have been added by a process that was killed before it wrote the record
            _checked.add(which)

    def history(self) -> pd.DataFrame:
        """history.csv: per evaluated epoch the losses, test accuracy, average precision and seconds
        of training.

        Test measures have the mixed statistics, those of the last epochs @upright too. Scored on
        other test images than those of training, the history has none. ValueError names a file that
        is damaged.
        """
        path = self.trained / "history.csv"
        try:
            table = pd.read_csv(path).astype(float).astype({"epoch": int})
            return (
                table
                if self.trained == self.home
                else table.filter(regex="^(epoch|.*loss|seconds)$")
            )
        except Exception as error:
            raise ValueError(f"{path} is not a history ({one_line(error)})") from None

    def key(self, scoring: Mapping[str, Any]) -> str | None:
        """The name of the array that was scored this way, or None."""
        return next((key for key, how in self.scoring.items() if how == dict(scoring)), None)


def progress(
    experiment: Experiment, data: Digests | None = None
) -> list[tuple[Run, Record | None]]:
    """Every planned run with its record, if it is finished for this data (None: for what is here).

    Where the data is not here, or `data_digest` names another version, records are matched by their
    settings. ConfigError if they are of several versions.
    """
    runs, wanted = plan.planned(experiment, data), experiment.data_digest
    if runs[0].data and wanted in (None, str(runs[0].data)):
        return [(run, find(run)) for run in runs]
    if runs[0].data and experiment.missing == "train":
        raise ConfigError(
            f"data_digest: {wanted} is not what is here, {runs[0].data}; nothing can be trained on it"
        )
    found = [
        {str(r.data): r for path in paths(run) for r in _usable(path.parent, run)} for run in runs
    ]
    found = [
        {digest: r for digest, r in records.items() if wanted in (None, digest)}
        for records in found
    ]
    counts = Counter(digest for records in found for digest in records)
    if len(counts) > 1:
        versions = ", ".join(f"{digest} ({count} runs)" for digest, count in counts.most_common())
        raise ConfigError(
            f"{short(experiment.folder)} has runs on several versions of {experiment.dataset_name}, which is not here to tell "
            f"which is meant: choose data_digest from {versions}"
        )
    return [
        (run, next(iter(records.values()), None)) for run, records in zip(runs, found, strict=True)
    ]


@contextmanager
def alone(run: Run, wait: bool = True) -> Generator[None, None, None]:
    """Holds the run's file lock, which is freed when its owner dies; nothing on a file system
    without locks.

    After a few seconds of waiting it says for whom. filelock.Timeout.
    """
    run.home.mkdir(parents=True, exist_ok=True)
    # no soft lock: an old lock's file would be taken for one that is held
    lock, owner = FileLock(run.home / "run.lock", fallback_to_soft=False), run.home / OWNER
    try:
        try:
            lock.acquire(timeout=PATIENCE if wait else 0)
        except Timeout:
            if not wait:
                raise
            who = owner.read_text() if owner.exists() else "another process"
            print(f"waiting for {run.title}: {who} is at it", file=sys.stderr, flush=True)
            lock.acquire(timeout=-1)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    try:
        who = f"process {os.getpid()} on {platform.node()}, since {datetime.now().astimezone():%Y-%m-%d %H:%M},"
        save_atomically(owner, lambda file: file.write(who.encode()))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def find(run: Run) -> Record | None:
    """The run's record, if it is finished for its data; a damaged one is named in a warning and
    counts as not finished.
    """
    return next(
        (record for home in run.homes for record in _usable(home, run) if record.data == run.data),
        None,
    )


def trained(run: Run) -> Record | None:
    """The record that lies with the run's weights, whatever its test images."""
    return next(_usable(run.home, run), None)


def paths(run: Run) -> list[Path]:
    """Where records of runs lie that differ from this in their settings, source or data at most."""
    return sorted(run.home.parent.glob(f"trial_{run.trial}-*/**/record.json"))


def _usable(home: Path, run: Run) -> Iterator[Record]:
    """The record in a folder, if it is whole and of this run on some data."""
    if (home / "record.json").exists():
        try:
            record = read_record(home)
            if run.on(record.train_digest) == record.address:
                record.check()
                yield record
            elif record.trained == run.home:
                raise ValueError(f"{home / 'record.json'} is of another run")
        except Outdated:
            pass
        except ValueError as error:
            warnings.warn(f"not used: {error}", stacklevel=4)


def finished(experiment: Experiment) -> list[Record]:
    """The records of the experiment's runs that are finished."""
    return [record for _, record in progress(experiment) if record]


def missing(experiment: Experiment, data: Digests | None = None) -> list[Run]:
    """The runs that are not finished, or lack one of the experiment's scores; none whose scores are
    imported.
    """
    wanted, pairs = plan.scoring(experiment), progress(experiment, data)
    return [
        run
        for run, record in pairs
        if not run.external and (record is None or lacking(record, wanted))
    ]


def lacking(record: Record, wanted: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The scores that a record does not have, or has under another name while another source has
    the plain one.

    What can only be imported isn't lacking.
    """
    return {
        name: how
        for name, how in wanted.items()
        if not (record.external or name.startswith(EXTERNAL))
        and record.scoring.get(name) != how
        and (
            record.key(how) is None
            or (name in record.scoring and plan.same_settings(how, record.scoring[name]))
        )
    }


def unmatched(experiments: Iterable[Experiment]) -> list[str]:
    """Why finished records of the experiments' runs are not used, a sentence a reason: settings are
    equal, but not all else.
    """
    reasons, folders = {}, set()
    for run in (run for e in experiments for run in plan.planned(e)):
        for path in paths(run):
            if (run.external or path.parent not in run.homes) and (
                reason := _unlike(run, path.parent)
            ):
                reasons[path] = reason
                folders.add(short(run.experiment.folder))
    return [
        f"{count} finished run{'s' * (count > 1)} in {', '.join(sorted(folders))} not used: {reason}. Nothing is deleted."
        for reason, count in Counter(reasons.values()).items()
    ]


def _unlike(run: Run, home: Path) -> str | None:
    """Why a record with the run's settings is not used for it; None if it has other settings, or is
    no record.
    """
    try:
        record = read_record(home)
    except Outdated as error:
        return f"{error}, and semlib trains by recipe {plan.RECIPE}"
    except ValueError:
        return None
    if plan.chosen(record.settings) != plan.chosen(run.settings):
        return None
    if edited := [
        name for name, source in run.sources.items() if record.sources.get(name) != source
    ]:
        return f"another version of {', '.join(edited)}"
    return (
        f"of other data ({record.data}) than is here now ({run.data})"
        if run.data and record.data != run.data
        else None
    )


def collect(profile: Path) -> list[Record]:
    """Every record in a profile's folder, whatever its settings and data.

    One that can't be read, or that lies where another run's belongs, is named in a warning and
    passed over; those of another recipe are counted.
    """
    records, outdated = [], 0
    for path in sorted(profile.glob("runs/**/record.json")):
        try:
            record = read_record(path.parent)
            if record.trained != profile / "runs" / record.place:
                raise ValueError(f"{path} is of another run: it was moved, copied or changed")
            records.append(record)
        except Outdated:
            outdated += 1
        except ValueError as error:
            warnings.warn(f"not shown: {error}", stacklevel=2)
    if outdated:
        warnings.warn(
            f"not shown: {outdated} records in {short(profile)} of another recipe than {plan.RECIPE}",
            stacklevel=2,
        )
    return records


def read_record(home: Path) -> Record:
    """The record in a run's folder; ValueError names a file that isn't one, Outdated its recipe."""
    path = home / "record.json"
    try:
        text = path.read_bytes()
        record = Record.model_validate_json(text)
    except OSError as error:
        raise ValueError(f"{path} is not a record ({error.strerror})") from None
    except ValidationError as error:
        if _is_first_format(text):
            raise Outdated("of recipe 1") from None
        first = error.errors()[0]
        where = "".join(f"{name}: " for name in first["loc"][:1])
        raise ValueError(f"{path} is not a record ({where}{one_line(first['msg'])})") from None
    if record.recipe != plan.recipe_of(record.method):
        raise Outdated(f"of recipe {record.recipe}")
    record._home = home
    return record


def _is_first_format(text: bytes) -> bool:
    with suppress(ValueError):
        fields = json.loads(text)
        return isinstance(fields, dict) and "fingerprint" in fields and "recipe" not in fields
    return False


def new_record(home: Path, run: Run, **fields: Any) -> Record:
    """Write the record of a run that was just made: what it was, and the fields that say how it was
    made and what it gave.
    """
    assert run.data is not None
    what = {
        name: getattr(run, name)
        for name in ("dataset", "hold_out", "method", "trial", "address", "settings", "sources")
    }
    what |= {
        "recipe": plan.recipe_of(run.method),
        "train_digest": run.data.train,
        "test_digest": run.data.test,
    }
    return write_record(home, finished=now(), **what, **fields)


def rewrite(record: Record, home: Path | None = None, /, **changes: Any) -> Record:
    """Write the record with these fields changed, in its place or into another folder."""
    return write_record(home or record.home, **record.model_dump() | changes)


def now() -> str:
    """The time, as records keep it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_record(home: Path, **fields: Any) -> Record:
    """Write record.json, last and atomically: it alone says that the run is finished."""
    record = Record(**fields)
    text = json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    save_atomically(home / "record.json", lambda file: file.write(text.encode()))
    return read_record(home)


def write_scores(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write scores.npz and return each array's SHA-256, and the file's own under its name.

    Compressed by bzip2: records are committed, and it makes ranks a tenth smaller than
    np.savez_compressed does.
    """
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_BZIP2) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    save_atomically(path, lambda file: file.write(whole.getbuffer()))
    digests = {name: _sha256(array) for name, array in arrays.items()}
    return digests | {path.name: hashlib.sha256(whole.getbuffer()).hexdigest()}


def read_scores(path: Path, sha256: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of scores.npz with these SHA-256; ValueError names a file that is damaged.

    Further arrays are passed over: a process was killed after it added them and before it wrote the
    record anew.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in sha256 if name != path.name}
    except Exception as error:  # truncated or bit-flipped: zipfile, zlib and NumPy raise many kinds
        raise ValueError(f"{path} can't be read ({one_line(error)})") from None
    damaged = [name for name, array in arrays.items() if _sha256(array) != sha256[name]]
    if damaged:
        raise ValueError(
            f"{path} is damaged: {', '.join(damaged)} is not what its record was written for"
        )
    return arrays


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
