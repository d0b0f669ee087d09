"""A notebook's parameters, the experiments that they describe, and its execution by Papermill."""

import ast
import itertools
import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from joblib import cpu_count

from workbench import runs
from workbench.experiment import (
    ConfigError,
    Experiment,
    Machine,
    Several,
    from_here,
    from_yaml,
    nullable,
    parameters_file,
    read_parameters,
    several,
    unknown_parameter,
    with_file,
)
from workbench.files import RESULTS, ROOT, check_writable, one_line, short
from workbench.runs import plan

START_TIMEOUT = 600  # seconds that a kernel may take to start, on a slow file system say
# ipykernel_launcher without the settings and start-up files of /etc/ipython, /usr/local/etc/ipython
# and this environment's, and without the current folder in sys.path. gc.freeze: at the end Python
# does not look through PyTorch's million objects, which takes seconds.
KERNEL = """\
import atexit, gc, sys; atexit.register(gc.freeze); sys.path[:] = filter(None, sys.path)
from IPython.core import application as a; a.SYSTEM_CONFIG_DIRS.clear(); a.ENV_CONFIG_DIRS.clear()
from ipykernel import kernelapp; kernelapp.launch_new_instance()"""

# jsonschema, by which Papermill validates notebooks, takes a second to import its grammar of IRIs;
# notebooks have none, and it expects the ImportError.
sys.modules.setdefault("rfc3987_syntax", None)  # ty: ignore[no-matching-overload]


def parameters(
    notebook: Path, files: Sequence[str | Path], pairs: Sequence[Sequence[str]]
) -> tuple[dict[str, Any], tuple[Experiment, ...]]:
    """The values to pass to the notebook, and the experiments that it will make of them.

    None that is given for a value of the notebook's own file is passed as "none": the notebook
    would take None for a value that is left to the file.
    """
    cell = parameters_cell(notebook)
    given = merged(files, pairs)
    # Papermill sorts its keys, and can't with 500 and all
    if isinstance(epochs := given.get("epochs_by_labels"), dict):
        given["epochs_by_labels"] = {str(key): value for key, value in epochs.items()}
    for name in given:
        if name not in cell and name not in Experiment.model_fields:
            raise ConfigError(unknown_parameter(name, tuple(cell)))
    values = {name: _default(notebook, cell[name]) for name in cell}
    for name in own_parameters(notebook, given.get("profile", values.get("profile"))):
        if name in given and given[name] is None and nullable(name):
            given[name] = "none"
    known = Experiment.model_fields.keys() | Several.model_fields.keys()
    values = {n: v for n, v in values.items() if n in known and (v is not None or nullable(n))}
    over = {name: given[name] for name in given if name in known}
    return given, several(with_file(values | over, own_file(notebook)) | over)


def own_file(notebook: Path) -> str:
    """The name of its file of parameters: "paper/table3_cifar10" as in its call of from_parameters.

    "" if it has none.
    """
    found = re.search(r'from_parameters\(globals\(\), \\"([\w/]+)\\"', notebook.read_text())
    return found[1] if found else ""


def own_parameters(notebook: Path, profile: Any = None) -> dict[str, Any]:
    """The parameters that a notebook's own file sets in this profile."""
    own = own_file(notebook)
    file = parameters_file(own, profile) if own else None
    return read_parameters(file) if file else {}


def parameters_cell(notebook: Path) -> dict[str, Any]:
    """What Papermill says of each assignment in the cell that is tagged parameters."""
    import papermill

    if notebook.suffix != ".ipynb":
        raise ConfigError(f"{notebook} is not a notebook (.ipynb)")
    try:
        cell = papermill.inspect_notebook(literal(notebook))
    except Exception as error:  # nbformat raises many kinds for what isn't a notebook
        raise ConfigError(f"{notebook} can't be read as a notebook ({one_line(error)})") from None
    if not cell:
        raise ConfigError(f"{notebook}: no cell is tagged parameters; tag the one that sets them")
    return cell


def _default(notebook: Path, parameter: dict[str, str]) -> Any:
    try:
        return ast.literal_eval(parameter["default"])
    except (ValueError, SyntaxError):
        name = parameter["name"]
        raise ConfigError(f"{notebook}: parameter {name} should be a plain value") from None


def merged(files: Sequence[str | Path], pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The parameters of the files and, over them, those of the command line, not yet checked."""
    given: dict[str, Any] = {}
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name}: is given twice; leave out one -p")
    for file in files:
        given |= read_parameters(existing(file))
    return given | {name: from_here(name, _value(name, text)) for name, text in pairs}


def _value(name: str, text: str) -> Any:
    """A command line's value, YAML; for parameters of text (hold_out 7 is a name) text or list."""
    field = Experiment.model_fields.get(name)
    is_text = name == "settings" or (field and isinstance(field.default, str | tuple))
    if is_text and not text.startswith("["):
        return text
    try:
        return from_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {text[:100]!r} isn't a value ({error})") from None


def existing(path: str | Path) -> Path:
    """The file as an absolute path; a relative one counts from the current folder."""
    absolute = Path(path).expanduser().absolute()
    if not absolute.is_file():
        raise ConfigError(f"{path}: no such file")
    return absolute


def executed(notebook: Path, experiment: Experiment) -> Path:
    """Where the executed notebook goes; its name has the data set only if it is about one alone."""
    cell = parameters_cell(notebook)
    if "dataset" not in cell or isinstance(own_parameters(notebook).get("dataset"), list):
        return experiment.folder / notebook.name
    if "epochs_by_labels" in cell:
        experiment = experiment.model_copy(update={"train_per_class": None})
    return experiment.output(notebook.stem, ".ipynb")


def replaces(out: Path, parameters: dict[str, Any]) -> str | None:
    """A warning if this execution replaces a notebook that has other parameters."""
    try:
        before = json.loads(out.read_text())["metadata"]["papermill"]["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    now = json.loads(json.dumps(parameters))
    changes = []
    for name in before | now:
        pair = [values.get(name, "as by default") for values in (before, now)]
        if pair[0] != pair[1] and name not in Machine.model_fields:
            changes.append(f"{name} {pair[0]}, now {pair[1]}")
    what = f"this replaces {short(out)} and its tables, made with other parameters"
    return f"{what} (its runs stay): {'; '.join(changes)}" if changes else None


def literal(path: str | Path) -> str:
    """A path for Papermill, which takes braces for names of parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def execute(
    notebook: Path, out: Path, parameters: dict[str, Any], timeout: int | None, threads: int | None
) -> Any:
    """Execute the notebook by Papermill, in a kernel of this interpreter; its nbformat node."""
    import papermill
    from traitlets.config import Config

    # Errors are raised; what Papermill logs are parameters that the cell leaves at their default
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    # From ROOT: the executed notebook keeps them, and should name no folders of this machine
    paths = [literal(short(path)) for path in (notebook, out)]
    with _kernels(threads, out.parent.absolute()) as folder:
        return papermill.execute_notebook(
            *paths,
            parameters,
            kernel_name="python3",
            progress_bar=False,
            log_output=True,
            start_timeout=START_TIMEOUT,
            execution_timeout=timeout,
            # ipc: kernels side by side can't take each other's ports
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}}),
        )


@contextmanager
def _kernels(threads: int | None, results: Path) -> Generator[str, None, None]:
    """An environment in which kernels are alike on every machine; yields a folder for sockets.

    python3 is this interpreter, whatever kernelspecs are installed; the IPython profile is empty,
    figures appear in the notebook, and the current folder is ROOT. results: where `files.result`
    puts tables and figures.
    """
    # A socket's name has at most 103 characters, and a cluster's $TMPDIR can be long
    base = "/tmp" if len(tempfile.gettempdir()) > 75 else None
    with tempfile.TemporaryDirectory(prefix="semlib-", dir=base) as folder:
        # Level 50: a kernel that is stopped in a cell would log the closing of its sockets
        argv = [sys.executable, "-c", KERNEL, "-f", "{connection_file}", "--log-level=50"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
        Path(folder, "kernels", "python3").mkdir(parents=True)
        Path(folder, "kernels", "python3", "kernel.json").write_text(json.dumps(spec))
        changes = {
            "JUPYTER_PATH": os.pathsep.join([folder, *filter(None, [os.getenv("JUPYTER_PATH")])]),
            "JUPYTER_RUNTIME_DIR": f"{folder}/runtime",
            "IPYTHONDIR": f"{folder}/ipython",
            RESULTS: str(results),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        if not threads and cpu_count() < os.cpu_count() and "OMP_NUM_THREADS" not in os.environ:
            threads = cpu_count()  # PyTorch would count the host's, not the container's
        if threads:
            changes |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        with patch.dict(os.environ, changes), chdir(ROOT):
            os.environ.pop("PYTHONSTARTUP", None)
            yield folder


def copy_all(folder: Path = ROOT / "lab") -> list[Path]:
    """Copy each notebook into the folder, to open in JupyterLab; one that is there stays.

    Lab writes outputs, and its kernel's version, into what it opens: a copy has this machine's
    kernel and Python from the start, so that opening it changes nothing.
    """
    from ipykernel import ipkernel, kernelspec

    folder.mkdir(exist_ok=True)
    kernel = {"name": "python3", "language": "python"}
    kernel["display_name"] = kernelspec.get_kernel_dict()["display_name"]
    language = ipkernel.IPythonKernel.language_info
    copies = []
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        copy = folder / notebook.name
        if not copy.exists():
            text = json.loads(notebook.read_text())
            text["metadata"] |= {"kernelspec": kernel, "language_info": language}
            copy.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n")
            copies.append(copy)
        elif copy.stat().st_mtime < notebook.stat().st_mtime:
            print(f"{short(copy)} stays; delete it to have the newer {short(notebook)}")
    return copies


def prepare(experiments: Sequence[Experiment], out: Path | None = None) -> None:
    """Check all experiments and prepare their data, before a job starts; ConfigError, DataError.

    out: where the executed notebook goes; the experiments' folder unless given.
    """
    check(experiments)
    training = [e for e in experiments if e.missing == "train"]
    for _, of_one_data_set in itertools.groupby(training, plan.which_data):
        data = None
        for e in of_one_data_set:
            data = data or runs.load(e)
            runs.check_data(e, data)
    folder = experiments[0].folder
    for place in {out or folder, *(e.folder for e in training)}:
        try:
            check_writable(place)
        except OSError as error:
            why = f"can't be written to ({error.strerror}); choose another folder"
            raise ConfigError(f"outputs: {place} {why}") from None


def check_profile(notebook: Path, experiments: Sequence[Experiment]) -> None:
    """ConfigError if a notebook of runs would train none and its profile, misspelt, has none."""
    e = experiments[0]
    trains = any(experiment.missing == "train" for experiment in experiments)
    known = {path.name for path in ROOT.glob("params/*")}
    known |= {path.parent.name for path in e.folder.parent.glob("*/runs")}
    if "missing" in parameters_cell(notebook) and not trains and e.profile not in known:
        do = f"choose from {', '.join(sorted(known))}, or -p missing train"
        raise ConfigError(f"profile: {short(e.folder)} has no runs; {do}")


def check(experiments: Sequence[Experiment]) -> None:
    """ConfigError if an experiment can't be run; nothing is written but images of a folder."""
    for experiment in experiments:
        plan.held_out(experiment)  # most wrong parameters are found before torch, which is slow
    for experiment in experiments:
        runs.check(experiment)
