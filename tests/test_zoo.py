"""The committed networks: trial 2 of both methods with 500 labels a class, on CIFAR-10's images."""

import hashlib

import numpy as np
import pytest
import torch
from helpers import ROOT

from semlib import metrics
from workbench.experiment import create, read_parameters
from workbench.images import prepared
from workbench.runs import execute, store


@pytest.fixture(scope="module")
def records():
    given = read_parameters(ROOT / "params" / "cpu" / "masking_ablation.yaml")
    given |= {"methods": ["classification", "rotation"], "first_trial": 2, "trials": 1}
    return store.finished(create(given | {"outputs": str(ROOT / "outputs")}))


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
