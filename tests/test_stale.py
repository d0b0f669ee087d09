"""What a user changes is seen by every command; what did not change is not done twice."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import ROOT, contents, finish, parameters, pets, semlib, semlib_path

from workbench.batch import notebooks
from workbench.images import prepared
from workbench.runs import plan, store

NOTEBOOK = "notebooks/benchmark.ipynb"
SMALL = {"profile": "stale", "hold_out": "bee", "methods": "classification", "trials": 1}
SMALL |= {"missing": "train", "image_side": 8, "architecture": "wrn-10-1", "epochs": 1}
SMALL |= {"batch_size": 8, "norm_batch": "none", "precision": "float32", "threads": 1}


@pytest.fixture
def command(tmp_path):
    """Run `semlib run` or a dry `semlib grid` with small settings; what it prints."""

    def run(dry: bool = False, status: int = 0, **changes) -> str:
        places = {"outputs": tmp_path / "outputs", "data_root": tmp_path / "data"}
        words = ["grid", "params/demo/benchmark.yaml", "--dry-run"] if dry else ["run", NOTEBOOK]
        path = semlib_path(tmp_path)
        done = semlib(*words, *parameters(**SMALL | places | changes), PYTHONPATH=path)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def records(tmp_path) -> dict[str, dict]:
    """Every record by its path, with the time at which the weights of its run were written."""
    found = {}
    for path in (tmp_path / "outputs").rglob("record.json"):
        weights = store.read_record(path.parent).run_home / "weights.pt"
        trained = {"trained at": weights.stat().st_mtime_ns}
        found[str(path)] = json.loads(path.read_text()) | trained
    return found


def finished(text: str) -> tuple[int, int]:
    return tuple(map(int, re.search(r"(\d+) of (\d+) runs are finished", text).groups()))


@pytest.mark.notebook
def test_a_folder_that_grows_is_trained_or_only_scored_anew(tmp_path, command):
    folder = pets(tmp_path / "a", 0)
    command(dataset=folder)
    (first,) = records(tmp_path).values()
    shutil.copy(folder / "test" / "cow" / "0.png", folder / "test" / "cow" / "new.png")
    said = command(dry=True, dataset=folder)
    only_scored = "1 are missing, 1 of them only to be scored: they lack msp, odin\n"
    assert finished(said) == (0, 1) and only_scored in said
    assert finished(command(dataset=folder)) == (1, 1)
    old, new = sorted(records(tmp_path).values(), key=lambda r: r["finished"])
    assert old == first and new["trained at"] == first["trained at"]
    assert new["test_digest"] != first["test_digest"]
    shutil.copy(folder / "train" / "cow" / "0.png", folder / "train" / "cow" / "new.png")
    assert finished(command(dry=True, dataset=folder)) == (0, 1)
    assert finished(command(dataset=folder)) == (1, 1)
    found = records(tmp_path).values()
    assert len(found) == 3 and len({record["trained at"] for record in found}) == 2
    (folder / "train" / "cow" / "new.png").unlink()
    assert finished(command(dry=True, dataset=folder)) == (1, 1)  # as it was: found again


@pytest.mark.notebook
def test_nothing_does_not_replace_a_table_a_figure_or_a_notebook(tmp_path, command):
    how = {"dataset": pets(tmp_path / "a", 0)}
    command(**how)
    before = contents(tmp_path / "outputs", ("run.lock",))
    made = {f"stale/benchmark-pets-bee.{ending}" for ending in ("csv", "png", "ipynb")}
    assert made <= {*before}
    how |= {"flip": "yes"}
    said = command(**how, missing="skip")
    assert "nothing is finished with these settings" in said
    assert "benchmark-pets-bee.ipynb stays" in said
    assert before.items() <= contents(tmp_path / "outputs").items()
    command(**how, learning_rate=1e12, schedule="step", status=1)
    assert before.items() <= contents(tmp_path / "outputs").items()
    (left,) = (tmp_path / "outputs").rglob("*.unfinished.ipynb")
    assert "FloatingPointError" in left.read_text()
    command(**how)  # another complete table takes the place
    after = contents(tmp_path / "outputs")
    assert not left.exists() and all(after[name] != before[name] for name in made)


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
    made = finish(run, prepared.classes(run.dataset), arrays, {"msp": {}})
    gpu = made.model_dump() | {"device": "NVIDIA H100 80GB HBM3", "precision": "bfloat16"}
    store.write_record(run.home, **gpu)
    (record,) = store.finished(experiment)
    assert record.device.startswith("NVIDIA") and record.precision == "bfloat16"
