"""A user's network, named package.module:function: trained, scored and told apart like semlib's."""

import re

import numpy as np
import pytest
import torch
from helpers import OWN_NETWORK, ROOT, tiny

from semlib import datasets, metrics
from workbench import runs
from workbench.experiment import ConfigError
from workbench.images import prepared
from workbench.runs import execute, store

FEATURES = "return self.trunk(images)"
FORWARD = "return self.heads[head](self.features(images))"
LINEAR = "nn.Linear(72, n)"
BUILT = "return Small(classes, image_shape[0], heads)"
HEADS = "its heads should be a torch.nn.ModuleDict with classification"
WRONG = {  # a text of OWN_NETWORK, what stands in its place, and the message
    "no module": (BUILT, "return 3", "torch.nn.Module, not a int"),
    "no heads": ("self.heads = nn.ModuleDict(", "self.other = nn.ModuleDict(", HEADS),
    "a head is missing": ("**heads}", "}", f"{HEADS}, rotation"),
    "no features": ("def features(", "def feature(", "features"),
    "other features": (FEATURES, f"{FEATURES}[None]", "should be (2, D), not (1, 2, 72)"),
    "too few logits": (LINEAR, "nn.Linear(72, n - 1)", "should be (2, 3), not (2, 2)"),
    "one logit": (FORWARD, f"{FORWARD}[:, 0]", "forward(images) should be (2, 3), not (2,)"),
    "no default head": ('images, head="classification"):', "images, head):", "head"),
    "not finite": (FEATURES, f"{FEATURES} / 0", "finite"),
    "lazy": (LINEAR, "nn.LazyLinear(n)", "no Lazy modules"),
    "other parameters": ("(classes, image_shape, heads, mean, std)", "(n)", "unexpected keyword"),
}


@pytest.fixture(autouse=True)
def small_net(place):
    (place / "small_net.py").write_text(OWN_NETWORK)


def own(place, **changes):
    return tiny(place, architecture="small_net:small", **changes)


def test_it_is_trained_scored_and_found_again(place):
    records = runs.complete(own(place))
    assert [record.method for record in records] == ["classification", "rotation"]
    others = own(place, dropout=0.5, norm_batch=32, stem_stride=2)  # nothing to a user's network
    assert runs.complete(own(place)) == records == runs.complete(others)
    data = prepared.load("tiny", place / "data")
    split = datasets.hold_out(data, "one")
    for record in records:
        assert list(record.sources) == ["small_net:small"] and "dropout" not in record.settings
        net = runs.network(record, data)
        with metrics.upright(net, split.train.images):
            _, scores = metrics.score(net, split.test.images, {"msp": metrics.max_softmax})
        np.testing.assert_allclose(scores["msp"], record.scores()["msp@upright"], atol=1e-5)
        assert record.metrics["accuracy@upright"] > 0.5
    first = [torch.load(record.home / "weights.pt")["trunk.0.weight"] for record in records]
    assert not torch.equal(*first)


def test_an_edited_network_is_another_one(place):
    plain = own(place, methods="classification")
    (record,) = runs.complete(plain)
    text = (place / "small_net.py").read_text()
    commented = text.replace("nn.ReLU(), ", "nn.ReLU(),  # positive part\n")
    (place / "small_net.py").write_text(commented)
    assert runs.complete(plain) == [record]
    (place / "small_net.py").write_text(text.replace("nn.ReLU()", "nn.GELU()"))
    assert store.finished(plain) == []
    (line,) = store.unused_runs([plain])
    assert "1 finished run" in line and "another version of small_net:small" in line
    (other,) = runs.complete(plain)
    assert other.address != record.address
    assert (other.scores()["msp"] != record.scores()["msp"]).any()
    with pytest.raises(ConfigError, match="trained with another version of small_net:small"):
        runs.network(record, prepared.load("tiny", place / "data"))


@pytest.mark.parametrize("wrong", WRONG)
def test_one_that_does_not_fit_is_one_line_before_training(place, no_training, wrong):
    old, new, said = WRONG[wrong]
    assert old in OWN_NETWORK
    (place / "small_net.py").write_text(OWN_NETWORK.replace(old, new))
    with pytest.raises(ConfigError) as error:
        runs.complete(own(place))
    text = str(error.value)
    assert "small_net:small" in text and said in text and "\n" not in text
    assert not (place / "outputs").exists()


def test_only_detectors_that_need_a_linear_heads_weights_refuse_another(place, monkeypatch):
    sequential = OWN_NETWORK.replace(LINEAR, f"nn.Sequential({LINEAR})")
    (place / "small_net.py").write_text(sequential)
    assert len(runs.complete(own(place, methods="classification", scores=("msp", "knn")))) == 1
    monkeypatch.setattr(execute.training, "train", lambda *args, **options: pytest.fail("trained"))
    said = "small_net:small: vim needs a linear classification head, not Sequential"
    with pytest.raises(ConfigError, match=said):
        runs.complete(own(place, methods="rotation", scores=("msp", "vim")))


@pytest.mark.filterwarnings("ignore:epochs")
def test_the_documents_network_runs_as_it_stands(place):
    text = (ROOT / "docs" / "own_network.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    (place / "my_network.py").write_text(code)
    named = {"architecture": "my_network:small_resnet", "methods": "rotation", "epochs": 1}
    (record,) = runs.complete(tiny(place, **named))
    assert record.metrics["accuracy"] >= 0 and (record.home / "weights.pt").stat().st_size > 40e6
