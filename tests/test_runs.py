"""What a run leaves on disk; nothing finished is lost or done twice; a kill changes nothing."""

import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, change_data, contents, environment, pets, scores, tiny, tiny_data
from sklearn.metrics import average_precision_score

from semlib import datasets, metrics
from workbench import checkpoint, runs
from workbench.experiment import METHODS, RANKED, SCORES, ConfigError, Experiment, create
from workbench.images import prepared
from workbench.results import show, tables
from workbench.runs import build, estimate, execute, plan, scoring, store

FILES = {"record.json", "scores.npz", "history.csv", "weights.pt"}
LOCKS = ("run.lock",)
pytestmark = pytest.mark.usefixtures("one_thread")


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
def module(tmp_path, monkeypatch):
    """Write a user's module outside the package and the checkout."""
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, source: (tmp_path / f"{name}.py").write_text(source)


def key(record, experiment, score) -> str | None:
    return record.key(plan.how_scored(experiment)[score])


def other_data(folder, part="test_images"):
    """The same data set with one pixel of one image changed."""

    def change(images):
        images[7, 0, 3, 3] ^= 128
        return images

    change_data(folder, **{part: change})


# --- what a run leaves


def test_a_run_writes_these_files_and_no_others(trained):
    for run in plan.planned(tiny(trained, trials=2)):
        assert {path.name for path in run.home.iterdir()} - {*LOCKS} == FILES
        trial = f"trial_{run.trial}-{run.address[:8]}"
        place = trained / "outputs" / "test" / "runs" / "tiny" / "one" / run.method / trial
        assert run.home == place


@pytest.mark.parametrize("method", ["classification", "rotation"])
def test_scores_are_plain_arrays_in_the_data_sets_numbering(trained, method):
    (record,) = store.finished(tiny(trained, methods=method))
    with np.load(record.home / "scores.npz", allow_pickle=False) as file:
        arrays = dict(file)
    kinds = {"label": "int16", "is_anomaly": "bool"}
    for end in ("", "@upright"):
        kinds |= {f"predicted{end}": "int16", f"msp{end}": "float64", f"odin{end}": "float64"}
    assert {name: array.dtype.name for name, array in arrays.items()} == kinds
    label = arrays["label"]
    is_anomaly = arrays["is_anomaly"]
    assert (label == prepared.load("tiny", trained / "data").test.labels).all()
    assert (is_anomaly == (label == 1)).all() and record.skew == 0.25
    assert set(arrays["predicted"]) <= {0, 2, 3}  # class 1 was never seen
    recomputed = {}
    for statistics, end in (("mixed", ""), ("upright", "@upright")):
        right = label == arrays[f"predicted{end}"]
        recomputed[statistics, "accuracy"] = right[~is_anomaly].mean()
        for name in ("msp", "odin"):
            precision = average_precision_score(is_anomaly, arrays[name + end])
            recomputed[statistics, name] = precision
    measures = {(statistics, key): value for statistics, key, value in record.measures()}
    assert measures == pytest.approx(recomputed, abs=1e-12) and len(record.metrics) == 6


def test_a_record_says_how_it_was_made_and_names_no_place(trained):
    data = prepared.load("tiny", trained / "data")
    for record in store.finished(tiny(trained, trials=2)):
        text = (record.home / "record.json").read_text()
        assert not any(str(place) in text for place in (trained, ROOT))
        assert not re.search(r'"(/|~|[A-Z]:\\)', text)
        assert (record.threads, record.precision) == (1, "float32") and record.device
        assert record.seconds > 0 and re.fullmatch(r"[0-9a-f]{40}\+?|None", str(record.commit))
        assert torch.__version__.startswith(record.versions["torch"])
        assert {"python", "numpy", "semlib"} <= set(record.versions)
        assert record.data == prepared.digests_of(data)
        assert record.settings["dropout"] == 0.3 and "threads" not in record.settings


@pytest.mark.parametrize("per_class", [None, 40])
def test_a_record_says_which_images_were_drawn(untrained, per_class):
    how = tiny(untrained, methods="classification", train_per_class=per_class, batch_size=32)
    (record,) = runs.complete(how.model_copy(update={"epochs": 1}))
    drawn = datasets.training_indices(runs.load(how), "one", per_class, 0)
    assert record.train_images == 256 and record.drawn_images == 3 * (per_class or 64) == len(drawn)
    assert record.drawn_sha256 == hashlib.sha256(drawn.tobytes()).hexdigest()


def test_a_folder_of_images_leaves_no_path_in_its_record(tmp_path):
    how = {"image_side": 8, "batch_size": 8, "epochs": 1, "methods": "classification"}
    folder = str(pets(tmp_path, seed=0))
    no_weights = {"hold_out": "bee", "keep_weights": False}
    (record,) = runs.complete(tiny(tmp_path, dataset=folder, **how, **no_weights))
    assert record.dataset == "pets" and record.classes == ("ant", "bee", "cow")
    assert str(tmp_path) not in (record.home / "record.json").read_text()
    assert {path.name for path in record.home.iterdir()} - {*LOCKS} == FILES - {"weights.pt"}


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
    how = {"average_last_epochs": 2, "evaluate_every": every, "epochs": 4}
    (record,) = runs.complete(tiny(untrained, methods="rotation", **how))
    history = pd.read_csv(record.home / "history.csv")
    assert list(history.epoch) == epochs
    means = history[-2:].mean()[list(record.metrics)]
    assert record.metrics == pytest.approx(means.to_dict(), abs=1e-12) and len(record.metrics) == 6
    last = average_precision_score(record.scores()["is_anomaly"], record.scores()["msp"])
    assert last == pytest.approx(history.msp.iloc[-1])
    assert last != pytest.approx(record.metrics["msp"], abs=1e-9)


def test_same_trial_same_scores_other_trial_others(trained, untrained):
    runs.complete(tiny(untrained))
    again = scores(tiny(untrained))
    before = scores(tiny(trained, trials=2))
    assert again == {key: before[key] for key in again}
    assert before["one", "rotation", 0]["msp"] != before["one", "rotation", 1]["msp"]


@pytest.mark.parametrize("fill", [None, 0.25])
def test_center_mask_blanks_with_each_channels_training_mean_or_its_fill(untrained, fill):
    experiment = tiny(untrained, mask_fill=fill)
    data = runs.load(experiment)
    coloured = np.concatenate([data.train.images // k for k in (1, 2, 4)], axis=1)
    run = plan.Run(experiment, "one", "center_mask", 0)
    split = run.split(replace(data, train=datasets.ImageSet(coloured, data.train.labels)))
    masked = build.transform(run, split)(torch.full((4, 3, 8, 8), 2.0), torch.Generator())
    expected = [[fill or mean, 2] for mean in split.train.images.mean((0, 2, 3)) / 255]
    found = [masked[:, c].unique().tolist() for c in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_test_images_and_those_of_upright_statistics_are_cropped_to_their_centre(untrained):
    def larger(images):
        return np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")

    change_data(untrained, train_images=larger, test_images=larger)
    how = {"methods": "classification", "crop_side": 8, "epochs": 1, "scores": ("msp", "knn")}
    (record,) = runs.complete(tiny(untrained, **how))
    data = prepared.load("tiny", untrained / "data")
    split = datasets.hold_out(data, "one")
    net = runs.network(record, data)
    train, test = (part.images[:, :, 1:9, 1:9] for part in (split.train, split.test))
    for end, statistics in (("", nullcontext()), ("@upright", metrics.upright(net, train))):
        with statistics:
            _, scores = metrics.score(net, test, {"msp": metrics.max_softmax})
            knn = metrics.fit("knn", metrics.features(net, train), split.train.labels, net)
            near = scoring.ranks(knn(metrics.features(net, test))).astype(int)
        np.testing.assert_allclose(record.scores()[f"msp{end}"], scores["msp"], atol=1e-5)
        assert np.abs(near - record.scores()[f"knn{end}"]).max() <= 1


# --- what counts as the same run


# A value other than the default for each setting that training depends on
TRAINING = {"image_side": 64, "train_per_class": 500, "crop_side": 24, "fold": 3, "crop_padding": 2}
TRAINING |= {"evaluate_on": "validation", "flip": False, "architecture": "wrn-16-8", "epochs": 100}
TRAINING |= {"stem_stride": 2, "widen_factor": 2, "dropout": 0.1, "norm_batch": 64}
TRAINING |= {"batch_size": 256, "learning_rate": 0.2, "weight_decay": 1e-4, "schedule": "one_cycle"}
TRAINING |= {"precision": "bfloat16", "average_last_epochs": 10, "subset_seed": 7}
AUXILIARY = {"auxiliary_weight": 1.0, "auxiliary_augment": True}  # nothing to a plain classifier
MASK = {"mask_fill": 0.5}  # nothing but to center_mask
CPC = {"cpc_negatives": "batch", "cpc_augment": True}  # nothing but to cpc
WHICH = {"dataset": "digits", "hold_out": ("dog",), "methods": ("classification",), "trials": 4}
WHICH |= {"first_trial": 3}
# Of this machine, of scoring, of where things lie
ELSEWHERE = {"device": "cpu", "threads": 1, "compile": True, "evaluate_every": 1, "score_batch": 10}
ELSEWHERE |= {"checkpoint_every": 5, "keep_weights": False, "data_root": "x", "ilsvrc": "x"}
ELSEWHERE |= {"outputs": "x", "profile": "other", "missing": "train", "scores": ("msp",)}
ELSEWHERE |= {"temperature": 1.0, "epsilon": 0.01, "statistics": "upright"}
ELSEWHERE |= {"allow_duplicates": True}
EVERY = {**TRAINING, **AUXILIARY, **MASK, **CPC, **WHICH, **ELSEWHERE}


def address(
    method: str, hold_out: str | None = "cat", trial: int = 0, data: str = "d", **changes
) -> str:
    digests = prepared.Digests(data * 64, "e" * 64)
    experiment = create({"precision": "float32"} | changes)
    return plan.Run(experiment, hold_out, method, trial, digests).address


def test_settings_that_differ_never_share_a_home(monkeypatch):
    fields = Experiment.model_fields
    assert set(EVERY) == set(fields)  # a new setting has to be put into one of these
    assert not [name for name, value in EVERY.items() if value == fields[name].default]
    variants = {**TRAINING, **AUXILIARY, "dataset": "digits"}.items()
    prints = [address("rotation", **{name: value}) for name, value in variants]
    prints += [address("rotation"), address("classification"), address("rotation", trial=1)]
    prints += [address("rotation", hold_out) for hold_out in ("dog", None, "none")]
    prints.append(address("rotation", data="f"))
    monkeypatch.setattr(plan, "RECIPE", plan.RECIPE + 1)
    prints.append(address("rotation"))
    assert len({text[:8] for text in prints}) == len(prints)


def test_the_source_of_a_users_method_is_in_the_address(module, tmp_path):
    def run() -> plan.Run:
        return plan.Run(tiny(tmp_path, methods="own_method:loss"), "one", "own_method:loss", 0)

    addresses = []
    for factor in (1, 2):
        module("own_method", f"def loss(net, images):\n    return {factor} * net(images).mean()\n")
        addresses += [run().address, run().address]
    assert addresses[0] == addresses[1] != addresses[2] == addresses[3]


READ_BY = dict.fromkeys(ELSEWHERE, ()) | dict.fromkeys(AUXILIARY, ("rotation", "cpc"))
READ_BY |= dict.fromkeys(MASK, ("center_mask",)) | dict.fromkeys(CPC, ("cpc",))


@pytest.mark.parametrize("name", READ_BY)
def test_machine_scoring_places_and_other_methods_settings_leave_the_address(name):
    for method in METHODS:
        differs = address(method, **{name: EVERY[name]}) != address(method)
        assert differs == (method in READ_BY[name])


# --- finished runs


def test_a_finished_run_is_not_trained_again_nor_touched(folder, no_training):
    before = contents(folder / "outputs", LOCKS)
    elsewhere = {"device": "cpu", "threads": 2, "evaluate_every": 2, "keep_weights": False}
    assert len(runs.complete(tiny(folder, trials=2))) == 4
    assert len(runs.complete(tiny(folder, first_trial=1))) == 2
    assert len(runs.complete(tiny(folder, **elsewhere, score_batch=7))) == 2
    assert len(runs.complete(tiny(folder, auxiliary_weight=3, methods="classification"))) == 1
    assert contents(folder / "outputs", LOCKS) == before


def test_missing_skip_trains_nothing_and_writes_nothing(untrained, no_training):
    before = contents(untrained)
    assert runs.complete(tiny(untrained, missing="skip")) == []
    assert contents(untrained, ("tiny.digests.json",)) == before


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
        return {**file, "odin": file["odin"] + 1e-9}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_not_used_and_trained_again(folder, damage):
    experiment = tiny(folder, methods="classification")
    (run,) = plan.planned(experiment)
    whole = scores(experiment)
    name = damage.split(":")[0]
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
        shown = [record.home for record in store.collect(tiny(folder).folder)]
    assert home not in shown and len(shown) == (4 if how == "copied" else 3)


@pytest.mark.parametrize("code", sorted(store.NO_LOCKS))
def test_without_locks_the_file_of_an_old_one_holds_nobody_up(untrained, monkeypatch, code):
    (run,) = plan.planned(tiny(untrained, methods="classification", trials=1))
    with store.lock(run):
        pass

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    assert (run.home / "run.lock").exists()
    with store.lock(run, wait=False):
        pass


def test_files_half_written_are_removed_unless_their_process_may_live(folder):
    """Beside an unfinished run, a finished one, a data set, or wherever a file is written."""
    unfinished, whole = (tiny(folder, methods="classification", epochs=n) for n in (2, 3))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    kept = {f".a.npz-{who}-ab_c1.part" for who in (f"{here}-{os.getppid()}", f"far-{dead.pid}")}
    places = [plan.planned(how)[0].home for how in (unfinished, whole)]
    places.append(folder / "data")
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        for name in (*kept, f".a.npz-{here}-{dead.pid}-ab_c1.part", ".a.npz-old-5-x.part"):
            (place / name).write_bytes(b"half")
        os.utime(place / ".a.npz-old-5-x.part", (time.time() - 1e5, time.time() - 1e5))
    for how in (unfinished, whole):
        runs.complete(how)
    other_data(folder)
    plan.current_digests(whole)  # is written beside the data set
    for place in places:
        assert {path.name for path in place.glob(".*.part")} == kept


def test_other_images_are_scored_or_trained_anew(folder, no_training, monkeypatch):
    """Runs on other data lie side by side, and each is found again with its data."""
    experiment = tiny(folder)
    kept = (folder / "data" / "tiny.npz").read_bytes()
    first = runs.complete(experiment)
    before = contents(folder / "outputs", LOCKS)
    other_data(folder)
    assert store.finished(experiment) == [] and len(store.missing(experiment)) == 2
    said = estimate.of_missing(experiment, store.progress(experiment), execute.seconds)
    assert said.startswith("0 of 2 runs are finished, 2 are missing, 2 of them only to be scored: ")
    second = runs.complete(experiment)
    for old, new in zip(first, second, strict=True):
        assert (new.address, new.train_digest) == (old.address, old.train_digest)
        assert new.home == old.home / f"test_{new.test_digest[:8]}" and new.run_home == old.home
        differs = new.scores()["msp"] != old.scores()["msp"]
        assert differs.sum() == 1 and new.test_digest != old.test_digest
        assert not {"accuracy", "msp", "odin", "msp@upright"} & {*new.history()}
        assert {*new.history()} < {*old.history()}
    assert before.items() <= contents(folder / "outputs", LOCKS).items()
    assert runs.complete(experiment) == second
    other_data(folder, "train_images")
    monkeypatch.undo()
    third = runs.complete(experiment)
    assert {record.address for record in third}.isdisjoint(record.address for record in first)
    assert before.items() <= contents(folder / "outputs", LOCKS).items()
    (folder / "data" / "tiny.npz").write_bytes(kept)
    assert runs.complete(experiment) == first
    assert len(store.collect(experiment.folder)) == 2 * 4  # a second trial, three versions


def test_the_skew_is_that_of_the_test_images_that_are_scored(folder, no_training):
    kept = np.r_[0:30, 50:100]  # 5 of the 25 ones
    change_data(folder, test_images=lambda x: x[kept], test_labels=lambda x: x[kept])
    assert [record.skew for record in runs.complete(tiny(folder))] == [5 / 80, 5 / 80]


def test_without_the_data_runs_are_matched_by_their_settings_if_they_are_of_one_version(folder):
    """As another machine meets the committed records of a data set that it has to download."""
    first = store.finished(tiny(folder, trials=2, missing="skip"))
    which = {"dataset": "stl10", "hold_out": "cat", "missing": "skip"}
    stl10 = tiny(folder, **which, trials=2, data_root=str(folder / "elsewhere"))

    def copy(record, train_digest):
        run = plan.Run(stl10, "cat", record.method, record.trial)
        run = replace(run, data=prepared.Digests(train_digest, record.test_digest))
        shutil.copytree(record.home, run.home)
        names = {"dataset": "stl10", "hold_out": "cat", "address": run.address}
        names["classes"] = ("zero", "cat", "two", "three")
        store.rewrite(record, run.home, **names, train_digest=train_digest)

    for record in first:
        copy(record, record.train_digest)
    found = store.finished(stl10)
    assert len(found) == len(first) == 4 and runs.complete(stl10) == found
    said = f"stl10 is not here, or has changed: these runs used the version {first[0].data}."
    assert said in show.remarks(stl10, found)
    copy(first[0], first[0].train_digest[::-1])
    versions = [
        prepared.Digests(first[0].train_digest[::step], first[0].test_digest) for step in (1, -1)
    ]
    said = rf"{versions[0]} \(4 runs\), {versions[1]} \(1 runs\), and none is here; prepare"
    with pytest.raises(ConfigError, match=said):
        store.finished(stl10)


def test_a_digest_is_remembered_until_the_file_changes(folder, monkeypatch):
    path = folder / "data" / "tiny.npz"
    beside = folder / "data" / "tiny.digests.json"
    here = plan.current_digests(tiny(folder))
    loading = sys.modules["workbench.images.prepared"]
    assert beside.exists() and here == prepared.digests_of(prepared.load("tiny", folder / "data"))

    def asked(read: bool) -> prepared.Digests:
        loading._remembered.cache_clear()  # as another process
        with monkeypatch.context() as patch:
            if not read:
                patch.setattr(loading, "read", None)
            return plan.current_digests(tiny(folder))

    assert asked(read=False) == here
    times = path.stat()
    other_data(folder)  # of the same size, and with the same time
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    now = asked(read=True)
    assert now == prepared.digests_of(prepared.load("tiny", folder / "data")) != here
    for damage in ("", "{", "[1]", '{"size": 1}', beside.read_text().replace(now.train, "f" * 63)):
        beside.write_text(damage)
        assert asked(read=True) == now
    assert asked(read=False) == now


def test_runs_that_no_longer_match_are_counted_once_with_the_reason(folder, monkeypatch):
    experiment = tiny(folder, trials=2)
    assert store.unused_runs([experiment]) == []
    with monkeypatch.context() as patch:
        patch.setattr(plan, "RECIPE", 3)
        (line,) = store.unused_runs([experiment, experiment])
        assert line.startswith("4 finished runs in")
        assert "of recipe 2, and semlib trains by recipe 3" in line
        assert store.finished(experiment) == []
        with pytest.warns(UserWarning, match="4 records"):
            assert store.collect(experiment.folder) == []
    old = plan.current_digests(experiment)
    other_data(folder, "train_images")
    (line,) = store.unused_runs([experiment])
    said = f"of other data ({old}) than is here now ({plan.current_digests(experiment)})"
    assert line.startswith("4 finished runs in") and said in line
    assert line in show.remarks(experiment, [])
    other_settings = tiny(folder, trials=2, epochs=9)
    assert store.unused_runs([other_settings]) == []


def test_a_checkpoint_is_of_its_run_its_data_and_averaged_scores(untrained, monkeypatch):
    def load(kept):
        raise KeyboardInterrupt(json.dumps(kept.stamp))

    def stamp(**changes) -> str:
        with pytest.raises(KeyboardInterrupt) as error:
            runs.complete(tiny(untrained, methods="classification", **changes))
        return str(error.value)

    monkeypatch.setattr(checkpoint.Checkpoint, "load", load)
    first = stamp()
    assert json.loads(first)["form"] == execute.FORM  # a checkpoint of an older form is not used
    averaged = stamp(average_last_epochs=2)
    assert stamp(scores="msp") == first and stamp(average_last_epochs=2, scores="msp") != averaged
    assert stamp(epochs=9) != first
    for part in ("test_images", "train_images"):
        before = stamp()
        other_data(untrained, part)
        assert stamp() != before


def test_a_training_that_diverges_leaves_no_record_and_lets_the_others_finish(untrained, module):
    nan = "net(images, head='d').sum() * float('nan' if len(images) > 16 else 1)"
    module("diverging", f"def loss(net, images):\n    return {nan}\n\n\nloss.heads = {{'d': 2}}\n")
    experiment = tiny(untrained, methods=["diverging:loss", "classification"])
    said = "tiny, one held out, diverging:loss, trial 0: the loss isn't finite at epoch 1"
    with pytest.raises(FloatingPointError, match=said):
        runs.complete(experiment)
    assert [record.method for record in store.finished(experiment)] == ["classification"]
    with pytest.raises(FloatingPointError):
        runs.complete(tiny(untrained, methods="classification", learning_rate=1e12))
    assert not store.finished(tiny(untrained, methods="classification", learning_rate=1e12))


# --- new scores, a user's own


SOFTMAX = """
def softmax(logits):
    return -logits.double().exp().div(logits.double().exp().sum(1, True)).max(1)[0]


def nearest_centre(train, labels, net):
    centre = train.features[labels == 0].astype(float).mean(0)
    return lambda x: ((x.features - centre) ** 2).sum(1)
"""


def test_new_scores_are_added_without_training(folder, module, no_training):
    """Of the user, one of them fitted on training features. Nothing else changes."""
    module("predicted_again", SOFTMAX)
    names = ("predicted_again:softmax", "predicted_again:nearest_centre")
    how = tiny(folder, scores=("msp", *names))
    changing = (*LOCKS, "record.json", "scores.npz")
    before = scores(how)
    kept = contents(folder / "outputs", changing)
    old = {record.method: record.metrics for record in store.finished(tiny(folder))}
    for record in runs.complete(how):
        softmax, nearest = (key(record, how, name) for name in names)
        after = scores(how)["one", record.method, 0]
        added = set(map("".join, itertools.product((softmax, nearest), ("", "@upright"))))
        fresh = after.keys() - before["one", record.method, 0].keys()
        assert fresh == added == record.metrics.keys() - old[record.method].keys()
        assert before["one", record.method, 0].items() <= after.items()
        assert old[record.method].items() <= record.metrics.items()
        arrays = record.scores()  # its logits are computed anew: rounding can swap two images
        np.testing.assert_allclose(arrays[softmax], arrays["msp"], atol=1e-5)
        for name in added:
            expected = average_precision_score(arrays["is_anomaly"], arrays[name])
            assert record.metrics[name] == pytest.approx(expected, abs=1e-12)
    assert contents(folder / "outputs", changing) == kept and len(store.finished(tiny(folder))) == 2


def test_odin_with_another_epsilon_has_a_key_of_its_own(folder, no_training):
    before = scores(tiny(folder))
    usual = tiny(folder)
    other = tiny(folder, epsilon=0.01)
    as_msp = tiny(folder, temperature=1.0, epsilon=0.0)
    runs.complete(other)
    records = runs.complete(as_msp)
    assert runs.complete(usual) == records
    for record in records:
        own = key(record, other, "odin")
        arrays = record.scores()
        assert key(record, usual, "odin") == "odin"
        assert own == "odin(version=1,temperature=1000.0,epsilon=0.01)"
        assert (arrays[own] != arrays["odin"]).any()
        assert arrays["odin"].tobytes() == before["one", record.method, 0]["odin"]
        for end in ("", "@upright"):
            same = arrays[key(record, as_msp, "odin") + end]
            np.testing.assert_allclose(same, arrays[f"msp{end}"], rtol=1e-5)
    for experiment in (usual, other):
        shown = tables.measurements(experiment, records).odin
        measured = [100 * r.metrics[key(r, experiment, "odin")] for r in records]
        assert list(shown) == measured


def test_scores_added_later_equal_those_from_the_start(folder, untrained, no_training, monkeypatch):
    """And are of the kept network: float32 features of another batch size can swap two images."""
    later = runs.complete(tiny(folder, epsilon=0.01, scores=SCORES))
    monkeypatch.undo()
    runs.complete(tiny(untrained, epsilon=0.01, scores=SCORES))
    start = scores(tiny(untrained, epsilon=0.01, scores=SCORES))
    data = prepared.load("tiny", folder / "data")
    split = datasets.hold_out(data, "one")
    for record in later:
        found = {name: array.tobytes() for name, array in record.scores().items()}
        assert found.items() >= start["one", record.method, 0].items()
        net = runs.network(record, data)
        train, test = (metrics.features(net, part.images) for part in (split.train, split.test))
        for name in ("vim", "knn", "rmd"):
            values = metrics.fit(name, train, split.train.labels, net)(test)
            difference = scoring.ranks(values).astype(int) - record.scores()[name]
            assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("why", ["another score", "other test images"])
def test_scores_that_lack_their_weights_are_one_clear_line(folder, no_training, why):
    kept = (folder / "data" / "tiny.npz").read_bytes()
    for path in (folder / "outputs").rglob("weights.pt"):
        path.unlink()
    changes = {"epsilon": 0.01} if why == "another score" else {}
    if why == "other test images":
        other_data(folder)
    with pytest.raises(ConfigError, match="tiny, one held out, classification, trial 0") as error:
        runs.complete(tiny(folder, methods="classification", **changes))
    assert "\n" not in str(error.value) and "keep_weights" in str(error.value)
    (folder / "data" / "tiny.npz").write_bytes(kept)
    assert len(runs.complete(tiny(folder))) == 2


EDITED = "def s(logits):\n    return {} * logits.double().logsumexp(1)\n"


def test_an_edited_score_is_added_and_each_source_keeps_its_numbers(folder, module, no_training):
    name = "edited_score:s"
    how = tiny(folder, methods="classification", scores=("msp", name))
    seen = []
    for factor in (-1, 1, -2, -1):
        module("edited_score", EDITED.format(factor))
        (record,) = runs.complete(how)
        seen.append(key(record, how, name))
        assert seen[-1] == f"{name}(version=1,source={record.scoring[seen[-1]]['source']})"
    first, second, third, again = seen
    assert again == first and len({*seen}) == 3 == len(record.scoring) - 2  # msp and odin
    arrays = record.scores()
    for end in ("", "@upright"):
        np.testing.assert_array_equal(arrays[first + end], -arrays[second + end])
        np.testing.assert_array_equal(arrays[third + end], 2 * arrays[first + end])


def test_a_raised_version_of_a_built_in_score_scores_anew(folder, no_training, monkeypatch):
    how = tiny(folder, methods="classification")
    (old,) = runs.complete(how)
    monkeypatch.setitem(plan.VERSIONS, "odin", 2)
    (new,) = runs.complete(how)
    assert new.scoring[key(new, how, "odin")]["version"] == 2 and len(new.scoring) == 3
    assert old.scoring.items() <= new.scoring.items() and new.finished == old.finished


@pytest.mark.parametrize("moment", range(3))  # who is at it, scores.npz, record.json
def test_a_kill_while_a_score_is_added_loses_nothing(folder, no_training, monkeypatch, moment):
    (before,) = store.finished(tiny(folder, methods="classification"))
    how = tiny(folder, methods="classification", epsilon=0.01)
    save = store.save_atomically
    count = iter(range(9))

    def kill(path, write):
        if next(count) == moment:
            raise KeyboardInterrupt
        save(path, write)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "save_atomically", kill)
        runs.complete(how)
    assert store.find(plan.planned(how)[0]) == before
    (after,) = runs.complete(how)
    assert before.metrics.items() < after.metrics.items() and key(after, how, "odin")


def test_the_commit_is_dirty_only_if_code_parameters_or_notebooks_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    code = ["semlib/a.py", "workbench/a.py", "params/a.yaml", "notebooks/a.ipynb"]
    for name in (*code, "outputs/a.csv", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a")
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "a"]):
        execute._git(*words)
    commit = execute._git("rev-parse", "HEAD")
    for name in ("outputs/a.csv", "outputs/new.json", "README.md", "my_task.py"):
        (tmp_path / name).write_text("b")
    assert execute._commit() == commit
    for name in code:
        (tmp_path / name).write_text("b")
        assert execute._commit() == f"{commit}+"
        (tmp_path / name).write_text("a")


# --- detectors


def test_a_run_is_scored_at_its_end_with_every_score_that_is_asked_for(untrained, monkeypatch):
    """From one pass over either images for each batch-norm statistics; ranks keep every measure."""
    passes = []
    features = metrics.features

    def spy(net, images, *size):
        passes.append(len(images))
        return features(net, images, *size)

    monkeypatch.setattr(metrics, "features", spy)
    (record,) = runs.complete(tiny(untrained, methods="rotation", scores=SCORES))
    assert passes[-4:] == [192, 100] * 2  # training images of the known classes, test images
    arrays = record.scores()
    measures = itertools.product(("accuracy", *SCORES), ("", "@upright"))
    assert set(record.metrics) == set(map("".join, measures))
    for name in RANKED:
        assert arrays[name].dtype == np.uint16 and record.scoring[name]["stored"] == "ranks"
    many = np.random.default_rng(0).permutation(2**16 + 1)
    assert np.array_equal(scoring.ranks(many / 3), many)
    assert np.array_equal(scoring.ranks(np.array([0.5, -np.inf, 0.5, 3])), [1, 0, 1, 2])


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
    records = store.finished(tiny(folder, methods="classification", trials=2))
    first, second = (record.home / "weights.pt" for record in records)
    first.write_bytes(second.read_bytes())
    how = tiny(folder, methods="classification", trials=2, epsilon=0.01)
    with pytest.raises(ConfigError, match=r"trial 0: .*weights.pt is damaged or another run's"):
        runs.complete(how)
    assert len(store.missing(how)) == 1  # the other one was scored


def test_a_score_edited_while_its_run_trains_is_kept_as_it_was(untrained, module, monkeypatch):
    name = "edited_meanwhile:s"
    train = execute.training.train
    how = tiny(untrained, methods="classification", scores=("msp", name))
    module("edited_meanwhile", EDITED.format(-1))
    before = plan.how_scored(how)[name]

    def edit(*args, **options):
        yield from train(*args, **options)
        module("edited_meanwhile", EDITED.format(1))

    with monkeypatch.context() as patch:
        patch.setattr(execute.training, "train", edit)
        patch.setattr(execute, "seconds", lambda run, data: 0.1)  # no steps are tried beforehand
        runs.complete(how)
    assert len(store.missing(how)) == 1  # of the source that is there now
    (record,) = runs.complete(how)
    old, new = record.scores(record.key(before), key(record, how, name)).values()
    np.testing.assert_array_equal(old, -new)


def test_own_data_that_is_elsewhere_is_listed_by_its_records(folder):
    found = store.finished(tiny(folder))
    for name in ("tiny.npz", "tiny.digests.json"):
        (folder / "data" / name).unlink()
    assert runs.complete(tiny(folder, missing="skip")) == found
    assert plan.held_out(tiny(folder, hold_out="all")) == ["zero", "one", "two", "three"]
    with pytest.raises(ConfigError, match="data set 'tinny' is unknown"):
        store.finished(tiny(folder, dataset="tinny"))


# --- kills

EVERYWHERE = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from workbench import runs
from workbench.experiment import create
from workbench.runs import execute

torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1)  # imports what each child needs
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
    settings = tiny(untrained, **how).model_dump(mode="json", exclude={"outputs"})
    script = EVERYWHERE.format(settings=settings, folder=untrained)
    said = {"capture_output": True, "text": True, "timeout": 1500}
    done = subprocess.run([sys.executable, "-c", script], env=environment(), **said)
    assert done.returncode == 0, done.stderr
    moments = int(done.stdout.split()[-1])
    assert moments == 2 * (1 + 2 + 4)  # before and after: who is at it; checkpoints; four files
    whole = scores(tiny(untrained, **how, outputs=str(untrained / f"outputs-{moments}")))
    for moment in range(moments):
        experiment = tiny(untrained, **how, outputs=str(untrained / f"outputs-{moment}"))
        assert scores(experiment) == whole
        assert all(len(record.history()) == 2 for record in store.finished(experiment))
        for run in plan.planned(experiment):
            assert {path.name for path in run.home.iterdir()} - {*LOCKS} == FILES, moment


def test_a_run_that_another_process_holds_is_waited_for(untrained, monkeypatch, capsys):
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    experiment = tiny(untrained, methods="classification")
    (run,) = plan.planned(experiment, prepared.digests_of(runs.load(experiment)))
    held = threading.Event()
    go_on = threading.Event()

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
    (said,) = re.findall("waiting for .*", capsys.readouterr().err)
    who = f"process {os.getpid()} on {socket.gethostname()}, since 20"
    assert run.title in said and who in said and not list(run.home.glob("*.owner"))


def test_the_record_of_another_process_that_was_quicker_stands(untrained, monkeypatch):
    """Both train where locks do nothing."""
    experiment = tiny(untrained, methods="classification", epochs=1)
    (run,) = plan.planned(experiment)
    train = execute.training.train
    quicker = []

    def slow(*args, **options):
        monkeypatch.setattr(execute.training, "train", train)
        quicker.append((execute._train(run, runs.load(experiment), None), contents(run.home)))
        return train(*args, **options)

    monkeypatch.setattr(execute.training, "train", slow)
    (record,) = runs.complete(experiment)
    ((first, files),) = quicker
    assert record == first and contents(run.home, ("run.lock",)).items() <= files.items()


def test_the_record_is_written_last(untrained, monkeypatch):
    order = []
    save = store.save_atomically

    def spy(path, write):
        order.append(path.name)
        save(path, write)

    for place in (store, execute, checkpoint):
        monkeypatch.setattr(place, "save_atomically", spy)
    runs.complete(tiny(untrained, methods="classification"))
    assert order[-1] == "record.json" and set(order) == FILES | {"checkpoint.pt", "run.owner"}


# --- compilation


@pytest.mark.slow
def test_all_runs_of_a_process_share_what_is_compiled(folder, monkeypatch):
    """A minute a method on a GPU, not a run. Without the compiler's last stage: it needs C++."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    records = runs.complete(tiny(folder, hold_out="all", trials=2, compile=True, epochs=1))
    assert len(records) == 16 and len(graphs) == 2  # classification's, also in rotation; rotation's
    graphs.clear()
    runs.complete(tiny(folder, compile=True, epochs=1, profile="other"))  # another table's
    assert len(graphs) == 2
