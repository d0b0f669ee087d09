"""Contrastive predictive coding against literal versions of its network and its loss."""

import itertools
import math
import os
from functools import partial

import cpc_learning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import identical, tiny
from torch import nn

from semlib import auxiliary, metrics, models
from semlib.datasets import ImageSet
from semlib.models.conditional_norm import TASKS, BatchNorm, ConditionalBatchNorm
from semlib.models.cpc import Predictions, augmented, info_nce, patches
from semlib.training import Recipe, train
from workbench import runs
from workbench.experiment import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"architecture": "wrn-imagenet-cpc", "widen_factor": 1, "dropout": 0.3}
LAST = tuple(f"blocks.{k}." for k in range(12, 16))  # the fourth group, classification's


def network(seed: int = 0, side: int = 96, **settings) -> models.WideResNet:
    settings = {"widen_factor": 1} | settings
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.build("wrn-imagenet-cpc", 3, (3, side, side), **settings)


def predicting(seed: int = 0, **settings) -> models.WideResNet:
    """In evaluation mode, with statistics of images, and predictors that predict something."""
    net = network(seed, **settings)
    images = torch.rand(4, 3, 96, 96)
    for layer in (net.heads["cpc"].steps, *net.heads["cpc"].context):
        nn.init.normal_(layer.weight, std=0.1)
    for norm in net.modules():
        if isinstance(norm, BatchNorm):
            norm.momentum = None
    with torch.no_grad():
        net(images), net(patches(images), head="cpc")
    return net.eval()


def noise(count: int = 12, side: int = 96) -> ImageSet:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return ImageSet(images, np.arange(count, dtype=np.int64) % 3)


RECIPE = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01}


# --- the network


@pytest.mark.parametrize("side, rows", [(224, 6), (256, 7), (96, 2), (127, 2), (128, 3)])
def test_patches_are_64_pixels_every_32_and_channels_last(side, rows):
    images = torch.rand(2, 3, side, side)
    found = patches(images)
    assert found.shape == (2, rows, rows, 3, 64, 64)
    for i, j in itertools.product(range(rows), repeat=2):
        assert torch.equal(found[:, i, j], images[:, :, 32 * i : 32 * i + 64, 32 * j : 32 * j + 64])
    assert found.flatten(0, 2).is_contiguous(memory_format=torch.channels_last)


def test_shapes_and_widths_are_those_of_the_imagenet_network():
    for widen_factor, width in ((1, 64), (2, 128), (None, 256)):
        net = network(side=224, widen_factor=widen_factor).eval()
        assert net.features(torch.rand(1, 3, 64, 64), "cpc").shape == (1, width)
        assert net.heads["cpc"](torch.rand(2, 6, 6, width)).shape == (2, 6, 6, 6, width)
        assert net(torch.rand(1, 3, 224, 224)).shape == (1, 3)
        with torch.device("meta"):
            base = models.build("wrn-imagenet", 3, (3, 224, 224), widen_factor=widen_factor)
        wanted = {name: tensor.shape for name, tensor in base.state_dict().items()}
        found = {name: tensor.shape for name, tensor in net.state_dict().items()}
        found = {k.replace(".classify", ""): shape for k, shape in found.items() if "cpc" not in k}
        assert found == wanted


def test_every_zero_padding_is_numpys_symmetric_one():
    net = network(side=96).double()
    seen = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.register_forward_hook(lambda conv, given, out: seen.append((conv, given[0], out)))
    images = torch.rand(1, 3, 96, 96, dtype=torch.float64)
    net(images), net(patches(images), head="cpc")
    assert len(seen) == (1 + 32) + (1 + 24)  # the whole network, then the patch encoder
    for layer, given, found in seen:
        padded = np.pad(given.detach().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="symmetric")
        expected = F.conv2d(torch.from_numpy(padded), layer.weight, stride=layer.stride)
        torch.testing.assert_close(found, expected)


def test_the_first_convolution_strides_and_the_encoder_is_the_first_three_groups():
    net = predicting()
    images = torch.rand(2, 3, 64, 64)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    x = F.avg_pool2d(F.conv2d(padded, net.stem.weight, stride=2), 2)
    assert x.shape == (2, 16, 16, 16)
    for block in net.blocks[:12]:
        x = block(x, "cpc")
    code = F.relu(net.norm["cpc"](x)).mean((2, 3))
    torch.testing.assert_close(net.features(images, "cpc"), code)


@pytest.mark.parametrize("task", TASKS)
def test_conditional_normalisation_is_batch_norm_for_each_task_by_itself(task):
    torch.manual_seed(0)
    conditional = ConditionalBatchNorm(3, norm_batch=4)
    plain = BatchNorm(3, norm_batch=4)
    (other,) = set(TASKS) - {task}
    before = {name: tensor.clone() for name, tensor in conditional[other].state_dict().items()}
    for norm in (conditional[task], plain):
        norm.weight.data.copy_(torch.tensor([0.5, 1.0, 2.0]))
    for _ in range(2):
        images = torch.randn(12, 3, 5, 5) * torch.linspace(1, 9, 12)[:, None, None, None]
        assert torch.equal(conditional(images, task), plain(images))
    assert identical(conditional[task].state_dict(), plain.state_dict())
    assert identical(conditional[other].state_dict(), before)


# --- what a prediction sees


@pytest.mark.parametrize("rows", [2, 6, 7])
def test_a_prediction_sees_the_codes_of_its_row_and_above_only(rows):
    torch.manual_seed(0)
    head = Predictions(5).double()
    nn.init.normal_(head.steps.weight)
    codes = torch.rand(1, rows, 4, 5, dtype=torch.float64, requires_grad=True)
    for row, column, step in itertools.product(range(rows), range(4), range(6)):
        (seen,) = torch.autograd.grad(head(codes)[0, row, column, step].square().sum(), codes)
        seen = seen[0].abs().sum(2)  # (rows, columns)
        if step == 0:
            assert seen.nonzero().tolist() == [[row, column]]
        else:
            assert not seen[row + 1 :].any() and seen[max(0, row - 4) : row + 1, column].all()


# --- the loss


def literal_loss(predictions, negatives, steps=5):
    """van den Oord's Eq. 4, term by term: predictions (N, rows, columns, 1 + steps, D) as nested
    lists of numbers.
    """
    n = len(predictions)
    rows = len(predictions[0])
    columns = len(predictions[0][0])
    places = list(itertools.product(range(rows), range(columns)))
    terms = []
    for image, (row, column), step in itertools.product(range(n), places, range(1, steps + 1)):
        if row + step >= rows:
            continue
        predicted = predictions[image][row][column][step]

        def score(other, i, j, predicted=predicted):
            products = zip(predicted, predictions[other][i][j][0], strict=True)
            return sum(p * c for p, c in products) / len(predicted)

        among = [image] if negatives == "image" else range(n)
        total = sum(math.exp(score(k, *place)) for k, place in itertools.product(among, places))
        terms.append(math.log(total) - score(image, row + step, column))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize("rows, columns", [(6, 6), (2, 3), (7, 2)])
def test_the_loss_is_the_literal_one(negatives, rows, columns):
    torch.manual_seed(0)
    predictions = torch.randn(3, rows, columns, 6, 4, dtype=torch.float64)
    found = info_nce(predictions, negatives)
    expected = literal_loss(predictions.tolist(), negatives)
    assert found.shape == () and found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_the_networks_loss_is_that_of_its_patches_one_by_one(negatives):
    net = predicting()
    images = torch.rand(2, 3, 128, 160, dtype=torch.float64)
    codes = []
    for image, top in itertools.product(images, (0, 32, 64)):
        row = [image[None, :, top : top + 64, left : left + 64] for left in (0, 32, 64, 96)]
        codes.append(torch.cat([net.double().features(patch, "cpc") for patch in row]))
    codes = torch.stack(codes).unflatten(0, (2, 3))  # (N, rows, columns, D)
    predictions = net.heads["cpc"](codes)
    mean = codes.mean(3, keepdim=True)
    deviation = (codes.var(3, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(predictions[..., 0, :], (codes - mean) / deviation)
    expected = literal_loss(predictions.tolist(), negatives)
    assert auxiliary.cpc(net, images, negatives).item() == pytest.approx(expected, rel=1e-9)


def test_in_bfloat16_the_logarithm_is_taken_in_float32():
    torch.manual_seed(0)
    predictions = torch.randn(2, 6, 6, 6, 16)
    exact = info_nce(predictions, "batch")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(predictions, "batch"), exact)
        assert auxiliary.cpc(network(), torch.rand(2, 3, 96, 96)).dtype == torch.float32


def test_augmented_patches_are_a_channel_shifted_and_padded_symmetrically():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 64)
    found = augmented(images.expand(1500, 1, 1, 3, 64, 64))
    views = {}
    for channel, top, left, flip in itertools.product(range(3), range(9), range(9), (1, -1)):
        crop = images[0, channel, top : top + 56, left : left + 56].numpy()
        view = np.pad(crop, 4, mode="symmetric")[:, ::flip]
        views[view.tobytes()] = channel, top, left, flip
    assert found.shape == (1500, 1, 1, 3, 64, 64) and (found == found[:, :, :, :1]).all()
    seen = [views[patch[0].numpy().tobytes()] for patch in found[:, 0, 0]]  # KeyError: no such view
    for k in range(4):
        assert {place[k] for place in seen} == {place[k] for place in views.values()}
    again = augmented(images.expand(1500, 1, 1, 3, 64, 64))
    assert not torch.equal(found, again)


# --- training


def test_each_task_leaves_the_others_part_of_the_network():
    """Snapshots before each forward pass: a step lies between; momentum and decay would show."""
    net = network(dropout=0.3)
    seen = []

    def snapshot(module, inputs, options):
        state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        seen.append((options.get("head", "classification"), state))

    net.register_forward_pre_hook(snapshot, with_kwargs=True)
    list(train(net, noise(), Recipe(**RECIPE), auxiliary.cpc))
    assert [task for task, _ in seen] == ["cpc", "classification"] * 6
    of_cpc = {name for name in net.state_dict() if ".cpc." in name}
    own = ("heads.classification.", *LAST)
    of_classification = {n for n in net.state_dict() if ".classify." in n or n.startswith(own)}
    unused = {name for name in of_cpc if name.startswith(LAST)}  # CPC doesn't reach the last group
    for (task, before), (_, after) in itertools.pairwise(seen[4:]):  # every weight has a gradient
        same = {name for name in before if torch.equal(before[name], after[name])} - {"mean", "std"}
        assert same == (of_classification | unused if task == "cpc" else of_cpc)


def test_upright_statistics_are_classifications_alone():
    data = noise()
    net = network()
    list(train(net, data, Recipe(**RECIPE), auxiliary.cpc))
    plain = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with metrics.upright(net, data.images):
        upright = {name: buffer.clone() for name, buffer in net.named_buffers()}
        first = net.pool(net.stem(torch.from_numpy(data.images).float() / 255)).mean((0, 2, 3))
    buffers = {name for name in plain if name.endswith(("running_mean", "running_var"))}
    moved = {name for name in buffers if not torch.equal(plain[name], upright[name])}
    assert moved == {name for name in buffers if ".classify." in name}
    found = upright["blocks.0.norm1.classify.running_mean"]
    torch.testing.assert_close(found, first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_training_resumed_in_the_middle_is_bit_identical(bfloat16):
    loss = partial(auxiliary.cpc, negatives="batch", augment=True)
    recipe = Recipe(**RECIPE, bfloat16=bfloat16)
    whole = network(dropout=0.3)
    net = network(seed=9, dropout=0.3)
    saved = [state.state_dict() for state in train(whole, noise(), recipe, loss)]
    (state,) = train(net, noise(), recipe, loss, resume=saved[0])
    assert state.epoch == 2 and identical(net.state_dict(), whole.state_dict())


@pytest.fixture
def folder(tmp_path):
    """A data root with photo.npz, 96x96 pixels of colour by class."""
    (tmp_path / "data").mkdir()
    arrays = {}
    for part, count in (("train", 24), ("test", 12)):
        images = noise(count).images // 2
        images[np.arange(count), np.arange(count) % 3] += 100
        arrays |= {f"{part}_images": images, f"{part}_labels": np.arange(count) % 3}
    np.savez(tmp_path / "data" / "photo.npz", classes=np.array(["red", "green", "blue"]), **arrays)
    return tmp_path


def photo(folder, **changes):
    small = {"dataset": "photo", "hold_out": "red", "methods": ("classification", "cpc")}
    return tiny(folder, **SETTINGS | RECIPE | small | {"auxiliary_weight": 10} | changes)


def test_a_run_of_method_cpc_is_recorded_as_others_are(folder):
    records = {record.method: record for record in runs.complete(photo(folder))}
    history = records["cpc"].history()
    assert list(records) == ["classification", "cpc"] and len(history) == 2
    assert history["auxiliary_loss"].between(0, 1.2 * math.log(4)).all()  # of 2x2 patches
    weights = {m: torch.load(r.home / "weights.pt", weights_only=True) for m, r in records.items()}
    start = weights["classification"]  # has CPC's part too, as it began
    name = "heads.cpc.steps.weight"
    assert not start[name].any() and weights["cpc"][name].any()
    settings = records["cpc"].settings
    read = (settings["cpc_negatives"], settings["widen_factor"], settings["auxiliary_weight"])
    assert read == ("image", 1, 10)
    assert "cpc_negatives" not in records["classification"].settings
    other = photo(folder, methods="cpc", cpc_negatives="batch", cpc_augment=True)
    (record,) = runs.complete(other)
    assert record.address != records["cpc"].address
    assert record.history()["auxiliary_loss"].between(0, 1.2 * math.log(16)).all()


# --- errors


PLAIN = {"architecture": "wrn-16-1", "widen_factor": None}
WRONG = [
    (PLAIN, r"cpc needs .*not wrn-16-1; choose architecture wrn-imagenet-cpc$"),
    ({"crop_side": 64}, r"at least 96x64 pixels, .* not 64x64; choose a larger crop_side"),
    ({"architecture": "wrn-16-1"}, r"widen_factor: wrn-16-1 .*leave it out, or choose wrn-16-1$"),
    ({"cpc_negatives": "other"}, "cpc_negatives: should be 'image' or 'batch'"),
]


@pytest.mark.parametrize("changes, said", WRONG)
def test_a_choice_that_can_not_be_used_is_one_clear_line(folder, changes, said):
    with pytest.raises(ConfigError, match=said) as error:
        runs.complete(photo(folder, **changes))
    assert "\n" not in str(error.value)


def test_a_wrong_call_of_the_loss_says_what_is_needed():
    with pytest.raises(ValueError, match="at least 96x64 pixels, two rows of patches, not 95x224"):
        auxiliary.cpc(network(), torch.rand(1, 3, 95, 224))
    with pytest.raises(ValueError, match="'others'; choose image, batch"):
        info_nce(torch.zeros(1, 2, 2, 6, 4), "others")
    with pytest.raises(ValueError, match=r"unknown head 'cpc'; choose from classification$"):
        auxiliary.cpc(models.build("wrn-10-1", 3), torch.rand(1, 3, 96, 96))


# --- it learns


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:imagenet_dog has")
@pytest.mark.parametrize("negatives", ["batch", "image"])
def test_it_learns_to_predict_and_its_codes_tell_classes(tmp_path, monkeypatch, negatives):
    """One seed, on photographs where they are at hand; LOG.md has three of both kinds."""
    name = "digits"
    source = os.environ.get("SEMLIB_TEST_DATA")
    if source and negatives == "batch":
        name = "imagenet_dog"
        monkeypatch.setenv("SEMLIB_ILSVRC", f"{source}/ilsvrc2012-hounds")
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path))
    share, before, after = cpc_learning.measure(cpc_learning.load(name), negatives, seed=0)
    print(f"{name}, {negatives}: loss {share:.3f} of chance, probe {before:.1f} -> {after:.1f}")
    assert share < 0.85 and after > before + 5  # LOG.md: 0.65 to 0.68, 8 to 19 points
