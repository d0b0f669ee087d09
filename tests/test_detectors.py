"""Detectors against slow float64 arithmetic written out here from the published formulas."""

import copy
import math
import re
from decimal import Decimal, localcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_metrics import literal_probabilities as probabilities
from test_models import random_network
from torch import nn

from semlib import metrics

pytestmark = pytest.mark.usefixtures("one_thread")

# --- made-up features


class Case(NamedTuple):
    train: "metrics.Features"
    labels: np.ndarray
    net: nn.Module
    test: "metrics.Features"

    def scores(self, name):
        return metrics.fit(name, self.train, self.labels, self.net)(self.test)

    def with_test(self, features):
        return self._replace(test=evaluated(features, self.net))


def network(weight, bias):
    """A module with nothing but the classification head."""
    net = nn.Module()
    net.heads = nn.ModuleDict({"classification": nn.Linear(weight.shape[1], weight.shape[0])})
    net.heads["classification"].weight.data = torch.tensor(np.asarray(weight), dtype=torch.float32)
    net.heads["classification"].bias.data = torch.tensor(np.asarray(bias), dtype=torch.float32)
    return net


def parameters(net):
    head = net.heads["classification"]
    return head.weight.detach().double().numpy(), head.bias.detach().double().numpy()


def evaluated(features, net):
    """Features with the logits that the head gives them, both rounded to float32."""
    weight, bias = parameters(net)
    features = np.asarray(features, np.float32)
    logits = features.astype(np.float64) @ weight.T + bias
    return metrics.Features(features, logits.astype(np.float32))


def made_up(units=12, classes=3, images=90, seed=0):
    """Classes of unequal size with partly zero features; of 20 test images ten are far from all.

    Unit 1 is zero in all training images, and not in all test images: its variance is the ridge.
    """
    rng = np.random.default_rng([seed, units, classes, images])
    centres = rng.normal(0.3, 1, (classes, units))
    shares = np.arange(1, classes + 1) / (classes * (classes + 1) / 2)
    chosen = rng.choice(classes, images - classes, p=shares)
    labels = rng.permutation(np.concatenate([np.arange(classes), chosen]))
    features = np.maximum(rng.normal(centres[labels]), 0)
    features[:, 1] = 0
    far = rng.normal(0, 2, (10, units))
    test = np.maximum(rng.normal(np.concatenate([centres[np.arange(10) % classes], far])), 0)
    net = network(rng.normal(0, 1, (classes, units)), rng.normal(0, 1, classes))
    return Case(evaluated(features, net), labels, net, evaluated(test, net))


# --- literal_NAME(train h, train z, labels, weight, bias) -> (h, z of an image) -> score


def logsumexp(z):
    return max(z) + math.log(math.fsum(math.exp(v - max(z)) for v in z))


def unit(h):
    length = math.sqrt(math.fsum(v * v for v in h))
    return h / length if length else h


def class_means(h, labels):
    return [np.mean(h[labels == c], axis=0) for c in range(max(labels) + 1)]


def covariance(deviations):
    """Divided by N, with 1e-6 of the mean eigenvalue on the diagonal."""
    total = sum(np.outer(row, row) for row in deviations) / len(deviations)
    return total + 1e-6 * np.trace(total) / len(total) * np.eye(len(total))


def squared_distance(deviation, covariance):
    return deviation @ np.linalg.solve(covariance, deviation)


OF_LOGITS = {
    "msp_t1000": lambda z: -max(probabilities(z, 1000.0)),
    "max_logit": lambda z: -max(z),
    "energy": lambda z: -logsumexp(z),
    "entropy": lambda z: -math.fsum(p * math.log(p) for p in probabilities(z) if p),
}


def literal_gen(h, z, labels, weight, bias):
    def score(h, z):
        p = probabilities(z)
        rests = [math.fsum(p[:k] + p[k + 1 :]) for k in range(len(p))]  # 1 - p, no cancellation
        return math.fsum(a**0.1 * b**0.1 for a, b in zip(p, rests, strict=True))

    return score


def literal_mahalanobis(h, z, labels, weight, bias):
    means = class_means(h, labels)
    within = covariance([row - means[k] for row, k in zip(h, labels, strict=True)])
    return lambda h, z: min(squared_distance(h - mean, within) for mean in means)


def literal_rmd(h, z, labels, weight, bias):
    means = class_means(h, labels)
    centre = np.mean(h, axis=0)
    within = covariance([row - means[k] for row, k in zip(h, labels, strict=True)])
    total = covariance([row - centre for row in h])

    def score(h, z):
        whole = squared_distance(h - centre, total)
        return -max(-squared_distance(h - mean, within) + whole for mean in means)

    return score


def literal_knn(train_h, train_z, labels, weight, bias):
    k = min(50, len(train_h) // len(weight))
    return lambda h, z: sorted(math.dist(unit(h), unit(row)) for row in train_h)[k - 1]


def literal_cosine(h, z, labels, weight, bias):
    means = class_means(h, labels)
    return lambda h, z: -max(math.fsum(unit(h) * unit(mean)) for mean in means)


def literal_vim(h, z, labels, weight, bias):
    origin = -np.linalg.pinv(weight) @ bias
    d = h.shape[1] // 2
    moments = sum(np.outer(row - origin, row - origin) for row in h)
    complement = np.linalg.eigh(moments)[1][:, : h.shape[1] - d]  # eigenvalues ascend

    def residual(h):
        return np.linalg.norm(complement.T @ (h - origin))

    alpha = np.mean([max(row) for row in z]) / np.mean([residual(row) for row in h])
    return lambda h, z: alpha * residual(h) - logsumexp(z)


def literal_react(h, z, labels, weight, bias):
    pooled = sorted(h.ravel())
    place = 0.9 * (len(pooled) - 1)
    below = math.floor(place)
    threshold = pooled[below] + (place - below) * (pooled[below + 1] - pooled[below])

    def score(h, z):
        clipped = np.array([min(v, threshold) for v in h])
        return -logsumexp([w @ clipped + b for w, b in zip(weight, bias, strict=True)])

    return score


def literal_scale(h, z, labels, weight, bias):
    def score(h, z):
        top = sorted(h, reverse=True)[: len(h) - round(0.85 * len(h))]
        scaled = h * math.exp(math.fsum(h) / math.fsum(top)) if any(h) else h
        return -logsumexp([w @ scaled + b for w, b in zip(weight, bias, strict=True)])

    return score


def literal_fdbd(h, z, labels, weight, bias):
    centre = np.mean(h, axis=0)

    def score(h, z):
        y = max(range(len(z)), key=lambda k: z[k])
        classes = range(len(z))
        to_boundaries = [(z[y] - z[c]) / math.dist(weight[y], weight[c]) for c in classes if c != y]
        return -math.fsum(to_boundaries) / (len(z) - 1) / math.dist(h, centre)

    return score


def literal_nnguide(train_h, train_z, labels, weight, bias):
    bank = [unit(row) * logsumexp(logits) for row, logits in zip(train_h, train_z, strict=True)]

    def score(h, z):
        nearest = sorted((math.fsum(unit(h) * row) for row in bank), reverse=True)[:10]
        return -logsumexp(z) * math.fsum(nearest) / len(nearest)

    return score


LITERAL = {name: lambda *_, f=score: lambda h, z: f(z) for name, score in OF_LOGITS.items()}
for function in [name for name in globals() if name.startswith("literal_")]:
    LITERAL[function.removeprefix("literal_")] = globals()[function]
every_detector = pytest.mark.parametrize("name", LITERAL)


def expected(name, case):
    h, z = (array.astype(np.float64) for array in case.train)
    score = LITERAL[name](h, z, case.labels, *parameters(case.net))
    images = zip(*(array.astype(np.float64) for array in case.test), strict=True)
    return [score(*image) for image in images]


def assert_same(found, wanted, tolerance):
    """Relative to each score, or to the largest where large numbers nearly cancel."""
    smallest = tolerance * 1e-2 * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=smallest)


def test_every_detector_has_a_literal_version_and_names_its_source():
    assert set(metrics.DETECTORS) == set(LITERAL)
    for name, function in metrics.DETECTORS.items():
        assert re.search(r"\([A-Z]\w+.* 20\d\d", function.__doc__), f"{name}: no author and year"


# Float32 inputs are exact in float64, so only float64's rounding differs: about 1e-16 times the
# covariances' condition, 1e6 by the ridge. Anything computed in float32 would be off by 1e-7.
@every_detector
@pytest.mark.parametrize("units, classes, images", [(8, 2, 60), (21, 3, 200), (30, 5, 100)])
def test_scores_are_those_of_the_formula(name, units, classes, images):
    case = made_up(units, classes, images)
    scores = case.scores(name)
    assert isinstance(scores, np.ndarray) and scores.dtype == np.float64 and scores.shape == (20,)
    assert_same(scores, expected(name, case), 1e-9)


@pytest.mark.parametrize("name", ["nnguide", "knn", "fdbd", "react"])
def test_a_handful_of_training_images_is_enough(name):
    case = made_up(units=12, classes=2, images=7)  # nnguide: all 7 instead of 10; knn: k = 3
    assert_same(case.scores(name), expected(name, case), 1e-9)


WIDTHS = [(767, 383), (768, 512), pytest.param(2048, 1000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("units, main", WIDTHS)
def test_the_number_of_vims_main_directions_is_by_the_width(units, main):
    """Each training image lies on an axis of its own: the longest are the main directions."""
    rng = np.random.default_rng(units)
    lengths = rng.permutation(units) + 1.0
    net = network(rng.normal(0, 1, (2, units)), [0, 0])  # a bias of 0: the origin is 0
    train = evaluated(np.diag(lengths), net)
    test = evaluated(rng.random((5, units)), net)
    minor = lengths <= units - main
    alpha = train.logits.max(1).mean(dtype=np.float64) / (lengths[minor].sum() / units)
    wanted = []
    for h, z in zip(*(array.astype(float) for array in test), strict=True):
        wanted.append(alpha * np.linalg.norm(h[minor]) - logsumexp(z))
    assert_same(metrics.fit("vim", train, np.arange(units) % 2, net)(test), wanted, 1e-9)


# --- known limits


def test_knn_tells_neighbours_apart_that_float32_can_not():
    rng = np.random.default_rng(0)
    bank = (rng.random((1, 8)) * (1 + 1e-6 * rng.random((200, 8)))).astype(np.float32)
    queries = rng.random((5, 8)).astype(np.float32)
    train, test = (metrics.Features(x, np.zeros((len(x), 2), np.float32)) for x in (bank, queries))
    units = [unit(row.astype(np.float64)) for row in bank]
    wanted = []
    for row in queries:
        distances = [np.linalg.norm(unit(row.astype(np.float64)) - u) for u in units]
        wanted.append(sorted(distances)[49])
    score = metrics.fit("knn", train, np.arange(200) % 2, nn.Identity())
    np.testing.assert_allclose(score(test), wanted, rtol=1e-13)


def vim_case(train):
    net = network(np.random.default_rng(0).normal(0, 1, (2, train.shape[1])), [0, 0])
    return evaluated(train, net), np.arange(len(train)) % 2, net


@pytest.mark.parametrize("kind", ["axes", "oblique", "few images", "zero"])
def test_vim_without_a_residual_is_an_error(kind):
    integers = partial(np.random.default_rng(1).integers, 0, 10)  # products are exact in float32
    train = {
        "axes": np.concatenate([integers((60, 4)), np.zeros((60, 4))], axis=1),
        "oblique": integers((60, 4)) @ integers((4, 8)),
        "few images": integers((4, 8)),
        "zero": np.zeros((60, 8)),
    }[kind]
    with pytest.raises(ValueError, match="vim: no training feature lies outside the 4 main"):
        metrics.fit("vim", *vim_case(train))


# --- confident logits and empty features


@pytest.mark.parametrize("name", ["gen", "entropy"])
@pytest.mark.parametrize("spread", [3, 15, 100])
def test_very_confident_logits_are_as_in_300_digits(name, spread):
    """1 - p and log p of a p near 1 lose all digits if they are taken from a rounded p."""
    case = made_up()
    rng = np.random.default_rng(spread)
    test = case.test._replace(logits=rng.normal(0, spread, (20, 3)).astype(np.float32))
    wanted = []
    with localcontext(prec=300):
        for row in test.logits.tolist():
            powers = [Decimal(z).exp() for z in row]
            p = [power / sum(powers) for power in powers]
            terms = [(q * (1 - q)) ** Decimal("0.1") if name == "gen" else -q * q.ln() for q in p]
            wanted.append(float(sum(terms)))
    found = metrics.fit(name, case.train, case.labels, case.net)(test)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@every_detector
@pytest.mark.filterwarnings("error")
def test_logits_whose_exponentials_overflow_give_finite_scores(name):
    case = made_up()
    weight, bias = parameters(case.net)
    net = network(250 * weight, 250 * bias)
    train, test = (evaluated(x.features, net) for x in (case.train, case.test))
    confident = Case(train, case.labels, net, test)
    assert min(confident.test.logits.max(), -confident.test.logits.min()) > 750
    assert np.isfinite(confident.scores(name)).all()
    if name != "entropy":  # of which 300 digits are compared above
        assert_same(confident.scores(name), expected(name, confident), 1e-9)


@every_detector
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("in_training", [False, True])
def test_a_zero_feature_vector_has_a_finite_score(name, in_training):
    case = made_up()
    features = case.test.features.copy()
    features[3] = 0
    case = case.with_test(features)
    if in_training:
        features = case.train.features.copy()
        features[5] = 0
        case = case._replace(train=evaluated(features, case.net))
    scores = case.scores(name)
    assert np.isfinite(scores).all()
    assert_same(scores, expected(name, case), 1e-9)
    bias = parameters(case.net)[1]
    known = {"knn": 1.0, "cosine": 0.0, "nnguide": 0.0, "scale": -logsumexp(bias)}
    if name in known:  # with normalised training features all at distance 1 from 0
        np.testing.assert_allclose(scores[3], known[name], rtol=1e-12)


# --- what a fitted detector depends on


@every_detector
def test_a_detector_neither_changes_nor_keeps_an_array_of_the_callers(name):
    case = made_up()
    kept = copy.deepcopy((case.train, case.labels, case.test, parameters(case.net)))
    wanted = case.scores(name)
    score = metrics.fit(name, case.train, case.labels, case.net)
    np.testing.assert_equal((case.train, case.labels, case.test, parameters(case.net)), kept)
    case.train.features[:] = np.nan
    case.train.logits[:] = 1e9
    case.labels[:] = 0
    for parameter in case.net.parameters():
        parameter.data.fill_(7.0)  # the next trial's weights
    for _ in range(2):  # nor does scoring change the detector
        np.testing.assert_array_equal(score(case.test), wanted)


# --- features


def small_network(**settings):
    """A random network in evaluation mode whose batch-norm statistics are not those of a batch."""
    how = {"mean": [0.4], "std": [0.3]} | settings
    return random_network("wrn-10-1", 3, (1, 8, 8), **how).eval()


def random_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), np.uint8)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_features_are_those_that_the_classification_head_sees(batch_size):
    net = small_network(heads={"rotation": 4})
    images = random_images(23)
    kept = images.copy()
    features, logits = found = metrics.features(net, images, batch_size)
    assert isinstance(found, metrics.Features)
    assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in found)
    assert features.shape == (23, 64) and logits.shape == (23, 3)
    with torch.no_grad():
        pixels = torch.from_numpy(images).float() / 255
        # Float32 convolutions in another memory layout or batch
        np.testing.assert_allclose(features, net.features(pixels), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, net(pixels), rtol=1e-4, atol=1e-5)
        of_head = net.heads["classification"](torch.from_numpy(features))
        np.testing.assert_allclose(logits, of_head, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(images, kept)


class Own(nn.Module):
    """A user's network that does something between `features` and the head."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleDict({"classification": nn.Linear(64, 3)})

    def features(self, images):
        return images.flatten(1) - 0.5

    def forward(self, images, head="classification"):
        return self.heads[head](F.relu(self.features(images)))


def test_features_of_a_users_network_are_those_that_its_head_sees():
    torch.manual_seed(0)
    net = Own()
    images = random_images(9)
    features, logits = metrics.features(net, images)
    seen = np.maximum(images.reshape(9, 64) / 255 - 0.5, 0)
    np.testing.assert_allclose(features, seen, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, evaluated(features, net).logits, rtol=1e-5, atol=1e-6)


def test_features_are_taken_without_dropout_and_the_modes_are_restored():
    net = small_network(dropout=0.5)
    images = random_images(23)
    wanted = metrics.features(net, images)
    state = copy.deepcopy(net.state_dict())
    for i, module in enumerate(net.modules()):
        module.training = i % 3 != 0  # mixed modes
    modes = [module.training for module in net.modules()]
    assert any(module.training for module in net.modules() if isinstance(module, nn.Dropout))
    np.testing.assert_equal(metrics.features(net, images), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_equal(metrics.features(net, images), wanted)  # float32 all the same
    with pytest.raises(RuntimeError, match="channels"):
        metrics.features(net, np.zeros((2, 3, 8, 8), np.uint8).repeat(2, axis=1))
    assert [module.training for module in net.modules()] == modes
    # no batch-norm statistic has moved
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


# --- errors


@pytest.mark.parametrize("name", ["Energy", "odin", "", "knn "])
def test_an_unknown_detector_is_an_error_that_lists_the_choices(name):
    case = made_up()
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        case.scores(name)
    assert repr(name) in str(error.value)
    assert all(choice in str(error.value).replace(repr(name), "") for choice in LITERAL)


@pytest.mark.parametrize("count", [0, 89, 91])
def test_labels_of_another_length_are_an_error(count):
    case = made_up()
    with pytest.raises(ValueError, match=rf"of the 90 training images, not of {count}$"):
        metrics.fit("knn", case.train, np.zeros(count, np.int64), case.net)


@every_detector
def test_only_detectors_that_use_the_heads_weights_need_a_linear_head(name):
    case = made_up()
    wanted = case.scores(name)
    case.net.heads["classification"] = nn.Sequential(case.net.heads["classification"], nn.Tanh())
    if name in metrics.OF_THE_HEAD:
        with pytest.raises(ValueError, match=rf"^[^\n]*\b{name}\b[^\n]*$") as error:
            case.scores(name)
        assert "linear" in str(error.value).lower() and "Sequential" in str(error.value)
    else:
        np.testing.assert_array_equal(case.scores(name), wanted)
