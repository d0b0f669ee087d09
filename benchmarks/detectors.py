"""Seconds to fit and score each detector from features in memory: python benchmarks/detectors.py
--threads 2

semlib against pytorch-ood's detectors of the same name (pip install pytorch-ood) on the same
made-up features, at the size of CIFAR-10 with a class held out; they take turns, medians. And
Spearman's correlation of the two scores over the test images.
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import report
import torch
from pytorch_ood import detector as theirs
from scipy.stats import spearmanr
from torch import Tensor, nn

from semlib import metrics
from semlib.metrics import DETECTORS, Features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=45_000, help="training images")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--width", type=int, default=640, help="features an image")
    parser.add_argument("--classes", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net, train, labels, test = made_up(args.train, args.test, args.width, args.classes)
    for (
        detector
    ) in DETECTORS:  # semlib's memory by itself, with that of PyTorch and of the features
        metrics.fit(detector, train, labels, net)(test)
    memory, rows = report.peak_gb(), []
    for name in DETECTORS:
        contestants = {"semlib": lambda name=name: metrics.fit(name, train, labels, net)(test)}
        if name in COUNTERPARTS:
            contestants["pytorch-ood"] = lambda name=name: COUNTERPARTS[name](
                net, train, labels, test
            )
        found = {}
        seconds = report.alternate(
            {key: partial(keep, found, key, run) for key, run in contestants.items()}, args.rounds
        )
        agreement = (
            spearmanr(found["semlib"], found["pytorch-ood"]).statistic if len(found) > 1 else None
        )
        row = {"detector": name, **{f"{key}, s": round(value, 2) for key, value in seconds.items()}}
        rows.append(
            row | ({} if agreement is None else {"rank correlation": round(float(agreement), 6)})
        )
    total = {
        f"{key}, s": round(sum(row.get(f"{key}, s", 0) for row in rows), 1)
        for key in ("semlib", "pytorch-ood")
    }
    report.write(__file__, [*rows, {"detector": "all", **total}], semlib_peak_gb=round(memory, 2))


def keep(found: dict[str, np.ndarray], name: str, run: Callable[[], np.ndarray]) -> None:
    found[name] = run()


def made_up(
    train: int, test: int, width: int, classes: int
) -> tuple[nn.Module, Features, np.ndarray, Features]:
    """A head, and ReLU-like features around a direction of each class; of the test images a tenth
    is of none.
    """
    random, net = np.random.default_rng(0), nn.Module()
    head = nn.Linear(width, classes)
    head.weight.data = (
        torch.from_numpy(random.normal(size=(classes, width)).astype(np.float32)) / width**0.5
    )
    net.heads = nn.ModuleDict({"classification": head})
    weight, bias = (values.detach().numpy() for values in (head.weight, head.bias))

    def features(labels: np.ndarray, known: np.ndarray) -> Features:
        values = random.normal(size=(len(labels), width)) + 15 * weight[labels] * known[:, None]
        values = np.maximum(values, 0).astype(np.float32)
        return Features(values, values @ weight.T + bias)

    labels, others = random.integers(0, classes, train), random.integers(0, classes, test)
    return (
        net,
        features(labels, np.ones(train)),
        labels,
        features(others, random.random(test) > 0.1),
    )


def of_logits(score) -> object:
    return lambda net, train, labels, test: score(torch.from_numpy(test.logits)).numpy()


def fitted(make) -> object:
    """A detector that pytorch-ood fits on features and labels."""

    def run(net: nn.Module, train: Features, labels: np.ndarray, test: Features) -> np.ndarray:
        detector = make(net.heads["classification"])
        with torch.no_grad():
            detector.fit_features(torch.from_numpy(train.features), torch.from_numpy(labels))
            return detector.predict_features(torch.from_numpy(test.features)).numpy()

    return run


def maps(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[
        :, :, None, None
    ]  # (N, D, 1, 1), as its detectors of feature maps have it


def react(net: nn.Module, train: Features, labels: np.ndarray, test: Features) -> np.ndarray:
    detector = theirs.ReAct(None, lambda x: net.heads["classification"](x.flatten(1)))
    detector.fit_feature_maps(maps(train.features), torch.from_numpy(labels))
    return detector.predict_feature_maps(maps(test.features)).numpy()


def scale(net: nn.Module, train: Features, labels: np.ndarray, test: Features) -> np.ndarray:
    detector = theirs.SCALE(
        None, lambda x: net.heads["classification"](x.flatten(1)), percentile=0.85
    )
    return detector.predict_feature_maps(maps(test.features)).numpy()


COUNTERPARTS = {
    "msp": of_logits(theirs.MaxSoftmax.score),
    "msp_t1000": of_logits(lambda logits: theirs.MaxSoftmax.score(logits, t=1000.0)),
    "max_logit": of_logits(theirs.MaxLogit.score),
    "energy": of_logits(theirs.EnergyBased.score),
    "entropy": of_logits(theirs.Entropy.score),
    "gen": of_logits(theirs.GEN.score),
    "mahalanobis": fitted(lambda head: theirs.Mahalanobis(None)),
    "rmd": fitted(lambda head: theirs.RMD(None)),
    "knn": fitted(lambda head: theirs.KNN(None, k=50)),
    "vim": fitted(lambda head: theirs.ViM(None, head.in_features // 2, head.weight, head.bias)),
    "react": react,
    "scale": scale,
    "nnguide": fitted(lambda head: theirs.NNGuide(None, head, k=10)),
}

if __name__ == "__main__":
    main()
