"""Every notebook with its demonstration's parameters through Papermill: it ends and reads as a
page.
"""

import json
import os
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from helpers import ROOT, semlib

from workbench.experiment import CHOSEN_WEIGHTS, create, read_parameters, several
from workbench.results import tables
from workbench.runs import plan, store

pytestmark = pytest.mark.notebook
DEMOS = sorted(path.stem for path in (ROOT / "params" / "demo").glob("*.yaml"))
IMAGENET = [
    name
    for name in DEMOS
    if "imagenet" in (ROOT / "params" / "demo" / f"{name}.yaml").read_text()
    and "table1" not in name
]


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


def executed(name, outputs, **places):
    """The notebook's code cells after `semlib run` with its demo's parameters; checked as a page to
    read.
    """
    file = f"params/demo/{name}.yaml"
    done = semlib(
        "run",
        f"notebooks/{name}.ipynb",
        "-f",
        file,
        "-p",
        "outputs",
        outputs,
        SEMLIB_DATA=outputs / "data",
        **places,
    )
    assert done.returncode == 0, done.stderr
    out = ROOT / done.stdout.splitlines()[0].split(" -> ")[1]
    notebook = nbformat.read(out, 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [output for cell in cells for output in cell.outputs]
    assert not [output for output in shown if output.output_type in ("stream", "error")], shown
    assert not [
        place
        for place in (ROOT, outputs, *filter(None, places.values()))
        if str(place) in json.dumps(shown)
    ]
    return shown


@pytest.mark.parametrize("name", [name for name in DEMOS if name not in IMAGENET])
def test_a_demonstration_ends_as_a_page_that_says_what_it_is(name, outputs):
    shown = executed(name, outputs, SEMLIB_ILSVRC="")
    text = json.dumps(shown)
    _check_notes(name, text)
    assert ("image/png" in text) == (name not in ("lambda_search", "appendix_d_baseline"))


def test_the_demos_averages_are_those_of_the_results(outputs):
    """Rounding differs between processors, and a training magnifies it: another average of two
    trials lies within 10 points.

    Mixed and upright statistics differ by 20 with rotation, of which this must be able to tell.
    """
    executed("benchmark", outputs, SEMLIB_ILSVRC="")
    given = read_parameters("params/demo/benchmark.yaml") | {"outputs": str(outputs)}
    page = (ROOT / "docs" / "results.md").read_text()
    for statistics in plan.STATISTICS:
        experiment = create(given | {"statistics": statistics})
        table = tables.by_class(experiment, store.finished(experiment))
        for method, name in (("classification", "classification"), ("rotation", "with rotation")):
            (row,) = re.findall(rf"^\| {name} \| {statistics} \|(.*)\|$", page, flags=re.M)
            said = [float(cell.split("±")[0]) for cell in row.split("|")]
            found = table.loc["average", method].xs("mean", level="statistic")
            assert (abs(found - said) < [10, 10, 2]).all(), (name, statistics, found, said)


def test_detectors_are_added_to_the_demo_without_training(outputs):
    executed("benchmark", outputs, SEMLIB_ILSVRC="")
    paths = list((outputs / "demo" / "runs" / "digits").rglob("weights.pt"))
    before = {path: path.stat().st_mtime_ns for path in paths}
    names = ["msp", "odin", "mahalanobis", "vim", "knn"]
    words = [
        "-f",
        "params/demo/benchmark.yaml",
        "-p",
        "scores",
        f"[{', '.join(names)}]",
        "-p",
        "outputs",
        outputs,
    ]
    done = semlib("run", "notebooks/benchmark.ipynb", *words, SEMLIB_DATA=outputs / "data")
    assert done.returncode == 0 and "Mahalanobis" in done.stdout, done.stderr
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    given = read_parameters("params/demo/benchmark.yaml") | {
        "outputs": str(outputs),
        "scores": names,
    }
    records = store.finished(create(given))
    assert len(records) == 40 and all({*names} <= {*record.metrics} for record in records)


TABLES = (
    "benchmark",
    "few_labels",
    "masking_ablation",
    *(path.stem for path in (ROOT / "notebooks").glob("table[3-6]_*.ipynb")),
)


@pytest.mark.parametrize("name", TABLES)
def test_the_first_figure_below_a_hold_out_table_is_which_classes_a_method_helps(name):
    source = "".join(
        cell.source for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells
    )
    called = re.findall(r"tables\.by_class|plots\.(?!save|committed)\w+", source)
    assert (
        "tables.by_class" in called
        and called[called.index("tables.by_class") :].count("plots.gain_by_class") == 1
    )
    assert next(name for name in called if name.startswith("plots.")) == "plots.gain_by_class"


def _check_notes(name, text):
    if name not in (
        "table1_imagenet_subsets",
        "appendix_d_baseline",
    ):  # no network is trained there
        assert (
            "A demonstration in minutes" in text
            and "runs are finished" in text
            and "not run" not in text
        )
    if name != "table1_imagenet_subsets":
        assert "paper</th>" not in text, "a demonstration stands in the paper's columns"


def test_the_weight_chosen_by_lambda_search_is_the_best_one(outputs):
    executed("lambda_search", outputs, SEMLIB_ILSVRC="")
    given = read_parameters("params/demo/lambda_search.yaml") | {
        "outputs": str(outputs),
        "data_root": str(outputs / "data"),
    }
    accuracy = {
        e.auxiliary_weight: store.finished(e)[0].metrics["accuracy@upright"]
        for e in several(given)[1:]
    }
    (row,) = pd.read_csv(outputs / "demo" / CHOSEN_WEIGHTS).to_dict("records")
    assert (row["dataset"], row["method"]) == ("digits", "rotation") and accuracy[
        row["auxiliary_weight"]
    ] == max(accuracy.values())
    open_ = {
        "dataset": "digits",
        "profile": "demo",
        "outputs": str(outputs),
        "auxiliary_weight": None,
    }
    assert several(open_)[0].auxiliary_weight == row["auxiliary_weight"]


@pytest.mark.data
@pytest.mark.parametrize("name", IMAGENET)
def test_the_hounds_are_told_apart_twice_as_well_as_by_chance(name, outputs, hounds):
    """Real photographs through the loader of ILSVRC2012, some of the classes held out in turn."""
    text = json.dumps(executed(name, outputs, SEMLIB_ILSVRC=hounds))
    assert "The data set has 1642 of the 14864 training images" in text and "image/png" in text
    (experiment,) = several(read_parameters(f"params/demo/{name}.yaml") | {"outputs": str(outputs)})
    records = store.finished(experiment)
    assert len(records) == len(plan.planned(experiment)) >= 2 * 2
    assert "8.33" in text  # the skew of one of twelve, whichever part of them is held out
    for method in experiment.methods:
        accuracies = [record.metrics["accuracy"] for record in records if record.method == method]
        assert min(accuracies) > 2 / 11, method


def test_without_any_run_a_table_says_not_run_and_still_renders(outputs, tmp_path):
    for name in (
        "table2_generalization",
        "table5_imagenet_rotation",
        "figure1_learning_curves",
        "lambda_search",
        "detectors",
    ):
        done = semlib(
            "run",
            f"notebooks/{name}.ipynb",
            "-p",
            "outputs",
            tmp_path,
            "-p",
            "profile",
            "empty",
            SEMLIB_ILSVRC="",
        )
        assert done.returncode == 0, done.stderr
        assert "not run" in (tmp_path / "empty" / f"{name}.ipynb").read_text()
