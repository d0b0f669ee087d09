"""Golden numbers: what training and scores mean, compared with tests/golden.json.

Two epochs of each method on 256 made-up images, longer schedules, every score and detector. The
tolerances hold on any processor (AVX2 and AVX-512), and a change of meaning exceeds them:
tests/mutations.py makes such changes and shows that they are noticed. If a test here fails:
CONTRIBUTING.md, The golden run.
"""

import json
import re
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semlib import auxiliary, holdout, metrics
from semlib.datasets import Dataset, ImageSet, augmentation, hold_out
from semlib.training import Recipe, train

GOLDEN = Path(__file__).with_name("golden.json")
CLASSES = ("a", "b", "c", "d", "e")


def uniform(*shape: int, seed: int) -> np.ndarray:
    """Numbers in [0, 1): the same in every version of NumPy, and everywhere."""
    raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return (raw >> np.uint64(11)).reshape(shape) / 2**53


def images(count: int, height: int, width: int, seed: int) -> ImageSet:
    """Noise on a gradient whose steepness, direction and colour are of the class."""
    labels = np.arange(count) % len(CLASSES)
    noise = uniform(count, 3, height, width, seed=seed)
    down = np.linspace(0, 1, height)[:, None]
    across = np.linspace(0, 1, width)[None] ** 2
    pattern = np.where((labels % 2)[:, None, None] == 1, down, across)
    colour = 0.2 + 0.15 * ((labels[:, None] + np.arange(3)) % 5)
    pixels = 90 * noise + 160 * pattern[:, None] * colour[:, :, None, None]
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64))


# 256 to train
SMALL = Dataset("small", images(320, 16, 16, seed=1), images(60, 16, 16, seed=2), CLASSES)
FEW = Dataset("few", images(80, 16, 16, seed=5), images(10, 16, 16, seed=6), CLASSES)  # 64 to train
# 8 to train, of 6x2 patches: CPC predicts up to five rows below
LARGE = Dataset("large", images(10, 224, 96, seed=3), images(5, 224, 96, seed=4), CLASSES)


def mask(pixels, generator):
    fill = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    return augmentation.center_mask(pixels, fill, generator)


TWO = Recipe(epochs=2, batch_size=64, learning_rate=0.05)
LONG = Recipe(epochs=10, batch_size=32, learning_rate=0.05, weight_decay=5e-3)
ONE_CYCLE = Recipe(10, 32, 0.1, schedule="one_cycle", auxiliary_augment=True)
CPC = Recipe(epochs=2, batch_size=8, learning_rate=0.02, auxiliary_weight=5.0, crop_padding=2)
OF_CPC = {"data": LARGE, "architecture": "wrn-imagenet-cpc", "widen_factor": 1}
CASES = {
    "classification": {"recipe": TWO},
    "rotation": {"recipe": TWO, "loss": auxiliary.rotation},
    "center_mask": {"recipe": TWO, "transform": mask},
    "cpc": {"recipe": CPC, "loss": partial(auxiliary.cpc, augment=True)} | OF_CPC,
    "cpc of the batch": {"recipe": CPC, "loss": partial(auxiliary.cpc, negatives="batch")} | OF_CPC,
    "step": {"recipe": LONG, "loss": auxiliary.rotation, "data": FEW},
    "one_cycle": {"recipe": ONE_CYCLE, "loss": auxiliary.rotation, "data": FEW},
    "crop_side": {"recipe": Recipe(2, 64, 0.05, crop_side=12, flip=False), "dropout": 0.0},
}


def trained(recipe, loss=None, transform=None, data=SMALL, architecture="wrn-10-1", **settings):
    """Mean losses of the first and last epoch; how far each part of the network has moved."""
    split = hold_out(data, "c")
    settings = {"dropout": 0.3, "norm_batch": 16} | settings
    net = holdout.network(split, architecture, loss, 3, recipe.crop_side, **settings)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    states = train(net, split.train, recipe, loss, seed=3, transform=transform)
    history = [(state.loss, state.auxiliary_loss) for state in states]
    found = {"loss": [history[0][0], history[-1][0]]}
    if loss:
        found["auxiliary loss"] = [history[0][1], history[-1][1]]
    squares = defaultdict(float)
    for name, after in net.state_dict().items():
        if after.is_floating_point():
            part = ".".join(re.sub(r"\.\d+", "", name).split(".")[:2])
            if name.endswith(("running_mean", "running_var")):
                part = name.rpartition(".")[2]
            squares[f"moved: {part}"] += (after - before[name]).double().square().sum().item()
            squares["length of all"] += after.double().square().sum().item()
    return found | {part: [value**0.5] for part, value in squares.items()}


def made_up_features() -> tuple[metrics.Features, np.ndarray, nn.Module, metrics.Features]:
    """240 training images of 4 classes and 12 others. Unit 1 is zero in training alone."""
    weight = uniform(4, 24, seed=10) - 0.5
    bias = uniform(4, seed=11) - 0.5
    labels = np.arange(240) % 4
    others = np.arange(12) % 4
    centres = 2 * uniform(4, 24, seed=12)
    net = nn.Module()
    net.heads = nn.ModuleDict({"classification": nn.Linear(24, 4)})
    head = net.heads["classification"]
    head.weight.data = torch.tensor(weight).float()
    head.bias.data = torch.tensor(bias).float()
    found = []
    for seed, classes in ((13, labels), (14, others)):
        features = np.maximum(centres[classes] + 3 * uniform(len(classes), 24, seed=seed) - 2, 0)
        if classes is labels:
            features[:, 1] = 0
        features = features.astype(np.float32)
        found.append(metrics.Features(features, (features @ weight.T + bias).astype(np.float32)))
    return found[0], labels, net, found[1]


def scored() -> dict[str, list[float]]:
    """Every score of twelve made-up images, and of the small data by an untrained network."""
    train_features, labels, net, test = made_up_features()
    found = {"msp": metrics.max_softmax(torch.tensor(test.logits)).tolist()}
    for name in metrics.DETECTORS:
        found[name] = metrics.fit(name, train_features, labels, net)(test).tolist()
    return found


def evaluated() -> dict[str, list[float]]:
    """ODIN, features and the measures of a network with re-estimated batch norm."""
    split = hold_out(SMALL, "c")
    net = holdout.network(split, "wrn-10-1", None, 3, dropout=0.3, norm_batch=16)
    still = partial(metrics.odin, epsilon=0.0)
    far = partial(metrics.odin, epsilon=0.05)
    scores = {"msp": metrics.max_softmax, "odin": metrics.odin, "still": still, "far": far}
    with metrics.upright(net, split.train.images):
        predicted, values = metrics.score(net, split.test.images, scores, batch_size=25)
        features = metrics.features(net, split.test.images).features
        statistics = [float(norm.running_var.sum()) for norm in net.modules()
                      if isinstance(norm, nn.BatchNorm2d)]  # fmt: skip
    found = {"msp": values["msp"][:12].tolist(), "odin": values["odin"][:12].tolist()}
    found["perturbed by 5e-5"] = (values["odin"] - values["still"])[:12].tolist()
    found["perturbed by 0.05"] = (values["far"] - values["still"])[:12].tolist()
    found["pixels"] = [*net.mean.flatten().tolist(), *net.std.flatten().tolist()]
    found["weights"] = [weight.norm().item() for weight in net.parameters()]
    found["features"] = features.mean(1)[:12].tolist()
    found["statistics"] = statistics
    found["average precision"] = [metrics.average_precision(split.is_anomaly, values["msp"])]
    found["accuracy"] = [metrics.accuracy(split.test.labels, predicted, split.is_anomaly)]
    ties = metrics.average_precision(split.is_anomaly, values["msp"].round(2))
    found["average precision with ties"] = [ties]
    return found


NUMBERS = {"scores": scored, "evaluation": evaluated}
NUMBERS |= {name: partial(trained, **case) for name, case in CASES.items()}
# Relative to each number, or to a hundredth of its list's largest. Measured between AVX2, AVX-512
# and neither: 0.003 in training, where a ReLU at 0 falls to either side; scores are in float64.
TOLERANCE = dict.fromkeys(NUMBERS, 0.01) | {"scores": 1e-7, "evaluation": 1e-3}


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [float(f"{each:.9g}") for each in value]


def differences(name: str) -> list[str]:
    """The numbers that are not the golden ones."""
    torch.set_num_threads(1)
    golden = json.loads(GOLDEN.read_text())[name]
    said = []
    found = NUMBERS[name]()
    if found.keys() != golden.keys():
        return [f"{name}: {', '.join(found.keys() ^ golden.keys())}"]
    for part, values in found.items():
        size = np.abs(golden[part])
        scale = np.maximum(size, max(size.max() / 100, 1e-12))
        off = (np.abs(np.subtract(values, golden[part])) / scale).max()
        if not off < TOLERANCE[name]:
            said.append(f"{name}, {part}: off by {off:.2g}")
    return said


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_the_golden_ones(name):
    assert not differences(name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--write" in sys.argv:
        numbers = {name: rounded(make()) for name, make in NUMBERS.items()}
        text = re.sub(r"(?<=[\d\[,])\s+(?=[\d\]-])", " ", json.dumps(numbers, indent=1))
        GOLDEN.write_text(text + "\n")
    else:
        for name in NUMBERS:
            print(*differences(name), sep="\n")
