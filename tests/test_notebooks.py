"""Every notebook with its demonstration's parameters by Papermill: it ends and reads as a page."""

import itertools
import json
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from helpers import ROOT, contents, made_up, parameters, semlib
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from semlib import datasets
from workbench import results
from workbench.batch import notebooks
from workbench.experiment import create, read_parameters, several, with_file
from workbench.results import tables
from workbench.runs import plan, store

pytestmark = pytest.mark.notebook
DEMOS = {path.stem: path.read_text() for path in sorted((ROOT / "params/demo").glob("*.yaml"))}
IMAGENET = [name for name in DEMOS if "imagenet" in DEMOS[name] and "table1" not in name]
TABLES = ["benchmark", "few_labels", "masking_ablation"]
TABLES += [path.stem for path in (ROOT / "notebooks").glob("table[3-6]_*.ipynb")]
UNTRAINED = ("table1_imagenet_subsets", "appendix_d_baseline", "pretrained")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """One folder for all, as a user has: a run that two notebooks need is trained once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def hounds():
    """The folder of hound photographs in the form of ILSVRC2012."""
    if "SEMLIB_TEST_DATA" not in os.environ:
        pytest.skip("$SEMLIB_TEST_DATA isn't set: the folder of real images")
    return Path(os.environ["SEMLIB_TEST_DATA"]) / "ilsvrc2012-hounds"


def executed(name, outputs, ilsvrc="", **changes):
    """What the cells show after `semlib run` with the demo's parameters; no error or stream."""
    words = ["-f", f"params/demo/{name}.yaml", *parameters(outputs=outputs, **changes)]
    places = {"SEMLIB_DATA": outputs / "data", "SEMLIB_ILSVRC": ilsvrc}
    done = semlib("run", f"notebooks/{name}.ipynb", *words, **places)
    assert done.returncode == 0, done.stderr
    out = ROOT / re.search(r"^executing .* -> (.*)$", done.stdout, flags=re.M)[1]
    cells = nbformat.read(out, 4).cells
    shown = list(itertools.chain(*(cell.get("outputs", ()) for cell in cells)))
    assert not [output for output in shown if output.output_type in ("stream", "error")], shown
    text = json.dumps(shown)
    assert not [place for place in (ROOT, outputs, ilsvrc) if place and str(place) in text]
    return text


@pytest.mark.parametrize("name", [name for name in DEMOS if name not in IMAGENET])
def test_a_demonstration_ends_as_a_page_that_says_what_it_is(name, outputs):
    text = executed(name, outputs)
    if name not in UNTRAINED:
        assert "A demonstration in minutes" in text and "runs are finished" in text
        assert "not run" not in text
    if name != "table1_imagenet_subsets":
        assert "paper</th>" not in text, "a demonstration stands in the paper's columns"
    assert ("image/png" in text) == (name not in ("lambda_search", "appendix_d_baseline"))


def test_the_demos_averages_are_those_of_the_results(outputs):
    """Within 10 points: rounding differs between processors, and a training magnifies it.

    Mixed and upright statistics differ by 20 with rotation, of which this must be able to tell.
    """
    executed("benchmark", outputs)
    given = read_parameters("params/demo/benchmark.yaml") | {"outputs": str(outputs)}
    page = (ROOT / "docs" / "results.md").read_text()
    rows = {"classification": "classification", "rotation": "with rotation"}
    for statistics, method in itertools.product(plan.STATISTICS, rows):
        experiment = create(given | {"statistics": statistics})
        table = tables.by_class(experiment, store.finished(experiment))
        (row,) = re.findall(rf"^\| {rows[method]} \| {statistics} \|(.*)\|$", page, flags=re.M)
        said = [float(cell.split("±")[0]) for cell in row.split("|")]
        found = table.loc["average", method].xs("mean", level="statistic")
        assert (abs(found - said) < [10, 10, 2]).all(), (method, statistics, found, said)


@pytest.mark.parametrize("name", TABLES)
def test_the_first_figure_below_a_hold_out_table_is_which_classes_a_method_helps(name):
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    source = "".join(cell.source for cell in cells)
    called = re.findall(r"tables\.by_class|plots\.(?!save|committed)\w+", source)
    below = called[called.index("tables.by_class") :]
    assert below.count("plots.gain_by_class") == 1
    assert next(name for name in called if name.startswith("plots.")) == "plots.gain_by_class"


@pytest.mark.data
@pytest.mark.parametrize("name", IMAGENET)
def test_the_hounds_are_told_apart_twice_as_well_as_by_chance(name, outputs, hounds):
    """Real photographs through the loader of ILSVRC2012, some of the classes held out in turn."""
    text = executed(name, outputs, hounds)
    assert "The data set has 1642 of the 14864 training images" in text and "image/png" in text
    assert "8.33" in text  # the skew of one of twelve, whichever part of them is held out
    (experiment,) = several(read_parameters(f"params/demo/{name}.yaml") | {"outputs": str(outputs)})
    records = store.finished(experiment)
    assert len(records) == len(plan.planned(experiment)) >= 2 * 2
    assert min(record.metrics["accuracy"] for record in records) > 2 / 11


def shown(name, **values):
    """What each code cell of a notebook shows, executed here with these parameters."""
    shell = InteractiveShell()
    for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            source = cell.source
            if "parameters" in cell.metadata.get("tags", ()):
                source += "".join(f"\n{key} = {value!r}" for key, value in values.items())
            done = shell.run_cell(source, store_history=True)
            done.raise_error()
            yield done.result


ALONE = ["few_labels", "masking_ablation", "table3_cifar10", "table4_stl10", "holdout", "detectors"]
ALONE = [(name, "classification") for name in ALONE]


@pytest.mark.parametrize(("name", "method"), [*ALONE, ("few_labels", "rotation")])
def test_one_method_alone_has_its_table(name, method, tmp_path, monkeypatch, capsys):
    """Of runs that are there; nothing is compared, and no table is shown without a row."""
    history = {"epoch": [1, 2], "loss": [2.0, 1.0], "accuracy": [0.5, 0.9], "msp": [0.2, 0.3]}
    monkeypatch.setattr(store.Record, "history", lambda record: pd.DataFrame(history))
    own = notebooks.own_file(ROOT / "notebooks" / f"{name}.ipynb")
    values = {"profile": "made_up", "outputs": str(tmp_path), "data_root": str(tmp_path)}
    values |= {"methods": [method], "scores": ["msp", "odin"], "trials": 2, "missing": "skip"}
    if name == "detectors":
        values["settings"] = ["params/paper/table3_cifar10.yaml"]
    if "hold_out" in (ROOT / "notebooks" / f"{name}.ipynb").read_text():
        values["hold_out"] = ["cat", "dog"]
    if name == "holdout":
        values |= {"dataset": "digits", "hold_out": ["1", "7"]}
    for experiment in several(with_file(values, own)):
        made_up(tmp_path, **experiment.model_dump(exclude={"outputs", "data_root", "profile"}))
    results = [*shown(name, **values)]
    plt.close("all")
    said = "".join(map(repr, results)) + capsys.readouterr().out
    texts = [getattr(result, "data", "") for result in results]
    assert "Empty DataFrame" not in said and "runs are finished" in "".join(texts)


EMPTY = ["table2_generalization", "table5_imagenet_rotation", "figure1_learning_curves"]
EMPTY += ["lambda_search", "detectors"]


@pytest.mark.parametrize("name", EMPTY)
def test_without_any_run_a_table_says_not_run_and_still_renders(name, tmp_path):
    words = parameters(outputs=tmp_path, profile="paper")
    done = semlib("run", f"notebooks/{name}.ipynb", *words, SEMLIB_ILSVRC="")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "paper" / f"{name}.ipynb").read_text()
    assert "not run" in text.lower()
    assert "Empty DataFrame" not in text


def test_opened_in_a_fresh_clone_table_3_is_the_papers_and_by_its_profile_the_committed(tmp_path):
    """Nothing else is said not to be run, no figure is empty, and no table is written."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "runs").symlink_to(ROOT / "outputs" / "cpu" / "runs")
    for profile, there in (("paper", "53.12"), ("cpu", "21.63")):
        out = tmp_path / f"{profile}.ipynb"
        words = ["run", "notebooks/table3_cifar10.ipynb", "-o", out]
        words += parameters(profile=profile, outputs=tmp_path)
        assert semlib(*words, SEMLIB_DATA=tmp_path).returncode == 0
        text = out.read_text()
        assert there in text and text.lower().count("not run") == (profile == "paper")
        assert ("(20 of 40 runs)" in text) == (profile == "paper")
        assert ("image/png" in text) == (profile == "cpu")
    assert not [path for path in (tmp_path / "paper").rglob("*") if path.is_file()]


def test_opened_by_hand_the_benchmark_shows_the_demo_and_trains_nothing(outputs):
    executed("benchmark", outputs)
    before = contents(outputs / "demo" / "runs")
    words = ["-p", "outputs", outputs, "-o", outputs / "opened.ipynb"]
    done = semlib("run", "notebooks/benchmark.ipynb", *words, SEMLIB_DATA=outputs / "data")
    assert done.returncode == 0, done.stderr
    text = (outputs / "opened.ipynb").read_text()
    assert "40 of 40 runs are finished" in text and "not run" not in text.lower()
    assert contents(outputs / "demo" / "runs") == before


def test_the_cells_of_explore_md_run_in_a_notebook(tmp_path):
    """With a folder of the digits as one's own images, and a folder of its own for the results."""
    page = (ROOT / "docs" / "explore.md").read_text()
    digits = datasets.load("digits")
    for part, images in (("train", digits.train), ("test", digits.test)):
        for k in range(3):
            (tmp_path / "birds" / part / f"kind {k}").mkdir(parents=True)
            for n, image in enumerate(images.images[images.labels == k][:40]):
                Image.fromarray(image[0]).save(tmp_path / f"birds/{part}/kind {k}/{n}.png")
    page = page.replace("~/birds", str(tmp_path / "birds"))
    places = f'"outputs": "{tmp_path}", "data_root": "{tmp_path}"'
    page = page.replace('"explore",', f'"explore", {places},')
    page = page.replace('frame("explore")', f'frame("explore", "{tmp_path}")')
    cells = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    nbformat.write(notebook, tmp_path / "explore.ipynb")
    notebooks.execute(tmp_path / "explore.ipynb", tmp_path / "out.ipynb", {}, None, 1)
    frame = results.frame("explore", tmp_path).query("statistics == 'upright'")
    assert {*frame.method} == {"classification", "rotation", "cell:flipped"}
    assert {*frame.dataset} == {"digits", "birds"}
    assert {name.partition("(")[0] for name in frame.measure} >= {"cell:margin", "msp"}
    found = frame.query("dataset == 'digits' and measure == 'msp'")
    assert found.value.mean() > 20  # chance: 10
