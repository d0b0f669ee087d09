"""Experiment: every wrong choice is one line with the choices, by every way in; params/ and
notebooks/ agree with it.
"""

import ast
import re
import subprocess
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


# --- wrong values

WRONG = [
    ("learning_rate: fast", ("learning_rate", "number", "'fast'")),
    ("learning_rate: inf", ("learning_rate", "finite", "'inf'")),
    ("learning_rate: 0", ("learning_rate", "greater than 0")),
    ("learning_rate: true", ("learning_rate", "number", "True")),
    ("dropout: 1", ("dropout", "less than 1")),
    ("epochs: true", ("epochs", "integer", "True")),
    ("epochs: 0", ("epochs", "greater than or equal to 1")),
    ("flip: 1", ("flip", "boolean", "1")),
    ("epoch: 3", ("'epoch'", "epochs", "evaluate_every", "learning_rate")),
    (
        "methods: jigsaw",
        ("methods", "'jigsaw'", "classification, rotation", "package.module:function"),
    ),
    (
        "scores: [msp, enrgy]",
        ("scores", "'enrgy'", "msp, odin", "nnguide, package.module:function"),
    ),
    ("schedule: cosine", ("schedule", "'step' or 'one_cycle'", "'cosine'")),
    ("device: gpu", ("device", "cuda", "'gpu'")),
    ("hold_out: ['3', 3]", ("hold_out", "only once")),
    ("hold_out: [all, cat]", ("hold_out", "all", "none", "alone")),
    ("hold_out: []", ("hold_out", "at least 1")),
    ("hold_out: true", ("hold_out", "True")),
    ("profile: ../elsewhere", ("profile", "'../elsewhere'")),
    ("{batch_size: 200, norm_batch: 128}", ("batch_size", "200", "multiple of norm_batch = 128")),
    ("{epochs: 3, average_last_epochs: 4}", ("average_last_epochs", "4", "epochs = 3")),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_value_is_one_line_that_says_what_and_the_choices(text, said, tmp_path):
    with pytest.raises(ConfigError) as direct:
        create(yaml.safe_load(text))
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError) as by_file:
        notebooks.parameters(HOLDOUT, [str(tmp_path / "wrong.yaml")], [])
    for message in (str(direct.value), str(by_file.value)):
        assert "\n" not in message and all(words in message for words in said), message


def test_what_a_kernel_has_from_elsewhere_is_no_parameter():
    """A start-up file of IPython's ran before the first cell: what it set is in the namespace and
    in no cell.
    """
    namespace = {
        "weight_decay": 0.1,
        "mine": "x",
        "epochs": 3,
        "In": ["", "epochs = 5\nepochs = 3", "%time", "import os"],
    }
    assert from_parameters(namespace) == create({"epochs": 3})


def test_two_wrong_values_are_both_named_in_one_line():
    with pytest.raises(ConfigError) as error:
        create({"epochs": True, "learning_rate": "fast"})
    assert (
        "epochs" in str(error.value)
        and "learning_rate" in str(error.value)
        and "\n" not in str(error.value)
    )


def test_a_notebooks_parameters_cell_is_checked_as_well():
    with pytest.raises(ConfigError, match=r"unknown parameter 'epoch' \(epochs\?\); choose from"):
        from_parameters(
            {"epoch": 3, "__name__": "__main__", "_": "", "In": ["", "epoch = 3"], "Out": {}}
        )
    with pytest.raises(ConfigError, match="epochs: should be a valid integer"):
        from_parameters({"epochs": "3"})
    assert from_parameters({"epochs": 3, "also_mine": 4}, also=("also_mine",)).epochs == 3
    used = {
        "epochs": 3,
        "experiment": None,
        "mine": "x",
        "counts": [1],
    }  # the cell executed again in Lab
    assert from_parameters(used).epochs == 3


# --- several experiments of one notebook

WRONG_LISTS = [
    ({"dataset": []}, ("dataset", "at least 1")),
    ({"dataset": ["digits", "digits"]}, ("dataset", "only once")),
    ({"settings": 3}, ("3: can't be read",)),
    ({"settings": ["absent.yaml"]}, ("absent.yaml", "can't be read")),
    ({"auxiliary_weights": [1]}, ("auxiliary_weights", "dictionary")),
    (
        {"auxiliary_weights": {"rotation": [0.1, -1]}},
        ("auxiliary_weights", "greater than or equal to 0"),
    ),
    ({"dataset": ["digits"], "epoch": 3}, ("'epoch'", "epochs")),
]


@pytest.mark.parametrize(("values", "said"), WRONG_LISTS, ids=str)
def test_a_wrong_list_is_one_line(values, said):
    with pytest.raises(ConfigError) as error:
        several(values)
    assert "\n" not in str(error.value) and all(text in str(error.value) for text in said), (
        error.value
    )


def test_several_experiments_are_those_written_out(tmp_path):
    files = []
    for name, text in (
        ("a", "epochs: 3\ndataset: cifar10\ntrials: 7"),
        ("b", "epochs: 5\ndataset: [stl10, digits]"),
    ):
        files.append(str(tmp_path / f"{name}.yaml"))
        (tmp_path / f"{name}.yaml").write_text(text)
    given = {"settings": files, "trials": 1, "hold_out": "none"}
    wanted = [create({"epochs": e, "dataset": d, "trials": 1, "hold_out": "none"})
              for e, d in ((3, "cifar10"), (5, "stl10"), (5, "digits"))]  # fmt: skip
    assert list(several(given)) == wanted == list(several(given | {"epochs": None}))
    searched = several(given | {"auxiliary_weights": {"rotation": [0.1, 2], "cpc": [1]}})
    assert [(e.dataset, *e.methods, e.auxiliary_weight) for e in searched] == [
        (name, method, weight)
        for name in ("cifar10", "stl10", "digits")
        for method, weight in (("classification", 0), ("rotation", 0.1), ("rotation", 2))
    ]
    assert several({"epochs": 3}) == (create({"epochs": 3}),)
    with pytest.raises(ConfigError, match="one; choose from stl10, digits"):
        from_parameters({"dataset": ["stl10", "digits"]})


def test_a_weight_left_open_is_the_chosen_one(tmp_path):
    open_ = {
        "dataset": "digits",
        "auxiliary_weight": None,
        "outputs": str(tmp_path),
        "profile": "mine",
    }
    assert several(open_)[0].auxiliary_weight == 1.0  # until one is chosen
    path = tmp_path / "mine" / "auxiliary_weights.csv"
    path.parent.mkdir()
    path.write_text(
        "dataset,method,auxiliary_weight,accuracy\ndigits,center_mask,3,99\ncifar10,rotation,4,99\ndigits,rotation,0.25,98\n"
    )
    assert from_parameters(open_).auxiliary_weight == 0.25
    path.write_text("dataset,method\ndigits,rotation\n")
    with pytest.raises(ConfigError, match=r"auxiliary_weights\.csv can't be read"):
        several(open_)


# --- right values

RATES = [0.1, "0.1", "1e-1", "1E-1", " .1 "]


@pytest.mark.parametrize("rate", RATES)
def test_text_that_is_a_number_is_that_number_by_every_way_in(rate, tmp_path):
    assert create({"learning_rate": rate}).learning_rate == 0.1
    assert from_parameters({"learning_rate": rate}).learning_rate == 0.1
    (tmp_path / "rate.yaml").write_text(f"learning_rate: {rate}\n")
    for files, pairs in (([str(tmp_path / "rate.yaml")], []), ([], [["learning_rate", str(rate)]])):
        assert one(HOLDOUT, files, pairs).learning_rate == 0.1
    assert isinstance(yaml.safe_load("1e-1"), str)  # the reason why


def test_the_command_line_goes_over_the_file_and_the_file_over_the_notebook(tmp_path):
    (tmp_path / "some.yaml").write_text("epochs: 7\ntrials: 5\n")
    experiment = one(
        HOLDOUT, [str(tmp_path / "some.yaml")], [["epochs", "9"], ["hold_out", "[1, 2]"]]
    )
    assert (experiment.epochs, experiment.trials, experiment.dataset) == (9, 5, "digits")
    assert experiment.hold_out == ("1", "2")
    for text, wanted in (("7", ("7",)), ("all", ("all",)), ("none", ("none",)), ("no", ("no",))):
        assert one(HOLDOUT, pairs=[["hold_out", text]]).hold_out == wanted


def test_lists_become_tuples_numbers_become_class_names_and_nothing_can_be_changed():
    experiment = create({"hold_out": [3, "five"], "methods": "rotation", "epochs": 3})
    assert experiment.hold_out == ("3", "five") and experiment.methods == ("rotation",)
    assert create({"hold_out": 8}).hold_out == ("8",)
    for change in ("epochs", "invented"):
        with pytest.raises(ValidationError):
            setattr(experiment, change, 4)
    assert hash(experiment) == hash(
        create({"hold_out": [3, "five"], "methods": "rotation", "epochs": 3})
    )
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
DEFAULTS = {
    "image_side": None, "train_per_class": None, "crop_side": None, "fold": None, "evaluate_on": "test", "crop_padding": None,
    "flip": True, "architecture": "wrn-28-10", "stem_stride": 1, "widen_factor": None, "dropout": 0.3,
    "norm_batch": 128, "epochs": 200, "batch_size": 512, "learning_rate": 0.1, "weight_decay": 5e-4, "schedule": "step",
    "auxiliary_weight": 0.5, "auxiliary_augment": False, "precision": "float32", "average_last_epochs": 1,
}  # fmt: skip


@pytest.mark.parametrize("which", GOLDEN)
def test_a_finished_run_keeps_its_address(which):
    experiment = create(read_parameters(ROOT / "params" / f"{which}.yaml"))
    first = "0" if experiment.dataset == "digits" else "airplane"
    assert (
        plan.Run(experiment, first, "rotation", 0, Digests("d" * 64, "e" * 64)).address[:16]
        == GOLDEN[which]
    )


def test_committed_records_lie_at_their_addresses():
    """No later change may move a finished run. While none is committed, GOLDEN alone holds that."""
    tracked = subprocess.run(
        ["git", "ls-files", "outputs/**/record.json"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for path in map(Path, tracked.split()):
        record = store.read_record(ROOT / path.parent)
        assert record.place == record.trained.relative_to(ROOT / Path(*path.parts[:3])), path


def test_defaults_are_the_papers_and_change_only_with_the_recipe():
    run = plan.Run(create({"precision": "float32"}), "cat", "rotation", 0)
    assert (plan.RECIPE, run.settings) == (2, DEFAULTS)
    assert (Experiment().temperature, Experiment().epsilon, Experiment().trials) == (
        1000.0,
        5e-5,
        3,
    )
    assert (Experiment().precision, Experiment().statistics) == ("auto", "mixed")


# --- params/ and notebooks/


@pytest.mark.parametrize("path", PARAMS, ids=named)
def test_a_committed_params_file_is_valid_and_names_its_command(path):
    experiments = notebooks.parameters(notebook_of(path), [str(path)], [])[1]
    assert {experiment.profile for experiment in experiments} == {path.parent.name}
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ") and re.search(
        rf"python -m semlib (run|grid)\b.*{re.escape(named(path))}", first
    )
    trains = "missing" in papermill.inspect_notebook(str(notebook_of(path)))
    assert {experiment.missing for experiment in experiments} == {"train" if trains else "skip"}
    text = [
        line.split(":")[0]
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(text) == len(set(text))


def test_every_notebook_has_parameters_for_every_profile():
    """benchmark is for any data, holdout takes others' files, the inspector has controls;
    few_labels is not the paper's.
    """
    names = {path.stem for path in NOTEBOOKS} - {
        "benchmark",
        "holdout",
        "inspect_pr_curves",
        "few_labels",
    }
    assert {named(path) for path in PARAMS} >= {
        f"params/{p}/few_labels.yaml" for p in ("cpu", "fast", "demo")
    }
    assert {named(path) for path in PARAMS} >= {
        f"params/{p}/{name}.yaml" for p in ("paper", "fast", "demo") for name in names
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_a_parameters_cell_is_one_line_a_parameter(path):
    cells = nbformat.read(path, 4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    assigned = {}
    for line in cell.source.splitlines():
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1
        assigned[statement.targets[0].id] = ast.literal_eval(statement.value)
    assert len(assigned) == len(cell.source.splitlines())
    inferred = papermill.inspect_notebook(str(path))
    assert {name: ast.literal_eval(p["default"]) for name, p in inferred.items()} == assigned
    assert (
        assigned.get("missing", "skip") == "skip"
    )  # a notebook that is opened trains nothing by itself
    after = cells[cells.index(cell) + 1]
    made = (
        r"^experiment(s?) = config\.(several_)?from_parameters\(globals\(\)(?:, also=(\(.*\)))?\)$"
    )
    ((plural, several, call),) = re.findall(made, after.source, flags=re.M)
    known = {*Experiment.model_fields, *(Several.model_fields if several else ())}
    assert bool(plural) == bool(several) and set(assigned) - known == set(
        ast.literal_eval(call) if call else ()
    )


@pytest.mark.parametrize(
    "notebook",
    [path.stem for path in NOTEBOOKS if path.stem not in ("holdout", "inspect_pr_curves")],
)
def test_a_notebooks_defaults_are_the_runs_of_its_params_file(notebook):
    params = {"benchmark": "demo/benchmark", "few_labels": "cpu/few_labels"}.get(
        notebook, f"paper/{notebook}"
    )
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    _, opened = notebooks.parameters(path, [], [])
    _, batch = notebooks.parameters(path, [str(ROOT / "params" / f"{params}.yaml")], [])
    pairs = zip(opened, batch, strict=True)
    assert all(
        [run.home for run in plan.planned(a)] == [run.home for run in plan.planned(b)]
        for a, b in pairs
    )
    assert addresses(opened) == addresses(batch)


def addresses(experiments):
    return [run.address for experiment in experiments for run in plan.planned(experiment)]


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in PARAMS
        if re.search("^architecture:", p.read_text(), flags=re.M) and "few_labels" not in p.name
    ],
    ids=named,
)
def test_a_params_file_means_the_same_runs_in_the_tables_notebook_and_in_holdout(path):
    table, single = (
        notebooks.parameters(notebook, [str(path)], [])[1]
        for notebook in (notebook_of(path), HOLDOUT)
    )
    single = [
        b.model_copy(update={"hold_out": a.hold_out}) for a, b in zip(table, single, strict=True)
    ]
    assert addresses(table) == addresses(single)


def test_holdout_opens_on_a_run_of_the_demo():
    opened = one(HOLDOUT)
    demo = create(read_parameters(ROOT / "params" / "demo" / "benchmark.yaml"))
    assert {run.address for run in plan.planned(opened)} <= {
        run.address for run in plan.planned(demo)
    }
