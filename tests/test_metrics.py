"""Scores and metrics against float64 arithmetic spelled out here, and properties they must have."""

import copy
import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import update_bn

from semlib import metrics, models
from semlib.datasets import load

pytestmark = pytest.mark.usefixtures("one_thread")

# --- what is expected, written out


def literal_probabilities(logits, temperature=1.0):
    """The softmax of one image's logits, a list of floats."""
    largest = max(logits)
    powers = [math.exp((z - largest) / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def literal_odin(net, images, temperature, epsilon):
    """ODIN image by image in float64: x + epsilon * sign(grad log max softmax(f(x) / T))."""
    net = copy.deepcopy(net).double().eval()
    scores = []
    for image in images.double():
        image = image[None].clone().requires_grad_()
        logits = net(image)[0] / temperature
        (logits.max() - logits.exp().sum().log()).backward()
        moved = image + epsilon * image.grad.sign()
        scores.append(-max(literal_probabilities(net(moved.detach())[0].tolist(), temperature)))
    return torch.tensor(scores, dtype=torch.float64)


def literal_average_precision(is_anomaly, scores):
    """Eq. 4: over the distinct thresholds, from the highest, precision times increase in recall."""
    total = 0.0
    recall_before = 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = [a for a, score in zip(is_anomaly, scores, strict=True) if score >= threshold]
        recall = sum(flagged) / sum(is_anomaly)
        total += sum(flagged) / len(flagged) * (recall - recall_before)
        recall_before = recall
    return total


# Relative tolerance of scores from float32 logits, of at most 172 here, where float32's rounding is
# about 1e-5. The largest difference measured is 7e-6 (with AVX-512, with AVX2 and without either).
FLOAT32 = 1e-4

# --- networks and images


@pytest.fixture(scope="module")
def trained(one_thread):
    """A network that tells digits apart, and test images.

    It has random filters and each digit's mean features in its head. Trained by gradient descent,
    two processors that round differently would have different networks.
    """
    data = load("digits")
    images = torch.from_numpy(data.train.images).float() / 255
    labels = torch.from_numpy(data.train.labels)
    torch.manual_seed(0)
    net = models.build("wrn-10-1", 10, (1, 8, 8), mean=[0.3], std=[0.4])
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the statistics become those of the next batch
    with torch.no_grad():
        net.train()(images)
        features = net.eval().features(images)
        means = torch.stack([features[labels == digit].mean(0) for digit in range(10)])
        head = net.heads["classification"]
        squares = means.square().sum(1)
        head.weight.copy_(10 * (means - means.mean(0)))
        head.bias.copy_(-5 * (squares - squares.mean()))  # the nearest mean has the largest logit
    return net, torch.from_numpy(data.test.images[:24]).float() / 255


@pytest.fixture(scope="module", params=["random", "trained", "confident"])
def network(request, trained):
    if request.param == "random":
        torch.manual_seed(1)
        return models.build("wrn-10-1", 9).eval(), torch.rand(12, 3, 16, 16)
    net, images = trained
    if request.param == "confident":  # logits in the hundreds
        net = copy.deepcopy(net)
        for parameter in net.heads["classification"].parameters():
            parameter.data *= 10
    return net, images


class Linear(nn.Module):
    """logits = weight @ pixels: gradients in closed form. Remembers the images it has seen."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return images.flatten(1) @ self.weight.T


# --- scores


@pytest.mark.parametrize("scale", [0.01, 1, 30, 1000])
def test_max_softmax_is_minus_the_largest_probability(scale):
    logits = scale * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    logits[0] = 3.0  # all equal; impossible classes
    logits[1, 2:] = -math.inf
    expected = [-max(literal_probabilities(row)) for row in logits.tolist()]
    scores = metrics.max_softmax(logits)
    assert scores.dtype == torch.float64 and scores.shape == (50,)
    np.testing.assert_allclose(scores, expected, rtol=1e-13)


@pytest.mark.parametrize("epsilon", [5e-5, 1e-3])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_and_the_change_it_makes_are_those_of_float64(network, temperature, epsilon, device):
    net, images = network
    there = copy.deepcopy(net).to(device), images.to(device)
    before, after = (metrics.odin(*there, temperature, e).cpu() for e in (0.0, epsilon))
    exact_before, exact_after = (literal_odin(net, images, temperature, e) for e in (0.0, epsilon))
    assert after.dtype == torch.float64 and after.shape == (len(images),)
    np.testing.assert_allclose(after, exact_after, rtol=FLOAT32)
    # At T = 1000 scores lie close to -1/classes, so look at the change. Leave out images whose
    # probability is 1 up to rounding: the float32 gradient is wrong there, or the change zero.
    unsure = exact_before > -1 + 1e-6
    assert unsure.sum() >= 5
    change = (after - before)[unsure]
    exact = (exact_after - exact_before)[unsure]
    assert (change < 0).all()  # the predicted class's probability is raised
    # Measured: at most 0.0015.
    np.testing.assert_allclose(change, exact, rtol=0.01)


def test_odin_without_temperature_and_perturbation_is_max_softmax(network):
    net, images = network
    expected = metrics.max_softmax(net(images).detach())
    np.testing.assert_allclose(metrics.odin(net, images, 1.0, 0.0), expected, rtol=FLOAT32)


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_moves_every_pixel_by_epsilon_towards_the_predicted_class_and_clips_none(temperature):
    generator = torch.Generator().manual_seed(0)
    net = Linear(3 * torch.randn(5, 12, generator=generator))
    images = torch.randint(2, (64, 1, 3, 4), generator=generator).float()  # at a border

    def directions(temperature):
        """In float64: the smallest gradient is 8e-7, the largest weight 6."""
        weight = net.weight.detach().double()
        logits = images.double().flatten(1) @ weight.T
        probabilities = [literal_probabilities(row, temperature) for row in logits.tolist()]
        mean = torch.tensor(probabilities, dtype=torch.float64) @ weight
        # The gradient of log p_k is (W_k - sum_j p_j W_j) / T.
        return (weight[logits.argmax(1)] - mean).sign().float().reshape(images.shape)

    assert (directions(1.0) != directions(1000.0)).any()  # the temperature of the loss matters
    metrics.odin(net, images, temperature, 0.25)
    assert torch.equal(net.seen[0], images)
    assert torch.equal(net.seen[1], images + 0.25 * directions(temperature))
    assert net.seen[1].min() == -0.25 and net.seen[1].max() == 1.25


@pytest.mark.parametrize("gradients", ["none", "kept", "frozen"])
def test_scoring_leaves_the_network_as_it_was(trained, gradients):
    net = copy.deepcopy(trained[0])
    images = trained[1].clone()
    for i, module in enumerate(net.modules()):
        module.training = i % 3 == 0  # mixed modes
    kept = {}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(gradients != "frozen")
        parameter.grad = kept[name] = torch.randn_like(parameter) if gradients == "kept" else None
    modes = [module.training for module in net.modules()]
    precision = torch.get_float32_matmul_precision()
    before = copy.deepcopy((kept, net.state_dict(), images))
    metrics.odin(net, images)
    metrics.score(net, IMAGES, {"odin": metrics.odin})
    with pytest.raises(RuntimeError, match="channels"):
        metrics.odin(net, torch.rand(2, 3, 8, 8))
    assert all(parameter.grad is kept[name] for name, parameter in net.named_parameters())
    assert all(parameter.requires_grad == (gradients != "frozen") for parameter in net.parameters())
    torch.testing.assert_close((kept, net.state_dict()), before[:2], rtol=0, atol=0)
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(images, before[2]) and images.grad is None and not images.requires_grad
    assert torch.get_float32_matmul_precision() == precision


def in_bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode, in_bfloat16])
def test_odin_is_the_same_in_every_context_and_mode(trained, context):
    net = copy.deepcopy(trained[0])
    images = trained[1]
    expected = metrics.odin(net, images)
    net.train()
    with context():
        made_here = images.clone()  # in inference mode, too
        assert torch.equal(metrics.odin(net, made_here), expected)
        assert torch.is_grad_enabled() == (context not in (torch.no_grad, torch.inference_mode))
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)


# --- score: many images

IMAGES = load("digits").test.images[:30]


def energy(logits):
    return -logits.logsumexp(1)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 500])
@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_score_is_the_computation_image_by_image(trained, batch_size, context, device):
    net = copy.deepcopy(trained[0]).train().to(device)  # evaluated in evaluation mode all the same
    functions = {
        "msp": metrics.max_softmax,
        "odin": partial(metrics.odin, temperature=10.0, epsilon=0.01),
        "defaults": metrics.odin,
        "energy": energy,
        "contrast": lambda images: images.amax((1, 2, 3)) - images.amin((1, 2, 3)),
        "again": lambda net, images: -net(images).logsumexp(1),
    }
    with context():
        predicted, scores = metrics.score(net, IMAGES, functions, batch_size)
    net.eval().cpu()
    singles = [torch.from_numpy(image[None]).float() / 255 for image in IMAGES]
    logits = [net(single).detach() for single in singles]
    energies = [-math.log(sum(math.exp(z) for z in row[0].tolist())) for row in logits]
    expected = {
        "msp": [-max(literal_probabilities(row[0].tolist())) for row in logits],
        "odin": [metrics.odin(net, single, 10.0, 0.01).item() for single in singles],
        "defaults": [metrics.odin(net, single).item() for single in singles],
        "energy": energies,
        "contrast": [single.max() - single.min() for single in singles],
        "again": energies,
    }
    assert predicted.dtype == np.int64
    assert predicted.tolist() == [row.argmax().item() for row in logits]
    assert list(scores) == list(functions)
    for name, values in scores.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected[name], rtol=FLOAT32, atol=FLOAT32, err_msg=name)


ALL = {"msp": metrics.max_softmax, "odin": metrics.odin, "energy": energy}


@pytest.mark.parametrize("names, passes", [((), 1), (("msp",), 1), (("odin",), 2), (ALL, 2)])
def test_scores_share_forward_passes(trained, names, passes):
    calls = []
    handle = trained[0].register_forward_hook(lambda *args: calls.append(len(args[1][0])))
    metrics.score(trained[0], IMAGES, {name: ALL[name] for name in names}, batch_size=12)
    handle.remove()
    assert calls == [12] * passes + [12] * passes + [6] * passes


@pytest.mark.parametrize("beside", [{}, {"odin": metrics.odin}])
def test_a_score_may_differentiate_or_leave_torch_whatever_stands_beside_it(trained, beside):
    def gradient_norm(net, images):
        return torch.autograd.grad(net(images).logsumexp(1).sum(), images)[0].abs().sum((1, 2, 3))

    def by_numpy(logits):
        return torch.from_numpy(logits.numpy().max(1))

    functions = {"mine": gradient_norm, "numpy": by_numpy, **beside}
    assert (metrics.score(trained[0], IMAGES, functions)[1]["mine"] > 0).all()


# --- re-estimated batch-norm statistics


def statistics(net) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in net.named_buffers() if "running" in name}


def test_upright_statistics_are_those_of_all_training_images_in_one_batch(trained):
    """Against PyTorch's update_bn. Everything is restored."""
    net = copy.deepcopy(trained[0])
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.1
            norm.norm_batch = 4
    before = copy.deepcopy(net.state_dict())
    with metrics.upright(net, IMAGES) as same:
        assert same is net and not any(module.training for module in net.modules())
        found = statistics(net)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert net.blocks[0].norm1.momentum == 0.1 and net.norm.norm_batch == 4
    assert not any(module.training for module in net.modules())
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.norm_batch = None
    update_bn([torch.tensor(IMAGES / 255).float()], net)
    torch.testing.assert_close(found, statistics(net), rtol=1e-4, atol=1e-5)


def test_upright_statistics_do_not_depend_on_chance_and_hardly_on_the_order():
    """Images sorted by class: a consecutive batch would be of one class, its variance too small."""
    steps = np.arange(900)[:, None, None, None] // 300 * 90
    images = (np.random.default_rng(0).integers(0, 60, (900, 1, 8, 8)) + steps).astype(np.uint8)
    net = models.build("wrn-10-1", 3, (1, 8, 8), dropout=0.3, norm_batch=64)
    found = []
    for order in (np.arange(900), np.arange(900), np.random.default_rng(1).permutation(900)):
        with metrics.upright(net.train(), images[order]):
            found.append(statistics(net))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=0.05, atol=0.02)


# --- average precision and accuracy

EXTREMES = (-math.inf, -1e300, -1.0, -0.0, 0.0, 5e-324, 1.0, 1.0 + 2**-52, 1e300, math.inf)
one_score = st.sampled_from(EXTREMES) | st.floats(allow_nan=False)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), one_score), min_size=2, max_size=40))
def test_average_precision_is_equation_4(pairs):
    is_anomaly, scores = zip(*pairs, strict=True)
    assume(0 < sum(is_anomaly) < len(is_anomaly))
    expected = literal_average_precision(is_anomaly, scores)
    assert metrics.average_precision(is_anomaly, scores) == pytest.approx(expected)


@pytest.mark.parametrize("constant", [0.0, math.inf, -math.inf])
def test_the_average_precision_of_a_constant_score_is_the_skew(constant):
    for anomalies, count in ((1, 7), (600, 6000), (9, 10)):
        found = metrics.average_precision(np.arange(count) < anomalies, np.full(count, constant))
        assert found == pytest.approx(anomalies / count, rel=1e-12)


WRONG = [
    (metrics.average_precision, ([0, 0, 0], [1.0, 2.0, 3.0]), "none of 3 is anomalous"),
    (metrics.average_precision, ([1, 1, 1], [1.0, 2.0, 3.0]), "none of 3 is normal"),
    (metrics.average_precision, ([], []), "none of 0 is anomalous"),
    (metrics.average_precision, ([0, 1, 1], [math.nan, 2.0, math.nan]), "2 of 3 scores are NaN"),
    (metrics.average_precision, ([0, 1, 1], [1.0, 2.0]), r"not \(3,\) and \(2,\)"),
    (metrics.average_precision, ([[0, 1]], [[1.0, 2.0]]), r"not \(1, 2\) and \(1, 2\)"),
    (metrics.average_precision, ([0, 1, 2], [1.0, 2.0, 3.0]), "only True and False"),
    (metrics.average_precision, ([0, math.nan, 1], [1.0, 2.0, 3.0]), "only True and False"),
    (metrics.accuracy, ([-1, -1], [0, 0]), "all are anomalies"),
    (metrics.accuracy, ([0, 1], [0, 1], [True, True]), "all are anomalies"),
    (metrics.accuracy, ([0, 1], [0]), r"\(2,\), \(1,\) and \(2,\)"),
    (metrics.accuracy, ([0, 1], [0, 1], [False]), r"\(2,\), \(2,\) and \(1,\)"),
]


@pytest.mark.parametrize("measure, arguments, message", WRONG)
def test_a_measure_says_what_is_wrong(measure, arguments, message):
    with pytest.raises(ValueError, match=message):
        measure(*arguments)


def test_accuracy_is_over_normal_images_only():
    generator = np.random.default_rng(0)
    labels = generator.integers(-1, 4, 500)
    predicted = generator.integers(0, 4, 500)
    right = [p == k for k, p in zip(labels, predicted, strict=True) if k >= 0]
    assert metrics.accuracy(labels, predicted) == pytest.approx(sum(right) / len(right), rel=1e-12)
    # Where labels are the data set's own numbers is_anomaly says it; a lucky prediction of an
    # anomaly counts for nothing.
    assert metrics.accuracy([0, 1, 2, 2], [0, 0, 2, 2], [False, False, True, True]) == 0.5
    assert metrics.accuracy([0, 1, -1], [0, 1, -1]) == 1
