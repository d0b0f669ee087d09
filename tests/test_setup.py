"""The house: imports point one way, the two lists of dependencies agree, notebooks are committed bare."""

import ast
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml
from helpers import ROOT, environment

PACKAGE = ROOT / "semlib"
BASE = {"files"}
ALLOWED = {  # what each may import of the package; DESIGN: config, datasets, models, metrics <- auxiliary <- training <- runs
    "files": set(),
    "config": BASE,
    "datasets": BASE,
    "models": BASE,
    "metrics": BASE,
    "user_code": BASE | {"config"},
    "machine": {"config"},
    "auxiliary": BASE | {"config", "datasets", "models", "metrics", "user_code"},
    "training": BASE | {"config", "datasets", "models", "metrics", "auxiliary"},
    "store": BASE | {"config", "datasets", "machine", "user_code"},
    "tables": BASE | {"config", "datasets", "store", "machine"},
    "plots": BASE | {"config", "datasets", "store", "tables"},
    "report": BASE | {"config"},
    "inspector": BASE | {"config", "datasets", "store", "tables", "plots"},
    "runs": BASE | {"config", "datasets", "models", "metrics", "auxiliary", "training", "store", "machine", "user_code"},
    "gpus": set(),
    "notebooks": BASE | {"config", "store", "runs"},
    "grid": BASE | {"config", "store", "tables", "runs", "gpus", "notebooks", "machine"},
}


def siblings(path) -> set[str]:
    """The top modules of semlib that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("semlib.")}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative import"
            if node.module == "semlib":
                found |= {name.name for name in node.names}
            elif (node.module or "").startswith("semlib."):
                found.add(node.module.split(".")[1])
    return found


def test_what_is_committed_stays_small():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    sizes = {name: (ROOT / name).stat().st_size for name in tracked if name and (ROOT / name).is_file()}
    assert sum(sizes.values()) < 35e6, sorted(sizes, key=sizes.get)[-10:]
    assert not [name for name in sizes if name.endswith((".pt", ".pth"))]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if top not in ("__main__", "__init__"):
        assert siblings(path) - {top} <= ALLOWED.get(top, set(ALLOWED))  # a table's own module: like a notebook, above all
    assert not {"__main__", *(p.stem for p in PACKAGE.glob("*.py") if p.stem not in ALLOWED)} & (siblings(path) - {top})


def test_looking_at_results_does_not_load_torch():
    code = "import sys, semlib.store, semlib.tables, semlib.plots, semlib.inspector; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), cwd=ROOT, timeout=100).returncode == 0


CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "snakemake": "snakemake-minimal", "seaborn": "seaborn-base"}
CONDA |= {"playwright": "playwright-python"}


def test_environment_yml_agrees_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [r for extra in ("test", "lab") for r in project["optional-dependencies"][extra]]
    pairs = [re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement).groups() for requirement in wanted]
    conda = {CONDA.get(name, name) + bound for name, bound in pairs} | {f"python{project['requires-python']}"}
    given = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert set(given) == conda and len(given) == len(conda)


def test_nbstripout_is_for_the_notebooks_alone():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (hook,) = [hook for repo in repos for hook in repo["hooks"] if hook["id"] == "nbstripout"]
    assert re.search(hook["files"], "notebooks/benchmark.ipynb")
    assert not re.search(hook["files"], "outputs/paper/table3_cifar10.ipynb")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_committed_bare(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "papermill" not in notebook.metadata and not [cell for cell in code if "papermill" in cell.metadata]
    assert str(ROOT) not in path.read_text()
