"""Networks against the paper's parameter counts and a literal forward pass."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semlib import models
from semlib.models.wide_resnet import BatchNorm, Block

pytestmark = pytest.mark.usefixtures("one_thread")


def random_network(architecture="wrn-10-1", classes=5, image_shape=(3, 16, 16), seed=0, **settings):
    """A network whose batch-norm scales, shifts and statistics are random too: each matters."""
    torch.manual_seed(seed)
    net = models.build(architecture, classes, image_shape, **settings)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -1, 1)):
                nn.init.uniform_(tensor, low, high)
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    return net


# --- parameters


COUNTS = [
    ("wrn-28-10", 10, None, 36_479_194),
    ("wrn-28-10", 9, None, 36_478_553),
    ("wrn-28-10", 9, {"rotation": 4}, 36_481_117),
    ("wrn-stl10", 10, None, 10_637_274),
    ("wrn-imagenet", 11, None, 10_637_531),
    ("wrn-imagenet-cpc", 11, None, 12_551_675),
]


@pytest.mark.parametrize("architecture, classes, heads, count", COUNTS)
def test_networks_have_the_published_number_of_parameters(architecture, classes, heads, count):
    with torch.device("meta"):  # shapes without memory
        net = models.build(architecture, classes, heads=heads)
    assert sum(parameter.numel() for parameter in net.parameters()) == count


@pytest.mark.parametrize("architecture", ["wrn-26-10", "wrn-28-0", "WRN-28-10", "wrn-28-10 ", ""])
def test_an_unknown_architecture_is_named_with_the_choices(architecture):
    said = rf"'{architecture}'; choose wrn-D-K .*10, 16, 22, 28.*such as wrn-28-10"
    with pytest.raises(ValueError, match=said):
        models.build(architecture, 10)


@pytest.mark.parametrize("name", ["wrn-10-1", "wrn-imagenet-cpc"])
def test_the_weights_follow_the_global_generator_and_the_trunks_do_not_depend_on_the_heads(name):
    nets = [random_network(name, 5, (3, 64, 64), heads=own) for own in (None, None, {"r": 4})]
    first, same, with_heads = (net.state_dict() for net in nets)
    for key in first:
        assert torch.equal(first[key], same[key])
        # random_network draws the values of norms after the heads'
        if "norm" not in key and not key.startswith("heads.cpc"):
            assert torch.equal(first[key], with_heads[key])
    other = random_network(name, 5, (3, 64, 64), seed=1).state_dict()
    for key in ("stem.weight", "heads.classification.weight"):
        assert not torch.equal(first[key], other[key])


# --- the forward pass


def literal_logits(net, images, blocks, strides, stem_stride, pooled, mean, std, head):
    """The whole network in evaluation mode, from its weights alone."""
    w = net.double().state_dict()

    def column(values):
        return torch.as_tensor(values).double()[:, None, None]

    def activated(x, norm):
        scale = w[f"{norm}.weight"] / (w[f"{norm}.running_var"] + 1e-5).sqrt()
        x = (x - column(w[f"{norm}.running_mean"])) * column(scale) + column(w[f"{norm}.bias"])
        return x * (x > 0)

    x = (images - column(mean)) / column(std)
    x = F.conv2d(x, w["stem.weight"], stride=stem_stride, padding=1)
    if pooled:
        x = (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    each = []
    for first in strides:
        each += [first] + [1] * (blocks - 1)
    for i, stride in enumerate(each):
        block = f"blocks.{i}"
        before = activated(x, f"{block}.norm1")
        y = F.conv2d(before, w[f"{block}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(activated(y, f"{block}.norm2"), w[f"{block}.conv2.weight"], padding=1)
        projection = w.get(f"{block}.shortcut.weight")
        x = y + (x if projection is None else F.conv2d(before, projection, stride=stride))
    features = activated(x, "norm").flatten(2).mean(2)
    return features @ w[f"heads.{head}.weight"].T + w[f"heads.{head}.bias"]


NETWORKS = [
    ("wrn-10-1", 1, (1, 2, 2), (3, 16, 16), 1),
    ("wrn-16-2", 2, (1, 2, 2), (1, 8, 8), 1),
    ("wrn-16-1", 2, (1, 2, 2), (3, 32, 32), 2),
    ("wrn-10-3", 1, (1, 2, 2), (3, 9, 13), 1),
    ("wrn-stl10", 4, (1, 2, 2, 2), (3, 16, 16), 1),
    ("wrn-imagenet", 4, (1, 2, 2, 2), (3, 32, 32), 1),
]


@pytest.mark.parametrize("architecture, blocks, strides, image_shape, stem_stride", NETWORKS)
def test_logits_are_the_literal_ones(architecture, blocks, strides, image_shape, stem_stride):
    mean = [0.5, 0.25, 0.125][: image_shape[0]]
    std = [0.25, 0.5, 2.0][: image_shape[0]]
    heads = {"rotation": 4, "other": 2}
    pooled = architecture == "wrn-imagenet"
    how = {"heads": heads, "mean": mean, "std": std, "stem_stride": stem_stride}
    net = random_network(architecture, 5, image_shape, **how).eval()
    images = torch.rand(4, *image_shape)
    found = {head: (net(images, head=head), net(images.double(), head=head)) for head in net.heads}
    assert torch.equal(net(images), found["classification"][0])
    for head, (logits, exact) in found.items():
        structure = blocks, strides, stem_stride, pooled, mean, std, head
        expected = literal_logits(net, images.double(), *structure)
        assert logits.shape == (4, {"classification": 5, **heads}[head])
        assert (logits.dtype, exact.dtype) == (torch.float32, torch.float64)
        torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12 * expected.abs().max())
        tolerance = {"rtol": 1e-4, "atol": 1e-5 * expected.abs().max()}
        torch.testing.assert_close(logits.double(), expected, **tolerance)


def test_dropout_is_between_the_two_convolutions_of_a_block():
    torch.manual_seed(0)
    block = Block(8, 16, 1, 0.25, None, cpc=False).train()
    inputs = {}
    for conv in ("conv1", "conv2"):
        block.get_submodule(conv).register_forward_pre_hook(
            lambda layer, given, conv=conv: inputs.update({conv: given[0]})
        )
    images = torch.randn(8, 8, 10, 10)
    block(images)
    assert torch.equal(inputs["conv1"], F.relu(F.batch_norm(images, None, None, training=True)))
    residual = F.conv2d(inputs["conv1"], block.conv1.weight, padding=1)
    whole = F.relu(F.batch_norm(residual, None, None, training=True))
    dropped = inputs["conv2"] == 0
    torch.testing.assert_close(inputs["conv2"], torch.where(dropped, 0, whole / 0.75))
    assert dropped[whole > 0].float().mean() == pytest.approx(0.25, abs=0.03)  # of about 6,400


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("architecture, side", [("wrn-10-1", 16), ("wrn-imagenet-cpc", 64)])
def test_float64_images_are_computed_as_in_a_float64_network(architecture, side, training):
    how = {"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1]}
    net = random_network(architecture, image_shape=(3, side, side), **how).train(training)
    images = torch.rand(4, 3, side, side)
    logits = net(images.double())
    exact = copy.deepcopy(net).double()(images.double())
    assert logits.dtype == torch.float64 and net.stem.weight.dtype == torch.float32
    assert torch.equal(logits, exact)
    assert 0 < (net(images) - exact).abs().max() < 1e-5 * exact.abs().max()
    logits.sum().backward()
    gradients = [p.grad for name, p in net.named_parameters() if "cpc" not in name]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_what_a_network_can_not_take_is_an_error_that_says_what_to_do():
    small = "wrn-10-1 with stem_stride 2 needs larger images than 4x4"
    with pytest.raises(ValueError, match=small):
        models.build("wrn-10-1", 10, (3, 4, 4), stem_stride=2)
    net = random_network(heads={"rotation": 4})
    for dtype in (torch.uint8, torch.int64):
        with pytest.raises(TypeError, match=r"floats in \[0, 1\], not torch.*divide uint8 by 255"):
            net(torch.zeros(1, 3, 16, 16, dtype=dtype))
    with pytest.raises(ValueError, match="unknown head 'turn'; choose from classification, rot"):
        net(torch.zeros(1, 3, 16, 16), head="turn")


# --- ghost batch normalisation


@pytest.mark.parametrize("group, count", [(4, 12), (4, 14), (12, 12), (20, 12), (None, 12)])
def test_batch_norm_takes_its_statistics_from_each_ghost_batch(group, count):
    torch.manual_seed(0)
    norm = BatchNorm(3, group)
    images = torch.randn(count, 3, 5, 4) * torch.linspace(1, 9, count)[:, None, None, None]
    nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    mean = torch.zeros(3)
    var = torch.ones(3)
    expected = []
    for part in images.split(group or count):
        expected.append(F.batch_norm(part, mean, var, norm.weight, norm.bias, training=True))
    torch.testing.assert_close(norm.train()(images), torch.cat(expected))
    found = norm.running_mean, norm.running_var
    torch.testing.assert_close(found, (mean, var))  # each group moved them
    evaluated = F.batch_norm(images, mean, var, norm.weight, norm.bias)
    torch.testing.assert_close(norm.eval()(images), evaluated)
