"""`python -m semlib COMMAND`. Papermill and Snakemake do the work; this checks the rest."""

import argparse
import atexit
import gc
import io
import itertools
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from semlib import datasets
from workbench.experiment import MOST, ConfigError, documented, from_here
from workbench.files import one_line, save_atomically, short

# Each command imports what it needs: pandas and torch are slow to import.


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 a run failed, 2 a wrong parameter (nothing was run), 130 stopped."""
    args = _parser().parse_args(arguments)
    try:
        return args.command(args) or 0
    except (ConfigError, datasets.DataError, OSError, MemoryError) as error:
        print(f"error: {one_line(error, 4000) or 'too little memory'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumed = args.command in (_run, _grid)
        how = "goes on from the last checkpoint" if resumed else "begins anew"
        print(f"stopped; the same command {how}", file=sys.stderr)
        return 130


PAIR = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
PARAMETER = PAIR | {"help": "one parameter, over the file's"}
FILE = {"action": "append", "default": [], "help": "a YAML file of parameters"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m semlib", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, function: Callable, about: str) -> Callable:
        added = commands.add_parser(name, help=about)
        added.set_defaults(command=function)
        return added.add_argument

    _add_run(command("run", _run, "execute a notebook; wrong parameters are refused"))
    _add_grid(command("grid", _grid, "all runs of tables, a job each held-out class, and tables"))
    _add_data(command("data", _data, "prepare a data set, or check a prepared one"))

    add = command("import", _import, "scores of a network that was trained elsewhere, as a record")
    add("scores", type=Path, nargs="+", help="an .npz each of labels, predicted and scores")
    add("-f", "--file", **FILE)
    add("-p", "--parameter", **PARAMETER)

    add = command("score", _score, "score a folder of images without labels with a finished run")
    add("run", type=Path, help="a run's folder, with its record.json and weights.pt")
    add("folder", type=Path, help="an image that Pillow reads, or a folder of them")
    add("-o", "--out", type=Path, help="the table, .csv; the contact sheet beside it is a .png")
    add("-p", "--parameter", **PARAMETER)

    about = "list every parameter: type, default, meaning"
    command("parameters", lambda _: print(documented()), about)
    cite = Path(__file__).with_name("citation.bib")
    command("cite", lambda _: print(cite.read_text(), end=""), "BibTeX of the paper and of semlib")
    return parser


def _add_run(add: Callable) -> None:
    add("notebook", help="notebooks/table3_cifar10.ipynb")
    add("-f", "--file", **FILE)
    add("-p", "--parameter", **PARAMETER)
    add("-o", "--out", type=Path, help="the executed notebook (default: in outputs/<profile>/)")
    add("--done", type=Path, help="a file to write last, when every run's record is there")
    add("--timeout", type=_count, help="seconds that one cell may take")
    add("--gpus", type=_devices, help="take a free one of these GPUs, as in CUDA_VISIBLE_DEVICES")
    add("--checked", action="store_true", help=argparse.SUPPRESS)  # the grid did, with the data


def _add_grid(add: Callable) -> None:
    add("files", nargs="+", metavar="file", help="params/<profile>/<notebook>.yaml")
    add("-p", "--parameter", **PARAMETER)
    add("--notebook", help="the table's notebook (default: the one that the file is named after)")
    add("--jobs", type=_count, help="jobs side by side (default: one a GPU, else one a CPU core)")
    kinds = ("class", "method", "trial")
    add("--split", choices=kinds, default="class", help="what a job is (default: class)")
    add("--classes", type=_count, default=1, help="held-out classes a job (default: 1)")
    add("--gpus", type=_devices, help="GPUs to share out, or none (default: all)")
    add("--on", default="local", help="local, slurm, or a folder with a Snakemake profile")
    add("--resource", **PAIR, help="a cluster job's: slurm_partition, gpu, runtime, mem_mb")
    add("--dry-run", action="store_true", help="only say what is missing and how long it takes")


def _add_data(add: Callable) -> None:
    side = partial(_count, least=8, most=10**4)
    add("what", choices=("prepare", "check"))
    add("dataset", help="a name, or a folder with train/<class>/* and test/<class>/*")
    add("--root", help="the folder of prepared data sets (default: $SEMLIB_DATA, else data/)")
    add("--skip-unreadable", action="store_true", help="leave out images that can't be read")
    add("--side", type=side, help="pixels a side (default: own images 32, ImageNet 256)")
    add("--ilsvrc", help="ImageNet: the ILSVRC2012 folder (default: $SEMLIB_ILSVRC)")


def _count(text: str, least: int = 1, most: int = MOST) -> int:
    if not (text.isdecimal() and least <= int(text[:10]) <= most):
        wanted = f"a whole number from {least} to {most}"
        raise argparse.ArgumentTypeError(f"should be {wanted}, not {text[:100]!r}")
    return int(text)


def _devices(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        wanted = "names with commas between them, each once, or none"
        raise argparse.ArgumentTypeError(f"should be {wanted}, not {text[:100]!r}")
    return [] if names == ["none"] else names


def _run(args: argparse.Namespace) -> int:
    from workbench.batch import notebooks
    from workbench.results import show
    from workbench.runs import store

    notebook = notebooks.existing(args.notebook)
    parameters, experiments = notebooks.parameters(notebook, args.file, args.parameter)
    notebooks.check_profile(notebook, experiments)
    out = args.out or notebooks.executed(notebook, experiments[0])
    if out.suffix != ".ipynb" or out.is_dir():
        raise ConfigError(f"--out: {out} isn't a notebook's name (.ipynb)")
    if not args.checked:
        notebooks.prepare(experiments, out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".unfinished.ipynb")  # the last one stays until this has ended
    if said := notebooks.replaces(out, parameters):
        print(said)
    print(f"executing {short(notebook)} -> {short(out)}", flush=True)
    if not _executed(notebook, unfinished, parameters, experiments[0].threads, args):
        return 1
    # The records decide: a notebook whose kernel was killed looks completed.
    missing = [store.missing(e) for e in experiments if e.missing == "train"]
    if titles := [run.title for run in itertools.chain(*missing)]:
        print(f"error: not finished: {'; '.join(titles)}", file=sys.stderr)
        return 1
    if out.exists() and "missing" in parameters and not any(map(store.finished, experiments)):
        kept = f"{short(out)} stays, this notebook is {short(unfinished)}"
        print(f"nothing is finished with these settings: {kept}")
    else:
        unfinished.replace(out)
    if args.done:
        save_atomically(args.done, lambda file: None)
    elif "missing" in parameters:
        show.print_all(experiments)
    return 0


def _executed(
    notebook: Path, out: Path, parameters: dict, threads: int | None, args: argparse.Namespace
) -> bool:
    """Whether all cells ended; else the error is printed."""
    from papermill.exceptions import PapermillExecutionError

    from workbench.batch import gpus, notebooks

    with gpus.claim(args.gpus) if args.gpus else nullcontext():
        try:
            notebooks.execute(notebook, out, parameters, args.timeout, threads)
            return True
        except PapermillExecutionError as error:
            where = f"its traceback is in {short(out)}"
            print(f"error: {error.ename}: {error.evalue}\n{where}", file=sys.stderr)
        except Exception as error:  # a dead kernel, a timeout, a full disk
            where = f"the notebook so far is {short(out)}"
            print(f"error: {type(error).__name__}: {error}\n{where}", file=sys.stderr)
    return False


def _grid(args: argparse.Namespace) -> int:
    from workbench.batch import grid

    return grid.main(args)


def _import(args: argparse.Namespace) -> int:
    from workbench.batch import notebooks
    from workbench.results import show
    from workbench.runs import external

    given = notebooks.merged(args.file, args.parameter)
    if "profile" not in given:
        do = "name the table with -f params/<profile>/<notebook>.yaml, or -p profile NAME"
        raise ConfigError(f"profile: beside whose runs do the scores belong? {do}")
    methods = []
    for file in args.scores:
        try:
            record = external.add(file, given)
        except (ConfigError, datasets.DataError) as error:  # the other files all the same
            print(f"error: {one_line(error, 4000)}", file=sys.stderr)
            continue
        plain = {name: value for name, value in record.metrics.items() if "@" not in name}
        measured = ", ".join(f"{name} {100 * value:.2f} %" for name, value in plain.items())
        print(f"{short(record.home)}: {measured}")
        experiment = record.run.experiment.model_copy(update={"scores": tuple(record.scoring)})
        for said in show.doubts(experiment, [record]):
            print(said)
        methods.append(record.method)
    if named := ", ".join(dict.fromkeys(methods)):
        print(f'shown in the inspector, and in tables with -p methods "[..., {named}]"')
    return 0 if len(methods) == len(args.scores) else 2


def _score(args: argparse.Namespace) -> None:
    from workbench.batch import notebooks
    from workbench.results import plots, tables
    from workbench.runs import new_images

    if args.out and (args.out.suffix != ".csv" or args.out.is_dir()):
        raise ConfigError(f"--out: {args.out} isn't a table's name (.csv)")
    given = notebooks.merged([], args.parameter)
    record, table, images = new_images.score(args.run, args.folder, given)
    out = args.out or new_images.usual_place(record, args.folder)
    sheet = out.with_suffix(".png")
    figure = plots.most_anomalous(table, images)
    save_atomically(sheet, lambda file: figure.savefig(file, format="png"))
    text = tables.csv_text(table, index=False).encode(errors="surrogateescape")  # any bytes
    save_atomically(out, lambda file: file.write(text))
    if len(table) > len(images):
        print(f"{len(table) - len(images)} of {len(table)} files can't be read: column error")
    used = given.get("statistics", record.statistics)
    print(f"{len(images)} images, {used} statistics: {short(out)}")
    print(f"the most anomalous by {table.columns[2]}: {short(sheet)}")


def _data(args: argparse.Namespace) -> None:
    from workbench.images import checks, prepared

    which = (from_here("dataset", args.dataset), from_here("data_root", args.root), args.side)
    checked = args.what == "check"
    if checked and (why := prepared.unprepared(*which)):
        side = f" --side {args.side}" if args.side else ""
        command = f"python -m semlib data prepare {which[0]}{side}"
        raise ConfigError(f"{which[0]} {why}; prepare it: {command}")
    how = {"ilsvrc": from_here("ilsvrc", args.ilsvrc), "skip_unreadable": args.skip_unreadable}
    data = prepared.load(*which, **how)
    if checked:
        checks.check_parts(data)
    _, channels, height, width = data.train.images.shape
    counts = f"{len(data.train)} training and {len(data.test)} test images"
    print(f"{data.name}: {counts} of {channels}x{height}x{width}")
    print(f"digest {prepared.digests_of(data)} (training images, test images)")
    print(f"{len(data.classes)} classes: {', '.join(data.classes)}")
    if found := str(prepared.duplicates(*which)):
        print(found)


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt("SIGTERM")  # so that kernels and jobs are stopped too


def start() -> None:
    """What `python -m semlib` runs."""
    try:
        import fcntl  # noqa: F401 - file locks, without which runs would overwrite each other
    except ImportError:
        sys.exit("error: semlib needs Linux or macOS (on Windows its subsystem for Linux)")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an ASCII terminal has no ±
    signal.signal(signal.SIGTERM, _terminate)
    atexit.register(gc.freeze)  # a last collection of PyTorch's objects would take a second
    sys.exit(main())
