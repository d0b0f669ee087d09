"""Contrastive predictive coding against literal versions: its network, its loss, and that the two
tasks keep to their own.
"""

import itertools
import json
import math
import os
import subprocess
import sys

import cpc_learning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, environment, tiny
from torch import nn

from semlib import auxiliary, metrics, models, training
from semlib.datasets import ImageSet
from semlib.models.conditional_norm import TASKS, BatchNorm, ConditionalBatchNorm
from semlib.models.cpc import Predictions, augmented, patches
from workbench import runs
from workbench.checkpoint import Checkpoint
from workbench.experiment import ConfigError, Experiment, create
from workbench.runs import store

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {
    "architecture": "wrn-imagenet-cpc",
    "widen_factor": 1,
    "dropout": 0.3,
    "norm_batch": None,
}
LAST = tuple(f"blocks.{k}." for k in range(12, 16))  # the fourth group, classification's


def network(
    seed: int = 0, side: int = 96, widen_factor: int | None = 1, **settings
) -> models.WideResNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.build(
            "wrn-imagenet-cpc", 3, (3, side, side), widen_factor=widen_factor, **settings
        )


def trained(seed: int = 0, **settings) -> models.WideResNet:
    """In evaluation mode, with statistics of images, and predictors that predict something."""
    net, images = network(seed, **settings), torch.rand(4, 3, 96, 96)
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


def train(
    net=None,
    data=None,
    loss=auxiliary.cpc,
    evaluate=None,
    autocast=False,
    checkpoint=None,
    **changes,
):
    """The trained network's state."""
    net = net or network(dropout=0.3)
    small = {"epochs": 2, "batch_size": 4, "evaluate_every": 1, "learning_rate": 0.01}
    experiment = create(SETTINGS | small | changes)
    options = {
        "evaluate": evaluate,
        "evaluate_every": 1,
        "autocast": autocast,
        "checkpoint": checkpoint,
    }
    training.train(net, data or noise(), experiment.training, loss, **options)
    return net.state_dict()


def identical(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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
        own = {name: tensor.shape for name, tensor in net.state_dict().items() if "cpc" not in name}
        with torch.device("meta"):
            base = models.build(
                "wrn-imagenet", 3, (3, 224, 224), widen_factor=widen_factor
            ).state_dict()
        assert {name.replace(".classify", ""): shape for name, shape in own.items()} == {
            k: v.shape for k, v in base.items()
        }


def test_every_zero_padding_is_numpys_symmetric_one():
    net, seen = network(side=96).double(), []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.register_forward_hook(
                lambda layer, given, found: seen.append((layer, given[0], found))
            )
    images = torch.rand(1, 3, 96, 96, dtype=torch.float64)
    net(images), net(patches(images), head="cpc")
    assert len(seen) == (1 + 32) + (1 + 24)  # the whole network, then the patch encoder
    for layer, given, found in seen:
        padded = np.pad(given.detach().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="symmetric")
        torch.testing.assert_close(
            found, F.conv2d(torch.from_numpy(padded), layer.weight, stride=layer.stride)
        )


def test_the_first_convolution_strides_and_the_encoder_is_the_first_three_groups_of_the_same_weights():
    net, images = trained(), torch.rand(2, 3, 64, 64)
    x = F.avg_pool2d(
        F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), net.stem.weight, stride=2), 2
    )
    assert x.shape == (2, 16, 16, 16)
    for block in net.blocks[:12]:
        x = block(x, "cpc")
    code = F.relu(net.norm["cpc"](x)).mean((2, 3))
    torch.testing.assert_close(net.features(images, "cpc"), code)


@pytest.mark.parametrize("task", TASKS)
def test_conditional_normalisation_is_batch_norm_for_each_task_by_itself(task):
    torch.manual_seed(0)
    conditional, plain = ConditionalBatchNorm(3, norm_batch=4), BatchNorm(3, norm_batch=4)
    (other,) = set(TASKS) - {task}
    before = {name: tensor.clone() for name, tensor in conditional[other].state_dict().items()}
    for norm in (conditional[task], plain):
        norm.weight.data.copy_(torch.tensor([0.5, 1.0, 2.0]))
    for _ in range(2):
        images = torch.randn(12, 3, 5, 5) * torch.linspace(1, 9, 12)[:, None, None, None]
        assert torch.equal(conditional(images, task), plain(images))
    assert identical(conditional[task].state_dict(), plain.state_dict()) and identical(
        conditional[other].state_dict(), before
    )


def test_all_methods_begin_with_the_same_trunk():
    first, rotation = network().state_dict(), network(heads={"rotation": 4}).state_dict()
    assert all(
        torch.equal(first[name], rotation[name])
        for name in first
        if not name.startswith("heads.cpc.")
    )
    assert {name for name in rotation if name not in first} == {
        "heads.rotation.weight",
        "heads.rotation.bias",
    }


@pytest.mark.parametrize("training", [False, True])
def test_float64_images_are_computed_in_float64(training):
    net, images = trained(), torch.rand(2, 3, 96, 96)
    literal = network().double()
    literal.load_state_dict(net.state_dict())
    net.train(training), literal.train(training)
    cut = patches(images.double())
    for head, inputs in (("cpc", cut), ("classification", images.double())):
        found = net(inputs, head=head)
        assert found.dtype == torch.float64 and torch.equal(found, literal(inputs, head=head))
    assert auxiliary.cpc(net, images.double()).dtype == torch.float64


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
    n, rows, columns = len(predictions), len(predictions[0]), len(predictions[0][0])
    places = list(itertools.product(range(rows), range(columns)))
    terms = []
    for image, (row, column), step in itertools.product(range(n), places, range(1, steps + 1)):
        if row + step >= rows:
            continue
        predicted = predictions[image][row][column][step]

        def score(other, i, j, predicted=predicted):
            return sum(
                p * c for p, c in zip(predicted, predictions[other][i][j][0], strict=True)
            ) / len(predicted)

        among = [image] if negatives == "image" else range(n)
        total = sum(math.exp(score(other, i, j)) for other in among for i, j in places)
        terms.append(math.log(total) - score(image, row + step, column))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize("rows, columns", [(6, 6), (2, 3), (7, 2)])
def test_the_loss_is_the_literal_one(negatives, rows, columns):
    torch.manual_seed(0)
    predictions = torch.randn(3, rows, columns, 6, 4, dtype=torch.float64)
    found = auxiliary.info_nce(predictions, negatives)
    assert found.shape == () and found.item() == pytest.approx(
        literal_loss(predictions.tolist(), negatives), rel=1e-12
    )


@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_the_networks_loss_is_that_of_its_patches_one_by_one(negatives):
    net, images = trained(), torch.rand(2, 3, 128, 160, dtype=torch.float64)
    cut = [
        [[image[:, y : y + 64, x : x + 64] for x in (0, 32, 64, 96)] for y in (0, 32, 64)]
        for image in images
    ]
    codes = torch.stack(
        [
            torch.stack(
                [torch.cat([net.double().features(p[None], "cpc") for p in row]) for row in i]
            )
            for i in cut
        ]
    )
    predictions = net.heads["cpc"](codes)
    mean, deviation = (
        codes.mean(3, keepdim=True),
        (codes.var(3, keepdim=True, correction=0) + 1e-5).sqrt(),
    )
    torch.testing.assert_close(predictions[..., 0, :], (codes - mean) / deviation)
    assert auxiliary.cpc(net, images, negatives).item() == pytest.approx(
        literal_loss(predictions.tolist(), negatives), rel=1e-9
    )


@pytest.mark.parametrize("negatives, candidates", [("image", 36), ("batch", 108)])
@pytest.mark.parametrize("mode", [True, False])
def test_at_initialisation_the_loss_is_that_of_chance(negatives, candidates, mode):
    net, images = network(seed=1).train(mode), torch.rand(3, 3, 224, 224)
    assert auxiliary.cpc(net, images, negatives).item() == pytest.approx(
        math.log(candidates), rel=0.1
    )


def test_in_bfloat16_the_logarithm_is_taken_in_float32():
    torch.manual_seed(0)
    predictions = torch.randn(2, 6, 6, 6, 16)
    exact = auxiliary.info_nce(predictions, "batch")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(auxiliary.info_nce(predictions, "batch"), exact)
        assert auxiliary.cpc(network(), torch.rand(2, 3, 96, 96)).dtype == torch.float32


def test_augmented_patches_are_a_channel_shifted_and_padded_symmetrically():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 64)
    found = augmented(images.expand(1500, 1, 1, 3, 64, 64))
    views = {}
    for channel, top, left, flip in itertools.product(range(3), range(9), range(9), (1, -1)):
        view = np.pad(
            images[0, channel, top : top + 56, left : left + 56].numpy(), 4, mode="symmetric"
        )[:, ::flip]
        views[view.tobytes()] = channel, top, left, flip
    assert found.shape == (1500, 1, 1, 3, 64, 64) and (found == found[:, :, :, :1]).all()
    seen = [
        views[patch[0].numpy().tobytes()] for patch in found[:, 0, 0]
    ]  # KeyError: a view that may not be
    assert all(
        {place[k] for place in seen} == {place[k] for place in views.values()} for k in range(4)
    )
    again = augmented(images.expand(1500, 1, 1, 3, 64, 64))
    assert not torch.equal(found, again)


# --- training


def test_each_task_leaves_the_others_part_of_the_network():
    """Snapshots before each forward pass, so that a step of one task lies between; momentum and
    decay would show.
    """
    net, seen = network(dropout=0.3), []

    def snapshot(module, inputs, options):
        state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        seen.append((options.get("head", "classification"), state))

    net.register_forward_pre_hook(snapshot, with_kwargs=True)
    train(net)
    assert [task for task, _ in seen] == ["cpc", "classification"] * 6
    of_cpc = {name for name in net.state_dict() if ".cpc." in name}
    of_classification = {
        n
        for n in net.state_dict()
        if ".classify." in n or n.startswith(("heads.classification.", *LAST))
    }
    unused = {name for name in of_cpc if name.startswith(LAST)}  # CPC doesn't reach the last group
    for (task, before), (_, after) in itertools.pairwise(
        seen[4:]
    ):  # by now every weight has a gradient
        same = {name for name in before if torch.equal(before[name], after[name])} - {"mean", "std"}
        assert same == (of_classification | unused if task == "cpc" else of_cpc)


def test_upright_statistics_are_classifications_alone():
    data, net = noise(), network()
    plain = {name: buffer.clone() for name, buffer in train(net).items()}
    with metrics.upright(net, data.images):
        upright = {name: buffer.clone() for name, buffer in net.state_dict().items()}
        first = net.pool(net.stem(torch.from_numpy(data.images).float() / 255)).mean((0, 2, 3))
    buffers = {name for name in plain if name.endswith(("running_mean", "running_var"))}
    moved = {name for name in buffers if not torch.equal(plain[name], upright[name])}
    assert moved == {name for name in buffers if ".classify." in name}
    torch.testing.assert_close(
        upright["blocks.0.norm1.classify.running_mean"], first, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_training_resumed_in_the_middle_is_bit_identical(tmp_path, bfloat16):
    how = Experiment(cpc_negatives="batch", cpc_augment=True)
    options = {"loss": auxiliary.find("cpc", how), "autocast": bfloat16, "epochs": 3}
    whole, evaluated = train(**options), []

    def stop(epoch):
        evaluated.append(epoch)
        if epoch == 2 and evaluated.count(2) == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        train(evaluate=stop, checkpoint=Checkpoint(tmp_path / "c.pt"), **options)
    resumed = train(
        network(seed=9, dropout=0.3),
        evaluate=stop,
        checkpoint=Checkpoint(tmp_path / "c.pt"),
        **options,
    )
    assert evaluated == [1, 2, 2, 3] and identical(resumed, whole)


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
    small = SETTINGS | {
        "dataset": "photo",
        "hold_out": "red",
        "epochs": 2,
        "batch_size": 4,
        "auxiliary_weight": 10,
    }
    return tiny(
        folder, **(small | {"methods": ("classification", "cpc"), "learning_rate": 0.01} | changes)
    )


def test_a_run_of_method_cpc_is_recorded_as_others_are(folder):
    records = {record.method: record for record in runs.complete(photo(folder))}
    history = records["cpc"].history()
    assert list(records) == ["classification", "cpc"] and len(history) == 2
    assert history["auxiliary_loss"].between(0, 1.2 * math.log(4)).all()  # of 2x2 patches
    weights = {m: torch.load(r.home / "weights.pt", weights_only=True) for m, r in records.items()}
    start = weights["classification"]  # has CPC's part too, as it began
    assert (
        not start["heads.cpc.steps.weight"].any() and weights["cpc"]["heads.cpc.steps.weight"].any()
    )
    settings = records["cpc"].settings
    assert (settings["cpc_negatives"], settings["widen_factor"], settings["auxiliary_weight"]) == (
        "image",
        1,
        10,
    )
    assert "cpc_negatives" not in records["classification"].settings
    other = photo(folder, methods="cpc", cpc_negatives="batch", cpc_augment=True)
    (record,) = runs.complete(other)
    assert record.address != records["cpc"].address
    assert record.history()["auxiliary_loss"].between(0, 1.2 * math.log(16)).all()


def test_rotation_trains_on_the_same_network(folder):
    (record,) = runs.complete(photo(folder, methods="rotation", epochs=1))
    assert record.settings["architecture"] == "wrn-imagenet-cpc" and store.finished(
        photo(folder, methods="rotation", epochs=1)
    )


# --- errors


def test_images_of_less_than_two_rows_of_patches_are_an_error():
    with pytest.raises(ValueError, match="at least 96x64 pixels, two rows of patches, not 95x224"):
        auxiliary.cpc(network(), torch.rand(1, 3, 95, 224))


def test_a_choice_that_can_not_be_used_is_one_clear_line(folder):
    for changes, said in (
        (
            {"architecture": "wrn-16-1", "widen_factor": None},
            r"cpc needs .*not wrn-16-1; choose architecture wrn-imagenet-cpc$",
        ),
        (
            {"crop_side": 64},
            r"cpc needs images of at least 96x64 pixels, .* not 64x64; choose a larger crop_side",
        ),
        (
            {"architecture": "wrn-16-1"},
            r"widen_factor: wrn-16-1 .*leave it out, or choose wrn-16-1$",
        ),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            runs.complete(photo(folder, **changes))
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="cpc_negatives: should be 'image' or 'batch'"):
        photo(folder, cpc_negatives="other")
    with pytest.raises(ValueError, match="'others'; choose image, batch"):
        auxiliary.info_nce(torch.zeros(1, 2, 2, 6, 4), "others")
    with pytest.raises(ValueError, match=r"unknown head 'cpc'; choose from classification$"):
        auxiliary.cpc(models.build("wrn-10-1", 3), torch.rand(1, 3, 96, 96))


# --- it learns


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:imagenet_dog has")
@pytest.mark.parametrize("negatives", ["batch", "image"])
def test_it_learns_to_predict_and_its_codes_tell_classes(tmp_path, monkeypatch, negatives):
    """One seed, negatives of the batch on photographs where they are at hand; LOG.md has three
    seeds of both kinds on them.
    """
    name, source = "digits", os.environ.get("SEMLIB_TEST_DATA")
    if source and negatives == "batch":
        name = "imagenet_dog"
        monkeypatch.setenv("SEMLIB_ILSVRC", f"{source}/ilsvrc2012-hounds")
    monkeypatch.setenv("SEMLIB_DATA", str(tmp_path))
    share, before, after = cpc_learning.measure(cpc_learning.load(name), negatives, seed=0)
    print(f"{name}, {negatives}: loss {share:.3f} of chance, probe {before:.1f} -> {after:.1f}")
    assert (
        share < 0.85 and after > before + 5
    )  # chance is 1; LOG.md's six trainings: 0.65 to 0.68, 8 to 19 points


@pytest.mark.slow
def test_a_step_on_32_photographs_stays_under_8_gb(tmp_path):
    lines = """import json, sys
sys.path.insert(0, "benchmarks")
import cpc_step
print(json.dumps(cpc_step.measure("cpu", batch=32, side=224, repeats=1, autocast=False)))"""
    command = [sys.executable, "-c", lines]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS=1),
        capture_output=True,
        text=True,
        check=True,
    )
    assert 1 < json.loads(done.stdout)["peak_gb"] < 8
