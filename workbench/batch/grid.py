"""All runs of one or several tables as jobs, one Snakemake over `python -m semlib run`, and what is
still to be done.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

from workbench.batch import gpus, notebooks, progress
from workbench.batch.notebooks import NO_CHECKOUT
from workbench.experiment import ConfigError, Experiment
from workbench.files import (
    CHECKOUT,
    ROOT,
    check_writable,
    file_name,
    one_line,
    save_atomically,
    short,
)
from workbench.results import show
from workbench.runs import machine, plan, store

SNAKEFILE, PROFILES = ROOT / "workflow" / "Snakefile", ROOT / "workflow" / "profiles"
MOST_SHOWN = 10  # failed jobs
HOLDOUT = ROOT / "notebooks" / "holdout.ipynb"


@dataclass(frozen=True)
class Table:
    """A notebook with a file of parameters, and the experiments that these make."""

    file: Path
    notebook: Path
    given: dict[str, Any]
    experiments: tuple[Experiment, ...]

    @property
    def out(self) -> Path:
        return notebooks.executed(self.notebook, self.experiments[0])

    @property
    def searches(self) -> bool:
        return bool(self.given.get("auxiliary_weights"))


def table(file: Path, notebook: str | None, pairs: Sequence[Sequence[str]]) -> Table:
    """The table of a file params/<profile>/<notebook>.yaml; ConfigError names the choices."""
    path = ROOT / "notebooks" / f"{notebook or file.stem}.ipynb"
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in path.parent.glob("*.ipynb")))
        raise ConfigError(f"{file.name}: named after no notebook; choose --notebook from {names}")
    return Table(file, path, *notebooks.parameters(path, [file], pairs))


def jobs(
    experiments: Iterable[Experiment], split: str = "class", classes: int = 1
) -> list[Experiment]:
    """Split the experiments into jobs: one per so many held-out classes, with `split` also per
    method, or method and trial.
    """
    parts = []
    for e in (e for e in experiments if e.missing == "train"):
        where = [name or "none" for name in plan.held_out(e)]
        for group in (tuple(where[k : k + classes]) for k in range(0, len(where), classes)):
            methods = [e.methods] if split == "class" else [(method,) for method in e.trained]
            trials = (
                [(e.first_trial + k, 1) for k in range(e.trials)]
                if split == "trial"
                else [(e.first_trial, e.trials)]
            )
            for method, (first, count) in ((m, t) for m in methods for t in trials):
                changes = {
                    "hold_out": group,
                    "methods": method,
                    "first_trial": first,
                    "trials": count,
                }
                parts.append(e.model_copy(update=changes))
    return list(dict.fromkeys(parts))


def names(parts: Sequence[Experiment], split: str) -> list[str]:
    """A job's name in files' names, holdout-<name>.ipynb; those of equal names are numbered."""
    words = [
        [
            e.dataset_name,
            *e.few,
            *(e.hold_out if len(e.hold_out) == 1 else (e.hold_out[0], "to", e.hold_out[-1])),
            *(e.methods if split != "class" else ()),
            *([e.first_trial] if split == "trial" else ()),
        ]
        for e in parts
    ]
    plain = [file_name(*map(str, w)) for w in words]
    every = [f"{name}-{k}" for k, name in enumerate(plain)]
    some = [
        name if plain.count(name) == 1 else numbered
        for name, numbered in zip(plain, every, strict=True)
    ]
    return (
        some if len(set(some)) == len(some) else every
    )  # a class may be named as another one is numbered


def main(args: argparse.Namespace) -> int:
    """`python -m semlib grid`: searches for auxiliary weights first, then the tables that wait for
    what they choose.
    """
    if not CHECKOUT:
        raise ConfigError(
            f"grid: needs a checkout, for its workflow/, notebooks/ and params/; {NO_CHECKOUT}"
        )
    _profile(args.on)  # ConfigError before anything is prepared
    files = [notebooks.existing(file) for file in args.files]
    found = [table(file, args.notebook, args.parameter) for file in files]
    profiles = {e.folder for t in found for e in t.experiments}
    if len(profiles) > 1:
        raise ConfigError(
            f"one profile a grid, not {', '.join(sorted(path.name for path in profiles))}"
        )
    every = [e for t in found for e in t.experiments]
    _gpus(args, every[0])
    for said in filter(None, (notebooks.replaces(t.out, t.given) for t in found)):
        print(said)
    if args.dry_run:
        notebooks.check(every)
        return _say(found, args)
    notebooks.prepare(every)  # once, not by each job
    status, searches = 0, [t for t in found if t.searches]
    if searches and len(searches) < len(found):
        status = _run(searches, args)
        awaits = [t for t in found if t.given.get("auxiliary_weight", 0) is None]
        ready = [t for t in found if not t.searches and not (status and t in awaits)]
        if left := [t.file.stem for t in found if not t.searches and t not in ready]:
            print(f"not begun, for lack of a chosen auxiliary weight: {', '.join(left)}")
        found = [
            table(t.file, args.notebook, args.parameter) for t in ready
        ]  # with what was chosen
    return (_run(found, args) if found else 0) or status


def _run(found: Sequence[Table], args: argparse.Namespace) -> int:
    """Execute what isn't finished; Snakemake's exit status."""
    first = found[0].experiments[0]
    devices = _gpus(args, first)
    side_by_side, threads = _side_by_side(args, first, devices)
    where = first.folder / ".grid" / "-".join(t.notebook.stem for t in found)[:200]
    where.mkdir(parents=True, exist_ok=True)
    try:
        with (where / "grid.lock").open("w") as lock:
            _lock(lock)  # Snakemake holds it too: freed when both are gone
            mine = _write(found, where, args, threads, devices if args.on == "local" else None)
            snakemake = [
                sys.executable,
                "-m",
                "snakemake",
                "--snakefile",
                str(SNAKEFILE),
                "--directory",
                str(where),
            ]
            snakemake += [
                "--configfile",
                str(where / "config.json"),
                "--profile",
                str(_profile(args.on)),
            ]
            environment = _environment(where)
            if any(where.glob(".snakemake/locks/*")):  # a killed grid's: they are ours now
                subprocess.run(
                    [*snakemake, "--cores", "1", "--unlock", "--quiet"],
                    capture_output=True,
                    env=environment,
                )
            how = [
                "--keep-going",
                "--rerun-incomplete",
                "--rerun-triggers",
                "mtime",
                "--quiet",
                "rules",
                "host",
            ]
            if args.on == "local":
                how += ["--cores", str(side_by_side * threads)]
                how += ["--resources", f"gpu={len(devices)}"] if devices else []
            else:
                how += ["--jobs", str(side_by_side)]
            if args.resource:
                how += ["--default-resources", *_resources(args.on, args.resource)]
            own = where / "snakemake.log"
            with own.open("wb") as said:
                process = subprocess.Popen(
                    [*snakemake, *how],
                    pass_fds=[lock.fileno()],
                    env=environment,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
                tables = {where / "table" / f"{t.out.stem}.done": t.out for t in found}
                jobs = {where / "holdout" / f"{name}.done": part for name, part in mine.items()}
                print(
                    f"{len(jobs)} jobs, {side_by_side} side by side; what Snakemake says is in {short(own)}",
                    flush=True,
                )
                status = _wait(process, jobs, tables)
    except BlockingIOError:
        print(f"error: this grid is running already ({short(where)})", file=sys.stderr)
        return 1
    for t in found:
        show.print_all(t.experiments)
    folder = short(first.folder)
    print(
        f"the executed notebooks, with the precision-recall curves: {folder}/*.ipynb; the runs: {folder}/runs/"
    )
    if status:
        failed = [done for done in jobs if not done.exists()] or [
            done for done in tables if not done.exists()
        ]
        for done in failed[:MOST_SHOWN]:
            print(f"failed: {done.stem}: {_cause(done.with_suffix('.log'))}")
        more = f"{len(failed) - MOST_SHOWN} more failed; " * (len(failed) > MOST_SHOWN)
        print(
            f"{more}the same command runs only what failed again; each job's log: {short(where)}/*/NAME.log"
        )
    return status


def _cause(log: Path) -> str:
    """Why a job failed: the last error in its log, or its last line, or that it did not run; and
    where to read on.
    """
    snakemake = log.parents[1] / "snakemake.log"
    if not log.exists():
        return f"it was not run: {one_line(['Snakemake says nothing', *_lines(snakemake)][-1])} ({short(snakemake)})"
    lines = _lines(log)
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    cause = (errors or lines or ["it ended without a word, as if killed"])[-1]
    notebook = next((line for line in reversed(lines) if line.endswith(".unfinished.ipynb")), "")
    return f"{one_line(cause)} ({notebook or short(log)})"


def _lines(log: Path) -> list[str]:
    with suppress(OSError):
        return [
            line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()
        ]
    return []


def _environment(where: Path) -> dict[str, str]:
    """This process's; Snakemake keeps files in the user's cache folder, and where that can't be
    written in the grid's.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111 - Path's can raise
    try:
        check_writable(cache)
        return dict(os.environ)
    except OSError:
        return os.environ | {"XDG_CACHE_HOME": str(where / "cache")}


def _write(
    found: Sequence[Table],
    where: Path,
    args: argparse.Namespace,
    threads: int,
    devices: Sequence[str] | None,
) -> dict[str, Experiment]:
    """The files of Snakemake's run: its config, and a job's parameters each; the jobs by their
    names.

    What isn't finished, and the tables, run again whatever Snakemake remembers. Files of parameters
    may be edited meanwhile: the jobs and the tables read copies.
    """
    import papermill

    parts = jobs((e for t in found for e in t.experiments), args.split, args.classes)
    named = dict(zip(names(parts, args.split), parts, strict=True))
    cell = papermill.inspect_notebook(notebooks.literal(HOLDOUT))
    for name, part in named.items():
        if store.missing(part):
            for ending in ("done", "log"):
                (where / "holdout" / f"{name}.{ending}").unlink(missing_ok=True)
        _save_yaml(
            where / "holdout" / f"{name}.yaml",
            explicit(part.model_copy(update={"threads": threads}), cell),
        )
    shutil.rmtree(where / "table", ignore_errors=True)
    for t in found:
        _save_yaml(where / "table" / f"{t.out.stem}.yaml", t.given | {"threads": threads})
    own = {part: name for name, part in named.items()}
    settings = {
        "run": [
            sys.executable,
            "-m",
            "semlib",
            "run",
            "--checked",
            *(["--gpus", ",".join(devices)] if devices else []),
        ],
        "resources": ({"gpu": 1} if devices else {})
        | {name: int(value) for name, value in args.resource if name == "gpu"},
        "threads": threads,
        "folder": str(found[0].experiments[0].folder),
        "holdout": str(HOLDOUT),
        "tables": {
            t.out.stem: {
                "notebook": str(t.notebook),
                "jobs": [own[part] for part in jobs(t.experiments, args.split, args.classes)],
            }
            for t in found
        },
    }
    save_atomically(
        where / "config.json", lambda file: file.write(json.dumps(settings, indent=1).encode())
    )
    return named


def explicit(experiment: Experiment, cell: Iterable[str]) -> dict[str, Any]:
    """The parameters by which a notebook with this parameters cell makes exactly this experiment."""
    usual = Experiment().model_dump(mode="json")
    return {
        k: v for k, v in experiment.model_dump(mode="json").items() if k in cell or v != usual[k]
    }


def _save_yaml(path: Path, values: dict[str, Any]) -> None:
    text = yaml.safe_dump(values).encode()
    save_atomically(path, lambda file: file.write(text))


def _gpus(args: argparse.Namespace, experiment: Experiment) -> list[str]:
    """The GPUs to share out among jobs on this machine; ConfigError names the choices."""
    here = gpus.visible() if args.on == "local" and experiment.device in ("auto", "cuda") else []
    if wrong := [
        name for name in args.gpus or () if name not in here and experiment.device != "cpu"
    ]:
        raise ConfigError(
            f"--gpus: {', '.join(wrong)} is not here; choose from {', '.join([*here, 'none'])}"
        )
    return here if args.gpus is None else args.gpus


def _side_by_side(
    args: argparse.Namespace, experiment: Experiment, devices: Sequence[str]
) -> tuple[int, int]:
    """Jobs side by side, and threads of each."""
    if args.on != "local":
        return args.jobs or _settings(args.on).get("jobs", 1), experiment.threads or 4
    cores = machine.cores()
    count = args.jobs or len(devices) or (1 if experiment.device.startswith("cuda") else cores)
    return count, experiment.threads or max(1, cores // count)


def _profile(on: str) -> Path:
    """The folder of Snakemake's profile: one of ours by its name, or one's own; ConfigError names
    the choices.
    """
    for folder in (PROFILES / on, Path(on)):
        if (folder / "config.yaml").is_file():
            return folder.absolute()
    known = ", ".join(sorted(path.name for path in PROFILES.iterdir()))
    raise ConfigError(
        f"--on: no profile {on!r}; choose from {known}, or a folder with Snakemake's config.yaml"
    )


def _settings(on: str) -> dict[str, Any]:
    """What Snakemake's profile says."""
    return yaml.safe_load((_profile(on) / "config.yaml").read_text())


def _resources(on: str, given: Sequence[list[str]]) -> list[str]:
    """The profile's default resources with those given, as NAME=VALUE; `gpu` is each job's own
    (Snakefile).
    """
    usual = _settings(on).get("default-resources", {})
    usual = usual if isinstance(usual, dict) else dict(item.split("=", 1) for item in usual)
    return [f"{name}={value}" for name, value in (usual | dict(given)).items() if name != "gpu"]


def _say(found: Sequence[Table], args: argparse.Namespace) -> int:
    """What a grid would do: runs finished and missing, and the time they will take by the seconds
    in records.
    """
    records = [
        record for record in store.collect(found[0].experiments[0].folder) if not record.external
    ]
    device = machine.device_name(machine.device(found[0].experiments[0]))
    here = [record for record in records if record.device == device] or records
    measured: dict[Any, list[float]] = {}
    for record in here:
        measured.setdefault(_kind(record.dataset, record.method, record.settings), []).append(
            record.seconds
        )

    def line(title: str, experiments: Sequence[Experiment]) -> str:
        planned, to_train, to_score, lacking = set(), {}, {}, {}
        for e in (e for e in experiments if e.missing == "train"):
            for run, record in (
                (run, record) for run, record in store.progress(e) if not run.external
            ):
                planned.add(run.home)
                scores = (
                    store.lacking(record, plan.scoring(e))
                    if record
                    else plan.scoring(run.experiment)
                )
                first = record or (store.trained(run) if run.data else None)
                if first is None:
                    to_train[run.home] = run
                elif record is None or scores:
                    to_score[run.home] = first.trained / "weights.pt"
                    lacking |= scores
        if not planned:
            return f"{title}: trains nothing"
        kinds = [_kind(run.dataset, run.method, run.settings) for run in to_train.values()]
        seconds = [statistics.median(measured[kind]) for kind in kinds if kind in measured]
        left = len(to_train) + len(to_score)
        text = f"{title}: {len(planned) - left} of {len(planned)} runs are finished, {left} are missing"
        if seconds:
            total = sum(seconds)
            text += (
                f": {show.duration(total)} of training, {show.duration(total / count)} side by side"
            )
        if to_score:
            text += f", {len(to_score)} of them only to be scored: they lack {', '.join(lacking)}"
            without = sum(not weights.exists() for weights in to_score.values())
            text += f" ({without} can't be, for their weights are not here)" if without else ""
        unknown = len(kinds) - len(seconds)
        return text + (
            f"; the time of {unknown} is unknown, for no run like them is finished"
            if unknown
            else ""
        )

    every = [e for t in found for e in t.experiments]
    parts = jobs(every, args.split, args.classes)
    count, threads = _side_by_side(args, every[0], _gpus(args, every[0]))
    count = max(1, min(count, len(parts)))
    for t in found:
        about = ", ".join(dict.fromkeys(e.dataset_name for e in t.experiments))
        print(line(f"{t.notebook.stem} ({about})", t.experiments))
    if len(found) > 1:
        print(line("all, each run once", every))
    for said in store.unmatched(e for e in every if e.missing == "train"):
        print(said)
    where = ", ".join(sorted({record.device for record in here}))
    print(
        f"{len(parts)} jobs, {count} side by side with {threads} thread{'s' * (threads > 1)} each on {args.on}",
        end="",
    )
    print(f"; times are medians on {where}" if here else "")
    return 0


def _kind(dataset: str, method: str, settings: dict[str, Any]) -> tuple:
    return dataset, method, json.dumps(plan.chosen(settings), sort_keys=True)


def _lock(file: IO) -> None:
    """BlockingIOError if another process has it; nothing on a file system without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in store.NO_LOCKS:
            raise


def _wait(
    snakemake: subprocess.Popen, jobs: dict[Path, Experiment], tables: dict[Path, Path]
) -> int:
    """Its exit status; on Ctrl-C or SIGTERM it and all its jobs end first."""
    try:
        return progress.watch(snakemake, jobs, tables)
    except KeyboardInterrupt as stopped:
        below = psutil.Process(snakemake.pid).children(recursive=True)
        if stopped.args:  # by SIGTERM; Ctrl-C has reached all of them already
            snakemake.send_signal(signal.SIGINT)  # which also cancels a cluster's jobs
        for process in below:
            process.terminate()
        snakemake.wait()
        raise
