"""A notebook's parameters from the command line, the experiments that they describe, and the
notebook's execution.
"""

import ast
import json
import logging
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from workbench import runs
from workbench.experiment import (
    ConfigError,
    Experiment,
    Machine,
    Several,
    from_yaml,
    read_parameters,
    several,
    unknown,
)
from workbench.files import (
    CHECKOUT,
    ROOT,
    check_writable,
    one_line,
    resolve,
    save_atomically,
    short,
)
from workbench.runs import machine, plan

NO_CHECKOUT = (
    "semlib is installed as a package: clone its repository and install that with pip install -e"
)
SLOW_START = 600  # seconds that a kernel may take to start: imports over a network file system, a busy machine
LONGEST_FOLDER = 75  # characters, of sockets: the name of one is at most 107 long, on macOS 103
# ipykernel_launcher without the settings and start-up files of /etc/ipython, /usr/local/etc/ipython
# and this environment's. Frozen, PyTorch's million objects are not looked through at the end, which
# takes seconds.
KERNEL = (
    "import atexit, gc, sys; atexit.register(gc.freeze); sys.path[:] = filter(None, sys.path); "
    "from IPython.core import application as a; a.SYSTEM_CONFIG_DIRS.clear(); a.ENV_CONFIG_DIRS.clear(); "
    "from ipykernel import kernelapp; kernelapp.launch_new_instance()"
)

# Papermill checks notebooks by jsonschema, which would take a second to import its grammar of IRIs;
# notebooks have none.
sys.modules.setdefault("rfc3987_syntax", None)  # ty: ignore[no-matching-overload]  # an ImportError, which it expects


def parameters(
    notebook: Path, files: Sequence[str | Path], pairs: Sequence[Sequence[str]]
) -> tuple[dict[str, Any], tuple[Experiment, ...]]:
    """The parameters to pass to the notebook, and the experiments that it will make of them;
    ConfigError names the choices.
    """
    import papermill

    if notebook.suffix != ".ipynb":
        raise ConfigError(f"{notebook} is not a notebook (.ipynb)")
    try:
        inferred = papermill.inspect_notebook(literal(notebook))
    except Exception as error:  # what isn't JSON, or isn't a notebook's: nbformat raises many kinds
        raise ConfigError(f"{notebook} can't be read as a notebook ({one_line(error)})") from None
    if not inferred:
        raise ConfigError(
            f"{notebook}: no cell is tagged parameters; tag the one that sets them, or take the notebook anew"
        )
    given = merged(files, pairs)
    if isinstance(
        given.get("labels"), dict
    ):  # Papermill sorts a dictionary's keys, and can't sort 500 and all
        given["labels"] = {str(key): value for key, value in given["labels"].items()}
    for name in given:
        if name not in inferred and name not in Experiment.model_fields:
            raise ConfigError(unknown(name, tuple(inferred)))
    known = {*Experiment.model_fields, *Several.model_fields}
    try:
        defaults = {
            name: ast.literal_eval(p["default"]) for name, p in inferred.items() if name in known
        }
    except (ValueError, SyntaxError) as error:
        raise ConfigError(
            f"{notebook}: its parameters should be plain values ({one_line(error)})"
        ) from None
    return given, several(
        defaults | {name: value for name, value in given.items() if name in known}
    )


def merged(files: Sequence[str | Path], pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The parameters of the files and, over them, of a command line, not yet checked."""
    given: dict[str, Any] = {}
    for file in files:
        given |= read_parameters(existing(file))
    return given | {name: _value(name, text) for name, text in pairs}


def _value(name: str, text: str) -> Any:
    """A command line's text as YAML has it, but for text fields: -p hold_out 7 is the class 7, -p
    hold_out [a, b] two.
    """
    default = Experiment.model_fields[name].default if name in Experiment.model_fields else None
    default = () if name == "settings" else default
    if isinstance(default, str | tuple) and not text.startswith("["):
        return text
    try:
        return from_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {text[:100]!r} isn't a value ({error})") from None


def existing(path: str | Path) -> Path:
    """The file, from this folder or else from the checkout's root; ConfigError if there is none."""
    for candidate in (Path(path).absolute(), resolve(path)):
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"{path}: no such file" + f"; {NO_CHECKOUT}, or name one of your own" * (not CHECKOUT)
    )


def executed(notebook: Path, experiment: Experiment) -> Path:
    """Where the executed notebook goes; one that is not about one data set, or number of labels, is
    named after none.
    """
    import papermill

    inferred = papermill.inspect_notebook(literal(notebook))
    dataset = inferred.get("dataset")
    about_one = dataset and not dataset["default"].startswith("[")
    experiment = (
        experiment.model_copy(update={"train_per_class": None})
        if "labels" in inferred
        else experiment
    )
    return (
        experiment.output(notebook.stem, ".ipynb")
        if about_one
        else experiment.folder / notebook.name
    )


def replaces(out: Path, parameters: dict[str, Any]) -> str | None:
    """A sentence if an executed notebook with other parameters lies where this one will."""
    try:
        before = json.loads(out.read_text())["metadata"]["papermill"]["parameters"]
        now = json.loads(json.dumps(parameters))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    names = [
        name
        for name in {**before, **now}
        if before.get(name) != now.get(name) and name not in Machine.model_fields
    ]
    changes = (
        f"{name} {before.get(name, 'as by default')}, now {now.get(name, 'as by default')}"
        for name in names
    )
    said = f"this replaces {short(out)} and its tables, made with other parameters (its runs stay): {'; '.join(changes)}"
    return said if names else None


def literal(path: str | Path) -> str:
    """A path as Papermill takes it, which would put parameters into braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def execute(
    notebook: Path, out: Path, parameters: dict[str, Any], timeout: int | None, threads: int | None
) -> Any:
    """Execute the notebook through Papermill, in a kernel of this interpreter; its node. Paths in
    it are from the root.
    """
    import papermill
    from traitlets.config import Config

    # No warnings of parameters that the cell leaves at their default, no errors: it raises those
    # too, but for that of a kernel which it has stopped itself and finds dead.
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    paths = [
        literal(short(path)) for path in (notebook, out)
    ]  # of this folder, before it is the root
    with _kernels(threads) as folder:
        # ipc: kernels side by side can't take each other's ports
        kernel = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        how: dict[str, Any] = {
            "progress_bar": False,
            "log_output": True,
            "execution_timeout": timeout,
            "config": kernel,
        }
        how |= {"kernel_name": "python3", "start_timeout": SLOW_START}
        return papermill.execute_notebook(*paths, parameters, **how)


def say_why(out: Path, error: Exception) -> None:
    """Add what no cell says to the last cell that a notebook began: its kernel died, or took too
    long.
    """
    import nbformat

    with suppress(Exception):  # there is no notebook yet, or no room on the disk: it was printed
        notebook = nbformat.read(out, 4)
        begun = [
            c for c in notebook.cells if c.cell_type == "code" and c.metadata.papermill.start_time
        ]
        said = {
            "ename": type(error).__name__,
            "evalue": str(error),
            "traceback": [f"{type(error).__name__}: {error}"],
        }
        begun[-1].outputs.append(nbformat.v4.new_output("error", **said))
        save_atomically(out, lambda file: file.write(nbformat.writes(notebook).encode()))


@contextmanager
def _kernels(threads: int | None) -> Generator[str, None, None]:
    """A folder for kernels' sockets, and the environment in which kernels are alike on every
    machine, at the root.

    This interpreter, whatever kernelspecs there are; an empty IPython profile, and no start-up
    files of the machine's; figures in the notebook.
    """
    base = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(
        prefix="semlib-", dir=base if len(base) <= LONGEST_FOLDER else "/tmp"
    ) as folder:
        spec = Path(folder, "kernels", "python3", "kernel.json")
        spec.parent.mkdir(parents=True)
        # log level CRITICAL: a kernel that is stopped in a cell logs that its sockets are closed,
        # with a traceback
        argv = [sys.executable, "-c", KERNEL, "-f", "{connection_file}", "--log-level=50"]
        spec.write_text(
            json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})
        )
        changes = {
            "JUPYTER_PATH": os.pathsep.join(filter(None, (folder, os.environ.get("JUPYTER_PATH"))))
        }
        changes |= {"IPYTHONDIR": f"{folder}/ipython", "JUPYTER_RUNTIME_DIR": f"{folder}/runtime"}
        changes |= {
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        if not threads and machine.quota() and "OMP_NUM_THREADS" not in os.environ:
            threads = machine.cores()  # PyTorch counts the host's
        if threads:
            changes |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        before = {name: os.environ.pop(name, None) for name in (*changes, "PYTHONSTARTUP")}
        os.environ.update(changes)
        try:
            with chdir(ROOT):
                yield folder
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                os.environ.update({name: value} if value is not None else {})


def prepare(experiments: Sequence[Experiment]) -> None:
    """Check everything before a job starts, and prepare the data; ConfigError or DataError, one
    line, for what can't run.
    """
    check(experiments)
    same = defaultdict(list)  # experiments on the same data
    for e in experiments:
        if e.missing == "train":
            same[e.dataset, e.data_root, e.image_side, e.fold, e.evaluate_on].append(e)
    for those in same.values():
        data = runs.load(those[0])
        for experiment in those:
            runs.check_data(experiment, data)
    for folder in {e.folder for e in experiments}:
        try:
            check_writable(folder)
        except OSError as error:
            raise ConfigError(
                f"outputs: {folder} can't be written to ({error.strerror}); choose another folder"
            ) from None


def check(experiments: Sequence[Experiment]) -> None:
    """ConfigError, one line, for what can't be run; nothing is written but a folder's prepared
    images.
    """
    for experiment in experiments:
        plan.held_out(experiment)  # torch is slow to import: most wrong parameters are found before
    for experiment in experiments:
        runs.check(experiment)
