"""Scoring images a second, MSP and ODIN together: python benchmarks/scoring.py --network wrn-16-2 --threads 2

semlib against pytorch-ood's two detectors one after the other (pip install pytorch-ood) on the same network and the same
batches, which take turns; medians. And how what ODIN's perturbation changes agrees with the same in float64.
"""

import argparse
from functools import partial

import numpy as np
import report
import throughput
import torch
from pytorch_ood.detector import ODIN, MaxSoftmax

from semlib import metrics

TEMPERATURE, EPSILON = 1000.0, 5e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=throughput.NETWORKS, default="wrn-16-2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    side, classes, _, _ = throughput.NETWORKS[args.network]
    net = throughput.build(args.network).eval()
    images = throughput.noise(args.images, side, classes).images
    usual = throughput.build(args.network).eval().to(args.device)
    net.to(args.device, memory_format=torch.channels_last)
    contestants = {"pytorch-ood": lambda: theirs(usual, images, args.device), "semlib": lambda: ours(net, images)}
    found = {name: run() for name, run in contestants.items()}
    seconds = report.alternate(contestants, args.rounds)
    largest = {score: np.abs(found["semlib"][score] - found["pytorch-ood"][score]).max() for score in ("msp", "odin")}
    rows = [
        {
            "network": args.network,
            "contestant": name,
            "images/s": round(len(images) / elapsed, 1),
            "times pytorch-ood": round(seconds["pytorch-ood"] / elapsed, 2),
            "correlation with float64": round(agreement(net, images[:200], name == "semlib"), 6),
        }
        for name, elapsed in seconds.items()
    ]
    report.write(__file__, rows, args.device, largest_difference={k: f"{v:.1e}" for k, v in largest.items()})


def ours(net, images):
    odin = partial(metrics.odin, temperature=TEMPERATURE, epsilon=EPSILON)
    return metrics.score(net, images, {"msp": metrics.max_softmax, "odin": odin})[1]


def theirs(net, images, device, batch: int = 500):
    detectors = {"msp": MaxSoftmax(net), "odin": ODIN(net, eps=EPSILON, temperature=TEMPERATURE)}
    found = {}
    for name, detector in detectors.items():
        parts = []
        for start in range(0, len(images), batch):
            x = torch.from_numpy(images[start : start + batch]).to(device).float() / 255
            with torch.set_grad_enabled(name == "odin"):
                parts.append(detector.predict(x).detach().cpu())
        found[name] = torch.cat(parts).numpy()
    return found


def agreement(net, images, semlib: bool) -> float:
    """Pearson's correlation, over images, of what the perturbation adds to the score with the same in float64."""

    def added(kind, module):
        x = torch.from_numpy(images).to(next(module.parameters()).device, kind) / 255
        if semlib or kind is torch.float64:
            pair = [metrics.odin(module, x, TEMPERATURE, e) for e in (EPSILON, 0.0)]
        else:
            pair = [ODIN(module, eps=e, temperature=TEMPERATURE).predict(x) for e in (EPSILON, 0.0)]
        return (pair[0] - pair[1]).double().cpu().numpy()

    single = added(torch.float32, net)
    double = added(torch.float64, net.double())
    net.float()
    return float(np.corrcoef(single, double)[0, 1])


if __name__ == "__main__":
    main()
