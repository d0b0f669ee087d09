"""python -m semlib grid, with real Snakemake: side by side, failures and kills keep what is done, the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import yaml
from helpers import ROOT, TINY, contents, environment, semlib, tiny, tiny_data

from semlib import store

pytestmark = pytest.mark.notebook
HOLD_OUTS = ["zero", "two", "three"]

FRAGILE = '''
from pathlib import Path

BROKEN = Path(__file__).with_name("broken")


def loss(net, images):
    """Fails while the file `broken` is there if no image is a two (a two's corner is white): when two is held out."""
    if BROKEN.exists() and not (images[:, 0, 0, 0] == 1).any():
        raise RuntimeError("broken on purpose")
    return net(images, head="mine").square().mean()


loss.heads = {"mine": 2}
'''


def prepare(folder, **changes):
    """Data and a copy of the demo's parameter file with tiny values; (words, environment, experiment)."""
    tiny_data(folder / "data")
    settings = yaml.safe_load((ROOT / "params" / "demo" / "benchmark.yaml").read_text())
    settings |= TINY | {"outputs": str(folder / "outputs"), "epochs": 2, "hold_out": HOLD_OUTS} | changes
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(settings))
    (folder / "fragile.py").write_text(FRAGILE)
    settings.pop("outputs")
    places = {"SEMLIB_DATA": folder / "data", "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return ["grid", folder / "benchmark.yaml"], places, tiny(folder, **settings)


def done_files(folder):
    return sorted(path.name for path in folder.rglob("*.done"))


def test_a_failed_hold_out_keeps_its_traceback_and_alone_runs_again(tmp_path, monkeypatch):
    command, places, experiment = prepare(tmp_path, methods=["classification", "fragile:loss"])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken").touch()
    first = semlib(*command, **places)
    assert first.returncode != 0 and "failed" in first.stdout and "tiny-two" in first.stdout.split("failed")[1]
    finished = {(record.hold_out, record.method) for record in store.finished(experiment)}
    wanted = {(hold_out, method) for hold_out in HOLD_OUTS for method in experiment.methods}
    assert finished == wanted - {("two", "fragile:loss")}
    assert done_files(tmp_path) == ["tiny-three.done", "tiny-zero.done"]
    folder = tmp_path / "outputs" / "test"
    notebook = nbformat.read(folder / "holdout-tiny-two.ipynb", 4)
    errors = [o for cell in notebook.cells for o in cell.get("outputs", ()) if o.output_type == "error"]
    assert errors[0].evalue == "broken on purpose" and any("fragile" in line for line in errors[0].traceback)
    table = "benchmark-tiny-zero-two-three"
    assert not (folder / f"{table}.csv").exists()

    (tmp_path / "broken").unlink()
    before = {k: v for k, v in contents(folder, ("run.lock",)).items() if ".grid" not in k and "holdout-tiny-two" not in k}
    second = semlib(*command, **places)
    assert second.returncode == 0, second.stdout + second.stderr
    after = contents(folder, ("run.lock",))
    assert {name: after[name] for name in before} == before
    assert done_files(tmp_path) == ["table.done", "tiny-three.done", "tiny-two.done", "tiny-zero.done"]
    assert len(store.finished(experiment)) == 6 and "6 of 6 runs are finished" in second.stdout
    added = {name.split("/")[0] for name in set(after) - set(before) if ".grid" not in name}
    assert added == {"runs", "holdout-tiny-two.ipynb", f"{table}.ipynb", f"{table}.csv", f"{table}.png"}
    assert "not run" not in second.stdout and (folder / f"{table}.csv").read_text().count("\n") == 5


def test_a_killed_grid_goes_on_by_the_same_command(tmp_path):
    """SIGKILL of the whole process group while runs train; meanwhile a second grid is refused in one line."""
    command, places, experiment = prepare(tmp_path, hold_out=["zero", "two"], methods="classification", epochs=150)
    words = [sys.executable, "-m", "semlib", *map(str, command)]
    log = (tmp_path / "log").open("w")
    grid = subprocess.Popen(words, cwd=ROOT, env=environment(**places), stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("checkpoint.pt")):
        assert grid.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.1)
    stopped = []  # jobs in sessions of their own are stopped too, as when a machine goes down
    os.killpg(grid.pid, signal.SIGSTOP)
    refused = semlib(*command, **places)
    assert refused.returncode == 1 and refused.stderr.startswith("error: this grid is running already")
    assert refused.stderr.count("\n") == 1 and not stopped
    os.killpg(grid.pid, signal.SIGKILL)
    grid.wait()
    log.close()
    locks = list((tmp_path / "outputs").rglob(".snakemake/locks/*"))
    assert locks and "table.done" not in done_files(tmp_path)  # what Snakemake alone would stumble over

    again = semlib(*command, **places)
    assert again.returncode == 0, again.stdout + again.stderr
    assert done_files(tmp_path) == ["table.done", "tiny-two.done", "tiny-zero.done"]
    assert len(store.finished(experiment)) == 2 and "2 of 2 runs are finished" in again.stdout


def test_the_grid_of_a_notebook_about_several_experiments(tmp_path):
    """lambda_search: a job for each weight, each told all of its settings; then the notebook, which trains nothing."""
    _, places, _ = prepare(tmp_path, hold_out="none", methods=["classification", "rotation"])
    search = {"settings": [str(tmp_path / "benchmark.yaml")], "auxiliary_weights": {"rotation": [0.25, 4]}, "profile": "test"}
    search |= {"hold_out": "none", "evaluate_on": "validation", "scores": ["msp"], "missing": "train", "trials": 1}
    (tmp_path / "lambda_search.yaml").write_text(yaml.safe_dump(search | {"outputs": str(tmp_path / "outputs")}))
    done = semlib("grid", tmp_path / "lambda_search.yaml", **places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done_files(tmp_path) == ["table.done", *(f"tiny-none-{k}.done" for k in range(3))]
    homes = list((tmp_path / "outputs").rglob("record.json"))
    records = [store.read_record(path.parent) for path in homes]
    assert sorted((r.method, r.settings.get("auxiliary_weight")) for r in records) == [
        ("classification", None), ("rotation", 0.25), ("rotation", 4.0)
    ]  # fmt: skip
    assert {r.settings["evaluate_on"] for r in records} == {"validation"} and {r.train_images for r in records} == {204}
    best = max((r for r in records if r.method == "rotation"), key=lambda r: r.metrics["accuracy"])
    chosen = (tmp_path / "outputs" / "test" / "auxiliary_weights.csv").read_text().splitlines()
    assert chosen[1].startswith(f"tiny,rotation,{best.settings['auxiliary_weight']},")
    folder = tmp_path / "outputs" / "test"
    assert {path.name for path in folder.glob("*.ipynb")} == {
        "lambda_search.ipynb",
        *(f"holdout-tiny-none-{k}.ipynb" for k in range(3)),
    }
