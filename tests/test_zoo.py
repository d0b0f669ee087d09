"""The committed networks: trial 2 of both methods with 500 labels a class, on CIFAR-10's images."""

import bz2
import hashlib
import json
import shlex
import shutil

import compact
import numpy as np
import pytest
import torch
from helpers import ROOT

from semlib import metrics
from workbench import cli
from workbench.experiment import create, read_parameters
from workbench.images import prepared
from workbench.runs import execute, scoring, store


@pytest.fixture(scope="module")
def records():
    given = read_parameters(ROOT / "params" / "cpu" / "masking_ablation.yaml")
    given |= {"methods": ["classification", "rotation"], "first_trial": 2, "trials": 1}
    given |= {"outputs": str(ROOT / "outputs")}
    return store.finished(create(given))


def test_every_class_and_method_has_its_weights_committed(records):
    assert len(records) == 20
    for record in records:
        weights = (record.run_home / "weights.pt").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == record.weights_sha256


@pytest.mark.data
def test_they_give_the_recorded_scores_on_this_processor_too(records, cifar10_root, one_thread):
    """Processors round differently: few predictions may change, and MSP's ranks hardly."""
    data = prepared.load("cifar10", cifar10_root)
    images = torch.as_tensor(data.test.images[:500]) / 255
    for record in records:
        net = execute.network(record, data).eval()
        with torch.inference_mode():
            logits = net(images)
        known = np.array([k for k, name in enumerate(data.classes) if name != record.hold_out])
        predicted = record.scores("predicted")["predicted"][:500]
        assert (known[logits.argmax(1)] == predicted).mean() > 0.98
        recorded = record.scores("msp")["msp"][:500]
        assert np.corrcoef(metrics.max_softmax(logits), recorded)[0, 1] > 0.999


@pytest.mark.data
@pytest.mark.notebook
def test_a_score_needs_no_training(cifar10_root, tmp_path, monkeypatch):
    """The page's command, over a copy of the class's runs."""
    copy = tmp_path / "mine" / "runs" / "cifar10" / "cat"
    shutil.copytree(ROOT / "outputs" / "cpu" / "runs" / "cifar10" / "cat", copy)
    page = (ROOT / "docs" / "extending.md").read_text().replace("\\\n", " ")
    (line,) = [line for line in page.splitlines() if "-p hold_out cat -p first_trial 2" in line]
    words = shlex.split(line.removeprefix("python -m semlib "))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SEMLIB_DATA", str(cifar10_root))
    assert cli.main([*words, "-p", "outputs", str(tmp_path)]) == 0
    for path in copy.glob("*/trial_2-*/record.json"):
        record = json.loads(path.read_text())
        metrics = record["metrics"]
        committed = ROOT / "outputs/cpu" / path.relative_to(tmp_path / "mine")
        before = json.loads(committed.read_text())
        assert record["finished"] == before["finished"], "trained again"
        assert {"energy", "knn", "energy@upright", "knn@upright"} <= {*metrics}
        assert all(metrics[name] > 0.15 for name in ("energy", "knn"))  # chance: 0.1


def test_rounding_for_a_commit_keeps_order_and_ties():
    probabilities = np.random.default_rng(0).beta(8, 0.1, 10_000)  # most are near 1
    scores = -np.r_[probabilities, probabilities[:100], 1.0, 1.0 - 2**-53]
    short = compact.rounded(scores)
    assert (scoring.ranks(short) == scoring.ranks(scores)).all()
    np.testing.assert_allclose(short, scores, rtol=1e-5)
    assert (compact.rounded(short) == short).all()
    assert len(bz2.compress(short.tobytes())) < len(bz2.compress(scores.tobytes())) / 2
