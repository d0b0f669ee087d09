"""A user's own network, named package.module:function: trained, scored and told apart like
semlib's.
"""

import re
import sys

import numpy as np
import pytest
import torch
from helpers import OWN_NETWORK, ROOT, tiny, tiny_data

from semlib import datasets, metrics
from workbench import runs
from workbench.experiment import ConfigError
from workbench.images import prepared
from workbench.runs import execute, store

FEATURES, FORWARD = "return self.trunk(images)", "return self.heads[head](self.features(images))"
WRONG = {
    "no module": (
        "return Small(classes, image_shape[0], heads)",
        "return 3",
        "torch.nn.Module, not a int",
    ),
    "no heads": (
        "self.heads = nn.ModuleDict(",
        "self.other = nn.ModuleDict(",
        "heads should be a torch.nn.ModuleDict",
    ),
    "a head is missing": ("**heads}", "}", "ModuleDict with classification, rotation"),
    "no features": ("def features(", "def feature(", "features"),
    "other features": (
        FEATURES,
        f"{FEATURES}[None]",
        "features(images) should be (2, D), not (1, 2, 72)",
    ),
    "too few logits": (
        "nn.Linear(72, n)",
        "nn.Linear(72, n - 1)",
        "forward(images) should be (2, 3), not (2, 2)",
    ),
    "forward without head": ('images, head="classification"):', "images, head):", "head"),
    "not finite": (FEATURES, f"{FEATURES} / 0", "finite"),
    "lazy": ("nn.Linear(72, n)", "nn.LazyLinear(n)", "no Lazy modules"),
    "other parameters": (
        "def small(classes, image_shape, heads, mean, std)",
        "def small(classes)",
        "unexpected keyword",
    ),
    "one logit an image": (FORWARD, f"{FORWARD}[:, 0]", "(2, 3), not (2,)"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    tiny_data(tmp_path / "data")
    (tmp_path / "small_net.py").write_text(OWN_NETWORK)
    yield tmp_path
    sys.modules.pop("small_net", None)


def own(place, **changes):
    return tiny(place, architecture="small_net:small", **changes)


def test_it_is_trained_scored_and_found_again(place):
    records = runs.complete(own(place))
    assert [record.method for record in records] == ["classification", "rotation"]
    assert (
        runs.complete(own(place))
        == records
        == runs.complete(own(place, dropout=0.5, norm_batch=32, stem_stride=2))
    )
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
    records = runs.complete(own(place, methods="classification"))
    text = (place / "small_net.py").read_text()
    (place / "small_net.py").write_text(
        text.replace("nn.ReLU(), ", "nn.ReLU(),  # positive part\n")
    )
    assert runs.complete(own(place, methods="classification")) == records
    (place / "small_net.py").write_text(text.replace("nn.ReLU()", "nn.GELU()"))
    assert store.finished(own(place, methods="classification")) == []
    (line,) = store.unmatched([own(place, methods="classification")])
    assert "1 finished run" in line and "another version of small_net:small" in line
    others = runs.complete(own(place, methods="classification"))
    assert (
        others[0].address != records[0].address
        and (others[0].scores()["msp"] != records[0].scores()["msp"]).any()
    )
    with pytest.raises(ConfigError, match="trained with another version of small_net:small"):
        runs.network(records[0], prepared.load("tiny", place / "data"))


@pytest.mark.parametrize("wrong", WRONG)
def test_one_that_does_not_fit_is_one_line_before_training(place, wrong, monkeypatch):
    old, new, said = WRONG[wrong]
    assert old in OWN_NETWORK
    (place / "small_net.py").write_text(OWN_NETWORK.replace(old, new))
    monkeypatch.setattr(execute.training, "train", lambda *args, **options: pytest.fail("trained"))
    with pytest.raises(ConfigError) as error:
        runs.complete(own(place))
    assert (
        "small_net:small" in str(error.value)
        and said in str(error.value)
        and "\n" not in str(error.value)
    )
    assert not (place / "outputs").exists()


def test_a_head_that_is_not_linear_is_refused_only_by_detectors_that_need_its_weights(
    place, monkeypatch
):
    (place / "small_net.py").write_text(
        OWN_NETWORK.replace("nn.Linear(72, n)", "nn.Sequential(nn.Linear(72, n))")
    )
    assert len(runs.complete(own(place, methods="classification", scores=("msp", "knn")))) == 1
    monkeypatch.setattr(execute.training, "train", lambda *args, **options: pytest.fail("trained"))
    with pytest.raises(
        ConfigError, match="small_net:small: vim needs a linear classification head, not Sequential"
    ):
        runs.complete(own(place, methods="rotation", scores=("msp", "vim")))


def test_patches_need_semlibs_network(place):
    with pytest.raises(ConfigError, match="cpc needs a network that encodes patches"):
        runs.complete(own(place, methods="cpc"))


def test_the_documents_network_runs_as_it_stands(place):
    text = (ROOT / "docs" / "own_network.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    (place / "my_network.py").write_text(code)
    (record,) = runs.complete(
        tiny(place, architecture="my_network:small_resnet", methods="rotation", epochs=1)
    )
    assert record.metrics["accuracy"] >= 0 and (record.home / "weights.pt").stat().st_size > 40e6
    sys.modules.pop("my_network", None)
