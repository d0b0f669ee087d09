"""`python -m semlib COMMAND`. Papermill and Snakemake do the work; this checks the rest."""

import argparse
import atexit
import gc
import io
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from semlib import datasets
from workbench.batch import gpus, notebooks
from workbench.experiment import MOST, ConfigError, documented, from_yaml
from workbench.files import ROOT, from_here, one_line, resolve, save_atomically, short
from workbench.images import prepared
from workbench.results import show
from workbench.runs import store


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a run or a cell failed, 2 a wrong parameter (nothing was started), 130
    stopped.
    """
    args = _parser().parse_args(arguments)
    try:
        _look_from_here(args)
        return args.command(args)
    except (
        ConfigError,
        datasets.DataError,
        OSError,
        MemoryError,
    ) as error:  # OSError: a folder that can't be written, say
        print(f"error: {one_line(error, 4000) or 'too little memory'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        how = "goes on from the last checkpoint" if args.command in (_run, _grid) else "begins anew"
        print(f"stopped; the same command {how}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m semlib", description=__doc__)
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser(
        "run",
        help="execute a notebook through Papermill; unknown or mistyped parameters are refused",
    )
    run.add_argument("notebook", help="notebooks/table3_cifar10.ipynb")
    run.add_argument("-f", "--file", action="append", default=[], help="a YAML file of parameters")
    run.add_argument(
        "-o", "--out", type=Path, help="the executed notebook (default: in outputs/<profile>/)"
    )
    run.add_argument(
        "--done", type=Path, help="a file to write last, when every run's record is there"
    )
    run.add_argument("--timeout", type=_number, help="seconds that one cell may take")
    run.add_argument(
        "--gpus", type=_devices, help="GPUs to take a free one of, named as in CUDA_VISIBLE_DEVICES"
    )
    run.add_argument(
        "--checked", action="store_true", help=argparse.SUPPRESS
    )  # the grid did, and prepared the data
    run.set_defaults(command=_run)

    grid = commands.add_parser(
        "grid", help="all runs of tables, a job each held-out class side by side, then the tables"
    )
    grid.add_argument("files", nargs="+", metavar="file", help="params/<profile>/<notebook>.yaml")
    grid.add_argument(
        "--notebook", help="the table's notebook (default: the one that the file is named after)"
    )
    grid.add_argument(
        "--jobs",
        type=_number,
        help="jobs side by side (default: one each GPU, else one each CPU core)",
    )
    grid.add_argument(
        "--split",
        choices=("class", "method", "trial"),
        default="class",
        help="what a job is (default: class)",
    )
    grid.add_argument(
        "--classes",
        type=_number,
        default=1,
        help="held-out classes a job: few processes (default: 1)",
    )
    grid.add_argument(
        "--gpus",
        type=_devices,
        help="GPUs to share out, as in CUDA_VISIBLE_DEVICES, or none (default: all)",
    )
    grid.add_argument(
        "--on",
        default="local",
        help="local, slurm, or a folder with a profile of Snakemake's (default: local)",
    )
    pair: dict[str, Any] = {
        "nargs": 2,
        "metavar": ("NAME", "VALUE"),
        "action": "append",
        "default": [],
    }
    grid.add_argument(
        "--resource",
        **pair,
        help="of a job on a cluster: slurm_partition, gpu, runtime (minutes), mem_mb",
    )
    grid.add_argument(
        "--dry-run",
        action="store_true",
        help="only say what is finished and missing, and how long it will take",
    )
    grid.set_defaults(command=_grid)

    outside = commands.add_parser(
        "import", help="scores of a network trained elsewhere, as a record beside semlib's own"
    )
    outside.add_argument(
        "scores", type=Path, help="an .npz of labels, predicted and scores (docs/external.md)"
    )
    outside.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        help="the parameters of the table that it belongs to",
    )
    outside.set_defaults(command=_import)

    score = commands.add_parser(
        "score", help="score a folder of images without labels with a finished run"
    )
    score.add_argument(
        "run", type=Path, help="the folder of a run whose weights are kept, with its record.json"
    )
    score.add_argument(
        "folder", type=Path, help="images in any format that Pillow reads, in folders or not"
    )
    score.add_argument(
        "-o",
        "--out",
        type=Path,
        help="the table, .csv (default: in the run's profile); a contact sheet lies beside it, .png",
    )
    score.set_defaults(command=_score)

    for command in (run, grid, outside, score):
        command.add_argument("-p", "--parameter", **pair, help="one parameter, over the file's")

    data = commands.add_parser(
        "data", help="prepare a data set (download or decode), or check a prepared one"
    )
    data.add_argument("what", choices=("prepare", "check"))
    data.add_argument("dataset", help="a name, or a folder with train/<class>/* and test/<class>/*")
    data.add_argument(
        "--root", help="the folder of prepared data sets (default: $SEMLIB_DATA, else data/)"
    )
    data.add_argument(
        "--side",
        type=partial(_number, least=8, most=10**4),
        help="pixels a side (own images 32, ImageNet 256)",
    )
    data.add_argument("--ilsvrc", help="ImageNet: the ILSVRC2012 folder (default: $SEMLIB_ILSVRC)")
    data.set_defaults(command=_data)

    report = commands.add_parser(
        "report", help="gather a profile's executed notebooks into one static page, report.html"
    )
    report.add_argument("profile", help="a folder in outputs/")
    report.add_argument("--outputs", default="outputs", help="default: outputs")
    report.set_defaults(command=_gather)

    listed = commands.add_parser(
        "parameters", help="list every setting of a run: type, default, meaning"
    )
    listed.set_defaults(command=lambda args: print(documented()) or 0)
    return parser


def _number(text: str, least: int = 1, most: int = MOST) -> int:
    if not (text.isdecimal() and least <= int(text[:10]) <= most):
        raise argparse.ArgumentTypeError(
            f"should be a whole number from {least} to {most}, not {text[:100]!r}"
        )
    return int(text)


def _devices(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(
            f"should be names with commas between them, each once, or none, not {text[:100]!r}"
        )
    return [] if names == ["none"] else names


def _look_from_here(args: argparse.Namespace) -> None:
    """Relative paths of inputs count from the current folder, or from the root if nothing is here;
    say which it was.
    """
    if Path.cwd() == ROOT or args.command not in (_run, _grid, _data):
        return
    if args.command is _data:
        args.root, args.ilsvrc = (
            _from_here("data_root", args.root),
            _from_here("ilsvrc", args.ilsvrc),
        )
        args.dataset = _from_here("dataset", args.dataset, args.root)
        return
    given = dict(args.parameter)
    given |= {name: _from_here(name, given.get(name)) for name in ("data_root", "ilsvrc")}
    given["dataset"] = _from_here("dataset", given.get("dataset"), given["data_root"])
    args.parameter = [(name, given[name]) for name, _ in args.parameter]
    files = args.file if args.command is _run else args.files
    for k, file in enumerate(files):
        files[k] = notebooks.existing(file)
        print(f"file: {one_line(files[k])}", flush=True)


def _from_here(what: str, text: str | None, root: str | None = None) -> str | None:
    if not text or Path(text).is_absolute() or (what == "dataset" and prepared.is_name(text, root)):
        return text
    if text.startswith("["):  # a list of data sets
        with suppress(ValueError):  # which is refused where it is read
            return json.dumps([_from_here(what, str(name), root) for name in from_yaml(text)])
        return text
    path = from_here(text, new=what == "data_root")
    if path != text or resolve(text).exists():
        print(f"{what}: {one_line(resolve(path))}", flush=True)
    return path


def _run(args: argparse.Namespace) -> int:
    import nbformat
    from papermill.exceptions import PapermillExecutionError

    notebook = notebooks.existing(args.notebook)
    parameters, experiments = notebooks.parameters(notebook, args.file, args.parameter)
    if not args.checked:
        notebooks.prepare(experiments)
    experiment = experiments[0]
    out = args.out or notebooks.executed(notebook, experiment)
    if out.suffix != ".ipynb" or out.is_dir():
        raise ConfigError(f"--out: {out} isn't a notebook's name (.ipynb)")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(
        ".unfinished.ipynb"
    )  # until it has ended well the one before stays
    if said := notebooks.replaces(out, parameters):
        print(said)
    print(f"executing {short(notebook)} -> {short(out)}", flush=True)
    with gpus.claim(args.gpus) if args.gpus else nullcontext():
        try:
            executed = notebooks.execute(
                notebook, unfinished, parameters, args.timeout, experiment.threads
            )
        except PapermillExecutionError as error:
            print(
                f"error: {error.ename}: {error.evalue}\nits traceback is in {short(unfinished)}",
                file=sys.stderr,
            )
            return 1
        except Exception as error:  # a dead kernel, a timeout, a full disk
            print(
                f"error: {type(error).__name__}: {error}\nthe notebook so far is {short(unfinished)}",
                file=sys.stderr,
            )
            notebooks.say_why(unfinished, error)
            return 1
    # The records decide: a notebook whose kernel was killed looks completed.
    missing = [run for e in experiments if e.missing == "train" for run in store.missing(e)]
    if missing:
        print(f"error: not finished: {'; '.join(run.title for run in missing)}", file=sys.stderr)
        return 1
    if out.exists() and "missing" in parameters and not any(map(store.finished, experiments)):
        print(
            f"nothing is finished with these settings: {short(out)} stays, this notebook is {short(unfinished)}"
        )
    else:
        save_atomically(out, lambda file: file.write(nbformat.writes(executed).encode()))
        unfinished.unlink(missing_ok=True)
    if args.done:
        save_atomically(args.done, lambda file: None)
    elif "missing" in parameters:
        show.print_all(experiments)
    return 0


def _grid(args: argparse.Namespace) -> int:
    from workbench.batch import grid  # torch is slow to import

    return grid.main(args)


def _import(args: argparse.Namespace) -> int:
    from workbench.runs import external  # torch is slow to import

    record = external.add(args.scores, notebooks.merged(args.file, args.parameter))
    measured = ", ".join(
        f"{name} {100 * value:.2f} %" for name, value in record.metrics.items() if "@" not in name
    )
    print(f"{short(record.home)}: {measured}")
    print(f'shown in the inspector, and in tables with -p methods "[..., {record.method}]"')
    return 0


def _score(args: argparse.Namespace) -> int:
    from workbench.results import plots
    from workbench.runs import new_images  # torch is slow to import

    if args.out and (args.out.suffix != ".csv" or args.out.is_dir()):
        raise ConfigError(f"--out: {args.out} isn't a table's name (.csv)")
    record, table, images = new_images.score(
        args.run, args.folder, notebooks.merged([], args.parameter)
    )
    out = args.out or new_images.usual_place(record, args.folder)
    figure, text = plots.most_anomalous(table, images), table.to_csv(index=False)
    save_atomically(out.with_suffix(".png"), lambda file: figure.savefig(file, format="png"))
    save_atomically(
        out, lambda file: file.write(text.encode(errors="surrogateescape"))
    )  # a file's name can be any bytes
    how, shown = (
        f"{dict(args.parameter).get('statistics', 'mixed')} statistics",
        short(out.with_suffix(".png")),
    )
    print(
        f"{len(table)} images, {how}: {short(out)}, and the most anomalous by {table.columns[2]}: {shown}"
    )
    return 0


def _data(args: argparse.Namespace) -> int:
    if args.what == "check" and (why := prepared.unprepared(args.dataset, args.root, args.side)):
        at = f" --side {args.side}" * bool(args.side)
        raise ConfigError(
            f"{args.dataset} {why}; prepare it: python -m semlib data prepare {args.dataset}{at}"
        )
    data = prepared.load(args.dataset, args.root, args.side, ilsvrc=args.ilsvrc)
    if args.what == "check":
        prepared.check_parts(data)
    shape = "x".join(map(str, data.train.images.shape[1:]))
    print(f"{data.name}: {len(data.train)} training and {len(data.test)} test images of {shape}")
    print(f"digest {prepared.digests_of(data)} (training images, test images)")
    print(f"{len(data.classes)} classes: {', '.join(data.classes)}")
    height, width = data.train.images.shape[2:]
    if height != width:
        print(f"the images are not square: rotation needs crop_side, at most {min(height, width)}")
    if len(data.classes) < 3:
        print("holding a class out needs at least 3 classes")
    return 0


def _gather(args: argparse.Namespace) -> int:
    from workbench.results import report  # nbconvert is slow to import

    print(short(report.write(resolve(args.outputs), args.profile)))
    return 0


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt("SIGTERM")  # kernels and jobs are stopped too


def start() -> None:
    """What `python -m semlib` runs."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # of an ASCII terminal: no traceback for a ±
    signal.signal(signal.SIGTERM, _terminate)
    atexit.register(
        gc.freeze
    )  # PyTorch's objects are not looked through at the end, which takes a second
    sys.exit(main())
