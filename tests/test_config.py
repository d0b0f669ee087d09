"""Experiment: an invalid choice is one line with the valid ones, whichever way it comes in.

And params/ and notebooks/ agree with it.
"""

import ast
import itertools
import re
import subprocess
from datetime import date
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from helpers import ROOT
from pydantic import ValidationError

from workbench.batch import notebooks
from workbench.experiment import (
    ConfigError,
    Experiment,
    Several,
    create,
    from_parameters,
    read_parameters,
    several,
    several_from_parameters,
)
from workbench.images.prepared import Digests
from workbench.runs import plan, store

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMS = sorted((ROOT / "params").glob("*/*.yaml"))
HOLDOUT = ROOT / "notebooks" / "holdout.ipynb"


def notebook_of(params):
    return ROOT / "notebooks" / f"{params.stem}.ipynb"


def one(notebook, files=(), pairs=()):
    (experiment,) = notebooks.parameters(notebook, files, pairs)[1]
    return experiment


def named(path):
    return str(path.relative_to(ROOT))


def refused(make, *said):
    with pytest.raises(ConfigError) as error:
        make()
    text = str(error.value)
    assert len(text.splitlines()) == 1 and len(text) < 5000, text
    assert all(words in text for words in said), text


# --- wrong values

WRONG = {
    "learning_rate: fast": ("learning_rate", "number", "'fast'"),
    "learning_rate: inf": ("learning_rate", "finite", "inf"),
    "learning_rate: true": ("learning_rate", "number", "True"),
    "dropout: .nan": ("dropout", "nan"),
    "epochs: true": ("epochs", "integer", "True"),
    "epochs: 1.5": ("epochs", "integer", "1.5"),
    "flip: 1": ("flip", "boolean", "1"),
    "auxiliary_weight: null": ("auxiliary_weight", "number", "None"),
    "epoch: 3": ("'epoch' (epochs?)", "choose from", "evaluate_every", "learning_rate"),
    "methods: jigsaw": ("methods", "'jigsaw'", "classification, rotation", "package.module:"),
    "methods: [rotation, rotation]": ("methods", "only once"),
    "scores: [msp, enrgy]": ("scores", "'enrgy'", "msp, odin", "nnguide, package.module:function"),
    "schedule: cosine": ("schedule", "'step' or 'one_cycle'", "'cosine'"),
    "device: gpu": ("device", "cuda", "'gpu'"),
    "hold_out: ['3', 3]": ("hold_out", "only once"),
    "hold_out: [all, cat]": ("hold_out", "all", "none", "alone"),
    "hold_out: []": ("hold_out", "at least 1"),
    "hold_out: no": ("hold_out", "False", "in quotes"),
    "hold_out: ''": ("hold_out", "at least 1"),
    '"hold_out": "a\\nb"': ("hold_out", "one line"),
    "profile: ../elsewhere": ("profile", "'../elsewhere'"),
    "dataset: /": ("dataset", "no name", "below it"),
    "{batch_size: 200, norm_batch: 128}": ("batch_size", "200", "multiple of norm_batch = 128"),
    "{epochs: 3, average_last_epochs: 4}": ("average_last_epochs", "4", "epochs = 3"),
    "{epochs: true, learning_rate: fast}": ("epochs", "True", "learning_rate", "'fast'"),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_value_is_one_line_that_says_what_and_the_choices(text, tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    values = yaml.safe_load(text)
    for make in (create, several, from_parameters):
        refused(lambda make=make: make(values), *WRONG[text])
    refused(lambda: notebooks.parameters(HOLDOUT, [str(file)], []), *WRONG[text])


JUNK = [[[None], [None]], {"a": "b"}, b"3", date(2024, 1, 1), {1, 2}, "\ud800", 10**5000]


@pytest.mark.parametrize("field", Experiment.model_fields)
def test_what_no_field_takes_is_one_line_that_names_it(field):
    for value in JUNK:
        is_text = isinstance(Experiment.model_fields[field].default, str | tuple)
        if not (is_text and isinstance(value, int)):
            refused(lambda value=value: create({field: value}), field)


def test_a_notebooks_parameters_cell_is_checked_and_later_variables_are_left_alone():
    kernel = {"__name__": "__main__", "_": "", "Out": {}, "In": ["", "epoch = 3"]}
    refused(lambda: from_parameters({"epoch": 3, **kernel}), "'epoch' (epochs?)", "choose from")
    refused(lambda: from_parameters({"epochs": "3.5"}), "epochs: should be a valid integer")
    assert from_parameters({"epochs": 3, "also_mine": 4}, also=("also_mine",)).epochs == 3
    again = {"epochs": 3, "experiment": None, "mine": "x", "counts": [1]}
    assert from_parameters(again).epochs == 3
    again = {"dataset": ["digits"], "experiments": None, "mine": "x"}
    assert several_from_parameters(again) == (create({"dataset": "digits"}),)


def test_what_a_start_up_file_or_a_cell_above_the_parameters_has_set_is_no_parameter():
    cells = ["", "DRIVE = '/x'", "%time", "dataset = 'digits'\ntrials = 1\ntrials = 2", "import os"]
    namespace = {"In": cells, "DRIVE": "/x", "dataset": "digits", "trials": 2, "weight_decay": 0.1}
    assert from_parameters(namespace) == create({"dataset": "digits", "trials": 2})
    for cell in ("dataset = 'digits'\ntrial = 2", "# Parameters\ntrial = 2"):
        kernel = {"In": ["", cell], "dataset": "digits", "trial": 2}
        refused(lambda kernel=kernel: from_parameters(kernel), "unknown parameter 'trial'")


# --- several experiments of one notebook

WRONG_LISTS = [
    ({"dataset": []}, ("dataset", "at least 1")),
    ({"dataset": ["digits", "digits"]}, ("dataset", "only once")),
    ({"settings": 3}, ("3: can't be read",)),
    ({"settings": ["absent.yaml"]}, ("absent.yaml", "can't be read")),
    ({"epochs_by_labels": {"many": 3}}, ("epochs_by_labels", "'many'")),
    ({"epochs_by_labels": {20: 3}, "epochs": 4}, ("epochs", "leave out one")),
    ({"auxiliary_weights": [1]}, ("auxiliary_weights", "dictionary")),
    ({"auxiliary_weights": {"jigsaw": [1]}}, ("auxiliary_weights", "classification, rotation")),
    ({"auxiliary_weights": {"rotation": [0.1, -1]}}, ("auxiliary_weights", "equal to 0")),
    ({"dataset": ["digits"], "epoch": 3}, ("'epoch'", "epochs")),
]


@pytest.mark.parametrize(("values", "said"), WRONG_LISTS, ids=str)
def test_a_wrong_list_is_one_line(values, said):
    refused(lambda: several(values), *said)


def test_several_experiments_are_those_written_out(tmp_path):
    texts = ("epochs: 3\ndataset: cifar10\ntrials: 7", "epochs: 5\ndataset: [stl10, digits]")
    files = [str(tmp_path / f"{k}.yaml") for k in range(2)]
    for file, text in zip(files, texts, strict=True):
        Path(file).write_text(text)
    given = {"settings": files, "trials": 1, "hold_out": "none"}
    sets = {"cifar10": 3, "stl10": 5, "digits": 5}
    wanted = []
    for name, epochs in sets.items():
        wanted.append(create({"epochs": epochs, "dataset": name, "trials": 1, "hold_out": "none"}))
    assert list(several(given)) == wanted == list(several(given | {"epochs": None}))
    searched = several(given | {"auxiliary_weights": {"rotation": [0.1, 2], "cpc": [1]}})
    weights = [("classification", 0), ("rotation", 0.1), ("rotation", 2)]
    found = [(e.dataset, (*e.methods, e.auxiliary_weight)) for e in searched]
    assert found == list(itertools.product(sets, weights))
    assert several({"epochs": 3}) == (create({"epochs": 3}),)
    refused(lambda: from_parameters({"dataset": ["stl10", "digits"]}), "choose from stl10, digits")


def test_labels_give_each_number_of_images_its_epochs_and_ten_evaluations():
    few, all_labels = several({"epochs_by_labels": {"20": 50, "all": 5}, "dataset": "digits"})
    assert (few.train_per_class, few.epochs, few.evaluate_every) == (20, 50, 5)
    assert all_labels == create({"epochs": 5, "evaluate_every": 1, "dataset": "digits"})


# --- right values


def test_the_command_line_goes_over_the_file_and_the_file_over_the_notebook(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("epochs: 7\ntrials: 5\n")
    experiment = one(HOLDOUT, [str(file)], [["epochs", "9"], ["hold_out", "[1, 2]"]])
    assert (experiment.epochs, experiment.trials, experiment.dataset) == (9, 5, "digits")
    assert experiment.hold_out == ("1", "2")
    for text in ("7", "all", "none", "no"):
        assert one(HOLDOUT, pairs=[["hold_out", text]]).hold_out == (text,)


def test_lists_become_tuples_numbers_become_class_names_and_nothing_can_be_changed():
    values = {"hold_out": [3, "five"], "methods": "rotation", "epochs": 3}
    experiment = create(values)
    assert experiment.hold_out == ("3", "five") and experiment.methods == ("rotation",)
    assert create({"hold_out": 8}).hold_out == ("8",)
    assert create({"learning_rate": "1e-1"}).learning_rate == 0.1  # which PyYAML takes for text
    for change in ("epochs", "invented"):
        with pytest.raises(ValidationError):
            setattr(experiment, change, 4)
    assert hash(experiment) == hash(create(values))
    assert create({"norm_batch": "none", "threads": "None", "data_root": None}).norm_batch is None


# --- pinned: what a finished run's address stands for

# If this test fails, finished runs are no longer found, or (DEFAULTS) runs trained in another way
# are taken for these: an address leaves out what is at its default. Where training has changed,
# raise plan.RECIPE, then pin anew.
GOLDEN = {
    "cpu/table3_cifar10": "cfab2d74a217adb2",
    "demo/benchmark": "0bf9a231c3e2e3c7",
    "fast/table3_cifar10": "69d02ecde45cb0b7",
    "paper/table3_cifar10": "a6fcf37507e2822e",
}
DEFAULTS = {"image_side": None, "train_per_class": None, "fold": None, "evaluate_on": "test"}
DEFAULTS |= {"architecture": "wrn-28-10", "stem_stride": 1, "widen_factor": None, "dropout": 0.3}
DEFAULTS |= {"norm_batch": 128, "epochs": 200, "batch_size": 512, "learning_rate": 0.1}
DEFAULTS |= {"weight_decay": 5e-4, "schedule": "step", "crop_side": None, "crop_padding": None}
DEFAULTS |= {"flip": True, "auxiliary_weight": 0.5, "auxiliary_augment": False}
DEFAULTS |= {"precision": "float32", "average_last_epochs": 1, "subset_seed": None}


@pytest.mark.parametrize("which", GOLDEN)
def test_a_finished_run_keeps_its_address(which):
    experiment = create(read_parameters(ROOT / "params" / f"{which}.yaml"))
    first = "0" if experiment.dataset == "digits" else "airplane"
    run = plan.Run(experiment, first, "rotation", 0, Digests("d" * 64, "e" * 64))
    assert run.address[:16] == GOLDEN[which]


def test_committed_records_lie_at_their_addresses():
    command = ["git", "ls-files", "outputs/**/record.json"]
    tracked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    for path in map(Path, tracked):
        record = store.read_record(ROOT / path.parent)
        assert record.place == record.run_home.relative_to(ROOT / Path(*path.parts[:3])), path
    assert len(tracked) >= 144


def test_defaults_are_the_papers_and_change_only_with_the_recipe():
    run = plan.Run(create({"precision": "float32"}), "cat", "rotation", 0)
    assert (plan.RECIPE, run.settings) == (2, DEFAULTS)
    e = Experiment()
    assert (e.temperature, e.epsilon, e.trials) == (1000.0, 5e-5, 3)
    assert (e.precision, e.statistics) == ("auto", "mixed")


# --- params/ and notebooks/


@pytest.mark.parametrize("path", PARAMS, ids=named)
def test_a_committed_params_file_is_valid_and_names_its_command(path):
    experiments = notebooks.parameters(notebook_of(path), [str(path)], [])[1]
    assert {experiment.profile for experiment in experiments} == {path.parent.name}
    first = path.read_text().splitlines()[0]
    assert re.search(rf"^# .*python -m semlib (run|grid)\b.*{re.escape(named(path))}", first)
    trains = "missing" in papermill.inspect_notebook(str(notebook_of(path)))
    assert {experiment.missing for experiment in experiments} == {"train" if trains else "skip"}
    on_cpus = path.parent.name in ("demo", "cpu")
    if trains:  # no committed number depends on the processor
        assert {e.precision for e in experiments} == {"float32" if on_cpus else "bfloat16"}
    statistics = "upright" if path.parent.name == "demo" and trains else "mixed"
    assert {e.statistics for e in experiments} == {statistics}


def test_every_notebook_has_parameters_for_every_profile():
    """Not those for any data, for others' files or to look at; few_labels isn't the paper's.

    controls is of few_labels' runs; claims reads the committed records of several profiles;
    pretrained needs no GPU.
    """
    few = {"few_labels", "controls"}
    own = few | {"method", "benchmark", "holdout", "inspect_pr_curves", "claims", "pretrained"}
    tables = {path.stem for path in NOTEBOOKS} - own
    wanted = set(itertools.product(("paper", "fast", "demo"), tables))
    wanted |= set(itertools.product(("cpu", "fast", "demo"), few))
    wanted |= {("cpu", "pretrained"), ("demo", "pretrained")}
    assert wanted <= {(path.parent.name, path.stem) for path in PARAMS}


def parameters_cell(path):
    cells = nbformat.read(path, 4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    return cells, *tagged


# method.ipynb is the paper by hand: it has no experiment
TAGGED = [p for p in NOTEBOOKS if len(parameters_cell(p)) == 2 and p.stem != "method"]


@pytest.mark.parametrize("path", TAGGED, ids=named)
def test_a_parameters_cell_has_plain_values_and_every_name_is_known(path):
    cells, cell = parameters_cell(path)
    assigned = {}
    for statement in ast.parse(cell.source).body:
        (target,) = statement.targets
        assigned[target.id] = ast.literal_eval(statement.value)
    inferred = papermill.inspect_notebook(str(path))
    assert {name: ast.literal_eval(p["default"]) for name, p in inferred.items()} == assigned
    assert assigned.get("missing", "skip") == "skip"  # a notebook that is opened trains nothing
    after = cells[cells.index(cell) + 1].source
    made = r"^experiment(s?) = (several_)?from_parameters\(globals\(\)"
    made += r'(?:, "[\w/]+")?(?:, also=(\(.*\)))?\)$'
    ((plural, many, also),) = re.findall(made, after, flags=re.M)
    known = {*Experiment.model_fields, *(Several.model_fields if many else ())}
    assert bool(plural) == bool(many) and len(assigned) <= 12
    assert set(assigned) - known == set(ast.literal_eval(also) if also else ())


ABOUT_ALL = [path.stem for path in TAGGED if path.stem not in ("holdout", "inspect_pr_curves")]


@pytest.mark.parametrize("notebook", ABOUT_ALL)
def test_a_notebooks_defaults_are_the_runs_of_its_params_file(notebook):
    others = {"benchmark": "demo/benchmark", "few_labels": "cpu/few_labels"}
    others |= {name: f"cpu/{name}" for name in ("claims", "controls", "pretrained")}
    params = ROOT / "params" / f"{others.get(notebook, f'paper/{notebook}')}.yaml"
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    _, opened = notebooks.parameters(path, [], [])
    _, batch = notebooks.parameters(path, [str(params)], [])
    for a, b in zip(opened, batch, strict=True):
        assert [run.home for run in plan.planned(a)] == [run.home for run in plan.planned(b)]


def test_what_a_cell_leaves_none_is_as_in_its_profiles_file_and_what_it_sets_goes_above():
    """The same in a kernel as for `semlib run`, which takes a None that was given as none."""
    cell = {"profile": "cpu", "dataset": None, "trials": 1, "norm_batch": None, "missing": "skip"}
    file = read_parameters("params/cpu/table3_cifar10.yaml")
    made = from_parameters(cell, "paper/table3_cifar10")
    assert made == create(file | {"trials": 1, "missing": "skip"})
    own = {"profile": "mine", "epochs": 3, "norm_batch": "none"}
    paper = read_parameters("params/paper/table3_cifar10.yaml")
    alone = from_parameters(own, "paper/table3_cifar10")
    assert alone == create(paper | own | {"compile": False})  # no settings of another's machine
    unset = {"profile": "mine", "epochs": None}
    assert from_parameters(unset, "holdout") == create({"profile": "mine"})
    table3 = ROOT / "notebooks" / "table3_cifar10.ipynb"
    pairs = [["profile", "mine"], ["epochs", "3"], ["norm_batch", "null"]]
    assert one(table3, pairs=pairs) == alone.model_copy(update={"missing": "skip"})
    named = {"profile": "cpu", "settings": ["params/cpu/few_labels.yaml"]}
    made = several_from_parameters(named, "paper/figure1_learning_curves")
    assert [e.train_per_class for e in made] == [500, 100, 2000, None]  # not figure1's own 500


def addresses(experiments):
    runs = itertools.chain(*map(plan.planned, experiments))
    return [run.address for run in runs]


def trains_one_experiment(path):
    text = path.read_text()
    return re.search("^architecture:", text, flags=re.M) and "few_labels" not in path.name


@pytest.mark.parametrize("path", [*filter(trains_one_experiment, PARAMS)], ids=named)
def test_a_params_file_means_the_same_runs_in_the_tables_notebook_and_in_holdout(path):
    _, table = notebooks.parameters(notebook_of(path), [str(path)], [])
    _, single = notebooks.parameters(HOLDOUT, [str(path)], [])
    pairs = zip(table, single, strict=True)
    single = [b.model_copy(update={"hold_out": a.hold_out}) for a, b in pairs]
    assert addresses(table) == addresses(single)


def test_holdout_opens_on_a_run_of_the_demo():
    demo = create(read_parameters(ROOT / "params" / "demo" / "benchmark.yaml"))
    assert set(addresses([one(HOLDOUT)])) <= set(addresses([demo]))
