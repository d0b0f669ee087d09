"""runs and the store: what a run leaves on disk; nothing finished is lost or done twice; a kill
changes nothing.
"""

import functools
import hashlib
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
import threading
import time
import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, contents, environment, parameters, scores, tiny, tiny_data
from sklearn.metrics import average_precision_score

from semlib import datasets, metrics, models
from workbench import checkpoint, runs
from workbench.experiment import METHODS, RANKED, SCORES, ConfigError, Experiment, create
from workbench.images import prepared
from workbench.results import show, tables
from workbench.runs import execute, plan, scoring, store

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

    monkeypatch.setattr(execute.training, "train", train)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a user's module outside the package and the checkout."""

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)

    return write


# --- what a run leaves


def test_a_run_writes_these_files_and_no_others(trained):
    for run in plan.planned(tiny(trained, trials=2)):
        assert {path.name for path in run.home.iterdir()} - set(LOCKS) == FILES
        parts = run.home.relative_to(trained / "outputs").parts
        assert parts == (
            "test",
            "runs",
            "tiny",
            "one",
            run.method,
            f"trial_{run.trial}-{run.address[:8]}",
        )


@pytest.mark.parametrize("method", ["classification", "rotation"])
def test_scores_are_plain_arrays_in_the_data_sets_numbering(trained, method):
    (record,) = store.finished(tiny(trained, methods=method))
    test = prepared.load("tiny", trained / "data").test
    with np.load(record.home / "scores.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    kinds = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
    wanted = {
        "label": "int16",
        "predicted": "int16",
        "is_anomaly": "bool",
        "msp": "float64",
        "odin": "float64",
    }
    wanted |= {f"{name}@upright": wanted[name] for name in ("predicted", "msp", "odin")}
    assert kinds == {name: (kind, (100,)) for name, kind in wanted.items()}
    assert (arrays["label"] == test.labels).all() and (
        arrays["is_anomaly"] == (test.labels == 1)
    ).all()
    assert set(arrays["predicted"]) <= {0, 2, 3}  # class 1 was never seen
    normal = ~arrays["is_anomaly"]
    recomputed = {}
    for end in ("", "@upright"):
        for name in ("msp", "odin"):
            recomputed[name + end] = average_precision_score(
                arrays["is_anomaly"], arrays[name + end]
            )
        recomputed[f"accuracy{end}"] = (arrays["label"] == arrays[f"predicted{end}"])[normal].mean()
    assert record.metrics == pytest.approx(recomputed, abs=1e-12)
    assert record.skew == 0.25


def test_predictions_and_msp_are_those_of_the_kept_weights(trained):
    (record,) = store.finished(tiny(trained, methods="rotation"))
    state = torch.load(record.home / "weights.pt", weights_only=True)
    net = models.build("wrn-10-1", 3, (1, 8, 8), 0.3, {"rotation": 4}).eval()
    net.load_state_dict(state)
    pixels = prepared.load("tiny", trained / "data").test.images
    with torch.no_grad():
        probabilities = net(torch.tensor(pixels / 255, dtype=torch.float32)).double().softmax(1)
    highest, index = probabilities.max(1)
    arrays = record.scores()
    np.testing.assert_allclose(arrays["msp"], -highest.numpy(), atol=1e-5)
    assert (arrays["predicted"] == np.array([0, 2, 3])[index.numpy()]).mean() > 0.98


def test_a_record_says_how_it_was_made_and_names_no_place(trained):
    for record in store.finished(tiny(trained, trials=2)):
        text = (record.home / "record.json").read_text()
        assert (
            str(trained) not in text
            and str(ROOT) not in text
            and not re.search(r'"(/|~|[A-Z]:\\)', text)
        )
        assert (
            record.device
            and record.threads == 1
            and record.precision == "float32"
            and record.seconds > 0
        )
        assert (
            record.versions["torch"] == torch.__version__.split("+")[0]
            or record.versions["torch"] == torch.__version__
        )
        assert {"python", "numpy", "semlib"} <= set(record.versions)
        assert record.commit is None or re.fullmatch(r"[0-9a-f]{40}\+?", record.commit)
        assert record.data == prepared.load("tiny", trained / "data").digests
        assert record.train_images == 256  # the held-out class's included
        assert record.settings["dropout"] == 0.3 and "threads" not in record.settings


def test_a_folder_of_images_leaves_no_path_in_its_record(tmp_path):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 8, 3), dtype=np.uint8)
    for p, part in enumerate(("train", "test")):
        for k, name in enumerate(("ant", "bee", "cow")):
            (tmp_path / "animals" / part / name).mkdir(parents=True)
            for n, image in enumerate(pixels[p, k]):
                Image.fromarray(image).save(tmp_path / "animals" / part / name / f"{n}.png")
    how = {
        "image_side": 8,
        "batch_size": 8,
        "epochs": 1,
        "methods": "classification",
        "hold_out": "bee",
    }
    (record,) = runs.complete(tiny(tmp_path, dataset=str(tmp_path / "animals"), **how))
    assert record.dataset == "animals" and record.classes == ("ant", "bee", "cow")
    assert str(tmp_path) not in (record.home / "record.json").read_text()


def test_a_plain_classifier_keeps_nothing_of_a_rotation_head(trained):
    for record in store.finished(tiny(trained)):
        heads = {
            name.split(".")[1]
            for name in torch.load(record.home / "weights.pt")
            if name.startswith("heads.")
        }
        assert (
            heads == {"classification", "rotation"}
            if record.method == "rotation"
            else heads == {"classification"}
        )


def test_history_has_each_evaluated_epoch(trained):
    for record in store.finished(tiny(trained)):
        history = record.history()
        assert list(history.epoch) == [1, 2, 3] and history.seconds.is_monotonic_increasing
        assert record.seconds == history.seconds.iloc[-1]
        assert ("auxiliary_loss" in history) == (record.method == "rotation")
        assert history.accuracy.iloc[-1] == pytest.approx(record.metrics["accuracy"])
        assert history.loss.iloc[-1] < history.loss.iloc[0]


@pytest.mark.parametrize(("every", "epochs"), [(9, [3, 4]), (1, [1, 2, 3, 4])])
def test_average_of_the_last_epochs(untrained, every, epochs):
    (record,) = runs.complete(
        tiny(untrained, methods="rotation", average_last_epochs=2, evaluate_every=every, epochs=4)
    )
    history = pd.read_csv(record.home / "history.csv")
    assert list(history.epoch) == epochs
    history = history[-2:]
    names = [name + end for name in ("accuracy", "msp", "odin") for end in ("", "@upright")]
    expected = {name: history[name].mean() for name in names}
    assert record.metrics == pytest.approx(expected, abs=1e-12)
    last = average_precision_score(record.scores()["is_anomaly"], record.scores()["msp"])
    assert last == pytest.approx(history.msp.iloc[-1]) and last != pytest.approx(
        record.metrics["msp"], abs=1e-9
    )


def test_same_trial_same_scores_other_trial_others(trained, untrained):
    runs.complete(tiny(untrained))
    again, before = scores(tiny(untrained)), scores(tiny(trained, trials=2))
    assert again == {key: before[key] for key in again}
    assert before["one", "rotation", 0]["msp"] != before["one", "rotation", 1]["msp"]


def test_a_trials_trunk_begins_equal_for_every_method(untrained, monkeypatch):
    started, seeds = [], []

    def stop(net, *args, **options):
        seeds.append(options["seed"])
        started.append({name: value.clone() for name, value in net.state_dict().items()})
        raise FloatingPointError("far enough")

    monkeypatch.setattr(execute.training, "train", stop)
    with pytest.raises(FloatingPointError, match="far enough"):
        runs.complete(tiny(untrained, trials=2))
    first, rotation, second, _ = started
    assert all(torch.equal(value, rotation[name]) for name, value in first.items())
    assert not torch.equal(first["stem.weight"], second["stem.weight"])
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]  # order and dropout are a trial's own too


def test_pixels_are_normalised_by_the_training_images_without_the_held_out_class(trained):
    train = prepared.load("tiny", trained / "data").train
    pixels = train.images[train.labels != 1] / 255
    for record in store.finished(tiny(trained)):
        weights = torch.load(record.home / "weights.pt")
        assert (weights["mean"].item(), weights["std"].item()) == pytest.approx(
            (pixels.mean(), pixels.std()), rel=1e-5
        )


@pytest.mark.parametrize("fill", [None, 0.25])
def test_center_mask_blanks_with_the_mean_of_the_training_images_or_with_its_fill(
    untrained, monkeypatch, fill
):
    """Each channel with its own."""
    path, seen = untrained / "data" / "tiny.npz", []
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for part in ("train_images", "test_images"):
        arrays[part] = np.concatenate([arrays[part] // k for k in (1, 2, 4)], axis=1)
    np.savez(path, **arrays)

    def stop(net, data, *args, transform, **options):
        masked = transform(torch.full((4, 3, 8, 8), 2.0), torch.Generator())
        seen.append([masked[:, c].unique().tolist() for c in range(3)])
        seen.append(data.images.mean((0, 2, 3)) / 255)
        raise FloatingPointError("far enough")

    monkeypatch.setattr(execute.training, "train", stop)
    with pytest.raises(FloatingPointError, match="far enough"):
        runs.complete(tiny(untrained, methods="center_mask", mask_fill=fill))
    values, means = seen
    np.testing.assert_allclose(
        values, [[mean if fill is None else fill, 2] for mean in means], rtol=1e-5
    )


def test_test_images_and_those_of_upright_statistics_are_cropped_to_their_centre(untrained):
    path, border = untrained / "data" / "tiny.npz", ((0, 0), (0, 0), (1, 1), (1, 1))
    with np.load(path) as file:
        arrays = {
            name: np.pad(file[name], border, "reflect") if "images" in name else file[name]
            for name in file.files
        }
    np.savez(path, **arrays)
    (record,) = runs.complete(
        tiny(untrained, methods="classification", crop_side=8, epochs=1, scores=("msp", "knn"))
    )
    data = prepared.load("tiny", untrained / "data")
    split, net = datasets.hold_out(data, "one"), runs.network(record, data)
    train, test = (part.images[:, :, 1:9, 1:9] for part in (split.train, split.test))
    for end, statistics in (("", nullcontext()), ("@upright", metrics.upright(net, train))):
        with statistics:
            _, scores = metrics.score(net, test, {"msp": metrics.max_softmax})
            near = metrics.fit("knn", metrics.features(net, train), split.train.labels, net)(
                metrics.features(net, test)
            )
        np.testing.assert_allclose(record.scores()[f"msp{end}"], scores["msp"], atol=1e-5)
        ranks = np.unique(near, return_inverse=True)[1]
        assert (np.abs(ranks - record.scores()[f"knn{end}"].astype(int)) <= 1).all()


# --- what counts as the same run


TRAINING = {  # a value other than the default for each setting that training depends on
    "image_side": 64, "train_per_class": 500, "crop_side": 24, "fold": 3, "evaluate_on": "validation",
    "crop_padding": 2, "flip": False, "architecture": "wrn-16-8", "stem_stride": 2, "widen_factor": 2, "dropout": 0.1,
    "norm_batch": 64, "epochs": 100, "batch_size": 256, "learning_rate": 0.2, "weight_decay": 1e-4, "schedule": "one_cycle",
    "precision": "bfloat16", "average_last_epochs": 10,
}  # fmt: skip
AUXILIARY = {"auxiliary_weight": 1.0, "auxiliary_augment": True}  # nothing to a plain classifier
MASK = {"mask_fill": 0.5}  # nothing but to center_mask
CPC = {"cpc_negatives": "batch", "cpc_augment": True}  # nothing but to cpc
WHICH = {
    "dataset": "digits",
    "hold_out": ("dog",),
    "methods": ("classification",),
    "trials": 4,
    "first_trial": 3,
    "data_digest": "0" * 8 + "-" + "0" * 8,
}
ELSEWHERE = {  # of this machine, of scoring, of where things lie
    "device": "cpu", "threads": 1, "compile": True, "evaluate_every": 1, "checkpoint_every": 5, "keep_weights": False,
    "score_batch": 10, "data_root": "elsewhere", "ilsvrc": "elsewhere", "outputs": "elsewhere", "profile": "other",
    "missing": "train", "scores": ("msp",), "temperature": 1.0, "epsilon": 0.01, "statistics": "upright",
}  # fmt: skip


def address(
    method: str, hold_out: str | None = "cat", trial: int = 0, data: str = "d", **changes
) -> str:
    digests = datasets.Digests(data * 64, "e" * 64)
    return plan.Run(
        create({"precision": "float32"} | changes), hold_out, method, trial, digests
    ).address


def test_trials_are_numbered_from_the_first():
    runs_ = plan.planned(
        create(
            {
                "dataset": "digits",
                "hold_out": "3",
                "methods": "rotation",
                "trials": 2,
                "first_trial": 3,
            }
        )
    )
    assert [run.trial for run in runs_] == [3, 4]


def test_settings_that_differ_never_share_a_home(monkeypatch):
    every = {**TRAINING, **AUXILIARY, **MASK, **CPC, **WHICH, **ELSEWHERE}
    assert set(every) == set(
        Experiment.model_fields
    )  # a new setting has to be put into one of these
    assert not [
        name for name, value in every.items() if value == Experiment.model_fields[name].default
    ]
    variants = [
        {},
        *({name: value} for name, value in {**TRAINING, **AUXILIARY, "dataset": "digits"}.items()),
    ]
    prints = [address("rotation", **variant) for variant in variants]
    prints += [address("classification"), address("rotation", "dog"), address("rotation", None)]
    prints += [
        address("rotation", trial=1),
        address("rotation", "none"),
        address("rotation", data="f"),
    ]
    monkeypatch.setattr(plan, "RECIPE", plan.RECIPE + 1)
    prints.append(address("rotation"))
    assert len(set(prints)) == len(prints)
    assert len({p[:8] for p in prints}) == len(prints)


def test_the_source_of_a_users_method_is_in_the_address(module, tmp_path):
    def run() -> plan.Run:
        return plan.Run(tiny(tmp_path, methods="own_method:loss"), "one", "own_method:loss", 0)

    addresses = []
    for factor in (1, 2):
        module("own_method", f"def loss(net, images):\n    return {factor} * net(images).mean()\n")
        addresses += [run().address, run().address]
    assert addresses[0] == addresses[1] != addresses[2] == addresses[3]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_machine_scoring_and_places_leave_the_address(name):
    for method in METHODS:
        assert address(method, **{name: ELSEWHERE[name]}) == address(method)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [(AUXILIARY, {"rotation", "cpc"}), (MASK, {"center_mask"}), (CPC, {"cpc"})],
    ids=["auxiliary", "mask", "cpc"],
)
def test_a_methods_own_settings_are_nothing_to_the_others(settings, theirs):
    for (name, value), method in itertools.product(settings.items(), METHODS):
        assert (address(method, **{name: value}) != address(method)) == (method in theirs)


# --- finished runs


def test_a_finished_run_is_not_trained_again_nor_touched(folder, no_training):
    before = contents(folder / "outputs", LOCKS)
    assert len(runs.complete(tiny(folder, trials=2))) == 4
    elsewhere = {
        "device": "cpu",
        "threads": 2,
        "evaluate_every": 2,
        "keep_weights": False,
        "score_batch": 7,
    }
    assert len(runs.complete(tiny(folder, **elsewhere))) == 2
    assert len(runs.complete(tiny(folder, auxiliary_weight=3, methods="classification"))) == 1
    assert contents(folder / "outputs", LOCKS) == before


def test_missing_skip_trains_nothing_and_writes_nothing(untrained, no_training):
    before = contents(untrained)
    assert runs.complete(tiny(untrained, missing="skip")) == []
    assert contents(untrained, ("tiny.digests.json",)) == before


def flip_bits(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def copy_of_another_trial(path):
    shutil.copytree(next(path.parent.parent.glob("trial_1-*")), path.parent, dirs_exist_ok=True)


DAMAGES = {
    "record.json: truncated": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "record.json: empty": lambda path: path.write_bytes(b""),
    "record.json: other JSON": lambda path: path.write_text("[1]"),
    "record.json: of another run": lambda path: path.write_text(
        path.read_text().replace('"address": "', '"address": "0')
    ),
    "record.json: with all its files another trial's": copy_of_another_trial,
    "scores.npz: truncated": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "scores.npz: bits flipped": flip_bits,
    "scores.npz: lost": lambda path: path.unlink(),
    "scores.npz: one value changed": lambda path: np.savez(path, **changed(path)),
    "scores.npz: not what its record was written for": lambda path: other_digests(
        path.with_name("record.json")
    ),
}


def other_digests(path):
    path.write_text(re.sub(r'"(msp|scores\.npz)": "', r"\g<0>0", path.read_text()))


def changed(path):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["odin"][3] += 1e-9
    return arrays


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_not_used_and_trained_again(folder, damage):
    experiment = tiny(folder, methods="classification")
    (run,) = plan.planned(experiment)
    whole, name = scores(experiment), damage.split(":")[0]
    assert len(store.finished(experiment)) == 1  # was whole, in this process
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


@pytest.mark.parametrize("how", ["copied", "changed"])
def test_a_record_that_was_copied_or_changed_is_named_and_not_shown(folder, how):
    home = store.finished(tiny(folder, methods="classification"))[0].home
    if how == "copied":
        home = shutil.copytree(home, home.with_name("trial_0-01234567"))
    else:
        text = (home / "record.json").read_text()
        (home / "record.json").write_text(text.replace('"epochs": 3', '"epochs": 4'))
    with pytest.warns(UserWarning, match=f"not shown: {home / 'record.json'} is of another run"):
        shown = store.collect(tiny(folder).folder)
    assert home not in [record.home for record in shown] and len(shown) == (
        4 if how == "copied" else 3
    )


@pytest.mark.parametrize("code", sorted(store.NO_LOCKS))
def test_where_a_file_system_has_no_locks_the_file_of_an_old_one_holds_nobody_up(
    untrained, monkeypatch, code
):
    (run,) = plan.planned(tiny(untrained, methods="classification", trials=1))
    with store.lock(run):
        pass

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    assert (run.home / "run.lock").exists()
    with store.lock(run, wait=False):
        pass


def test_a_file_half_written_by_a_killed_process_is_removed(folder):
    (run,) = plan.planned(tiny(folder, methods="classification", trials=1, epochs=2))
    run.home.mkdir(parents=True)
    (run.home / ".scores.npz-abc.part").write_bytes(b"half")
    runs.complete(run.experiment)
    assert {path.name for path in run.home.iterdir()} - set(LOCKS) == FILES


def test_a_file_that_another_process_is_writing_stays(folder):
    (run,) = plan.planned(tiny(folder, methods="classification", trials=1, epochs=2))
    run.home.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    for owner in (f"{here}-{os.getppid()}", f"{here}-{dead.pid}", f"elsewhere-{dead.pid}"):
        (run.home / f".scores.npz-{owner}-ab_c1.part").write_bytes(b"half")
    runs.complete(run.experiment)
    left = {path.name for path in run.home.glob(".*.part")}
    assert left == {
        f".scores.npz-{owner}-ab_c1.part"
        for owner in (f"{here}-{os.getppid()}", f"elsewhere-{dead.pid}")
    }


def other_data(folder, part="test_images"):
    """The same data set with one pixel of one image changed."""
    path = folder / "data" / "tiny.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays[part][7, 0, 3, 3] ^= 128
    np.savez(path, **arrays)


def test_other_test_images_are_scored_anew_and_other_training_images_trained_anew(
    folder, no_training, monkeypatch
):
    """Runs on other data lie side by side, and each is found again with its data."""
    experiment, kept = tiny(folder), (folder / "data" / "tiny.npz").read_bytes()
    first, before = runs.complete(experiment), contents(folder / "outputs", LOCKS)
    other_data(folder)
    assert store.finished(experiment) == [] and len(store.missing(experiment)) == 2
    second = runs.complete(experiment)
    for old, new in zip(first, second, strict=True):
        assert (
            new.address == old.address
            and new.train_digest == old.train_digest
            and new.test_digest != old.test_digest
        )
        assert new.home == old.home / f"test_{new.test_digest[:8]}" and new.trained == old.home
        changed = {
            name
            for name in new.scores()
            if not np.array_equal(new.scores()[name], old.scores()[name])
        }
        assert changed == {name for name in old.scores() if name.startswith(("msp", "odin"))}
        assert [int((new.scores()["msp"] != old.scores()["msp"]).sum())] == [1]
        assert list(new.history()) == [
            c for c in old.history() if c not in ("accuracy", "msp", "odin") and "@" not in c
        ]
    assert before.items() <= contents(folder / "outputs", LOCKS).items()
    assert runs.complete(experiment) == second
    other_data(folder, "train_images")
    monkeypatch.undo()
    third = runs.complete(experiment)
    assert {record.address for record in third}.isdisjoint(record.address for record in first)
    assert before.items() <= contents(folder / "outputs", LOCKS).items()
    (folder / "data" / "tiny.npz").write_bytes(kept)
    assert runs.complete(experiment) == first
    assert (
        len(store.collect(experiment.folder)) == 2 + 2 + 2 + 2
    )  # trial 1, and three versions of the data


def test_the_skew_is_that_of_the_test_images_that_are_scored(folder, no_training):
    path = folder / "data" / "tiny.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    kept = np.r_[0:30, 50:100]  # 5 of the 25 ones
    np.savez(path, **arrays | {name: arrays[name][kept] for name in ("test_images", "test_labels")})
    assert [record.skew for record in runs.complete(tiny(folder))] == [5 / 80, 5 / 80]


def test_a_network_is_not_rebuilt_for_other_training_images(folder):
    (record,) = store.finished(tiny(folder, methods="classification"))
    other_data(folder, "train_images")
    with pytest.raises(ConfigError, match="was trained on other images"):
        runs.network(record, prepared.load("tiny", folder / "data"))


def test_without_the_data_runs_are_matched_by_their_settings_if_they_are_of_one_version(folder):
    experiment = tiny(folder, trials=2, missing="skip")
    first = store.finished(experiment)
    elsewhere = str(folder / "elsewhere")
    # as another machine meets the committed records of a data set that it has to download
    for path in (folder / "outputs").rglob("record.json"):
        fields = json.loads(path.read_text()) | {"dataset": "stl10", "hold_out": "cat"}
        run = plan.Run(
            tiny(folder, dataset="stl10", hold_out="cat"), "cat", fields["method"], fields["trial"]
        )
        home = experiment.folder / "runs" / "stl10" / "cat" / fields["method"]
        address = run.address_for(fields["train_digest"])
        shutil.copytree(path.parent, home / f"trial_{run.trial}-{address[:8]}")
        (home / f"trial_{run.trial}-{address[:8]}" / "record.json").write_text(
            json.dumps(fields | {"address": address})
        )
    stl10 = tiny(
        folder, dataset="stl10", hold_out="cat", trials=2, missing="skip", data_root=elsewhere
    )
    found = store.finished(stl10)
    assert len(found) == len(first) == 4 and runs.complete(stl10) == found
    said = f"stl10 is not here, or has changed: these runs used the version {first[0].data}."
    assert said in show.remarks(stl10, found)
    path = found[0].home / "record.json"
    fields = json.loads(path.read_text())
    other = fields["train_digest"][::-1]
    run = plan.Run(stl10, "cat", fields["method"], fields["trial"])
    shutil.copytree(path.parent, path.parent.with_name(f"trial_{run.trial}-{run.address_for(other)[:8]}"))
    copy = path.parent.with_name(f"trial_{run.trial}-{run.address_for(other)[:8]}") / "record.json"
    copy.write_text(json.dumps(fields | {"train_digest": other, "address": run.address_for(other)}))
    with pytest.raises(ConfigError) as error:
        store.finished(stl10)
    versions = [str(first[0].data), str(datasets.Digests(other, fields["test_digest"]))]
    assert all(
        text in str(error.value) for text in (*versions, "data_digest", "(4 runs)", "(1 runs)")
    )
    for digest, count in zip(versions, (4, 1), strict=True):
        assert len(store.finished(stl10.model_copy(update={"data_digest": digest}))) == count


def test_another_version_than_the_one_here_can_be_looked_at_but_not_trained_on(folder):
    old = plan.here(tiny(folder))
    other_data(folder, "train_images")
    assert store.finished(tiny(folder, missing="skip")) == []
    records = runs.complete(tiny(folder, missing="skip", data_digest=str(old)))
    assert len(records) == 2 and any(
        f"version {old}" in line for line in show.remarks(tiny(folder), records)
    )
    with pytest.raises(ConfigError, match=f"data_digest: {old} is not what is here"):
        runs.complete(tiny(folder, data_digest=str(old)))


def test_a_digest_is_remembered_until_the_file_changes(folder, monkeypatch):
    path, beside = folder / "data" / "tiny.npz", folder / "data" / "tiny.digests.json"
    here, loading = plan.here(tiny(folder)), sys.modules["workbench.images.prepared"]
    assert beside.exists() and here == prepared.load("tiny", folder / "data").digests

    def asked(read: bool) -> datasets.Digests:
        loading._digests.clear()  # as another process
        with monkeypatch.context() as patch:
            if not read:
                patch.setattr(loading, "read", None)
            return plan.here(tiny(folder))

    assert asked(read=False) == here
    times = path.stat()
    other_data(folder)  # of the same size, and with the same time
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    now = asked(read=True)
    assert now == prepared.load("tiny", folder / "data").digests != here
    for damage in ("", "{", "[1]", '{"size": 1}', beside.read_text().replace(now.train, "f" * 63)):
        beside.write_text(damage)
        assert asked(read=True) == now
    assert asked(read=False) == now


def test_runs_that_no_longer_match_are_counted_once_with_the_reason(folder, monkeypatch):
    """A finished run at an old address, on other data, or with another source of the user's is
    neither used nor deleted.
    """
    experiment = tiny(folder, trials=2)
    assert store.unmatched([experiment]) == []
    with monkeypatch.context() as patch:
        patch.setattr(plan, "RECIPE", 3)
        (line,) = store.unmatched([experiment, experiment])
        assert (
            line.startswith("4 finished runs in")
            and "of recipe 2, and semlib trains by recipe 3" in line
        )
        assert store.finished(experiment) == []
        with pytest.warns(UserWarning, match="4 records"):
            assert store.collect(experiment.folder) == []
    old = plan.here(experiment)
    other_data(folder, "train_images")
    (line,) = store.unmatched([experiment])
    assert (
        line.startswith("4 finished runs in")
        and f"of other data ({old}) than is here now ({plan.here(experiment)})" in line
    )
    assert line in show.remarks(experiment, [])
    assert store.unmatched([tiny(folder, trials=2, epochs=9)]) == []  # other settings are no reason


def test_no_run_resumes_on_other_data(untrained, monkeypatch):
    experiment = tiny(untrained, methods="classification")
    (run,) = plan.planned(experiment)

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


def test_a_checkpoint_is_of_its_run_its_data_and_where_epochs_are_averaged_its_scores(
    untrained, monkeypatch
):
    def stop(*args, checkpoint, **options):
        raise FloatingPointError(json.dumps(checkpoint.stamp))

    monkeypatch.setattr(execute.training, "train", stop)

    def stamp(**changes) -> str:
        with pytest.raises(FloatingPointError) as error:
            runs.complete(tiny(untrained, methods="classification", **changes))
        return str(error.value)

    first, averaged = stamp(), stamp(average_last_epochs=2)
    assert stamp(scores="msp") == first and stamp(average_last_epochs=2, scores="msp") != averaged
    assert stamp(epochs=9) != first
    for part in ("test_images", "train_images"):
        before = stamp()
        other_data(untrained, part)
        assert stamp() != before


def test_a_training_that_diverges_leaves_no_record_and_lets_the_others_finish(untrained, module):
    module(
        "diverging",
        "def loss(net, images):\n"
        "    return net(images, head='d').sum() * float('nan' if len(images) > 16 else 1)\n\n\nloss.heads = {'d': 2}\n",
    )
    experiment = tiny(untrained, methods=["diverging:loss", "classification"])
    with pytest.raises(
        FloatingPointError,
        match="tiny, one held out, diverging:loss, trial 0: the loss isn't finite at epoch 1",
    ):
        runs.complete(experiment)
    assert [record.method for record in store.finished(experiment)] == ["classification"]
    with pytest.raises(FloatingPointError):
        runs.complete(tiny(untrained, methods="classification", learning_rate=1e12))
    assert not store.finished(tiny(untrained, methods="classification", learning_rate=1e12))


# --- new scores, a user's own


def test_a_new_score_is_added_without_training(folder, module, no_training):
    module(
        "again",
        "def softmax(logits):\n    return -logits.double().exp().div(logits.double().exp().sum(1, True)).max(1)[0]\n",
    )
    before = scores(tiny(folder))
    kept = contents(folder / "outputs", (*LOCKS, "record.json", "scores.npz"))
    records = runs.complete(tiny(folder, scores=("msp", "odin", "again:softmax")))
    after = scores(tiny(folder))
    for key, arrays in before.items():
        assert set(after[key]) - set(arrays) == {"again:softmax", "again:softmax@upright"}
        assert {name: after[key][name] for name in arrays} == arrays
    for record in records:
        added = (
            record.scores()
        )  # its logits are computed anew, and rounding can swap the ranks of two images
        np.testing.assert_allclose(added["again:softmax"], added["msp"], atol=1e-5)
        expected = average_precision_score(added["is_anomaly"], added["again:softmax"])
        assert record.metrics["again:softmax"] == pytest.approx(expected, abs=1e-12)
    assert contents(folder / "outputs", (*LOCKS, "record.json", "scores.npz")) == kept
    assert len(store.finished(tiny(folder))) == 2


def test_odin_with_another_epsilon_has_a_name_of_its_own(folder, no_training):
    before = scores(tiny(folder))
    records = runs.complete(tiny(folder, epsilon=0.01))
    again = runs.complete(tiny(folder))
    for record in (*records, *again):
        assert record.key(plan.scoring(tiny(folder))["odin"]) == "odin"
        own = record.key(plan.scoring(tiny(folder, epsilon=0.01))["odin"])
        assert own != "odin" and "0.01" in own
        assert (record.scores()[own] != record.scores()["odin"]).any()
        assert (
            scores(tiny(folder))["one", record.method, 0]["odin"]
            == before["one", record.method, 0]["odin"]
        )
    at = {
        epsilon: tables.measurements(tiny(folder, epsilon=epsilon), again).odin
        for epsilon in (5e-5, 0.01)
    }
    assert list(at[5e-5]) == [100 * record.metrics["odin"] for record in again]
    assert list(at[0.01]) == [100 * record.metrics[own] for record in again]


def test_a_runs_odin_at_temperature_1_without_a_step_is_its_msp(folder, no_training):
    how = tiny(folder, temperature=1.0, epsilon=0.0)
    for record in runs.complete(how):
        own, arrays = record.key(plan.scoring(how)["odin"]), record.scores()
        for end in ("", "@upright"):
            np.testing.assert_allclose(arrays[own + end], arrays[f"msp{end}"], rtol=1e-5)


def test_an_odin_added_later_equals_one_from_the_start(folder, untrained, no_training, monkeypatch):
    later = runs.complete(tiny(folder, epsilon=0.01))
    monkeypatch.undo()
    runs.complete(tiny(untrained, epsilon=0.01))
    start = scores(tiny(untrained, epsilon=0.01))
    for record in later:
        own = record.key(plan.scoring(tiny(folder, epsilon=0.01))["odin"])
        assert record.scores()[own].tobytes() == start["one", record.method, 0]["odin"]
        assert (
            record.scores()[f"{own}@upright"].tobytes()
            == start["one", record.method, 0]["odin@upright"]
        )


@pytest.mark.parametrize("why", ["another score", "other test images"])
def test_scores_that_cannot_be_made_for_lack_of_weights_are_one_clear_line(
    folder, no_training, why
):
    experiment = tiny(
        folder, epsilon=0.01 if why == "another score" else 5e-5, methods="classification"
    )
    kept = (folder / "data" / "tiny.npz").read_bytes()
    for path in (folder / "outputs").rglob("weights.pt"):
        path.unlink()
    if why == "other test images":
        other_data(folder)
    with pytest.raises(ConfigError, match="tiny, one held out, classification, trial 0") as error:
        runs.complete(experiment)
    assert "\n" not in str(error.value) and "keep_weights" in str(error.value)
    (folder / "data" / "tiny.npz").write_bytes(kept)
    assert len(runs.complete(tiny(folder))) == 2


EDITED = "def s(logits):\n    return {} * logits.double().logsumexp(1)\n"


def test_an_edited_score_is_the_one_under_its_name_and_the_old_one_is_set_aside(
    folder, module, no_training
):
    """No retraining, no number of the old source where its name stands."""
    how, seen = tiny(folder, methods="classification", scores=("msp", "edited_score:s")), []
    for factor in (-1, 1, -2):
        module("edited_score", EDITED.format(factor))
        (record,) = runs.complete(how)
        seen.append((record.scores(), record.metrics, plan.scoring(how)["edited_score:s"]))
        (value,) = tables.measurements(how, [record])["edited_score:s"]
        assert (
            record.key(seen[-1][2]) == "edited_score:s"
            and value == 100 * record.metrics["edited_score:s"]
        )
    for name in ("edited_score:s", "edited_score:s@upright"):
        (first, *_), (second, *_), (third, *_) = seen
        np.testing.assert_array_equal(first[name], -second[name])
        np.testing.assert_array_equal(third[name], 2 * first[name])
    for arrays, measured, scored in seen[:2]:
        own = record.key(scored)
        assert own == f"edited_score:s(version=1,source={scored['source']})"
        for end in ("", "@upright"):
            np.testing.assert_array_equal(
                record.scores()[own + end], arrays[f"edited_score:s{end}"]
            )
            assert record.metrics[own + end] == measured[f"edited_score:s{end}"]
    module(
        "edited_score", EDITED.format(-1) + "# as it was\n"
    )  # back at the first: it is there already
    (record,) = runs.complete(how)
    (value,) = tables.measurements(how, [record])["edited_score:s"]
    assert value == 100 * seen[0][1]["edited_score:s"] == 100 * record.metrics["edited_score:s"]
    assert (
        record.scoring["edited_score:s"] == seen[0][2] and len(record.scoring) == 2 + 3
    )  # msp, odin and three sources
    np.testing.assert_array_equal(record.scores()["edited_score:s"], seen[0][0]["edited_score:s"])


def test_a_raised_version_of_a_built_in_score_scores_anew(folder, no_training, monkeypatch):
    (old,) = runs.complete(tiny(folder, methods="classification"))
    monkeypatch.setitem(plan.VERSIONS, "odin", 2)
    (new,) = runs.complete(tiny(folder, methods="classification"))
    assert new.scoring["odin"]["version"] == 2 and set(new.scoring) - set(old.scoring) == {
        "odin(version=1,temperature=1000.0,epsilon=5e-05)"
    }
    assert new.scoring["msp"] == old.scoring["msp"] and new.finished == old.finished


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_while_a_score_is_replaced_loses_nothing(
    folder, module, no_training, monkeypatch, moment
):
    name = f"replaced_{moment}:s"
    how = tiny(folder, methods="classification", scores=("msp", name))
    module(f"replaced_{moment}", EDITED.format(-1))
    (before,) = runs.complete(how)
    scored = before.scores()[name]
    module(f"replaced_{moment}", EDITED.format(1))
    save, count = store.save_atomically, iter(range(9))

    def kill(path, write):
        if next(count) == moment:
            raise KeyboardInterrupt
        save(path, write)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "save_atomically", kill)
        runs.complete(how)
    (run,) = plan.planned(how)
    between = store.find(run)
    assert between.metrics[between.key(before.scoring[name])] == before.metrics[name]
    (after,) = runs.complete(how)
    np.testing.assert_array_equal(after.scores()[name], -scored)


@pytest.mark.parametrize("method", ["classification", "rotation"])
def test_upright_scores_are_those_of_the_kept_weights_over_the_upright_training_images(
    trained, method
):
    (record,) = store.finished(tiny(trained, methods=method))
    data = prepared.load("tiny", trained / "data")
    split, net = datasets.hold_out(data, "one"), runs.network(record, data)
    functions = {"msp": metrics.max_softmax, "odin": metrics.odin}
    _, mixed = metrics.score(net, split.test.images, functions)
    with metrics.upright(net, split.train.images):
        _, upright = metrics.score(net, split.test.images, functions)
    for name in functions:
        np.testing.assert_allclose(
            record.scores()[name], mixed[name], atol=1e-5
        )  # other batches' sums: 1e-7
        np.testing.assert_allclose(record.scores()[f"{name}@upright"], upright[name], atol=1e-5)
        assert np.abs(mixed["msp"] - upright["msp"]).max() > 1e-3


def test_the_commit_is_dirty_only_if_code_parameters_or_notebooks_differ(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    for name in ("semlib/a.py", "params/a.yaml", "notebooks/a.ipynb", "outputs/a.csv", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a")
    git("add", "."), git("commit", "-qm", "a")
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    commit = git("rev-parse", "HEAD")
    for name in ("outputs/a.csv", "outputs/new.json", "README.md", "my_task.py"):
        (tmp_path / name).write_text("b")
    assert execute._commit() == commit
    for name in ("semlib/a.py", "params/a.yaml", "notebooks/a.ipynb"):
        (tmp_path / name).write_text("b")
        assert execute._commit() == f"{commit}+"
        (tmp_path / name).write_text("a")
    assert execute._commit() == commit


# --- detectors


def test_a_run_is_scored_at_its_end_with_every_score_that_is_asked_for(untrained, monkeypatch):
    """From one pass over the training and one over the test images for each batch-norm statistics;
    ranks keep every measure.
    """
    passes, fitted, features, fit = [], {}, metrics.features, metrics.fit

    def spy(name, train, labels, net):
        detector = fit(name, train, labels, net)
        return lambda x: fitted.setdefault((name, len(passes)), detector(x))

    monkeypatch.setattr(
        metrics,
        "features",
        lambda net, images, size: passes.append(len(images)) or features(net, images, size),
    )
    monkeypatch.setattr(metrics, "fit", spy)
    (record,) = runs.complete(tiny(untrained, methods="rotation", scores=SCORES))
    assert passes == [192, 100, 192, 100]  # training images without the held-out class, test images
    arrays = record.scores()
    assert set(record.metrics) == {
        name + end for name in ("accuracy", *SCORES) for end in ("", "@upright")
    }
    for name in SCORES:
        for k, end in enumerate(("", "@upright")):
            values = arrays[name + end]
            if name in RANKED:
                exact = fitted[name, 2 * (k + 1)]
                assert values.dtype == np.uint16 and record.scoring[name]["stored"] == "ranks"
                assert np.array_equal(
                    np.sign(values[:, None].astype(int) - values), np.sign(exact[:, None] - exact)
                )
                assert record.metrics[name + end] == average_precision_score(
                    arrays["is_anomaly"], exact
                )
            else:
                assert values.dtype == np.float64 and "stored" not in record.scoring[name]
            assert record.metrics[name + end] == pytest.approx(
                average_precision_score(arrays["is_anomaly"], values), abs=1e-12
            )


@pytest.mark.parametrize("count", [2**16, 2**16 + 1])
def test_ranks_stay_apart_however_many_images_there_are(count):
    assert np.array_equal(scoring.ranks(np.arange(count) / 3), np.arange(count))


def test_detectors_added_later_are_those_from_the_start_and_of_the_kept_network(
    folder, untrained, no_training, monkeypatch
):
    later = runs.complete(tiny(folder, scores=SCORES))
    monkeypatch.undo()
    runs.complete(tiny(untrained, scores=SCORES))
    start = scores(tiny(untrained, scores=SCORES))
    data = prepared.load("tiny", folder / "data")
    split = datasets.hold_out(data, "one")
    for record in later:
        assert {name: array.tobytes() for name, array in record.scores().items()} == start[
            "one", record.method, 0
        ]
        net = runs.network(record, data)
        train, test = (metrics.features(net, part.images) for part in (split.train, split.test))
        for name in ("vim", "knn", "rmd"):
            ranks = np.unique(
                metrics.fit(name, train, split.train.labels, net)(test), return_inverse=True
            )[1]
            assert (
                np.abs(ranks - record.scores()[name].astype(int)) <= 1
            ).all()  # float32 features of another batch size


def test_a_users_score_may_be_fitted_on_training_features(folder, module, no_training):
    module(
        "fitted_score",
        "def nearest_centre(train, labels, net):\n"
        "    centre = train.features[labels == 0].astype(float).mean(0)\n"
        "    return lambda x: ((x.features - centre) ** 2).sum(1)\n",
    )
    for record in runs.complete(tiny(folder, scores=("msp", "fitted_score:nearest_centre"))):
        values = record.scores()["fitted_score:nearest_centre"]
        assert (
            values.dtype == np.float64
            and values.shape == (100,)
            and "source" in record.scoring["fitted_score:nearest_centre"]
        )
        assert record.metrics["fitted_score:nearest_centre@upright"] > 0


def test_a_score_that_cannot_be_used_is_named(untrained, module):
    module("fitted_wrong", "def wrong(train, labels, net):\n    return lambda x: x.features\n")
    how = {"methods": "classification", "scores": ("msp", "fitted_wrong:wrong")}
    with pytest.raises(
        ConfigError,
        match=r"score fitted_wrong:wrong should be \(16,\), one number an image, not \(16, 64\)",
    ):
        runs.complete(tiny(untrained, **how))
    assert not (untrained / "outputs").exists()
    assert len(runs.complete(tiny(untrained, methods="classification", scores=("msp", "vim")))) == 1


def test_weights_are_not_kept_where_not_asked_for(untrained):
    (record,) = runs.complete(tiny(untrained, methods="classification", keep_weights=False))
    assert {path.name for path in record.home.iterdir()} - set(LOCKS) == FILES - {"weights.pt"}


def test_weights_of_a_gpu_are_scored_on_a_cpu(folder, monkeypatch, no_training):
    """A file that torch.save wrote on a GPU, as a machine without one meets it."""
    for path in (folder / "outputs").rglob("weights.pt"):
        state = torch.load(path)
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
            torch.save(state, path)
        record = json.loads((path.parent / "record.json").read_text())
        record["weights_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (path.parent / "record.json").write_text(json.dumps(record))
    assert len(runs.complete(tiny(folder, epsilon=0.01))) == 2


def test_weights_of_another_run_are_not_taken_for_its_own(folder, no_training):
    first, second = (
        r.home / "weights.pt"
        for r in store.finished(tiny(folder, methods="classification", trials=2))
    )
    first.write_bytes(second.read_bytes())
    with pytest.raises(ConfigError, match=r"trial 0: .*weights.pt is damaged or another run's"):
        runs.complete(tiny(folder, methods="classification", trials=2, epsilon=0.01))
    assert (
        len(store.missing(tiny(folder, methods="classification", trials=2, epsilon=0.01))) == 1
    )  # the other one was scored


def test_a_score_edited_while_its_run_trains_is_stored_as_what_was_computed(
    untrained, module, monkeypatch
):
    how = tiny(untrained, methods="classification", scores=("msp", "edited_meanwhile:s"))
    module("edited_meanwhile", EDITED.format(-1))
    train = execute.training.train

    def edit(*args, **options):
        history = train(*args, **options)
        module("edited_meanwhile", EDITED.format(1))
        return history

    with monkeypatch.context() as patch:
        patch.setattr(execute.training, "train", edit)
        runs.complete(how)
    assert len(store.missing(how)) == 1  # of the source that is there now
    (record,) = runs.complete(how)
    old = next(key for key in record.scoring if key.startswith("edited_meanwhile:s("))
    np.testing.assert_array_equal(record.scores()[old], -record.scores()["edited_meanwhile:s"])


def test_a_score_may_be_called_like_a_prediction(folder, module, no_training):
    module("predicted_margin", EDITED.format(-1))
    for record in runs.complete(tiny(folder, scores=("msp", "predicted_margin:s"))):
        assert 0 < record.metrics["predicted_margin:s"] <= 1 and not [
            m for m in record.metrics if "accuracy_" in m
        ]


def test_own_data_that_is_elsewhere_is_listed_by_its_records(folder):
    found = store.finished(tiny(folder))
    (folder / "data" / "tiny.npz").unlink()
    (folder / "data" / "tiny.digests.json").unlink()
    experiment = tiny(folder, missing="skip")
    assert runs.complete(experiment) == found and plan.held_out(tiny(folder, hold_out="all")) == [
        "zero",
        "one",
        "two",
        "three",
    ]
    with pytest.raises(ConfigError, match="data set 'tinny' is unknown"):
        store.finished(tiny(folder, dataset="tinny"))


def test_a_users_method_trains_its_own_head(untrained, module):
    module(
        "mine",
        "def blank(net, images):\n    return net(images, head='blank').pow(2).mean()\n\n\nblank.heads = {'blank': 5}\n",
    )
    (record,) = runs.complete(tiny(untrained, methods="mine:blank"))
    assert torch.load(record.home / "weights.pt")["heads.blank.weight"].shape[0] == 5
    losses = record.history().auxiliary_loss
    assert record.method == "mine:blank" and losses.iloc[-1] < losses.iloc[0]
    assert store.finished(tiny(untrained, methods="mine:blank"))[0].address == record.address


@pytest.mark.parametrize("field", ["methods", "scores"])
@pytest.mark.parametrize(
    "name", ["nowhere:loss", "math:nothing", "math:pi", "math:sqrt", ":loss", "math:"]
)
def test_a_user_function_that_cannot_be_used_is_one_clear_line(untrained, field, name):
    """math.sqrt has no Python source, so its edits can't be told."""
    with pytest.raises(ConfigError) as error:
        runs.check(tiny(untrained, **{field: name}))
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"hold_out": "cta"},
            ("hold-out 'cta' is not a class of tiny", "zero, one, two, three, all, none"),
        ),
        ({"architecture": "resnet-50"}, ("'resnet-50'", "wrn-28-10")),
        ({"architecture": "wrn-11-2"}, ("'wrn-11-2'", "10, 16, 22, 28")),
        ({"dataset": "cifra10"}, ("'cifra10'", "digits", "cifar10", "tiny")),
        ({"device": "cuda:7"}, ("'cuda:7'", "auto, cpu")),
    ],
)
def test_a_wrong_name_is_one_line_with_the_choices(untrained, no_training, wrong, said):
    with pytest.raises(ConfigError) as error:
        runs.complete(tiny(untrained, **wrong))
    assert "\n" not in str(error.value) and all(words in str(error.value) for words in said)
    assert not (untrained / "outputs").exists()


# --- kills

EVERYWHERE = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from workbench import runs
from workbench.experiment import METHODS, RANKED, SCORES, create
from workbench.runs import execute, scoring

torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1)  # loads what it needs, seconds that each child would pay anew
replace = Path.replace
for moment in itertools.count():  # the file that is about to be put in its place, or just was
    experiment = create({settings!r} | {{"outputs": f"{folder}/outputs-{{moment}}"}})
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


@pytest.mark.slow
def test_a_kill_between_any_two_files_changes_nothing(untrained):
    """SIGKILL just before and just after each atomic rename of a run, then the same again."""
    how = {"epochs": 2, "methods": "rotation"}
    settings = {
        name: value
        for name, value in tiny(untrained, **how).model_dump(mode="json").items()
        if name != "outputs"
    }
    script = EVERYWHERE.format(settings=settings, folder=untrained)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    moments = int(done.stdout.split()[-1])
    # before and after; who is at it; two checkpoints, of which one is moved; four files; and before
    # moving one that isn't there
    assert moments == 2 * (1 + 3 + 4) + 1
    whole = scores(tiny(untrained, **how, outputs=str(untrained / f"outputs-{moments}")))
    for moment in range(moments):
        experiment = tiny(untrained, **how, outputs=str(untrained / f"outputs-{moment}"))
        assert scores(experiment) == whole
        assert all(len(record.history()) == 2 for record in store.finished(experiment))
        for run in plan.planned(experiment):
            assert {path.name for path in run.home.iterdir()} - set(LOCKS) == FILES, (
                f"killed at moment {moment}"
            )


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
        code = f"from semlib import config, runs\nprint('ready', flush=True)\nruns.complete(create({settings!r}))"
        command = [sys.executable, "-c", code]
        if way == "notebook":
            words = parameters(
                **{k: v for k, v in settings.items() if v is not None and not isinstance(v, list)}
            )
            words += [*parameters(hold_out="one"), "-o", untrained / "out.ipynb"]
            command = [
                sys.executable,
                "-m",
                "semlib",
                "run",
                "notebooks/holdout.ipynb",
                *map(str, words),
            ]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout.readline()
        return process

    killed = 0
    while killed < moments:
        process = start()
        if way == "notebook":
            while not any((run.home / "checkpoint.pt").exists() for run in plan.planned(disturbed)):
                assert process.poll() is None
                time.sleep(0.02)
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        killed += process.wait() == -signal.SIGKILL
        if len(store.finished(disturbed)) == 2:
            assert scores(disturbed) == whole
            disturbed, folders = (
                tiny(untrained, outputs=str(untrained / f"disturbed-{folders}"), **changes),
                folders + 1,
            )
    if way == "notebook":
        process = start()
        process.communicate(timeout=200)
        assert process.returncode == 0
    runs.complete(disturbed)
    assert scores(disturbed) == whole


@pytest.mark.slow
def test_two_processes_at_once_train_a_run_once(untrained):
    experiment = tiny(untrained, methods="classification")
    settings = experiment.model_dump(mode="json")
    code = f"""
from semlib import training
from workbench import runs
from workbench.experiment import METHODS, RANKED, SCORES, create
train = training.train
training.train = lambda *args, **options: print("trained") or train(*args, **options)
runs.complete(create({settings!r}))
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in "ab"
    ]
    said = "".join(process.communicate(timeout=200)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0] and said.count("trained") == 1
    assert len(store.finished(experiment)) == 1


def test_a_run_that_another_process_holds_is_waited_for_with_its_name(
    untrained, monkeypatch, capsys
):
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    experiment = tiny(untrained, methods="classification")
    (run,) = plan.planned(experiment, runs.load(experiment).digests)
    run.home.mkdir(parents=True)
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with store.lock(run, wait=False):
            held.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    threading.Timer(1.0, go_on.set).start()
    assert len(runs.complete(experiment)) == 1
    thread.join()
    said = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("waiting for ")
    ]
    assert len(said) == 1 and run.title in said[0]
    assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in said[0]
    assert not list(run.home.glob("*.owner"))


def test_the_record_of_another_process_that_was_quicker_stands(untrained, monkeypatch):
    """Both train where locks do nothing."""
    experiment, train, quicker = (
        tiny(untrained, methods="classification", epochs=1),
        execute.training.train,
        [],
    )
    (run,) = plan.planned(experiment)

    def slow(*args, **options):
        monkeypatch.setattr(execute.training, "train", train)
        quicker.append((execute._train(run, runs.load(experiment)), contents(run.home)))
        return train(*args, **options)

    monkeypatch.setattr(execute.training, "train", slow)
    (record,) = runs.complete(experiment)
    ((first, files),) = quicker
    assert record == first and contents(run.home, ("run.lock",)).items() <= files.items()


def test_the_record_is_written_last(untrained, monkeypatch):
    order = []
    save = store.save_atomically
    for place in (store, execute, checkpoint):
        monkeypatch.setattr(
            place,
            "save_atomically",
            lambda path, write: order.append(path.name) or save(path, write),
        )
    runs.complete(tiny(untrained, methods="classification"))
    assert order[-1] == "record.json" and set(order) == FILES | {"checkpoint.pt", "run.owner"}
    assert (
        json.loads((next((untrained / "outputs").rglob("record.json"))).read_text())["method"]
        == "classification"
    )


# --- compilation


@pytest.mark.slow
def test_all_runs_of_a_process_share_what_is_compiled(folder, monkeypatch):
    """A minute for each method on a GPU, not for each run. The compiler's last stage is left out:
    it needs C++.
    """
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    records = runs.complete(tiny(folder, hold_out="all", trials=2, compile=True, epochs=1))
    assert (
        len(records) == 16 and len(graphs) == 2
    )  # of classification, which rotation's other half shares, and of rotation
    graphs.clear()
    runs.complete(
        tiny(folder, compile=True, epochs=1, profile="other")
    )  # another table's in the same process
    assert len(graphs) == 2
