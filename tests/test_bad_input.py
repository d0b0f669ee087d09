"""Bad input at every door is one line that names it; a damaged file is named, and no code is run.

What carries checksums is read exactly or refused. record.json and CSV files carry none: of them
only what is no longer of their form can be noticed. Single parameters: test_config.py.
"""

import itertools
import os
import time
import warnings
import zipfile
from functools import partial

import helpers
import numpy as np
import pytest
import torch
from helpers import ROOT, contents, made_up, parameters, semlib, tiny, tiny_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_publishers import encoded

from semlib import datasets
from semlib.datasets import DataError
from workbench import checkpoint, runs
from workbench.checkpoint import Checkpoint
from workbench.experiment import ConfigError, read_parameters, several
from workbench.images import folder, prepared
from workbench.runs import plan, store

HOLDOUT = "notebooks/holdout.ipynb"
GRID = ["grid", "params/demo/benchmark.yaml"]


def few(examples):
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def is_one_line(error, *said):
    text = str(error)
    return len(text.splitlines()) == 1 and len(text) < 5000 and all(part in text for part in said)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the tiny data set in data/, whose digests are known."""
    where = tmp_path_factory.mktemp("place")
    tiny_data(where / "data")
    prepared.digests("tiny", str(where / "data"))
    return where


@pytest.fixture(scope="module")
def refused(place):
    """Give the command line words: it ends with one line, has started and changed nothing."""

    def start(*args, **kwargs):
        raise AssertionError("started")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEMLIB_DATA", str(place / "data"))
        patch.setattr("papermill.execute_notebook", start)
        patch.setattr("torchvision.datasets.utils.download_url", start)
        yield partial(helpers.refused, place=place)


# --- files of parameters


LAUGHS = "a0: &a0 {b: c}\n"
for k in range(1, 11):  # each line says the one before nine times
    LAUGHS += f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n"
FILES = {
    "no mapping": "- 1",
    "a number's name": "1: 2",
    "a NUL": "\0",
    "a photograph": b"\xff\xd8\xff\xe0 JFIF",
    "a command": "epochs: !!python/object/apply:os.system [touch ran]",
    "a function": "epochs: !!python/name:os.system",
    "deep lists": "epochs: " + "[" * 40_000,
    "a huge number": "epochs: " + "9" * 10_000,
    "an impossible date": "epochs: 2001-99-99",
    "a billion laughs": LAUGHS + "epochs: *a10",
    "itself": "epochs: &a [*a]",
    "twice": "epochs: 3\nepochs: 5",
    "its own settings": "settings: wrong.yaml",
}
NAMED = {"a billion laughs": "epochs", "itself": "epochs"}


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_holds_no_parameters_is_one_line_at_once(refused, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "wrong.yaml"
    content = FILES[what]
    if isinstance(content, str):
        content = content.replace("wrong.yaml", str(path)).encode()
    path.write_bytes(content)
    started = time.process_time()  # a loaded machine is no fault
    with pytest.raises(ConfigError) as error:
        several(read_parameters(path))
    assert is_one_line(error.value, NAMED.get(what, "wrong.yaml")), error.value
    refused("run", ROOT / HOLDOUT, "-f", path, *parameters(outputs=tmp_path / "outputs"))
    assert list(tmp_path.iterdir()) == [path] and time.process_time() - started < 10


# --- the command line

NOT_HERE = {
    "hold_out": ["cta", "[one, cta]", "[all, one]", "''"],
    "dataset": ["tinny", "..", "/", "x" * 300, "~nobody/birds", ""],
    "architecture": ["resnet-18", "wrn-9-1", "wrn-10-0"],
    "methods": ["jigsaw", "absent.module:loss", "[rotation, rotation]"],
    "scores": ["engergy", "absent.module:score", "math:sqrt", "json:absent"],
    "device": ["cuda:99", "tpu"],
    "fold": [3],
    "epochs": ["!!python/object/apply:os.system [true]", "[", "9" * 5000, "&a [*a]", "1.5", "''"],
    "outputs": ["/dev/null/x"],
    "profile": ["../x", "x" * 300],
    "data_root": ["/dev/null/x"],
    "settings": ["absent.yaml", "[]"],
    "crop_side": [9],  # the tiny data set has 192 images without the ones, of 8x8 pixels
    "crop_padding": [8],
    "batch_size": [193],
}
CHOICES = {"cuda:99": "auto, cpu", "resnet-18": "wrn-28-10", "wrn-9-1": "10, 16, 22, 28"}
CHOICES |= {"cta": "zero, one, two, three, all, none", "tinny": "choose from digits, cifar10"}
VERBS = {"run": ["run", HOLDOUT], "benchmark": ["run", "notebooks/benchmark.ipynb"], "grid": GRID}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", NOT_HERE)
def test_what_is_not_here_or_does_not_fit_is_one_line(refused, place, verb, name):
    fine = {"outputs": place / "outputs", "dataset": "tiny", "hold_out": "one", "missing": "train"}
    fine |= {"architecture": "wrn-10-1", "norm_batch": None}
    for text in NOT_HERE[name]:
        refused(*VERBS[verb], *parameters(**fine | {name: text}), said=[CHOICES.get(text, "")])


@pytest.mark.parametrize("name", ["absent", "absent é", "absent\nfile", "absent\udce9", "a" * 199])
def test_names_of_nothing_are_one_line(refused, place, name):
    root = ["--root", place / "data"]
    refused("data", "check", name, *root, said=["isn't prepared"])
    refused("data", "prepare", name, *root, said=["unknown"])
    refused("run", f"{name}.ipynb", said=["no such file"])
    refused("run", HOLDOUT, "-f", f"{name}.yaml", said=["no such file"])
    refused("grid", f"{name}.yaml", said=["no such file"])
    refused(*GRID, "--notebook", name, said=["choose --notebook"])
    refused("run", HOLDOUT, "-p", name, "3", said=["unknown parameter"])


NO_NOTEBOOK = ["", "{", "[1]", "{}", "é", '{"nbformat": 4, "cells": 3}', '{"cells": [3]}']
NO_NOTEBOOK += ['{"nbformat": "x"}', "[" * 10**5]


@pytest.mark.parametrize("content", NO_NOTEBOOK, ids=lambda content: content[:30])
def test_what_is_no_notebook_is_one_line(refused, tmp_path, content):
    path = tmp_path / "x.ipynb"
    path.write_bytes(content.encode("latin-1"))
    refused("run", path, said=[str(path)])
    assert contents(tmp_path).keys() == {"x.ipynb"}


WORDS = [[], ["fly"], ["run"], ["grid"], ["data", "burn", "digits"], ["run", "README.md"]]
WORDS += [["data", "prepare", "digits", "--side", "0"], [*GRID, "--jobs", "0"]]
OPTIONS = ["-p epochs", "--timeout soon", "--timeout -1", "-o /tmp", "-o /dev/null/x.ipynb"]
OPTIONS += ["--gpus 0,0", "--gpus ,"]
OPTIONS += ["-p epochs 010", "-p epochs 1:30", "-p trials 1 -p trials 2"]  # 8, 90 and 2


@pytest.mark.parametrize("words", WORDS + [["run", HOLDOUT, *o.split()] for o in OPTIONS], ids=str)
def test_words_that_make_no_command_are_refused(refused, words):
    refused(*words)


PROCESSES = [["run", HOLDOUT, "-p", "epochs", "!!python/name:os.system"]]
PROCESSES += [["data", "check", os.fsdecode(b"caf\xe9")]]


@pytest.mark.parametrize("words", PROCESSES, ids=["run", "data"])
def test_the_same_through_a_process(words, tmp_path):
    done = semlib(*words, SEMLIB_DATA=tmp_path)
    assert done.returncode == 2 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# --- damaged files: of each kind a whole one, how it is read, and what an error names if not it


def damaged(whole):
    """The file cut short, with bits flipped, or with random bytes in place of some or between."""
    position = st.integers(0, len(whole) - 1)
    noise = st.binary(min_size=1, max_size=64)

    def flipped(bits):
        changed = bytearray(whole)
        for bit in bits:
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    bits = st.lists(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=8, unique=True)
    return st.one_of(
        position.map(lambda end: whole[:end]),
        bits.map(flipped),
        st.builds(lambda at, some: whole[:at] + some + whole[at + len(some) :], position, noise),
        st.builds(lambda at, some: whole[:at] + some + whole[at:], position, noise),
    )


def same(a, b):
    """Equal to the bit, through dictionaries and data sets."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, torch.Tensor | np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, datasets.Dataset | datasets.ImageSet):
        return same(vars(a), vars(b))
    return a == b


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def picture(kind="PNG", side=32):
    return encoded(pixels(side, side, 3), kind)


def finished(where):
    experiment = made_up(where, 30, dataset="digits", hold_out="3", methods="rotation", trials=1)
    (run,) = plan.planned(experiment)
    return run


def record(where, patch):
    run = finished(where)
    return run.home / "record.json", lambda: store.read_record(run.home)


def scores(where, patch):
    run = finished(where)
    sha256 = store.find(run).scores_sha256
    return run.home / "scores.npz", lambda: store.read_scores(run.home / "scores.npz", sha256)


def history(where, patch):
    record = store.find(finished(where))
    path = record.home / "history.csv"
    path.write_text("epoch,loss,accuracy,seconds\n1,2.3,0.1,1.5\n2,1.9,0.4,3.0\n")
    return path, record.history


def own(where, patch):
    part = datasets.ImageSet(pixels(6, 1, 8, 8), np.arange(6) % 3)
    data = datasets.Dataset("own", part, part, ("ant", "bee", "cat"))
    prepared.write(where / "own.npz", data)
    return where / "own.npz", lambda: prepared.load("own", where)


def names(where, patch):
    return own(where, patch)[0], lambda: prepared.classes("own", where)


def state(where, patch):
    path = where / "state.pt"
    torch.save({"net": {"w": torch.arange(300.0)}, "progress": ([{"loss": 1.0}], 2.5, 3)}, path)
    return path, lambda: checkpoint.read(path)


def photograph(kind):
    def make(where, patch):
        path = where / "photograph"
        path.write_bytes(picture(kind))
        return path, lambda: folder.decode(path, 16).shape

    return make


CHECKED = {  # read exactly or refused
    "scores.npz": (scores, ValueError),
    "prepared data": (own, DataError),
    "prepared data's names": (names, DataError),
    "checkpoint": (state, ValueError),
    **{kind: (photograph(kind), DataError) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF")},
}
UNCHECKED = {"record.json": (record, ValueError), "history.csv": (history, ValueError)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CHECKED | UNCHECKED)
def test_a_damaged_file_is_read_exactly_or_named(tmp_path, monkeypatch, one_thread, kind):
    make, documented = (CHECKED | UNCHECKED)[kind]
    path, read, *named = make(tmp_path, monkeypatch)
    whole = path.read_bytes()
    expected = read()
    times = itertools.count()

    @few(70)
    @given(damaged(whole))
    def check(content):
        path.write_bytes(content)
        os.utime(path, ns=(0, next(times)))  # a file of an older time isn't read again
        try:
            found = read()
        except documented as error:
            other = isinstance(error, store.Outdated)  # a damaged number can be another recipe's
            assert other or is_one_line(error, *map(str, named or [path])), error
        else:
            assert kind in UNCHECKED or same(found, expected)

    check()


# --- code in files


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def flip_one_bit(path):
    """Of the largest member of a zip file."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
        content[content.index(archive.read(largest))] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tiny_data(folder / "data")
    with warnings.catch_warnings(action="ignore"):
        runs.complete(tiny(folder, methods="classification", epochs=1))
    return folder


@pytest.mark.filterwarnings("ignore:epochs")
@pytest.mark.parametrize("how", ["one bit", "a command"])
def test_damaged_weights_are_one_line_that_names_them_and_stay(trained, tmp_path, how):
    # a score that the run lacks
    experiment = tiny(trained, methods="classification", epochs=1, epsilon=0.01)
    (run,) = plan.planned(experiment)
    path = run.home / "weights.pt"
    whole = path.read_bytes()
    before = contents(run.home, ("weights.pt", "run.lock"))
    if how == "one bit":
        flip_one_bit(path)
    else:
        torch.save(Evil(tmp_path / "proof"), path)
    with pytest.raises(ConfigError) as error:
        runs.complete(experiment)
    title = "tiny, one held out, classification, trial 0"
    assert is_one_line(error.value, title, str(path)), error.value
    assert not (tmp_path / "proof").exists()
    assert contents(run.home, ("weights.pt", "run.lock")) == before
    path.write_bytes(whole)


@pytest.mark.parametrize("how", ["one bit", "a command"])
def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path, capsys, how):
    """torch.load compares no checksum: training would go on from another weight."""
    kept = Checkpoint(tmp_path / "run" / "checkpoint.pt", {"of": "a"}, {})
    for epoch in (1, 2):
        kept.save({"epoch": epoch, "net": {"w": torch.full((64,), 7.0)}})
    assert kept.load()["epoch"] == 2
    if how == "one bit":
        flip_one_bit(kept.path)
    else:
        parts = {"stamp": {"of": "a"}, "machine": {}, "net": Evil(tmp_path / "proof")}
        torch.save(parts, kept.path)
    assert kept.load() is None and not (tmp_path / "proof").exists()
    assert "checkpoint.pt in run can't be read" in "".join(capsys.readouterr())


@pytest.mark.parametrize("make", [scores, own, names], ids=lambda make: make.__name__)
def test_a_pickled_object_in_an_npz_is_refused_and_no_code_is_run(tmp_path, monkeypatch, make):
    path, read = make(tmp_path, monkeypatch)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict.fromkeys(file.files, np.array([Evil(tmp_path / "proof")], dtype=object))
    np.savez(path, **arrays)
    with pytest.raises(ValueError) as error:
        read()
    assert is_one_line(error.value, str(path)) and not (tmp_path / "proof").exists()
    with np.load(path, allow_pickle=True) as file:  # so it would have run
        assert file[file.files[0]] is not None and (tmp_path / "proof").exists()


def test_postscript_is_not_run_and_a_strip_is_no_image(tmp_path, monkeypatch):
    ghostscript = "PIL.EpsImagePlugin.Ghostscript"
    monkeypatch.setattr(ghostscript, lambda *args, **kwargs: pytest.fail("run"))
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png", "EPS")
    # resized to 224 pixels of height it would have 56 GB
    Image.new("1", (9_000_000, 8)).save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(DataError) as error:
            folder.decode(tmp_path / name, 224)
        assert is_one_line(error.value, str(tmp_path / name))
