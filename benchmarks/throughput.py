"""Training images a second, beside the usual loop: python benchmarks/throughput.py [NETWORK ...]

The usual loop: torchvision's transforms on PIL images in a DataLoader with workers, NCHW, float32,
SGD. Below it, one by one on top of each other: bfloat16 (where the processor has it), images that
stay on the device, channels last, a fused optimiser, compilation (on a GPU). The last row is
semlib's own training loop. All take turns; medians of an epoch's seconds, what comes before the
first one left out. The peak is that of large matrix products in the same run, on a GPU TF32's for
float32, which is what convolutions compute in. On a CPU the networks made for GPUs get turns of
three batches of 8.
"""

import argparse
import os
import time
from collections.abc import Callable

import joblib
import numpy as np
import report
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from semlib import models, training
from semlib.datasets import ImageSet, augmentation
from workbench.experiment import create
from workbench.runs import machine

# pixels a side, classes, batch size, and what differs from the architecture: the paper's networks,
# then fast's and cpu's
NETWORKS = {
    "wrn-28-10": (32, 9, 512, {}),
    "wrn-stl10": (96, 9, 256, {}),
    "wrn-imagenet": (224, 11, 64, {}),
    "wrn-imagenet-cpc": (224, 11, 32, {}),
    "wrn-16-8": (32, 9, 512, {}),
    "wrn-16-2": (32, 9, 128, {}),
    "wrn-10-2/stride2": (32, 9, 128, {"stem_stride": 2}),
}
FOR_GPUS = 1e9  # operations of a training step's image, from which on
SWITCHES = ("bfloat16", "resident", "channels_last", "fused", "compile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(NETWORKS)
    parser.add_argument("networks", nargs="*", default=names, metavar="NETWORK", help=str(names))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    workers = "of the usual loop's DataLoader; 1 (the fastest on two cores), on a GPU one a core"
    parser.add_argument("--workers", type=int, help=workers)
    parser.add_argument("--steps", type=int, help="of each turn; 20, on a GPU 100")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(args.threads)
    if unknown := set(args.networks) - set(NETWORKS):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(NETWORKS)}")
    gpu = args.device.startswith("cuda")
    if args.workers is None:
        args.workers = joblib.cpu_count() if gpu else 1
    args.steps = args.steps or (100 if gpu else 20)
    if gpu:
        torch.cuda.set_device(torch.device(args.device).index or 0)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    rows = []
    peaks = peak(args.device)
    also = {f"{name} peak TFLOP/s": round(value / 1e12, 3) for name, value in peaks.items()}
    also["workers"] = args.workers
    for name in args.networks:
        rows += measure(name, args, peaks)
        report.write(__file__, rows, args.device, **also)


def measure(name: str, args: argparse.Namespace, peaks: dict[str, float]) -> list[dict]:
    """A row for each contestant: the usual loop with ever more switches, then semlib."""
    torch.compiler.reset()
    side, classes, batch, _ = NETWORKS[name]
    flops = operations(build(name), side, classes)
    gpu = args.device.startswith("cuda")
    bfloat16 = machine.precision(create({"device": args.device})) == "bfloat16"
    steps = args.steps
    if flops > FOR_GPUS and not gpu:
        batch = 8
        steps = 3
    data = noise(batch * steps, side, classes)
    left_out = ([] if gpu else ["compile"]) + ([] if bfloat16 else ["bfloat16"])
    switches = [name for name in SWITCHES if name not in left_out]
    contestants: dict[str, Callable[[], object]] = {}
    for count in range(len(switches) + 1):
        on = dict.fromkeys(switches[:count], True)
        contestants["usual loop" if not on else f"+ {switches[count - 1]}"] = usual(
            name, data, batch, args, **on
        )
    contestants["semlib"] = ours(name, data, batch, args)
    for run in contestants.values():
        run()  # workers, caches, compilation
    seconds = report.alternate(contestants, args.rounds)
    rows = []
    for contestant, elapsed in seconds.items():
        speed = len(data) / elapsed
        highest = peaks["bfloat16" if bfloat16 and contestant != "usual loop" else "float32"]
        row = {"network": name, "batch": batch, "contestant": contestant}
        row |= {"images/s": round(speed, 1), "TFLOP/s": round(speed * flops / 1e12, 3)}
        row["of the peak"] = f"{speed * flops / highest:.0%}"
        rows.append(row | {"times the usual": round(seconds["usual loop"] / elapsed, 2)})
    return rows


def build(name: str) -> models.WideResNet:
    side, classes, _, settings = NETWORKS[name]
    torch.manual_seed(0)
    half = {"mean": [0.5] * 3, "std": [0.25] * 3}
    return models.build(name.partition("/")[0], classes, (3, side, side), **half, **settings)


def noise(count: int, side: int, classes: int) -> ImageSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return ImageSet(images, rng.integers(0, classes, count))


class Pictures(Dataset):
    """Images as torchvision's data sets hand them over: PIL, transformed one by one."""

    def __init__(self, data: ImageSet) -> None:
        self.images = data.images.transpose(0, 2, 3, 1).copy()
        self.labels = data.labels
        side = data.images.shape[2]
        steps = [v2.RandomCrop(side, padding=side // 8), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def usual(name, data, batch, args, **on: bool):
    """A function that trains for an epoch as one usually does, with some of SWITCHES on."""
    bfloat16, resident, channels_last, fused, compile = (
        on.get(switch, False) for switch in SWITCHES
    )
    device = torch.device(args.device)
    side = NETWORKS[name][0]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = build(name).to(device, memory_format=layout)
    forward = torch.compile(net, dynamic=False) if compile else net
    how = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    optimizer = torch.optim.SGD(net.parameters(), 0.1, fused=fused, **how)
    generator = torch.Generator(device).manual_seed(0)
    padded = torch.from_numpy(augmentation.pad(data.images, side // 8)).to(device)
    kept_labels = torch.from_numpy(data.labels).to(device)
    how = {"num_workers": args.workers, "persistent_workers": args.workers > 0}
    how |= {"pin_memory": device.type == "cuda", "drop_last": True}
    loader = DataLoader(Pictures(data), batch, shuffle=True, **how)

    def batches():
        if not resident:
            yield from loader
            return
        for index in torch.randperm(len(data), generator=generator, device=device).split(batch):
            cropped = augmentation.random_crop(padded, index, side, side, generator)
            flipped = augmentation.random_flip(cropped, generator)
            yield flipped.float().div_(255), kept_labels[index]

    def epoch() -> None:
        net.train()
        for images, labels in batches():
            images = images.to(device, memory_format=layout, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits = forward(images).float()
                loss = F.cross_entropy(logits, labels.to(device, non_blocking=True))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch


def ours(name, data, batch, args):
    """A function that trains for an epoch with semlib's loop: one iterator, with all its epochs."""
    bfloat16 = machine.precision(create({"device": args.device})) == "bfloat16"
    # an epoch for each round, and the first, which is not timed: it compiles, and copies the images
    recipe = training.Recipe(epochs=args.rounds + 1, batch_size=batch, bfloat16=bfloat16)
    compiled = args.device.startswith("cuda")
    states = training.train(build(name), data, recipe, device=args.device, compile=compiled)
    return lambda: next(states)


def operations(net: nn.Module, side: int, classes: int) -> float:
    """Floating-point operations of one image's forward and backward pass, by torch's counter."""
    images = torch.rand(2, 3, side, side)
    labels = torch.zeros(2, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net.train()(images), labels).backward()
    return counter.get_total_flops() / 2


def peak(device: str, side: int | None = None) -> dict[str, float]:
    """FLOP/s of a large matrix product in each precision that the device computes in."""
    side = side or (8192 if device.startswith("cuda") else 2048)
    found = {}
    kinds = [torch.float32]
    if machine.has_bfloat16(create({"device": device})):  # emulated it is nobody's peak
        kinds.append(torch.bfloat16)
    for kind in kinds:
        a, b = (torch.rand(side, side, device=device).to(kind) for _ in range(2))
        best = float("inf")
        for _ in range(10):
            begun = time.perf_counter()
            a @ b
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begun)
        found[str(kind).removeprefix("torch.")] = 2 * side**3 / best
    return found


if __name__ == "__main__":
    main()
