"""Images a second with MSP and ODIN: python benchmarks/scoring.py --network wrn-16-2 --threads 2

semlib against pytorch-ood's two detectors one after the other (pip install pytorch-ood) on the same
network, trained for a moment, and the same batches, which take turns; medians. And how the scores
agree with float64: the largest difference of MSP, and the correlation, over images, of what ODIN's
perturbation adds.
"""

import argparse
import copy
from functools import partial

import numpy as np
import report
import throughput
import torch
from pytorch_ood.detector import ODIN, MaxSoftmax

from semlib import metrics, training
from semlib.datasets import ImageSet

TEMPERATURE = 1000.0
EPSILON = 5e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=throughput.NETWORKS, default="wrn-16-2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(args.device).index or 0)
    net, images = trained(args.network, args.images, args.device)
    contiguous = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    last = {"memory_format": torch.channels_last}
    contestants = {
        "pytorch-ood": lambda: theirs(contiguous, images, args.device),
        "pytorch-ood, channels last": lambda: theirs(net, images, args.device, **last),
        "semlib": lambda: ours(net, images),
    }
    found = {name: run() for name, run in contestants.items()}
    seconds = report.alternate(contestants, args.rounds)
    few = images[:200]
    with torch.no_grad():
        logits = copy.deepcopy(net).double()(pixels(few, args.device).double())
        exact = metrics.max_softmax(logits).cpu().numpy()
    rows = [
        {
            "network": args.network,
            "contestant": name,
            "images/s": round(len(images) / elapsed, 1),
            "times pytorch-ood": round(seconds["pytorch-ood"] / elapsed, 2),
            "MSP to float64": f"{np.abs(found[name]['msp'][:200] - exact).max():.1e}",
            "ODIN's correlation with float64": round(agreement(net, few, name == "semlib"), 6),
        }
        for name, elapsed in seconds.items()
    ]
    report.write(__file__, rows, args.device)


def trained(name: str, count: int, device: str):
    """A network after two epochs on noise whose brightness is its class, and the noise."""
    side, classes, _, _ = throughput.NETWORKS[name]
    data = throughput.noise(count, side, classes)
    bright = (data.images * ((1 + data.labels) / classes)[:, None, None, None]).astype(np.uint8)
    net = throughput.build(name)
    recipe = training.Recipe(epochs=2, batch_size=min(64, count), schedule="one_cycle")
    for _ in training.train(net, ImageSet(bright, data.labels), recipe, device=device):
        pass
    return net.eval(), bright


def ours(net, images):
    odin = partial(metrics.odin, temperature=TEMPERATURE, epsilon=EPSILON)
    return metrics.score(net, images, {"msp": metrics.max_softmax, "odin": odin})[1]


def pixels(images: np.ndarray, device: str, memory_format=torch.contiguous_format) -> torch.Tensor:
    floats = torch.from_numpy(images).to(device).float() / 255
    return floats.contiguous(memory_format=memory_format)


def theirs(net, images, device, batch: int = 500, **layout):
    detectors = {"msp": MaxSoftmax(net), "odin": ODIN(net, eps=EPSILON, temperature=TEMPERATURE)}
    found = {}
    for name, detector in detectors.items():
        parts = []
        for start in range(0, len(images), batch):
            x = pixels(images[start : start + batch], device, **layout)
            with torch.set_grad_enabled(name == "odin"):
                parts.append(detector.predict(x).detach().cpu())
        found[name] = torch.cat(parts).numpy()
    return found


def agreement(net, images, semlib: bool) -> float:
    """Correlation, over images, of what ODIN's perturbation adds in float32 and in float64."""

    def added(kind):
        module = copy.deepcopy(net).to(kind)
        x = pixels(images, next(net.parameters()).device).to(kind)
        if semlib or kind is torch.float64:
            pair = [metrics.odin(module, x, TEMPERATURE, e) for e in (EPSILON, 0.0)]
        else:
            pair = [ODIN(module, eps=e, temperature=TEMPERATURE).predict(x) for e in (EPSILON, 0.0)]
        return (pair[0] - pair[1]).detach().double().cpu().numpy()

    return float(np.corrcoef(added(torch.float32), added(torch.float64))[0, 1])


if __name__ == "__main__":
    main()
