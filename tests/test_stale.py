"""No number can be stale: what a user changes is seen by every command, and what he did not change
is not done twice.
"""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    OWN_NETWORK,
    ROOT,
    contents,
    finish,
    parameters,
    pets,
    semlib,
    semlib_path,
    tiny_data,
)

from workbench.batch import notebooks
from workbench.experiment import Experiment, create
from workbench.images import prepared
from workbench.runs import plan, store

NOTEBOOK = "notebooks/benchmark.ipynb"
SMALL = {
    "profile": "stale", "hold_out": "bee", "methods": "classification", "trials": 1, "missing": "train", "image_side": 8,
    "architecture": "wrn-10-1", "epochs": 1, "batch_size": 8, "norm_batch": "none", "precision": "float32", "threads": 1,
}  # fmt: skip


@pytest.fixture
def command(tmp_path):
    """Run `semlib run` or, dry, `semlib grid --dry-run`, with small settings; what it prints, and
    its exit status.
    """

    def run(dry: bool = False, status: int = 0, **changes) -> str:
        places = {"outputs": tmp_path / "outputs", "data_root": tmp_path / "data"}
        given = parameters(**SMALL | places | changes)
        words = (
            ["grid", "params/demo/benchmark.yaml", "--dry-run", *given]
            if dry
            else ["run", NOTEBOOK, *given]
        )
        done = semlib(*words, PYTHONPATH=semlib_path(tmp_path))
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def records(tmp_path) -> dict[str, dict]:
    """Every record by its path, with the time at which the weights of its run were written."""
    found = {}
    for path in (tmp_path / "outputs").rglob("record.json"):
        home = path.parent.parent if path.parent.name.startswith("test_") else path.parent
        found[str(path)] = json.loads(path.read_text()) | {
            "trained at": (home / "weights.pt").stat().st_mtime_ns
        }
    return found


def finished(text: str) -> tuple[int, int]:
    return tuple(map(int, re.search(r"(\d+) of (\d+) runs are finished", text).groups()))


@pytest.mark.notebook
def test_two_folders_of_one_name_are_two_data_sets(tmp_path, command):
    first, second = (pets(tmp_path / name, seed) for seed, name in enumerate("ab"))
    of_first = command(dataset=first)
    before = records(tmp_path)
    said = command(dry=True, dataset=second)
    assert finished(said) == (0, 1) and re.search(
        r"1 finished run in \S+ not used: of other data \(\S+\) than is here now", said
    )
    of_second = command(dataset=second)
    assert finished(of_second) == (1, 1) and "not used: of other data" in of_second
    after = records(tmp_path)
    assert before.items() < after.items() and len(after) == 2
    for text, dataset in ((of_first, first), (of_second, second)):
        data = prepared.digests_of(prepared.load(str(dataset), tmp_path / "data", 8))
        (record,) = [
            r
            for r in after.values()
            if r["train_digest"] == data.train and r["test_digest"] == data.test
        ]
        for name in ("msp", "odin", "accuracy"):
            assert f"{100 * record['metrics'][f'{name}@upright']:.2f}" in text
    for dataset in (first, second):
        assert finished(command(dry=True, dataset=dataset)) == (1, 1)
    command(dataset=first)
    assert records(tmp_path) == after


@pytest.mark.notebook
def test_a_folder_that_grows_is_trained_or_only_scored_anew(tmp_path, command):
    folder = pets(tmp_path / "a", 0)
    command(dataset=folder)
    (first,) = records(tmp_path).values()
    (folder / "test" / "cow" / "new.png").write_bytes(
        (folder / "test" / "cow" / "0.png").read_bytes()
    )
    said = command(dry=True, dataset=folder)
    assert (
        finished(said) == (0, 1)
        and "1 are missing, 1 of them only to be scored: they lack msp, odin\n" in said
    )
    assert finished(command(dataset=folder)) == (1, 1)
    old, new = sorted(records(tmp_path).values(), key=lambda r: r["finished"])
    assert (
        old == first
        and new["trained at"] == first["trained at"]
        and new["test_digest"] != first["test_digest"]
    )
    (folder / "train" / "cow" / "new.png").write_bytes(
        (folder / "train" / "cow" / "0.png").read_bytes()
    )
    assert finished(command(dry=True, dataset=folder)) == (0, 1)
    assert finished(command(dataset=folder)) == (1, 1)
    found = records(tmp_path).values()
    assert len(found) == 3 and len({record["trained at"] for record in found}) == 2
    (folder / "train" / "cow" / "new.png").unlink()
    assert finished(command(dry=True, dataset=folder)) == (1, 1)  # as it was: found again


TASK = """
from aid import weight

def task(net, images):
    return weight() * net(images, head="mine").square().mean()

task.heads = {"mine": 2}

def score(logits):
    return -logits.double().amax(1)
"""


@pytest.mark.notebook
def test_edits_of_a_users_code_change_what_depends_on_them(tmp_path, command):
    folder, aid, mine, net = (
        pets(tmp_path / "a", 0),
        tmp_path / "aid.py",
        tmp_path / "mine.py",
        tmp_path / "own.py",
    )
    aid.write_text("def weight():\n    return 1.0\n")
    mine.write_text(TASK)
    net.write_text(OWN_NETWORK)
    how = {
        "dataset": folder,
        "methods": "mine:task",
        "architecture": "own:small",
        "scores": "[msp, mine:score]",
    }
    command(**how)
    (first,) = records(tmp_path).values()

    aid.write_text("def weight():\n    return 1.0  # the usual\n")
    mine.write_text('"""My task."""\n' + TASK)
    net.write_text(
        OWN_NETWORK.replace("def forward(self, ", "def forward(  # as it must be\n        self, ")
    )
    assert finished(command(dry=True, **how)) == (1, 1)  # words change nothing

    mine.write_text(TASK.replace("-logits.double().amax(1)", "-2 * logits.double().amax(1)"))
    assert finished(command(dry=True, **how)) == (0, 1)  # lacks the score
    assert finished(command(dry=True, **how | {"scores": "msp"})) == (1, 1)
    command(**how)
    (again,) = records(tmp_path).values()
    assert (
        again["trained at"] == first["trained at"]
        and again["scoring"]["mine:score"] != first["scoring"]["mine:score"]
    )

    for path, old, new, name in (
        (aid, "1.0", "2.0", "mine:task"),
        (net, "nn.ReLU", "nn.Tanh", "own:small"),
    ):
        path.write_text(path.read_text().replace(old, new))
        said = command(dry=True, **how)
        assert finished(said) == (0, 1) and f"another version of {name}" in said
        assert finished(command(**how)) == (1, 1)
    assert len(records(tmp_path)) == 3


@pytest.mark.notebook
def test_precisions_lie_side_by_side(tmp_path, command):
    folder = pets(tmp_path / "a", 0)
    for precision in ("float32", "bfloat16"):
        assert finished(command(dry=True, dataset=folder, precision=precision)) == (0, 1)
        command(dataset=folder, precision=precision)
        assert finished(command(dry=True, dataset=folder, precision=precision)) == (1, 1)
    assert {record["precision"] for record in records(tmp_path).values()} == {"float32", "bfloat16"}
    assert finished(command(dry=True, dataset=folder, precision="auto")) == (1, 1)  # one of the two


@pytest.mark.notebook
def test_nothing_does_not_replace_a_table_a_figure_or_a_notebook(tmp_path, command):
    folder = pets(tmp_path / "a", 0)
    command(dataset=folder)
    before = contents(tmp_path / "outputs", ("run.lock",))
    assert {"benchmark-pets-bee.csv", "benchmark-pets-bee.png", "benchmark-pets-bee.ipynb"} <= {
        name.split("/")[-1] for name in before
    }
    said = command(dataset=folder, flip="yes", missing="skip")
    assert (
        "nothing is finished with these settings" in said
        and "benchmark-pets-bee.ipynb stays" in said
    )
    assert before.items() <= contents(tmp_path / "outputs").items()
    command(dataset=folder, flip="yes", learning_rate=1e12, schedule="step", status=1)
    assert before.items() <= contents(tmp_path / "outputs").items()
    left = list((tmp_path / "outputs").rglob("*.unfinished.ipynb"))
    assert len(left) == 1 and "FloatingPointError" in left[0].read_text()
    command(dataset=folder, flip="yes")  # another complete table takes the place
    assert not list((tmp_path / "outputs").rglob("*.unfinished.ipynb"))
    after = contents(tmp_path / "outputs")
    assert all(after[name] != before[name] for name in before if name.startswith("stale/benchmark"))


def test_runs_of_an_older_recipe_are_counted_in_a_dry_run(tmp_path, command):
    folder = pets(tmp_path / "a", 0)
    home = tmp_path / "outputs" / "stale" / "runs" / "pets" / "bee" / "classification"
    for k in (1, 2):
        (home / f"trial_0-{k:08}").mkdir(parents=True)
        (home / f"trial_0-{k:08}" / "record.json").write_text(
            json.dumps({"dataset": "pets", "fingerprint": "f", "trial": 0})
        )
    said = command(dry=True, dataset=folder)
    assert finished(said) == (0, 1) and len(list(home.rglob("record.json"))) == 2
    assert (
        said.count("2 finished runs in") == 1
        and "of recipe 1, and semlib trains by recipe 2" in said
    )


@pytest.mark.parametrize("table", ["table3_cifar10", "table4_stl10", "masking_ablation"])
def test_a_gpus_records_are_found_on_a_machine_without_one(tmp_path, table):
    """As on a SLURM cluster's login node: the precision is named, so nothing has to be asked of the
    device.
    """
    path = ROOT / "params" / "fast" / f"{table}.yaml"
    given = [("outputs", str(tmp_path)), ("data_root", str(tmp_path / "data"))]
    (experiment,) = notebooks.parameters(ROOT / "notebooks" / f"{table}.ipynb", [path], given)[1]
    (run, *_) = plan.planned(experiment)
    run = replace(run, data=prepared.Digests("1" * 64, "2" * 64))
    label = np.arange(20) % 10
    arrays = {"label": label, "predicted": label, "is_anomaly": label == 0, "msp": np.arange(20.0)}
    made = finish(run, (), arrays, {"msp": {}})
    gpu = made.model_dump() | {"device": "NVIDIA H100 80GB HBM3", "precision": "bfloat16"}
    store.write_record(run.home, **gpu)
    (record,) = store.finished(experiment)
    assert record.device.startswith("NVIDIA") and record.precision == "bfloat16"


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "params").glob("*/*.yaml")),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_file_of_parameters_that_trains_names_its_precision(path):
    experiments = notebooks.parameters(ROOT / "notebooks" / f"{path.stem}.ipynb", [path], [])[1]
    named = "float32" if path.parent.name in ("demo", "cpu") else "bfloat16"
    assert {e.precision for e in experiments if e.missing == "train"} <= {named}
    if path.parent.name == "demo":
        assert {e.statistics for e in experiments if e.missing == "train"} <= {"upright"}
    else:
        assert {e.statistics for e in experiments} == {"mixed"}


def test_the_tiny_data_set_is_seen_to_change_in_a_process_that_lives_on(tmp_path):
    tiny_data(tmp_path)
    experiment = create({"dataset": "tiny", "data_root": str(tmp_path), "outputs": str(tmp_path)})
    first = plan.here(experiment)
    with np.load(tmp_path / "tiny.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["train_images"][0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "tiny.npz", **arrays)
    second = plan.here(experiment)
    assert (first.train != second.train) and first.test == second.test
    assert plan.here(Experiment(**experiment.model_dump() | {"evaluate_on": "validation"})) not in (
        first,
        second,
    )
