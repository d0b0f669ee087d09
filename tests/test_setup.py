"""The house: imports point one way, the two lists of dependencies agree, notebooks are committed
bare.
"""

import ast
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml
from helpers import ROOT, environment

from workbench.experiment import Experiment, documented

PACKAGE = ROOT / "semlib"
FLOORS = (  # each may import of those before it
    ("files", "randomness", "config", "user_code"),
    ("datasets", "models", "metrics"),
    ("auxiliary", "checkpoint", "training"),
    ("runs",),
    ("results",),
    ("batch",),
    ("__main__",),
)
WINGS = {  # likewise the files of a wing, by their names in it
    "": ("files", "randomness", "config", "user_code", "auxiliary", "checkpoint", "training"),
    "runs": (
        "machine",
        "plan",
        "store",
        "scoring",
        "external",
        "execute",
        "new_images",
        "__init__",
    ),
    "results": (
        "names",
        "curves",
        "tables",
        "stats",
        "show",
        "plots",
        "inspector",
        "report",
        "appendix_d",
        "imagenet_subsets",
    ),
    "batch": ("gpus", "notebooks", "progress", "grid"),
}
NO_TORCH = {
    "runs",
    "runs.machine",
    "runs.plan",
    "runs.store",
    "metrics.detection",
}  # what results may take of these wings


def imported(path) -> set[str]:
    """The modules of semlib that a file imports, at its top or inside a function: files, runs.plan,
    datasets.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                name.name.removeprefix("semlib.")
                for name in node.names
                if name.name.startswith("semlib.")
            }
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative import"
            package = (node.module or "").partition("semlib")[2].removeprefix(".")
            if (node.module or "").split(".")[0] == "semlib":
                where = PACKAGE / package.replace(".", "/")
                files = {
                    name.name
                    for name in node.names
                    if (where / f"{name.name}.py").exists() or (where / name.name).is_dir()
                }
                found |= {f"{package}.{name}".removeprefix(".") for name in files} or {package} - {
                    ""
                }
    return found


def test_what_is_committed_stays_small():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    sizes = {
        name: (ROOT / name).stat().st_size for name in tracked if name and (ROOT / name).is_file()
    }
    # 79 runs at 500 labels with the scores of sixteen detectors under both statistics are 61 MB
    assert sum(sizes.values()) < 100e6, sorted(sizes, key=sizes.get)[-10:]
    assert not [name for name in sizes if name.endswith((".pt", ".pth"))]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_one_way(path):
    """Floor by floor, and inside a wing, or among the files at the top, in their order."""
    wing, name = (*path.relative_to(PACKAGE).with_suffix("").parts, "__init__")[:2]
    floor = {module: k for k, modules in enumerate(FLOORS) for module in modules}
    for module in imported(path):
        other, inner = (*module.split("."), "")[:2]
        assert floor[other] <= floor[wing], f"{wing} imports {module}"
        if other != wing and floor[other] == floor[wing]:
            assert WINGS[""].index(other) < WINGS[""].index(wing), f"{wing} imports {module}"
        if other == wing and inner != name and wing in WINGS:
            assert WINGS[wing].index(inner or "__init__") < WINGS[wing].index(name), (
                f"{wing}/{name} imports {module}"
            )
        if wing == "results" and other in ("runs", "metrics") and name != "appendix_d":
            assert module in NO_TORCH, f"results needs no torch, and {name} imports {module}"


def test_looking_at_results_does_not_load_torch():
    code = "import sys, workbench.runs.store; from workbench.results import inspector, plots, show, stats, tables"
    code += "; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], env=environment(), cwd=ROOT, timeout=100
        ).returncode
        == 0
    )


CONDA = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "snakemake": "snakemake-minimal",
    "seaborn": "seaborn-base",
}
CONDA |= {"playwright": "playwright-python"}


def test_environment_yml_agrees_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        r for extra in ("test", "lab") for r in project["optional-dependencies"][extra]
    ]
    pairs = [re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement).groups() for requirement in wanted]
    conda = {CONDA.get(name, name) + bound for name, bound in pairs} | {
        f"python{project['requires-python']}"
    }
    given = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert set(given) == conda and len(given) == len(conda)


def test_nbstripout_is_for_the_notebooks_alone():
    repos = yaml.safe_load((ROOT / ".pre-commit-yaml").read_text())["repos"]
    (hook,) = [hook for repo in repos for hook in repo["hooks"] if hook["id"] == "nbstripout"]
    assert re.search(hook["files"], "notebooks/benchmark.ipynb")
    assert not re.search(hook["files"], "outputs/paper/table3_cifar10.ipynb")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name
)
def test_notebooks_are_committed_bare(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "papermill" not in notebook.metadata and not [
        cell for cell in code if "papermill" in cell.metadata
    ]
    assert str(ROOT) not in path.read_text()


def test_every_parameter_is_documented_at_its_field_and_on_the_page():
    assert all(field.description for field in Experiment.model_fields.values())
    assert (ROOT / "docs" / "parameters.md").read_text() == documented() + "\n"
    text = documented()
    assert [name for name in Experiment.model_fields if f"| `{name}` |" not in text] == []


def test_the_lock_is_of_all_dependencies_with_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "--index" not in lock
    locked = {
        name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)==", lock, flags=re.M)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        r for extra in project["optional-dependencies"].values() for r in extra
    ]
    assert {re.match(r"[\w-]+", requirement)[0].lower() for requirement in wanted} <= locked
    for requirement in re.split(r"\n(?=\S)", lock.strip()):
        assert "--hash=sha256:" in requirement, requirement.splitlines()[0]
