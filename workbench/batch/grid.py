"""`python -m semlib grid`: the runs of tables as jobs of Snakemake, each an executed notebook."""

import argparse
import fcntl
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml
from joblib import cpu_count
from tqdm import tqdm

from workbench.batch import gpus, notebooks
from workbench.experiment import ConfigError, Experiment
from workbench.files import CHECKOUT, ROOT, file_name, one_line, save_atomically, short
from workbench.results import show, tables
from workbench.results.names import label
from workbench.runs import estimate, execute, plan, store

WORKFLOW = ROOT / "workflow"
HOLDOUT = ROOT / "notebooks" / "holdout.ipynb"
MOST_SHOWN = 10  # failed jobs


class Job(NamedTuple):
    """A notebook, the parameters to pass to it, and the experiments that these make."""

    notebook: Path
    given: dict[str, Any]
    experiments: tuple[Experiment, ...]


def table(file: Path, notebook: str | None, pairs: Sequence[Sequence[str]]) -> Job:
    """The job of params/<profile>/<notebook>.yaml, a table whose runs are to be there before."""
    path = ROOT / "notebooks" / f"{notebook or file.stem}.ipynb"
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in path.parent.glob("*.ipynb")))
        raise ConfigError(f"{file.name}: named after no notebook; choose --notebook from {names}")
    job = Job(path, *notebooks.parameters(path, [file], pairs))
    notebooks.check_profile(path, job.experiments)
    return job


def jobs(
    experiments: Iterable[Experiment], split: str = "class", classes: int = 1
) -> list[Experiment]:
    """Split experiments into jobs by held-out classes, also by method, or by method and trial."""
    found = []
    for e in (e for e in experiments if e.missing == "train"):
        held_out = [name or "none" for name in plan.held_out(e)]
        groups = [tuple(held_out[k : k + classes]) for k in range(0, len(held_out), classes)]
        methods = [e.methods] if split == "class" else [(method,) for method in e.trained_methods]
        trials = [{}]
        if split == "trial":
            trials = [{"first_trial": e.first_trial + k, "trials": 1} for k in range(e.trials)]
        for group, method, trial in itertools.product(groups, methods, trials):
            found.append(e.model_copy(update={"hold_out": group, "methods": method} | trial))
    return list(dict.fromkeys(found))  # tables share runs


def names(parts: Sequence[Experiment], split: str, taken: Iterable[str] = ()) -> list[str]:
    """The jobs' names, those of their executed notebooks; numbered if some would be equal.

    taken: the names of tables, which no job may have.
    """
    plain = []
    for e in parts:
        more = {"class": [], "method": e.methods, "trial": [*e.methods, str(e.first_trial)]}
        which = [e.dataset_name, *e.images_a_class, *e.hold_out]
        plain.append(file_name("holdout", *which, *more[split]))
    unique = len(set(plain)) == len(plain) and not {*plain} & {*taken}
    return plain if unique else [f"{name}-{k}" for k, name in enumerate(plain)]


def main(args: argparse.Namespace) -> int:
    """Run the tables' jobs, or with --dry-run say what would be done; the exit status."""
    if not CHECKOUT:
        raise ConfigError("grid: needs a clone of the repository, installed with pip install -e")
    grid = Grid(args)
    if args.dry_run:
        notebooks.check(grid.experiments)
        grid.dry_run()
        return 0
    notebooks.prepare(grid.experiments)  # once, not by each job
    return grid.run()


class Grid:
    """The jobs of a command line by name, and the machine that they run on."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.profile = _profile(args.on)
        files = [notebooks.existing(file) for file in args.files]
        tables = [table(file, args.notebook, args.parameter) for file in files]
        self.experiments = list(itertools.chain(*(t.experiments for t in tables)))
        self.folder, *others = {e.folder for e in self.experiments}
        if others:
            raise ConfigError(f"one profile a grid, not {self.folder.name}, {others[0].name}")
        self.where = self.folder / ".grid" / "-".join(t.notebook.stem for t in tables)[:200]
        self.tables = {}
        for t in tables:
            out = notebooks.executed(t.notebook, t.experiments[0])
            self.tables[out.stem] = t
            if warning := notebooks.replaces(out, t.given):
                print(warning)
        first = self.experiments[0]
        self.devices = _devices(args, first)
        if args.on == "local":
            usual = 1 if first.device.startswith("cuda") else cpu_count()
            self.side_by_side = args.jobs or len(self.devices) or usual
            self.threads = first.threads or max(1, cpu_count() // self.side_by_side)
        else:
            settings = yaml.safe_load((self.profile / "config.yaml").read_text())
            self.side_by_side = args.jobs or settings.get("jobs", 1)
            self.threads = first.threads or 4
        parts = jobs(self.experiments, args.split, args.classes)
        self.names = dict(zip(parts, names(parts, args.split, self.tables), strict=True))

    def _file(self, name: str, ending: str) -> Path:
        return self.where / f"{name}.{ending}"

    def dry_run(self) -> None:
        found = [store.progress(e) for e in self.experiments if e.missing == "train"]
        measure = execute.seconds if self.args.on == "local" else lambda run: math.nan
        first = self.experiments[0]
        seconds, by = estimate.known(first, itertools.chain(*found), measure)
        count = max(1, min(self.side_by_side, len(self.names)))
        for t in self.tables.values():
            about = ", ".join(dict.fromkeys(e.dataset_name for e in t.experiments))
            left = estimate.text(t.experiments, seconds, count)
            print(f"{t.notebook.stem} ({about}): {left}")
        if len(self.tables) > 1:
            print("all, each run once:", estimate.text(self.experiments, seconds, count))
        for reason in store.unused_runs(e for e in self.experiments if e.missing == "train"):
            print(reason)
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        text = f"{len(self.names)} jobs, {count} side by side with {threads} each on {self.args.on}"
        print(f"{text}; times by {by}" if by else text)

    def run(self) -> int:
        """Execute what isn't finished, print the tables and what failed; Snakemake's status."""
        self.where.mkdir(parents=True, exist_ok=True)
        with (self.where / "grid.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in store.NO_LOCKS:
                    print(f"error: this grid is running already ({self.where})", file=sys.stderr)
                    return 1
            self._write()
            status = self._snakemake(lock.fileno())
        show.print_all(self.experiments)
        folder = short(self.folder)
        curves = f"the executed notebooks, with the precision-recall curves: {folder}/*.ipynb"
        print(f"{curves}; the runs: {folder}/runs/")
        if status:
            self._print_failed()
        return status

    def _write(self) -> None:
        """Snakemake's config, and a copy of each job's parameters: users may edit theirs meanwhile.

        Hold-outs whose runs are missing, and all tables, run again whatever Snakemake remembers.
        """
        run = [sys.executable, "-m", "semlib", "run", "--checked"]
        run += ["--gpus", ",".join(self.devices)] if self.devices else []
        config: dict[str, Any] = {"run": run, "threads": self.threads, "jobs": {}}
        config |= {"folder": str(self.folder), "gpus": 1 if self.devices else 0}
        # What isn't at its default, and what the notebook's own cell or file would set otherwise
        own = notebooks.own_parameters(HOLDOUT, self.folder.name)
        cell = {*own, *notebooks.parameters_cell(HOLDOUT)}
        holdouts = {}
        for e, name in self.names.items():
            given = e.model_dump(mode="json", exclude_defaults=True)
            holdouts[name] = Job(HOLDOUT, given | e.model_dump(mode="json", include=cell), (e,))
        for name, job in (holdouts | self.tables).items():
            is_table = name in self.tables
            if is_table or store.missing(job.experiments[0]):
                for ending in ("done", "log"):
                    self._file(name, ending).unlink(missing_ok=True)
            self._save(name, job.given | {"threads": self.threads})
            needs = jobs(job.experiments, self.args.split, self.args.classes) if is_table else []
            entry = {"notebook": str(job.notebook), "needs": [self.names[e] for e in needs]}
            config["jobs"][name] = entry
        self._save("config", config)

    def _save(self, name: str, values: dict[str, Any]) -> None:
        text = yaml.safe_dump(values).encode()
        save_atomically(self._file(name, "yaml"), lambda file: file.write(text))

    def _snakemake(self, lock: int) -> int:
        """Run Snakemake, which holds the lock too; its exit status."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile")]
        command += ["--directory", str(self.where), "--profile", str(self.profile), "--nolock"]
        command += ["--configfile", str(self._file("config", "yaml")), "--keep-going"]
        command += ["--rerun-incomplete", "--rerun-triggers", "mtime", "--quiet", "host"]
        if self.args.on == "local":
            command += ["--cores", str(self.side_by_side * self.threads)]
            command += ["--resources", f"gpu={len(self.devices)}"]
        else:
            command += ["--jobs", str(self.side_by_side)]
        resources = [f"notebook:{name}={value}" for name, value in self.args.resource]
        command += ["--set-resources", *resources] if resources else []
        if not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111 - Path.home() can raise
            os.environ.setdefault("XDG_CACHE_HOME", str(self.where / "cache"))
        log = self._file("snakemake", "log")
        text = f"{len(self.names)} jobs, {self.side_by_side} side by side"
        print(f"{text}; what Snakemake says is in {short(log)}", flush=True)
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, pass_fds=[lock])
        parts = {self._file(name, "done"): e for e, name in self.names.items()}
        tables = {self._file(name, "done"): self.folder / f"{name}.ipynb" for name in self.tables}
        try:
            return _watch(process, parts, tables)
        except KeyboardInterrupt as stopped:
            below = psutil.Process(process.pid).children(recursive=True)
            if stopped.args:  # SIGTERM; a terminal's Ctrl-C has reached all of them already
                process.send_signal(signal.SIGINT)  # Snakemake cancels the jobs of a cluster
            for child in below:
                child.terminate()
            process.wait()
            raise

    def _print_failed(self) -> None:
        """Why jobs failed; of the tables, which fail with them, none is named besides."""
        names = [*self.names.values(), *self.tables]
        failed = [name for name in names if not self._file(name, "done").exists()]
        failed = [name for name in failed if name not in self.tables] or failed
        for name in failed[:MOST_SHOWN]:
            log = self._file(name, "log")
            if words := _clusters_words(log):
                with log.open("a") as file:
                    file.write(f"error: {words}\n")
            print(f"failed: {name}: {_cause(log)}")
        logs = f"{len(failed)} failed; each job's log: {short(self.where)}/NAME.log"
        print(f"{logs}; the same command runs only what failed again")


def _watch(
    snakemake: subprocess.Popen, parts: Mapping[Path, Experiment], pages: Mapping[Path, Path]
) -> int:
    """Wait for Snakemake, print a line for each job that ends, and a bar of jobs; its exit status.

    parts, and the tables' notebooks, by the `done` file that each writes at its end.
    """
    running = [done for done in (*parts, *pages) if not done.exists()]
    status = None
    with tqdm(total=len(running), unit="job", disable=None, leave=False) as bar:
        while status is None:
            with suppress(subprocess.TimeoutExpired):
                status = snakemake.wait(timeout=1.0)
            for done in filter(Path.exists, list(running)):
                running.remove(done)
                text = _line(parts[done]) if done in parts else short(pages[done])
                count = f"{bar.total - len(running)} of {bar.total} jobs"
                tqdm.write(f"{text} ({count})", file=sys.stdout)
                sys.stdout.flush()
                bar.update()
    return status


def _line(job: Experiment) -> str:
    """A finished job: data set, held-out classes, each method's mean of the first score, time."""
    records = store.finished(job)
    nothing = job.hold_out == ("none",)
    measure = "accuracy" if nothing else job.scores[0]
    means = tables.measurements(job, records).groupby("method", sort=False)[measure].mean()
    values = ", ".join(f"{mean:.2f} {label(m, job.methods)}" for m, mean in means.items())
    name = " ".join([job.dataset_name, *job.images_a_class])
    hold_out = "nothing" if nothing else ", ".join(job.hold_out)
    seconds = show.duration(sum(record.seconds for record in records))
    return f"{name}, {hold_out} held out: {label(measure, job.scores)} {values}; {seconds}"


def _profile(on: str) -> Path:
    """The folder of a Snakemake profile: local, slurm, or one of the user's."""
    profiles = WORKFLOW / "profiles"
    for folder in (profiles / on, Path(on)):
        if (folder / "config.yaml").is_file():
            return folder.absolute()
    known = ", ".join(sorted(path.name for path in profiles.iterdir()))
    choices = f"{known}, or a folder with Snakemake's config.yaml"
    raise ConfigError(f"--on: no profile {on!r}; choose from {choices}")


def _devices(args: argparse.Namespace, experiment: Experiment) -> list[str]:
    """The GPUs of this machine that the jobs share out."""
    wanted = args.on == "local" and experiment.device in ("auto", "cuda")
    here = gpus.visible() if wanted else []
    wrong = [name for name in args.gpus or () if name not in here]
    if wrong and experiment.device != "cpu":
        choices = ", ".join([*here, "none"])
        raise ConfigError(f"--gpus: {', '.join(wrong)} is not here; choose from {choices}")
    return here if args.gpus is None else args.gpus


def _cause(log: Path) -> str:
    """Why a job failed: the last error in its log, or the last line; and where to read on."""
    if not log.exists():
        own = log.with_name("snakemake.log")
        return f"it was not run: {one_line(['', *_lines(own)][-1])} ({short(own)})"
    lines = ["it ended without a word, as if killed", *_lines(log)]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    notebook = [line for line in lines if line.endswith(".unfinished.ipynb")]
    return f"{one_line((errors or lines)[-1])} ({[short(log), *notebook][-1]})"


def _clusters_words(log: Path) -> str:
    """Why the cluster refused or ended a job, by what Snakemake's log says of it last.

    Nothing of a job that failed by itself: its own log has the reason.
    """
    text = log.with_name("snakemake.log").read_text(errors="replace")
    said = ""
    for error in text.split("\nError in rule ")[1:]:
        message = re.search(r"message: (.*?)\s*(sbatch call|For further|jobid:)", error, re.DOTALL)
        if message and re.search(rf"log: {re.escape(log.name)}[, ]", error):
            said = message[1]
    # None: of a job on this machine
    return "" if said == "None" or "status is: 'FAILED'" in said else one_line(said)


def _lines(log: Path) -> list[str]:
    return [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
