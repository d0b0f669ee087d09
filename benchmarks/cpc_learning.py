"""Does CPC learn? python benchmarks/cpc_learning.py --data imagenet_dog --negatives batch --seed 0

The CPC task alone trains the encoder of wrn-imagenet-cpc at widening 1. Printed: the loss on images
that were not trained on, as a share of chance (the logarithm of the number of candidates), and the
test accuracy of a linear probe on the frozen codes, before and after. Digits are enlarged;
imagenet_dog is read from $SEMLIB_ILSVRC. The number of threads, and bfloat16 where the processor
has it, are part of a result: a training this short ends differently with others.
"""

import argparse
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from semlib import auxiliary, models, training
from semlib.datasets import Dataset, ImageSet
from semlib.models.cpc import patches
from workbench.experiment import create
from workbench.images import prepared
from workbench.runs import machine

SIDES = {"digits": 128, "imagenet_dog": 224}  # pixels a side of crops: 3x3 and 6x6 patches
BATCH = 8  # images
PEAK = 0.4  # learning rate
WEIGHT = 10.0  # the paper's lambda


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=list(SIDES), default="digits")
    parser.add_argument("--negatives", choices=["image", "batch"], default="batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--augment", action=argparse.BooleanOptionalAction, default=True, help="augmented patches"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = load(args.data)
    share, before, after = measure(data, args.negatives, args.seed, args.steps, args.augment)
    print(f"{vars(args)}: loss {share:.3f} of chance, probe {before:.1f} -> {after:.1f} %")


def load(name: str) -> Dataset:
    """The data set; digits enlarged to 144x144 pixels in three equal channels."""
    data = prepared.load(name)
    if name != "digits":
        return data
    return Dataset(data.name, _enlarged(data.train), _enlarged(data.test), data.classes)


def _enlarged(part: ImageSet) -> ImageSet:
    images = torch.from_numpy(part.images).float()
    large = F.interpolate(images, size=(144, 144), mode="bilinear").round().byte()
    return ImageSet(large.expand(-1, 3, -1, -1).numpy(), part.labels)


def measure(
    data: Dataset, negatives: str, seed: int, steps: int = 1500, augment: bool = True
) -> tuple[float, float, float]:
    """Loss on unseen images as a share of chance; the probe's accuracy (%) before and after."""
    side = SIDES[data.name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        how = {"widen_factor": 1, "mean": [0.5] * 3, "std": [0.25] * 3}
        net = models.build("wrn-imagenet-cpc", len(data.classes), (3, side, side), **how)
        net.to(memory_format=torch.channels_last)
        # Batch-norm statistics: without them the untrained encoder would be worse than it is
        with torch.no_grad():
            for images in itertools.islice(batches(data.train, side, BATCH), 0, None, 5):
                net(patches(images), head="cpc")
        before = probe(net.eval(), data, side)
        learn(net, data.train, side, negatives, seed, steps, augment)
    with torch.no_grad():
        whole = batches(data.test[::10], side, BATCH)
        losses = [auxiliary.cpc(net.eval(), images, negatives) for images in whole]
        unseen = torch.stack(losses[:-1]).mean().item()  # the last batch is smaller
    candidates = (side // 32 - 1) ** 2 * (BATCH if negatives == "batch" else 1)
    return unseen / math.log(candidates), before, probe(net, data, side)


def learn(net, data: ImageSet, side: int, negatives: str, seed: int, steps: int, augment: bool):
    """The CPC task alone: the rate rises to its peak in a quarter of the steps, then falls to 0."""
    bfloat16 = machine.precision(create({"device": "cpu"})) == "bfloat16"
    schedule = training.Recipe(epochs=steps, learning_rate=PEAK, schedule="one_cycle")
    rng = np.random.default_rng(seed)
    places = data.images.shape[2] - side + 1
    optimizer = torch.optim.SGD(
        net.train().parameters(), lr=PEAK, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        chosen = rng.choice(len(data), BATCH)
        images = crop(data.images[chosen], side, *rng.integers(0, places, 2))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = auxiliary.cpc(net, images, negatives, augment)
        optimizer.zero_grad()
        (WEIGHT * loss).backward()
        optimizer.step()


@torch.no_grad()
def probe(net: models.WideResNet, data: Dataset, side: int) -> float:
    """Test accuracy (%) of a linear classifier on the mean and deviation of an image's codes."""
    features = []
    for part in (data.train, data.test):
        whole = [net(patches(images), head="cpc") for images in batches(part, side, 50)]
        codes = torch.cat(whole)[..., 0, :].flatten(1, 2)
        features.append(torch.cat([codes.mean(1), codes.std(1)], dim=1).numpy())
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return 100 * classifier.fit(features[0], data.train.labels).score(features[1], data.test.labels)


def batches(data: ImageSet, side: int, size: int) -> Iterator[Tensor]:
    """The centres of all images, float (size, 3, side, side)."""
    edge = (data.images.shape[2] - side) // 2
    for start in range(0, len(data), size):
        yield crop(data.images[start : start + size], side, edge, edge)


def crop(images: np.ndarray, side: int, top: int, left: int) -> Tensor:
    return torch.from_numpy(images[:, :, top : top + side, left : left + side]).float() / 255


if __name__ == "__main__":
    main()
