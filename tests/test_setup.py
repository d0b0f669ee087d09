"""The house: line budgets, imports that point one way, density, dependencies, committed files."""

import ast
import graphlib
import itertools
import os
import platform
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml
from helpers import ROOT, environment

from workbench.batch import notebooks
from workbench.cli import main
from workbench.experiment import Experiment, documented

# Of the workbench 5,200 and of the tests 11,000 are wanted: these two should be lowered.
LINES = {"semlib": 2000, "workbench": 9194, "tests": 14947}
# A file imports from floors before its own. A folder is a floor with all of its files, unless they
# are listed; a package's own name stands for its __init__.py.
SEMLIB = """randomness datasets.splits datasets.imagenet datasets.sources datasets.ood
datasets.augmentation datasets batches models metrics auxiliary training holdout semlib __main__"""
WORKBENCH = "files experiment own cells checkpoint images runs results batch cli"
WORKBENCH += " workbench"
FLOORS = {"semlib": SEMLIB.split(), "workbench": WORKBENCH.split()}


def modules(path) -> set[str]:
    """The modules that a file imports, at its top or inside functions: workbench.runs.plan."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def floor(module: str) -> int:
    """Where semlib.datasets.splits.hold_out stands: the longest beginning that the table has."""
    package, *parts = module.split(".")
    floors = FLOORS[package]
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in floors:
            return floors.index(name)
    return floors.index(package)


@pytest.mark.parametrize("folder", LINES)
def test_a_package_has_as_many_lines_as_promised(folder):
    counts = {path: path.read_text().count("\n") for path in (ROOT / folder).rglob("*.py")}
    assert sum(counts.values()) <= LINES[folder], sorted(counts, key=counts.get)[-5:]


def graph(package: str) -> dict[str, set[str]]:
    """The modules of a package, each with those that it imports."""
    files = (ROOT / package).rglob("*.py")
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    found = {}
    for path, name in names.items():
        inner = {module for module in modules(path) if module.split(".")[0] == package}
        # of an imported function its module
        inner = {m if m in names.values() else m.rpartition(".")[0] for m in inner}
        found[name] = inner - {name}
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_imports_point_one_way(package):
    """From floor to floor as the table says, and without a cycle inside of one."""
    upwards = []
    for module, imported in graph(package).items():
        higher = [other for other in imported if floor(other) > floor(module)]
        upwards += [f"{module} imports {other}" for other in higher]
    assert not upwards
    graphlib.TopologicalSorter(graph(package)).prepare()


def test_the_paper_names_its_machinery_in_one_file():
    naming = {p.name for p in (ROOT / "semlib").rglob("*.py") if "workbench" in p.read_text()}
    assert naming == {"__main__.py"}


def test_looking_at_results_does_not_load_torch():
    code = "import sys, workbench.runs.store, workbench.results as results; "
    code += "from workbench.results import inspector, plots, show, stats, tables; "
    code += "sys.exit('torch' in sys.modules)"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, env=environment(), cwd=ROOT, timeout=100).returncode == 0


# --- density: each line says one thing


def packed(tree: ast.AST):
    """(what, line) of each packed expression."""
    condition = (ast.Compare, ast.BoolOp)
    for node in ast.walk(tree):
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            ifs = sum(len(generator.ifs) for generator in node.generators)
            if len(node.generators) > 1 or ifs > 1:
                yield "a comprehension with two for or two if", node.lineno
        if isinstance(node, ast.Assign):
            pair = (node.targets[0], node.value)
            if all(isinstance(side, ast.Tuple) for side in pair):
                yield "two assignments in a line", node.lineno
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            sides = (node.left, node.right)
            is_text = any(isinstance(getattr(s, "value", None), str) for s in sides)
            is_text |= any(isinstance(s, ast.JoinedStr) for s in sides)
            calls = [s for s in sides if isinstance(s, ast.Call)]
            is_bool = any(getattr(call.func, "id", "") == "bool" for call in calls)
            if is_text and (is_bool or any(isinstance(s, condition) for s in sides)):
                yield "a text times a condition", node.lineno
        if isinstance(node, ast.IfExp):
            inner = itertools.chain(*(ast.walk(child) for child in ast.iter_child_nodes(node)))
            if any(isinstance(child, ast.IfExp) for child in inner):
                yield "a condition in a condition", node.lineno


PACKED = ["[x for y in z for x in y]", "[x for x in y if x if y]", "a, b = 1, 2"]
PACKED += ["'s' * (n > 1)", "f'{n}' * bool(n)", "1 if a else 2 if b else 3"]


@pytest.mark.parametrize("code", PACKED)
def test_what_is_packed_is_found(code):
    assert len(list(packed(ast.parse(code)))) == 1


@pytest.mark.parametrize("folder", LINES)
def test_each_line_says_one_thing(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        where = path.relative_to(ROOT)
        tree = ast.parse(path.read_text())
        found += [f"{where}:{number} {what}" for what, number in packed(tree)]
    assert not found, "\n".join(found)


# --- dependencies

CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}
CONDA |= {"snakemake": "snakemake-minimal", "playwright": "playwright-python"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_environment_yml_agrees_with_pyproject():
    conda = {f"python{PROJECT['requires-python']}"}
    for requirement in (*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["lab"]):
        name, bound = re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement).groups()
        conda.add(CONDA.get(name, name) + bound)
    given = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert set(given) == conda and len(given) == len(conda)


def test_the_lock_is_of_all_dependencies_with_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock and "--index" not in lock
    names = re.findall(r"^([\w.-]+)==", lock, flags=re.M)
    locked = {name.lower().replace("_", "-") for name in names}
    wanted = itertools.chain(PROJECT["dependencies"], *EXTRAS.values())
    assert {re.match(r"[\w-]+", requirement)[0].lower() for requirement in wanted} <= locked
    for requirement in re.split(r"\n(?=\S)", lock.strip()):
        assert "--hash=sha256:" in requirement, requirement.splitlines()[0]


# --- what is committed


def test_what_is_committed_stays_small():
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    sizes = {path: path.stat().st_size for path in files if path.is_file()}
    assert sum(sizes.values()) <= 125e6, sorted(sizes, key=sizes.get)[-10:]
    weights = [path for path in sizes if path.suffix in (".pt", ".pth")]
    assert all(path.match("outputs/cpu/runs/cifar10/*/*/trial_2-*/weights.pt") for path in weights)


def test_nbstripout_is_for_the_notebooks_alone():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = itertools.chain(*(repo["hooks"] for repo in repos))
    (files,) = [hook["files"] for hook in hooks if hook["id"] == "nbstripout"]
    assert re.search(files, "notebooks/benchmark.ipynb")
    assert not re.search(files, "outputs/paper/table3_cifar10.ipynb")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_are_committed_bare(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "papermill" not in notebook.metadata
    assert not [cell for cell in code if "papermill" in cell.metadata]
    assert str(ROOT) not in path.read_text()


def test_a_users_files_and_profiles_are_ignored_and_the_committed_ones_are_not():
    def ignored(*names):
        command = ["git", "check-ignore", "--no-index", *names]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()

    users = ["outputs/birds/benchmark-birds.csv", "my_score.py", "scores.npz", "table3.ipynb"]
    users += ["lab/method.ipynb", "score-birds.csv", "outputs/cpu/table3.unfinished.ipynb"]
    assert ignored(*users) == users
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    assert ignored(*done.stdout.split("\n")[:-1]) in ([], ["outputs/demo/kills.log"])


def test_make_lab_opens_copies_with_this_kernel_and_leaves_edited_ones(tmp_path, capsys):
    copies = notebooks.copy_all(tmp_path)
    assert {path.name for path in copies} == {path.name for path in ROOT.glob("notebooks/*")}
    for path in copies:
        ours = nbformat.read(ROOT / "notebooks" / path.name, 4)
        copy = nbformat.read(path, 4)
        assert copy.cells == ours.cells
        assert copy.metadata.language_info.version == platform.python_version()
        assert {*copy.metadata.language_info} == {*ours.metadata.language_info}
    copies[0].write_text("edited")
    os.utime(copies[0], (0, 0))
    copies[1].unlink()
    assert notebooks.copy_all(tmp_path) == [copies[1]] and copies[0].read_text() == "edited"
    assert capsys.readouterr().out.count("stays; delete it") == 1
    started = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True)
    assert f"SEMLIB_RESULTS={ROOT}/lab " in started.stdout


def test_cite_prints_bibtex_of_the_paper_and_of_semlib_as_in_citation_cff(capsys):
    assert main(["cite"]) == 0
    paper, ours = capsys.readouterr().out.split("\n}\n")[:2]
    assert paper.startswith("@inproceedings{") and "Ahmed, Faruk and Courville, Aaron" in paper
    assert ours.startswith("@software{") and f"version = {{{PROJECT['version']}}}" in ours
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f"title = {{{cited['title']}}}" in ours and str(cited["date-released"])[:4] in ours
    for name in ("title", "year", "url", "collection-title"):
        assert f"{{{cited['preferred-citation'][name]}}}" in paper


def test_every_parameter_is_documented_at_its_field_and_on_the_page():
    text = documented()
    assert all(field.description for field in Experiment.model_fields.values())
    assert (ROOT / "docs" / "parameters.md").read_text() == text + "\n"
    assert [name for name in Experiment.model_fields if f"| `{name}` |" not in text] == []
