"""runs and the store: what a run leaves on disk; nothing finished is lost or done twice; a kill changes nothing."""

import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, contents, environment, parameters, scores, tiny, tiny_data
from sklearn.metrics import average_precision_score

from semlib import config, datasets, models, runs, store, tables
from semlib.config import ConfigError, Experiment

FILES = {"record.json", "scores.npz", "history.csv", "weights.pt"}
LOCKS = ("run.lock",)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and the finished runs of both methods; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_data(folder / "data")
    runs.complete(tiny(folder, trials=2))
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it to do anything with."""
    shutil.copytree(trained, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy"


@pytest.fixture
def untrained(tmp_path):
    tiny_data(tmp_path / "data")
    return tmp_path


@pytest.fixture
def no_training(monkeypatch):
    def train(*args, **options):
        raise AssertionError("trained again")

    monkeypatch.setattr(runs.training, "train", train)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a user's module outside the package and the checkout."""

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    return write


# --- what a run leaves


def test_a_run_writes_these_files_and_no_others(trained):
    for run in store.plan(tiny(trained, trials=2)):
        assert {path.name for path in run.home.iterdir()} - set(LOCKS) == FILES
        parts = run.home.relative_to(trained / "outputs").parts
        assert parts == ("test", "runs", "tiny", "one", run.method, f"trial_{run.trial}-{run.fingerprint[:8]}")


@pytest.mark.parametrize("method", ["classification", "rotation"])
def test_scores_are_plain_arrays_in_the_data_sets_numbering(trained, method):
    (record,) = store.finished(tiny(trained, methods=method))
    test = datasets.load("tiny", trained / "data").test
    with np.load(record.home / "scores.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    kinds = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    wanted = {"label": "int16", "predicted": "int16", "is_anomaly": "bool", "msp": "float64", "odin": "float64"}
    assert kinds == {name: (kind, (100,)) for name, kind in wanted.items()}
    assert (arrays["label"] == test.labels).all() and (arrays["is_anomaly"] == (test.labels == 1)).all()
    assert set(arrays["predicted"]) <= {0, 2, 3}  # class 1 was never seen
    normal = ~arrays["is_anomaly"]
    recomputed = {name: average_precision_score(arrays["is_anomaly"], arrays[name]) for name in ("msp", "odin")}
    recomputed["accuracy"] = (arrays["label"] == arrays["predicted"])[normal].mean()
    assert record.metrics == pytest.approx(recomputed, abs=1e-12)
    assert record.skew == 0.25


def test_predictions_and_msp_are_those_of_the_kept_weights(trained):
    (record,) = store.finished(tiny(trained, methods="rotation"))
    state = torch.load(record.home / "weights.pt", weights_only=True)
    net = models.build("wrn-10-1", 3, (1, 8, 8), 0.3, {"rotation": 4}).eval()
    net.load_state_dict(state)
    pixels = datasets.load("tiny", trained / "data").test.images
    with torch.no_grad():
        probabilities = net(torch.tensor(pixels / 255, dtype=torch.float32)).double().softmax(1)
    highest, index = probabilities.max(1)
    arrays = record.scores()
    np.testing.assert_allclose(arrays["msp"], -highest.numpy(), atol=1e-5)
    assert (arrays["predicted"] == np.array([0, 2, 3])[index.numpy()]).mean() > 0.98


def test_a_record_says_how_it_was_made_and_names_no_place(trained):
    for record in store.finished(tiny(trained, trials=2)):
        text = (record.home / "record.json").read_text()
        assert str(trained) not in text and str(ROOT) not in text and not re.search(r'"(/|~|[A-Z]:\\)', text)
        assert record.device and record.threads == 1 and record.precision == "float32" and record.seconds > 0
        assert record.versions["torch"] == torch.__version__.split("+")[0] or record.versions["torch"] == torch.__version__
        assert {"python", "numpy", "semlib"} <= set(record.versions)
        assert record.commit is None or re.fullmatch(r"[0-9a-f]{40}\+?", record.commit)
        assert record.data_digest == datasets.digest(datasets.load("tiny", trained / "data"))
        assert record.settings["dropout"] == 0.3 and "threads" not in record.settings


def test_a_folder_of_images_leaves_no_path_in_its_record(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 8, 3), dtype=np.uint8)
    for p, part in enumerate(("train", "test")):
        for k, name in enumerate(("ant", "bee", "cow")):
            (tmp_path / "animals" / part / name).mkdir(parents=True)
            for n, image in enumerate(pixels[p, k]):
                Image.fromarray(image).save(tmp_path / "animals" / part / name / f"{n}.png")
    how = {"image_side": 8, "batch_size": 8, "epochs": 1, "methods": "classification", "hold_out": "bee"}
    (record,) = runs.complete(tiny(tmp_path, dataset=str(tmp_path / "animals"), **how))
    assert record.dataset == "animals" and record.classes == ("ant", "bee", "cow")
    assert str(tmp_path) not in (record.home / "record.json").read_text()


def test_a_plain_classifier_keeps_nothing_of_a_rotation_head(trained):
    for record in store.finished(tiny(trained)):
        heads = {name.split(".")[1] for name in torch.load(record.home / "weights.pt") if name.startswith("heads.")}
        assert heads == {"classification", "rotation"} if record.method == "rotation" else heads == {"classification"}


def test_history_has_each_evaluated_epoch(trained):
    for record in store.finished(tiny(trained)):
        history = record.history()
        assert list(history.epoch) == [1, 2, 3] and history.seconds.is_monotonic_increasing
        assert ("auxiliary_loss" in history) == (record.method == "rotation")
        assert history.accuracy.iloc[-1] == pytest.approx(record.metrics["accuracy"])
        assert history.loss.iloc[-1] < history.loss.iloc[0]


def test_average_of_the_last_epochs(untrained):
    (record,) = runs.complete(tiny(untrained, methods="rotation", average_last_epochs=2, evaluate_every=9, epochs=4))
    history = pd.read_csv(record.home / "history.csv")
    assert list(history.epoch) == [3, 4]
    expected = {name: history[name].mean() for name in ("accuracy", "msp", "odin")}
    assert record.metrics == pytest.approx(expected, abs=1e-12)
    last = average_precision_score(record.scores()["is_anomaly"], record.scores()["msp"])
    assert last == pytest.approx(history.msp.iloc[-1]) and last != pytest.approx(record.metrics["msp"], abs=1e-9)


def test_same_trial_same_scores_other_trial_others(trained, untrained):
    runs.complete(tiny(untrained))
    again, before = scores(tiny(untrained)), scores(tiny(trained, trials=2))
    assert again == {key: before[key] for key in again}
    assert before["one", "rotation", 0]["msp"] != before["one", "rotation", 1]["msp"]


def test_a_trials_trunk_begins_equal_for_every_method(untrained, monkeypatch):
    started = []

    def stop(net, *args, **options):
        started.append({name: value.clone() for name, value in net.state_dict().items()})
        raise FloatingPointError("far enough")

    monkeypatch.setattr(runs.training, "train", stop)
    with pytest.raises(FloatingPointError, match="far enough"):
        runs.complete(tiny(untrained, trials=2))
    first, rotation, second, _ = started
    assert all(torch.equal(value, rotation[name]) for name, value in first.items())
    assert not torch.equal(first["stem.weight"], second["stem.weight"])


# --- what counts as the same run


TRAINING = {  # a value other than the default for each setting that training depends on
    "image_side": 64, "crop_side": 24, "fold": 3, "evaluate_on": "validation",
    "crop_padding": 2, "flip": False, "architecture": "wrn-16-8", "stem_stride": 2, "widen_factor": 2, "dropout": 0.1,
    "norm_batch": 64, "epochs": 100, "batch_size": 256, "learning_rate": 0.2, "weight_decay": 1e-4, "schedule": "one_cycle",
    "recompute_statistics": True, "precision": "float32", "average_last_epochs": 10,
}  # fmt: skip
AUXILIARY = {"auxiliary_weight": 1.0, "auxiliary_augment": True}  # nothing to a plain classifier
MASK = {"mask_fill": 0.5}  # nothing but to center_mask
CPC = {"cpc_negatives": "batch", "cpc_augment": True}  # nothing but to cpc
WHICH = {"dataset": "digits", "hold_out": ("dog",), "methods": ("classification",), "trials": 4, "first_trial": 3}
ELSEWHERE = {  # of this machine, of scoring, of where things lie
    "device": "cpu", "threads": 1, "compile": True, "evaluate_every": 1, "checkpoint_every": 5, "keep_weights": False,
    "score_batch": 10, "data_root": "elsewhere", "ilsvrc": "elsewhere", "outputs": "elsewhere", "profile": "other",
    "missing": "train", "scores": ("msp",), "temperature": 1.0, "epsilon": 0.01,
}  # fmt: skip


def fingerprint(method: str, hold_out: str | None = "cat", trial: int = 0, **changes) -> str:
    return store.Run(config.create(changes), hold_out, method, trial).fingerprint


def test_settings_that_differ_never_share_a_home():
    every = {**TRAINING, **AUXILIARY, **MASK, **CPC, **WHICH, **ELSEWHERE}
    assert set(every) == set(Experiment.model_fields)  # a new setting has to be put into one of these
    assert not [name for name, value in every.items() if value == Experiment.model_fields[name].default]
    variants = [{}, *({name: value} for name, value in {**TRAINING, **AUXILIARY, "dataset": "digits"}.items())]
    prints = [fingerprint("rotation", **variant) for variant in variants]
    prints += [fingerprint("classification"), fingerprint("rotation", "dog"), fingerprint("rotation", None)]
    prints += [fingerprint("rotation", trial=1), fingerprint("rotation", "none")]
    assert len(set(prints)) == len(prints)
    assert len({p[:8] for p in prints}) == len(prints)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_machine_scoring_and_places_leave_the_fingerprint(name):
    for method in config.METHODS:
        assert fingerprint(method, **{name: ELSEWHERE[name]}) == fingerprint(method)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [(AUXILIARY, {"rotation", "cpc"}), (MASK, {"center_mask"}), (CPC, {"cpc"})],
    ids=["auxiliary", "mask", "cpc"],
)
def test_a_methods_own_settings_are_nothing_to_the_others(settings, theirs):
    for (name, value), method in itertools.product(settings.items(), config.METHODS):
        assert (fingerprint(method, **{name: value}) != fingerprint(method)) == (method in theirs)


# --- finished runs


def test_a_finished_run_is_not_trained_again_nor_touched(folder, no_training):
    before = contents(folder / "outputs", LOCKS)
    assert len(runs.complete(tiny(folder, trials=2))) == 4
    elsewhere = {"device": "cpu", "threads": 2, "evaluate_every": 2, "keep_weights": False, "score_batch": 7}
    assert len(runs.complete(tiny(folder, **elsewhere))) == 2
    assert len(runs.complete(tiny(folder, auxiliary_weight=3, methods="classification"))) == 1
    assert contents(folder / "outputs", LOCKS) == before


def test_missing_skip_trains_nothing_and_writes_nothing(untrained, no_training):
    before = contents(untrained)
    assert runs.complete(tiny(untrained, missing="skip")) == []
    assert contents(untrained) == before


def flip_bits(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "record.json: truncated": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "record.json: empty": lambda path: path.write_bytes(b""),
    "record.json: other JSON": lambda path: path.write_text("[1]"),
    "record.json: of another run": lambda path: path.write_text(
        path.read_text().replace('"fingerprint": "', '"fingerprint": "0')
    ),
    "scores.npz: truncated": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "scores.npz: bits flipped": flip_bits,
    "scores.npz: lost": lambda path: path.unlink(),
    "scores.npz: one value changed": lambda path: np.savez(path, **changed(path)),
}


def changed(path):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["odin"][3] += 1e-9
    return arrays


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_not_used_and_trained_again(folder, damage):
    experiment = tiny(folder, methods="classification")
    (run,) = store.plan(experiment)
    whole, name = scores(experiment), damage.split(":")[0]
    DAMAGES[damage](run.home / name)
    with pytest.warns(UserWarning, match=re.escape(str(run.home / name))):
        assert store.finished(experiment) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (record,) = runs.complete(experiment)
    assert scores(experiment) == whole and record.home == run.home
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(store.finished(experiment)) == 1


def test_a_file_half_written_by_a_killed_process_is_removed(folder):
    (run,) = store.plan(tiny(folder, methods="classification", trials=1, epochs=2))
    run.home.mkdir(parents=True)
    (run.home / ".scores.npz-abc.part").write_bytes(b"half")
    runs.complete(run.experiment)
    assert {path.name for path in run.home.iterdir()} - set(LOCKS) == FILES


def test_a_file_that_another_process_is_writing_stays(folder):
    (run,) = store.plan(tiny(folder, methods="classification", trials=1, epochs=2))
    run.home.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    for owner in (f"{here}-{os.getppid()}", f"{here}-{dead.pid}", f"elsewhere-{dead.pid}"):
        (run.home / f".scores.npz-{owner}-ab_c1.part").write_bytes(b"half")
    runs.complete(run.experiment)
    left = {path.name for path in run.home.glob(".*.part")}
    assert left == {f".scores.npz-{owner}-ab_c1.part" for owner in (f"{here}-{os.getppid()}", f"elsewhere-{dead.pid}")}


def other_data(folder):
    """The same data set with one pixel of one test image changed."""
    path = folder / "data" / "tiny.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["test_images"][7, 0, 3, 3] ^= 1
    np.savez(path, **arrays)


def test_a_table_over_two_data_digests_says_so(folder):
    experiment = tiny(folder, methods="classification", trials=3)
    assert not any("NOT COMPARABLE" in line for line in tables.remarks(experiment, store.finished(experiment)))
    other_data(folder)
    records = runs.complete(experiment)
    first, second = records[0].data_digest, records[2].data_digest
    assert first != second and records[1].data_digest == first
    (line,) = [line for line in tables.remarks(experiment, records) if "NOT COMPARABLE" in line]
    assert f"{first[:8]} (2)" in line and f"{second[:8]} (1)" in line
    assert "NOT COMPARABLE" in tables.summary(experiment, records)


def test_no_run_resumes_on_other_data(untrained, monkeypatch):
    experiment = tiny(untrained, methods="classification")
    (run,) = store.plan(experiment)

    def kill(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "write_scores", kill)
        runs.complete(experiment)
    assert (run.home / "checkpoint.pt").exists()
    other_data(untrained)
    (record,) = runs.complete(experiment)
    assert list(record.history().epoch) == [1, 2, 3]
    fresh = tiny(untrained, methods="classification", outputs=str(untrained / "fresh"))
    runs.complete(fresh)
    assert scores(experiment) == scores(fresh)


def test_a_training_that_diverges_leaves_no_record_and_lets_the_others_finish(untrained, module):
    module(
        "diverging",
        "def loss(net, images):\n    return net(images, head='d').sum() * float('nan')\n\n\nloss.heads = {'d': 2}\n",
    )
    experiment = tiny(untrained, methods=["diverging:loss", "classification"])
    with pytest.raises(
        FloatingPointError, match="tiny, one held out, diverging:loss, trial 0: the loss isn't finite at epoch 1"
    ):
        runs.complete(experiment)
    assert [record.method for record in store.finished(experiment)] == ["classification"]
    with pytest.raises(FloatingPointError):
        runs.complete(tiny(untrained, methods="classification", learning_rate=1e12))
    assert not store.finished(tiny(untrained, methods="classification", learning_rate=1e12))


# --- new scores, a user's own


def test_a_new_score_is_added_without_training(folder, module, no_training):
    module(
        "again", "def softmax(logits):\n    return -logits.double().exp().div(logits.double().exp().sum(1, True)).max(1)[0]\n"
    )
    before = scores(tiny(folder))
    kept = contents(folder / "outputs", (*LOCKS, "record.json", "scores.npz"))
    records = runs.complete(tiny(folder, scores=("msp", "odin", "again:softmax")))
    after = scores(tiny(folder))
    for key, arrays in before.items():
        assert set(after[key]) - set(arrays) == {"again:softmax"}
        assert {name: after[key][name] for name in arrays} == arrays
    for record in records:
        np.testing.assert_allclose(record.scores()["again:softmax"], record.scores()["msp"], atol=1e-6)
        assert record.metrics["again:softmax"] == pytest.approx(record.metrics["msp"], abs=1e-3)
    assert contents(folder / "outputs", (*LOCKS, "record.json", "scores.npz")) == kept
    assert len(store.finished(tiny(folder))) == 2


def test_odin_with_another_epsilon_has_a_name_of_its_own(folder, no_training):
    before = scores(tiny(folder))
    records = runs.complete(tiny(folder, epsilon=0.01))
    again = runs.complete(tiny(folder))
    for record in (*records, *again):
        assert record.key({"score": "odin", "temperature": 1000.0, "epsilon": 5e-5}) == "odin"
        own = record.key({"score": "odin", "temperature": 1000.0, "epsilon": 0.01})
        assert own != "odin" and "0.01" in own
        assert (record.scores()[own] != record.scores()["odin"]).any()
        assert scores(tiny(folder))["one", record.method, 0]["odin"] == before["one", record.method, 0]["odin"]
    at = {epsilon: tables.measurements(tiny(folder, epsilon=epsilon), again).odin for epsilon in (5e-5, 0.01)}
    assert list(at[5e-5]) == [100 * record.metrics["odin"] for record in again]
    assert list(at[0.01]) == [100 * record.metrics[own] for record in again]


def test_an_odin_added_later_equals_one_from_the_start(folder, untrained, no_training, monkeypatch):
    later = runs.complete(tiny(folder, epsilon=0.01))
    monkeypatch.undo()
    runs.complete(tiny(untrained, epsilon=0.01))
    start = scores(tiny(untrained, epsilon=0.01))
    for record in later:
        own = record.key({"score": "odin", "temperature": 1000.0, "epsilon": 0.01})
        assert record.scores()[own].tobytes() == start["one", record.method, 0]["odin"]


@pytest.mark.parametrize("why", ["no weights", "other data"])
def test_a_new_score_that_cannot_be_added_is_one_clear_line(folder, no_training, why):
    experiment = tiny(folder, epsilon=0.01, methods="classification")
    if why == "no weights":
        for path in (folder / "outputs").rglob("weights.pt"):
            path.unlink()
    else:
        other_data(folder)
    with pytest.raises(ConfigError, match="tiny, one held out, classification, trial 0") as error:
        runs.complete(experiment)
    assert "\n" not in str(error.value) and {"no weights": "keep_weights", "other data": "other data"}[why] in str(error.value)
    assert len(runs.complete(tiny(folder))) == 2


def test_weights_are_not_kept_where_not_asked_for(untrained):
    (record,) = runs.complete(tiny(untrained, methods="classification", keep_weights=False))
    assert {path.name for path in record.home.iterdir()} - set(LOCKS) == FILES - {"weights.pt"}


def test_weights_of_a_gpu_are_scored_on_a_cpu(folder, monkeypatch, no_training):
    """A file that torch.save wrote on a GPU, as a machine without one meets it."""
    if torch.cuda.is_available():
        pytest.skip("shows what happens where there is no GPU")
    for path in (folder / "outputs").rglob("weights.pt"):
        state = torch.load(path)
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
            torch.save(state, path)
    assert len(runs.complete(tiny(folder, epsilon=0.01))) == 2


def test_a_users_method_trains_its_own_head(untrained, module):
    module(
        "mine", "def blank(net, images):\n    return net(images, head='blank').pow(2).mean()\n\n\nblank.heads = {'blank': 5}\n"
    )
    (record,) = runs.complete(tiny(untrained, methods="mine:blank"))
    assert torch.load(record.home / "weights.pt")["heads.blank.weight"].shape[0] == 5
    losses = record.history().auxiliary_loss
    assert record.method == "mine:blank" and losses.iloc[-1] < losses.iloc[0]
    assert store.finished(tiny(untrained, methods="mine:blank"))[0].fingerprint == record.fingerprint


@pytest.mark.parametrize("field", ["methods", "scores"])
@pytest.mark.parametrize("name", ["nowhere:loss", "math:nothing", "math:pi", "math:sqrt", ":loss", "math:"])
def test_a_user_function_that_cannot_be_used_is_one_clear_line(untrained, field, name):
    """math.sqrt has no Python source, so its edits can't be told."""
    with pytest.raises(ConfigError) as error:
        runs.check(tiny(untrained, **{field: name}))
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hold_out": "cta"}, ("hold-out 'cta' is not a class of tiny", "zero, one, two, three, all, none")),
        ({"architecture": "resnet-50"}, ("'resnet-50'", "wrn-28-10")),
        ({"architecture": "wrn-11-2"}, ("'wrn-11-2'", "10, 16, 22, 28")),
        ({"dataset": "cifra10"}, ("'cifra10'", "digits", "cifar10", "tiny")),
        ({"device": "cuda:7"}, ("'cuda:7'", "auto, cpu")),
    ],
)
def test_a_wrong_name_is_one_line_with_the_choices(untrained, no_training, wrong, said):
    if "device" in wrong and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError) as error:
        runs.complete(tiny(untrained, **wrong))
    assert "\n" not in str(error.value) and all(words in str(error.value) for words in said)
    assert not (untrained / "outputs").exists()


# --- kills

EVERYWHERE = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from semlib import config, runs

torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1)  # loads what it needs, seconds that each child would pay anew
replace = Path.replace
for moment in itertools.count():  # the file that is about to be put in its place, or just was
    experiment = config.create({settings!r} | {{"outputs": f"{folder}/outputs-{{moment}}"}})
    if not (child := os.fork()):
        left = moment
        def kill(self, target):
            global left
            for step in (lambda: None, lambda: replace(self, target)):
                step()
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
        Path.replace = kill
        runs.complete(experiment)
        os._exit(0)
    died = os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    if not (child := os.fork()):
        runs.complete(experiment)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    if not died:
        print(moment)
        break
"""


def test_a_kill_between_any_two_files_changes_nothing(untrained):
    """SIGKILL just before and just after each atomic rename of a run, then the same again."""
    how = {"epochs": 2, "methods": "rotation"}
    settings = {name: value for name, value in tiny(untrained, **how).model_dump(mode="json").items() if name != "outputs"}
    script = EVERYWHERE.format(settings=settings, folder=untrained)
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    moments = int(done.stdout.split()[-1])
    # before and after; two checkpoints, of which one is moved; four files; and before moving one that isn't there yet
    assert moments == 2 * (3 + 4) + 1
    whole = scores(tiny(untrained, **how, outputs=str(untrained / f"outputs-{moments}")))
    for moment in range(moments):
        experiment = tiny(untrained, **how, outputs=str(untrained / f"outputs-{moment}"))
        assert scores(experiment) == whole
        assert all(len(record.history()) == 2 for record in store.finished(experiment))
        for run in store.plan(experiment):
            assert {path.name for path in run.home.iterdir()} - set(LOCKS) == FILES, f"killed at moment {moment}"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["python", "notebook"])
def test_a_process_killed_at_random_moments_ends_as_an_undisturbed_one(untrained, way):
    chance, moments = random.Random(0), 9 if way == "python" else 1
    changes = {"epochs": 10, "precision": "auto", "threads": 1}
    disturbed, folders = tiny(untrained, outputs=str(untrained / "disturbed-0"), **changes), 1
    begun = time.perf_counter()
    runs.complete(tiny(untrained, **changes))
    seconds, whole = time.perf_counter() - begun, scores(tiny(untrained, **changes))

    def start():
        settings = disturbed.model_dump(mode="json")
        code = f"from semlib import config, runs\nprint('ready', flush=True)\nruns.complete(config.create({settings!r}))"
        command = [sys.executable, "-c", code]
        if way == "notebook":
            words = parameters(**{k: v for k, v in settings.items() if v is not None and not isinstance(v, list)})
            words += [*parameters(hold_out="one"), "-o", untrained / "out.ipynb"]
            command = [sys.executable, "-m", "semlib", "run", "notebooks/holdout.ipynb", *map(str, words)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout.readline()
        return process

    killed = 0
    while killed < moments:
        process = start()
        if way == "notebook":
            while not any((run.home / "checkpoint.pt").exists() for run in store.plan(disturbed)):
                assert process.poll() is None
                time.sleep(0.02)
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        killed += process.wait() == -signal.SIGKILL
        if len(store.finished(disturbed)) == 2:
            assert scores(disturbed) == whole
            disturbed, folders = tiny(untrained, outputs=str(untrained / f"disturbed-{folders}"), **changes), folders + 1
    if way == "notebook":
        process = start()
        process.communicate(timeout=200)
        assert process.returncode == 0
    runs.complete(disturbed)
    assert scores(disturbed) == whole


def test_two_processes_at_once_train_a_run_once(untrained):
    experiment = tiny(untrained, methods="classification")
    settings = experiment.model_dump(mode="json")
    code = f"""
from semlib import config, runs, training
train = training.train
training.train = lambda *args, **options: print("trained") or train(*args, **options)
runs.complete(config.create({settings!r}))
"""
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = "".join(process.communicate(timeout=200)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0] and said.count("trained") == 1
    assert len(store.finished(experiment)) == 1


def test_the_record_is_written_last(untrained, monkeypatch):
    order = []
    save = store.save_atomically
    for place in (store, runs, runs.training):
        monkeypatch.setattr(place, "save_atomically", lambda path, write: order.append(path.name) or save(path, write))
    runs.complete(tiny(untrained, methods="classification"))
    assert order[-1] == "record.json" and set(order) == FILES | {"checkpoint.pt"}
    assert json.loads((next((untrained / "outputs").rglob("record.json"))).read_text())["method"] == "classification"


def test_results_of_other_data_than_there_is_now_are_said(folder):
    records = runs.complete(tiny(folder))
    other_data(folder)
    with pytest.warns(UserWarning, match=rf"{len(records)} finished runs are of other data \(digest .* than tiny is now"):
        assert runs.complete(tiny(folder)) == records


def test_an_edited_user_function_is_another_method_and_is_the_one_that_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "def loss(net, images):\n    return {}\n\n\nloss.share = {}\n"
    (tmp_path / "edited_task.py").write_text(text.format(1, 2))
    first = config.function("edited_task:loss"), store.source_digest("edited_task:loss")
    assert first[0](None, None) == 1
    for value, share in ((3, 2), (3, 4)):
        (tmp_path / "edited_task.py").write_text(text.format(value, share) + "#" * value * share)
        os.utime(tmp_path / "edited_task.py", (value + share, value + share))
        now = config.function("edited_task:loss"), store.source_digest("edited_task:loss")
        assert (now[0](None, None), now[0].share) == (value, share) and now[1] != first[1]


# --- compilation


def test_all_runs_of_a_process_share_what_is_compiled(folder, monkeypatch):
    """A minute for each method on a GPU, not for each run. The compiler's last stage is left out: it needs C++."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    records = runs.complete(tiny(folder, hold_out="all", trials=2, compile=True, epochs=1))
    assert len(records) == 16 and len(graphs) == 2  # of classification, which rotation's other half shares, and of rotation
    graphs.clear()
    runs.complete(tiny(folder, compile=True, epochs=1, profile="other"))  # another table's in the same process
    assert len(graphs) == 2
