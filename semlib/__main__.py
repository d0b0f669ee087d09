"""The command line: `python -m semlib run|grid|data|report`. Papermill and Snakemake do the work; this checks the rest."""

import argparse
import ast
import fcntl
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from semlib import config, datasets, store, tables
from semlib.config import ConfigError, Experiment
from semlib.files import ROOT, resolve, save_atomically

SNAKEFILE = ROOT / "workflow" / "Snakefile"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a run or a cell failed, 2 a wrong parameter (nothing was started)."""
    args = _parser().parse_args(arguments)
    try:
        return args.command(args)
    except (ConfigError, datasets.DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m semlib", description=__doc__)
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help="execute a notebook through Papermill; unknown or mistyped parameters are refused")
    run.add_argument("notebook", help="notebooks/table3_cifar10.ipynb")
    run.add_argument("-f", "--file", action="append", default=[], help="a YAML file of parameters")
    run.add_argument("-o", "--out", type=Path, help="the executed notebook (default: in outputs/<profile>/)")
    run.add_argument("--done", type=Path, help="a file to write last, when every run's record is there")
    run.add_argument("--timeout", type=int, help="seconds that one cell may take")
    run.set_defaults(command=_run)

    grid = commands.add_parser("grid", help="a table's runs, a notebook for each held-out class side by side, then the table")
    grid.add_argument("file", help="params/<profile>/<notebook>.yaml")
    grid.add_argument("--notebook", help="the table's notebook (default: the one that the file is named after)")
    grid.add_argument("--jobs", type=int, help="held-out classes side by side (default: 1 on a GPU, else the CPU cores)")
    grid.set_defaults(command=_grid)

    for command in (run, grid):
        pair = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
        command.add_argument("-p", "--parameter", **pair, help="one parameter, over the file's")

    data = commands.add_parser("data", help="prepare a data set (download or decode), or check a prepared one")
    data.add_argument("what", choices=("prepare", "check"))
    data.add_argument("dataset", help="a name, or a folder with train/<class>/* and test/<class>/*")
    data.add_argument("--root", help="the folder of prepared data sets (default: $SEMLIB_DATA, else data/)")
    data.add_argument("--side", type=int, help="own images and ImageNet: pixels a side")
    data.add_argument("--ilsvrc", help="ImageNet: the ILSVRC2012 folder (default: $SEMLIB_ILSVRC)")
    data.set_defaults(command=_data)

    report = commands.add_parser("report", help="gather a profile's executed notebooks into one static page, report.html")
    report.add_argument("profile", help="a folder in outputs/")
    report.add_argument("--outputs", default="outputs", help="default: outputs")
    report.set_defaults(command=_gather)
    return parser


def _run(args: argparse.Namespace) -> int:
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    notebook = _existing(args.notebook)
    parameters, experiments = _parameters(notebook, args.file, args.parameter)
    _prepare(experiments)
    experiment = experiments[0]
    out = args.out or _executed(notebook, experiment)
    out.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    if experiment.threads:
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(experiment.threads)))
    print(f"executing {_short(notebook)} -> {_short(out)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="semlib-") as sockets, _at_root():
        # ipc: kernels side by side can't take each other's ports; a short path: a socket's name is at most 107 long
        kernel = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        how = {"progress_bar": False, "log_output": True, "execution_timeout": args.timeout, "config": kernel}
        try:
            papermill.execute_notebook(_short(notebook), _short(out), parameters, **how)
        except PapermillExecutionError as error:
            print(f"error: {error.ename}: {error.evalue}\nits traceback is in {_short(out)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
            return 130
        except Exception as error:  # a dead kernel, a timeout, a full disk
            print(f"error: {type(error).__name__}: {error}\nthe notebook so far is {_short(out)}", file=sys.stderr)
            return 1
    # The records decide: a notebook whose kernel was killed looks completed.
    missing = [run for e in experiments if e.missing == "train" for run in store.missing(e)]
    if missing:
        print(f"error: not finished: {'; '.join(run.title for run in missing)}", file=sys.stderr)
        return 1
    if args.done:
        save_atomically(args.done, lambda file: None)
    elif "missing" in parameters:
        _print_tables(experiments)
    return 0


def _prepare(experiments: Sequence[Experiment]) -> None:
    """Before anything starts: ConfigError or DataError, one line, for what can't be run; data to train on are prepared."""
    for experiment in experiments:
        store.held_out(experiment)
    from semlib import runs  # slow to import: most wrong parameters are found before

    for experiment in experiments:
        runs.check(experiment)
    data = {(e.dataset, e.data_root, e.image_side, e.fold, e.evaluate_on): e for e in experiments if e.missing == "train"}
    for experiment in data.values():
        runs.load(experiment)


def _parameters(
    notebook: Path, files: Sequence[str], pairs: Sequence[Sequence[str]]
) -> tuple[dict[str, Any], tuple[Experiment, ...]]:
    """What to pass to the notebook, and the experiments that it will make of it; ConfigError names the choices."""
    import papermill

    if notebook.suffix != ".ipynb":
        raise ConfigError(f"{notebook} is not a notebook (.ipynb)")
    inferred = papermill.inspect_notebook(str(notebook))
    given: dict[str, Any] = {}
    for file in files:
        given |= config.read_parameters(_existing(file))
    given |= {name: _value(name, text) for name, text in pairs}
    for name in given:
        if name not in inferred and name not in Experiment.model_fields:
            raise ConfigError(config.unknown(name, tuple(inferred)))
    known = {*Experiment.model_fields, *config.Several.model_fields}
    defaults = {name: ast.literal_eval(p["default"]) for name, p in inferred.items() if name in known}
    return given, config.several(defaults | {name: value for name, value in given.items() if name in known})


def _value(name: str, text: str) -> Any:
    """A command line's text as YAML has it, but for text fields: -p hold_out 7 is the class 7, -p hold_out [a, b] two."""
    default = Experiment.model_fields[name].default if name in Experiment.model_fields else None
    default = () if name == "settings" else default
    if isinstance(default, str | tuple) and not text.startswith("["):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{name}: {text!r} isn't a value") from None


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _grid(args: argparse.Namespace) -> int:
    import papermill
    import torch

    file = _existing(args.file)
    notebook, one = (ROOT / "notebooks" / f"{name}.ipynb" for name in (args.notebook or file.stem, "holdout"))
    if not notebook.is_file():
        names = ", ".join(sorted(path.stem for path in notebook.parent.glob("*.ipynb")))
        raise ConfigError(f"{file.name}: named after no notebook; choose --notebook from {names}")
    _, experiments = _parameters(notebook, [str(file)], args.parameter)
    _prepare(experiments)  # once, not by each job
    experiment = experiments[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = args.jobs or (1 if torch.cuda.is_available() else cores)  # side by side on one GPU they would only share it
    threads = experiment.threads or max(1, cores // jobs)
    table = _executed(notebook, experiment)
    where = experiment.folder / ".grid" / notebook.stem
    where.mkdir(parents=True, exist_ok=True)
    jobs_of = _jobs(experiments)
    settings = {
        "run": [sys.executable, "-m", "semlib", "run"],
        "parameters": [
            "-f",
            str(file),
            *(word for pair in args.parameter for word in ("-p", *pair)),
            "-p",
            "threads",
            str(threads),
        ],
        "notebooks": {"table": str(notebook), "holdout": str(one)},
        "outputs": {"table": str(table), "holdout": str(experiment.folder / "holdout")},
        "jobs": list(jobs_of),
        "threads": threads,
    }
    try:
        with (where / "grid.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # Snakemake holds it too: freed when both are gone
            # Only what isn't finished runs again, whatever Snakemake remembers; the table always does.
            cell = papermill.inspect_notebook(str(one))
            for slug, job in jobs_of.items():
                if store.missing(job):
                    (where / "holdout" / f"{slug}.done").unlink(missing_ok=True)
                text = yaml.safe_dump(_explicit(job.model_copy(update={"threads": threads}), cell)).encode()
                save_atomically(where / "holdout" / f"{slug}.yaml", lambda f, text=text: f.write(text))
            (where / "table.done").unlink(missing_ok=True)
            save_atomically(where / "config.json", lambda f: f.write(json.dumps(settings, indent=1).encode()))
            snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(where)]
            snakemake += ["--cores", str(jobs * threads), "--configfile", str(where / "config.json")]
            subprocess.run([*snakemake, "--unlock", "--quiet"], capture_output=True)  # a killed grid's: we hold the lock
            how = ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime", "--quiet", "rules", "host"]
            status = subprocess.run([*snakemake, *how], pass_fds=[lock.fileno()]).returncode
    except BlockingIOError:
        print(f"error: this grid is running already ({_short(where)})", file=sys.stderr)
        return 1
    _print_tables(experiments)
    failed = [slug for slug in jobs_of if not (where / "holdout" / f"{slug}.done").exists()]
    if failed:
        print(f"failed, the traceback in its notebook: {', '.join(failed)}; the same command runs only these again")
    elif status:
        print(f"the table's notebook failed: {_short(table)}")
    folder = _short(experiment.folder)
    print(f"the executed notebooks, with the precision-recall curves: {folder}/*.ipynb; the runs: {folder}/runs/")
    return status


def _executed(notebook: Path, experiment: Experiment) -> Path:
    """Where the executed notebook goes; one that is not about one data set is named after none."""
    import papermill

    dataset = papermill.inspect_notebook(str(notebook)).get("dataset")
    about_one = dataset and not dataset["default"].startswith("[")
    return experiment.output(notebook.stem, ".ipynb") if about_one else experiment.folder / notebook.name


def _jobs(experiments: Sequence[Experiment]) -> dict[str, Experiment]:
    """One held-out class each, by the name of its notebook: holdout-<name>.ipynb."""
    parts = [e.model_copy(update={"hold_out": (name or "none",)}) for e in experiments for name in store.held_out(e)]
    names = [_slug(f"{part.dataset_name}-{part.hold_out[0]}") for part in parts]
    unique = [name if names.count(name) == 1 else f"{name}-{k}" for k, name in enumerate(names)]
    return dict(zip(unique, parts, strict=True))


def _explicit(experiment: Experiment, cell: Iterable[str]) -> dict[str, Any]:
    """The parameters by which a notebook with this parameters cell makes exactly this experiment."""
    usual = Experiment().model_dump(mode="json")
    return {k: v for k, v in experiment.model_dump(mode="json").items() if k in cell or v != usual[k]}


def _print_tables(experiments: Sequence[Experiment]) -> None:
    for experiment in experiments:
        records = store.finished(experiment)
        print(f"\n{tables.title(experiment)}: average precision and accuracy, %")
        print(tables.as_text(tables.by_class(experiment, records)))
        print(*tables.remarks(experiment, records), sep="\n")


def _data(args: argparse.Namespace) -> int:
    if args.what == "check" and not datasets.prepared(args.dataset, args.root, args.side):
        raise ConfigError(f"{args.dataset} isn't prepared in {datasets.data_root(args.root)}; see: data prepare")
    data = datasets.load(args.dataset, args.root, args.side, ilsvrc=args.ilsvrc)
    shape = "x".join(map(str, data.train.images.shape[1:]))
    print(f"{data.name}: {len(data.train)} training and {len(data.test)} test images of {shape}")
    print(f"digest {datasets.digest(data)}")
    print(f"{len(data.classes)} classes: {', '.join(data.classes)}")
    return 0


def _gather(args: argparse.Namespace) -> int:
    from semlib import report  # nbconvert is slow to import

    print(_short(report.write(resolve(args.outputs), args.profile)))
    return 0


def _existing(path: str | Path) -> Path:
    """The file, from this folder or else from the checkout's root."""
    for candidate in (Path(path).absolute(), resolve(path)):
        if candidate.is_file():
            return candidate
    raise ConfigError(f"{path}: no such file")


def _short(path: Path) -> str:
    """A path as seen from the checkout's root: executed notebooks keep it, and should name no machine's folders."""
    path = path.absolute()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


@contextmanager
def _at_root():
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    sys.exit(main())
