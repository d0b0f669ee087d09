"""holdout.run: the benchmark as one function; and semlib as a package of its own."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from helpers import ROOT, environment

import semlib
from semlib import auxiliary, holdout, metrics
from semlib.datasets import ImageSet, hold_out, load
from semlib.datasets.splits import Dataset
from semlib.training import Recipe, train

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = Recipe(epochs=2, batch_size=64, flip=False, learning_rate=0.05)


@pytest.fixture(scope="module")
def data():
    """The first 400 training and 200 test digits."""
    digits = load("digits")
    return Dataset("digits", digits.train[:400], digits.test[:200], digits.classes)


def test_run_is_training_without_the_class_and_scoring_all_test_images(data):
    how = {"loss": auxiliary.rotation, "architecture": "wrn-10-1", "seed": 1, "dropout": 0.1}
    result = holdout.run(data, "3", RECIPE, **how)
    split = hold_out(data, "3")
    net = holdout.network(split, "wrn-10-1", auxiliary.rotation, 1, dropout=0.1)
    states = list(train(net, split.train, RECIPE, auxiliary.rotation, seed=1))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, result.net.state_dict()[name]), name
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert result.history[-1]["loss"] == states[-1].loss
    assert result.history[-1]["auxiliary_loss"] == states[-1].auxiliary_loss
    predicted, scores = metrics.score(net, split.test.images, holdout.SCORES)
    assert list(result.scores) == ["msp", "odin"]
    for name, values in result.scores.items():
        np.testing.assert_array_equal(values, scores[name])
        precision = metrics.average_precision(split.is_anomaly, values)
        assert result.average_precision[name] == precision
    assert result.accuracy == metrics.accuracy(split.test.labels, predicted)


def test_without_a_held_out_class_there_is_no_average_precision(data):
    result = holdout.run(data, None, RECIPE, architecture="wrn-10-1")
    assert result.average_precision == {} and 0 < result.accuracy <= 1
    assert result.net.heads["classification"].out_features == 10


def test_crop_side_is_the_side_of_training_and_test_images(data):
    seen = set()

    def score(images):
        seen.add(tuple(images.shape[1:]))
        return images.mean((1, 2, 3))

    recipe = Recipe(epochs=1, batch_size=64, crop_side=6)
    holdout.run(data, "3", recipe, architecture="wrn-10-1", scores={"brightness": score})
    assert seen == {(1, 6, 6)}


def test_the_trunk_begins_alike_for_every_loss_and_an_own_network_is_given_the_same(data):
    split = hold_out(data, "3")
    given = {}
    losses = (None, auxiliary.rotation)
    plain, rotation = (holdout.network(split, "wrn-10-1", loss, seed=4) for loss in losses)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, rotation.state_dict()[name]), name
    assert rotation.heads["rotation"].out_features == 4
    holdout.network(split, lambda **options: given.update(options), auxiliary.rotation)
    mean, std = holdout.pixel_statistics(split.train.images)
    shape = (1, 8, 8)
    heads = {"rotation": 4}
    expected = {"classes": 9, "image_shape": shape, "heads": heads, "mean": mean, "std": std}
    assert given == expected


def test_pixel_statistics_are_those_of_each_channel():
    images = np.random.default_rng(0).integers(0, 256, (70, 3, 5, 7), dtype=np.uint8)
    images[:, 2] = 51
    mean, std = holdout.pixel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], (images / 255).std((0, 2, 3))[:2], rtol=1e-9)
    assert std[2] == 1e-3  # of a constant channel, so that nothing is divided by 0


def test_the_example_of_the_package_runs(capsys):
    """The five lines of the docstring, on fewer images and epochs."""
    lines = semlib.__doc__.partition("up to the caller:\n\n")[2]
    few = ImageSet(np.zeros((72, 1, 8, 8), np.uint8), np.arange(72) % 9)
    code = textwrap.dedent(lines).replace("split.train,", "few,").replace("epochs=10", "epochs=2")
    names = {"few": few}
    exec("from semlib import auxiliary, datasets, models, training\n" + code, names)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "2"]
    assert len(code.strip().splitlines()) == 5


def test_the_papers_package_needs_nothing_of_the_workbench():
    """Each module but __main__ is imported where the workbench's libraries can't be."""
    code = """
    import importlib, pkgutil, sys
    blocked = "pandas pydantic papermill snakemake plotly matplotlib psutil filelock workbench"
    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in blocked.split():
                raise ImportError(f"{name} is blocked")
    sys.meta_path.insert(0, Refuse())
    import semlib, semlib.metrics
    assert "torch" not in sys.modules  # the names of scores are read without it
    for module in pkgutil.walk_packages(semlib.__path__, "semlib."):
        if module.name != "semlib.__main__":
            importlib.import_module(module.name)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert not done.returncode, done.stderr
