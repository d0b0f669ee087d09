"""Scores and detection metrics against float64 arithmetic spelled out here, and against properties
they must have.
"""

import copy
import math
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from torch import nn

from semlib import metrics, models
from workbench.images import prepared

pytestmark = pytest.mark.usefixtures("one_thread")

# -- what is expected, written out
# ------------------------------------------------------------------------------------


def literal_probabilities(logits, temperature=1.0):
    """The softmax of one image's logits, a list of floats."""
    largest = max(logits)
    powers = [math.exp((z - largest) / temperature) for z in logits]
    return [power / sum(powers) for power in powers]


def literal_odin(net, images, temperature, epsilon):
    """ODIN image by image in float64, from Liang et al.'s formula: x + epsilon * sign(grad log max
    softmax(f(x) / T)).
    """
    net, scores = copy.deepcopy(net).double().eval(), []
    for image in images.double():
        image = image[None].clone().requires_grad_()
        logits = net(image)[0] / temperature
        (logits.max() - logits.exp().sum().log()).backward()
        moved = image + epsilon * image.grad.sign()
        scores.append(-max(literal_probabilities(net(moved.detach())[0].tolist(), temperature)))
    return torch.tensor(scores, dtype=torch.float64)


def literal_average_precision(is_anomaly, scores):
    """Eq. 4: over the distinct thresholds, from the highest, precision times the increase in
    recall.
    """
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = [
            anomaly for anomaly, score in zip(is_anomaly, scores, strict=True) if score >= threshold
        ]
        recall = sum(flagged) / sum(is_anomaly)
        total += sum(flagged) / len(flagged) * (recall - recall_before)
        recall_before = recall
    return total


# Relative tolerance of scores from float32 logits. Logits are at most 172 here, where float32's
# rounding error is about 1e-5; an error of 1e-5 in a logit changes a probability by at most 1e-5 of
# it. The largest difference measured is 7e-6 (with AVX-512, with AVX2 and without either, on one
# and two threads).
FLOAT32 = 1e-4

# -- networks and images
# ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(one_thread):
    """A small network that tells digits apart, with random filters and each digit's mean features
    in its head; test images.

    It is not trained by gradient descent: after 40 steps two processors that round differently have
    different networks, whose largest ODIN change was 1e-2 on one and 1e-13 on the other.
    """
    data = prepared.load("digits")
    images, labels = (
        torch.from_numpy(data.train.images).float() / 255,
        torch.from_numpy(data.train.labels),
    )
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
        head.weight.copy_(
            10 * (means - means.mean(0))
        )  # with this bias the nearest mean has the largest logit
        head.bias.copy_(-5 * (means.square().sum(1) - means.square().sum(1).mean()))
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
    """logits = weight @ pixels: its gradients are known in closed form. Remembers the images it has
    seen.
    """

    def __init__(self, weight):
        super().__init__()
        self.weight, self.seen = nn.Parameter(weight), []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return images.flatten(1) @ self.weight.T


# -- scores ----------------------------------------------------------------------------------------
# -------------------


@pytest.mark.parametrize("scale", [0.01, 1, 30, 1000])
def test_max_softmax_is_minus_the_largest_probability(scale):
    logits = scale * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    logits[0], logits[1, 2:] = 3.0, -math.inf  # all equal; impossible classes
    expected = [-max(literal_probabilities(row)) for row in logits.tolist()]
    scores = metrics.max_softmax(logits)
    assert scores.dtype == torch.float64 and scores.shape == (50,)
    np.testing.assert_allclose(scores, expected, rtol=1e-13)


def test_max_softmax_tells_apart_what_ties_in_float32():
    logits = torch.tensor([[20.0, 0.0], [21.0, 0.0], [30.0, 0.0]])
    assert (logits.softmax(1).amax(1) == 1).all()  # why the softmax is taken in float64
    assert (metrics.max_softmax(logits).diff() < 0).all()


@pytest.mark.parametrize("epsilon", [5e-5, 1e-3])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_and_the_change_it_makes_are_those_of_float64(network, temperature, epsilon, device):
    net, images = network
    there = copy.deepcopy(net).to(device), images.to(device)
    before, after = (metrics.odin(*there, temperature, e).cpu() for e in (0.0, epsilon))
    exact_before, exact_after = (literal_odin(net, images, temperature, e) for e in (0.0, epsilon))
    assert after.dtype == torch.float64 and after.shape == (len(images),)
    np.testing.assert_allclose(after, exact_after, rtol=FLOAT32)
    # At T = 1000 scores lie close to -1/classes and the perturbation changes a few parts in a
    # million: look at the change. Leave out images whose probability is 1 up to rounding: within
    # 2^-24 the float32 gradient is wrong, within 2^-53 the change is zero.
    unsure = exact_before > -1 + 1e-6
    assert unsure.sum() >= 5
    change, exact = (after - before)[unsure], (exact_after - exact_before)[unsure]
    assert (change < 0).all()  # the predicted class's probability is raised
    # epsilon = 5e-5 changes logits by about 1e-3 of their size, of which float32 loses about 1e-6.
    # Measured: at most 0.0015.
    np.testing.assert_allclose(change, exact, rtol=0.01)


def test_odin_without_temperature_and_perturbation_is_max_softmax(network):
    net, images = network
    np.testing.assert_allclose(
        metrics.odin(net, images, 1.0, 0.0), metrics.max_softmax(net(images).detach()), rtol=FLOAT32
    )


def test_odin_defaults_are_the_papers(trained):
    assert torch.equal(
        metrics.odin(*trained), metrics.odin(*trained, temperature=1000.0, epsilon=5e-5)
    )


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin_moves_every_pixel_by_epsilon_towards_the_predicted_class_and_clips_none(temperature):
    generator = torch.Generator().manual_seed(0)
    net = Linear(3 * torch.randn(5, 12, generator=generator))
    images = torch.randint(
        2, (64, 1, 3, 4), generator=generator
    ).float()  # every pixel at the border of [0, 1]

    def directions(
        temperature,
    ):  # in float64: the smallest gradient is 8e-7, the largest weight 6 (ODIN's is off by up to 7 %)
        weight = net.weight.detach().double()
        logits = images.double().flatten(1) @ weight.T
        probabilities = [literal_probabilities(row, temperature) for row in logits.tolist()]
        predicted = weight[logits.argmax(1)]  # the gradient of log p_k is (W_k - sum_j p_j W_j) / T
        return (
            (predicted - torch.tensor(probabilities, dtype=torch.float64) @ weight)
            .sign()
            .float()
            .reshape(images.shape)
        )

    assert (
        directions(1.0) != directions(1000.0)
    ).any()  # else the test couldn't tell at which temperature the loss is
    metrics.odin(net, images, temperature, 0.25)
    assert torch.equal(net.seen[0], images)
    assert torch.equal(net.seen[1], images + 0.25 * directions(temperature))
    assert net.seen[1].min() == -0.25 and net.seen[1].max() == 1.25


@pytest.mark.parametrize(
    "score", [metrics.odin, lambda net, images: metrics.score(net, IMAGES, {"odin": metrics.odin})]
)
@pytest.mark.parametrize("gradients", ["none", "kept", "frozen"])
def test_scoring_leaves_the_network_as_it_was(trained, score, gradients):
    net, images = copy.deepcopy(trained[0]), trained[1].clone()
    for i, module in enumerate(net.modules()):
        module.training = i % 3 == 0  # mixed modes
    kept = {}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(gradients != "frozen")
        parameter.grad = kept[name] = torch.randn_like(parameter) if gradients == "kept" else None
    before = copy.deepcopy(
        (kept, net.state_dict(), [module.training for module in net.modules()], images)
    )
    score(net, images)
    assert all(parameter.grad is kept[name] for name, parameter in net.named_parameters())
    assert all(parameter.requires_grad == (gradients != "frozen") for parameter in net.parameters())
    torch.testing.assert_close((kept, net.state_dict()), before[:2], rtol=0, atol=0)
    assert [module.training for module in net.modules()] == before[2]
    assert torch.equal(images, before[3]) and images.grad is None and not images.requires_grad


def test_modes_and_precision_are_restored_after_an_error(trained):
    net = copy.deepcopy(trained[0]).train()
    precision = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="channels"):
        metrics.odin(net, torch.rand(2, 3, 8, 8))
    assert all(module.training for module in net.modules())
    assert torch.get_float32_matmul_precision() == precision


@pytest.mark.parametrize(
    "context",
    [
        nullcontext,
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["gradients", "no_grad", "inference_mode", "autocast"],
)
def test_odin_is_the_same_in_every_context_and_mode(trained, context):
    net, images = copy.deepcopy(trained[0]), trained[1]
    expected = metrics.odin(net, images)
    net.train()
    with context():
        assert torch.equal(
            metrics.odin(net, images.clone()), expected
        )  # a tensor made in inference mode, too
        assert torch.is_grad_enabled() == (context not in (torch.no_grad, torch.inference_mode))
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)


# -- score: many images
# -----------------------------------------------------------------------------------------------

IMAGES = prepared.load("digits").test.images[:30]


@pytest.mark.parametrize("batch_size", [1, 7, 30, 500])
@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode])
def test_score_is_the_computation_image_by_image(trained, batch_size, context, device):
    net = copy.deepcopy(trained[0]).train().to(device)  # evaluated in evaluation mode all the same
    functions = {
        "msp": metrics.max_softmax,
        "odin": partial(metrics.odin, temperature=10.0, epsilon=0.01),
        "defaults": metrics.odin,
        "energy": lambda logits: -logits.logsumexp(1),
        "contrast": lambda images: images.amax((1, 2, 3)) - images.amin((1, 2, 3)),
        "again": lambda net, images: -net(images).logsumexp(1),
    }
    with context():
        predicted, scores = metrics.score(net, IMAGES, functions, batch_size)
    net.eval().cpu()
    singles = [torch.from_numpy(image[None]).float() / 255 for image in IMAGES]
    logits = [net(single).detach() for single in singles]
    expected = {
        "msp": [-max(literal_probabilities(row[0].tolist())) for row in logits],
        "odin": [metrics.odin(net, single, 10.0, 0.01).item() for single in singles],
        "defaults": [metrics.odin(net, single).item() for single in singles],
        "energy": [-math.log(sum(math.exp(z) for z in row[0].tolist())) for row in logits],
        "contrast": [single.max() - single.min() for single in singles],
        "again": [-math.log(sum(math.exp(z) for z in row[0].tolist())) for row in logits],
    }
    assert predicted.dtype == np.int64 and predicted.tolist() == [
        row.argmax().item() for row in logits
    ]
    assert list(scores) == list(functions)
    for name, values in scores.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected[name], rtol=FLOAT32, atol=FLOAT32, err_msg=name)


@pytest.mark.parametrize(
    "functions, passes",
    [
        ({}, 1),
        ({"msp": metrics.max_softmax}, 1),
        ({"odin": metrics.odin}, 2),
        (
            {
                "msp": metrics.max_softmax,
                "odin": metrics.odin,
                "energy": lambda logits: logits.logsumexp(1),
            },
            2,
        ),
    ],
    ids=["predictions", "msp", "odin", "msp, odin and energy"],
)
def test_scores_share_forward_passes(trained, functions, passes):
    calls = []
    handle = trained[0].register_forward_hook(lambda *args: calls.append(len(args[1][0])))
    metrics.score(trained[0], IMAGES, functions, batch_size=12)
    handle.remove()
    assert calls == [12] * passes + [12] * passes + [6] * passes


@pytest.mark.parametrize("wrong", [lambda logits: logits, lambda logits: logits.mean()])
def test_a_score_that_is_not_one_number_an_image_is_named(trained, wrong):
    with pytest.raises(
        ValueError, match=r"score mine should be \(30,\), one number an image, not \("
    ):
        metrics.score(trained[0], IMAGES, {"mine": wrong})


# -- average precision and accuracy
# -----------------------------------------------------------------------------------

extremes = st.sampled_from(
    [-math.inf, -1e300, -1.0, -0.0, 0.0, 5e-324, 1.0, 1.0 + 2**-52, 1e300, math.inf]
)
labelled_scores = st.lists(
    st.tuples(st.booleans(), extremes | st.floats(allow_nan=False)), min_size=2, max_size=40
)


@settings(deadline=None, derandomize=True)
@given(labelled_scores)
def test_average_precision_is_equation_4(pairs):
    is_anomaly, scores = zip(*pairs, strict=True)
    assume(0 < sum(is_anomaly) < len(is_anomaly))
    assert metrics.average_precision(is_anomaly, scores) == pytest.approx(
        literal_average_precision(is_anomaly, scores)
    )


@pytest.mark.parametrize("distinct", [2, 10, 10**6])
def test_average_precision_agrees_with_scikit_learn_and_depends_on_the_order_of_scores_only(
    distinct,
):
    generator = np.random.default_rng(distinct)
    is_anomaly = generator.random(1000) < 0.1
    scores = generator.integers(0, distinct, 1000) + distinct // 2 * is_anomaly
    expected = average_precision_score(is_anomaly, scores)
    order = generator.permutation(1000)
    for same in (
        scores,
        scores.astype(np.float32),
        -1 / (scores + 1),
        scores**3,
        rankdata(scores) * 1e-300,
    ):
        assert metrics.average_precision(is_anomaly, same) == pytest.approx(expected, rel=1e-12)
        assert metrics.average_precision(
            is_anomaly[order].astype(int), same[order]
        ) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("constant", [0.0, -1.0, math.inf, -math.inf])
@pytest.mark.parametrize("anomalies, count", [(1, 7), (600, 6000), (9, 10)])
def test_the_average_precision_of_a_constant_score_is_the_skew(constant, anomalies, count):
    scores = np.full(count, constant)
    assert metrics.average_precision(np.arange(count) < anomalies, scores) == pytest.approx(
        anomalies / count, rel=1e-12
    )


@pytest.mark.parametrize(
    "is_anomaly, scores, message",
    [
        ([0, 0, 0], [1.0, 2.0, 3.0], "none of 3 is anomalous"),
        ([1, 1, 1], [1.0, 2.0, 3.0], "none of 3 is normal"),
        ([], [], "none of 0 is anomalous"),
        ([0, 1, 1], [math.nan, 2.0, math.nan], "2 of 3 scores are NaN"),
        ([0, 1, 1], [1.0, 2.0], r"not \(3,\) and \(2,\)"),
        ([[0, 1]], [[1.0, 2.0]], r"not \(1, 2\) and \(1, 2\)"),
        ([0, 1, 2], [1.0, 2.0, 3.0], "only True and False"),
        ([-1, 1, 1], [1.0, 2.0, 3.0], "only True and False"),
        ([0, math.nan, 1], [1.0, 2.0, 3.0], "only True and False"),
    ],
)
def test_average_precision_says_what_is_wrong(is_anomaly, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.average_precision(is_anomaly, scores)


def test_accuracy_is_over_normal_images_only():
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(-1, 4, 500), generator.integers(0, 4, 500)
    right = [p == k for k, p in zip(labels, predicted, strict=True) if k >= 0]
    assert metrics.accuracy(labels, predicted) == pytest.approx(sum(right) / len(right), rel=1e-12)
    # Where labels are the data set's own numbers is_anomaly says it; a lucky prediction of an
    # anomaly counts for nothing.
    assert metrics.accuracy([0, 1, 2, 2], [0, 0, 2, 2], [False, False, True, True]) == 0.5
    assert metrics.accuracy([0, 1, -1], [0, 1, -1]) == 1


@pytest.mark.parametrize(
    "labels, predicted, is_anomaly, message",
    [
        ([-1, -1], [0, 0], None, "all are anomalies"),
        ([0, 1], [0, 1], [True, True], "all are anomalies"),
        ([0, 1], [0], None, r"\(2,\), \(1,\) and \(2,\)"),
        ([0, 1], [0, 1], [False], r"\(2,\), \(2,\) and \(1,\)"),
    ],
)
def test_accuracy_says_what_is_wrong(labels, predicted, is_anomaly, message):
    with pytest.raises(ValueError, match=message):
        metrics.accuracy(labels, predicted, is_anomaly)


@pytest.mark.parametrize("beside", [{}, {"odin": metrics.odin}])
def test_a_users_score_may_differentiate_or_leave_torch_whatever_stands_beside_it(trained, beside):
    def gradient_norm(net, images):
        return torch.autograd.grad(net(images).logsumexp(1).sum(), images)[0].abs().sum((1, 2, 3))

    def by_numpy(logits):
        return torch.from_numpy(logits.numpy().max(1))

    _, scores = metrics.score(
        trained[0], IMAGES, {"mine": gradient_norm, "numpy": by_numpy, **beside}
    )
    assert (scores["mine"] > 0).all()
