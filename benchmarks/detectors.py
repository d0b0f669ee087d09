"""Seconds to fit and score each detector from features: python benchmarks/detectors.py --threads 2

semlib against pytorch-ood's detectors of the same name (pip install pytorch-ood, compared with
0.4.0), and `knn` against faiss's exact index (pip install faiss-cpu), on the same made-up features,
at the size of CIFAR-10 with a class held out; they take turns, medians. And Spearman's correlation
of the other's score with semlib's over the test images. ODIN needs images, not features: scoring.py
compares it, and in 0.4.0 the two agree (in older versions its temperature had no effect).
"""

import argparse
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
    parser.add_argument("--only", nargs="*", choices=DETECTORS, default=[*DETECTORS])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net, train, labels, test = made_up(args.train, args.test, args.width, args.classes)
    for name in args.only:  # semlib's memory, with that of PyTorch and of the features
        ours(name, net, train, labels, test)
    memory = report.peak_gb()
    rows = []
    for name in args.only:
        contestants = {"semlib": partial(ours, name)}
        if name in COUNTERPARTS:
            contestants["pytorch-ood"] = COUNTERPARTS[name]
        if name == "knn":
            contestants["faiss"] = faiss_knn
        found = {}

        def keep(library: str) -> None:
            found[library] = contestants[library](net, train, labels, test)  # noqa: B023

        seconds = report.alternate({key: partial(keep, key) for key in contestants}, args.rounds)
        row = {"detector": name} | {f"{key}, s": round(seconds[key], 2) for key in contestants}
        for library in [*contestants][1:]:
            rho = float(spearmanr(found["semlib"], found[library]).statistic)
            what = "rank correlation" if library == "pytorch-ood" else f"with {library}"
            row[what] = round(rho, 6)
        rows.append(row)
    total = {"detector": "all"}
    for column in ("semlib, s", "pytorch-ood, s"):
        total[column] = round(sum(row.get(column, 0) for row in rows), 1)
    report.write(__file__, [*rows, total], semlib_peak_gb=round(memory, 2))


def ours(name: str, net: nn.Module, train: Features, labels: np.ndarray, test: Features):
    return metrics.fit(name, train, labels, net)(test)


def made_up(
    train: int, test: int, width: int, classes: int
) -> tuple[nn.Module, Features, np.ndarray, Features]:
    """A head and ReLU-like features around a direction for each class; a tenth of test has none."""
    random = np.random.default_rng(0)
    head = nn.Linear(width, classes)
    directions = random.normal(size=(classes, width)).astype(np.float32) / width**0.5
    head.weight.data = torch.from_numpy(directions)
    net = nn.Module()
    net.heads = nn.ModuleDict({"classification": head})
    weight, bias = (values.detach().numpy() for values in (head.weight, head.bias))

    def features(labels: np.ndarray, known: np.ndarray) -> Features:
        values = random.normal(size=(len(labels), width)) + 15 * weight[labels] * known[:, None]
        values = np.maximum(values, 0).astype(np.float32)
        return Features(values, values @ weight.T + bias)

    labels = random.integers(0, classes, train)
    others = random.integers(0, classes, test)
    known = random.random(test) > 0.1
    return net, features(labels, np.ones(train)), labels, features(others, known)


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
    return torch.from_numpy(values)[:, :, None, None]  # (N, D, 1, 1), its form of feature maps


def react(net: nn.Module, train: Features, labels: np.ndarray, test: Features) -> np.ndarray:
    detector = theirs.ReAct(None, lambda maps: net.heads["classification"](maps.flatten(1)))
    detector.fit_feature_maps(maps(train.features), torch.from_numpy(labels))
    return detector.predict_feature_maps(maps(test.features)).numpy()


def scale(net: nn.Module, train: Features, labels: np.ndarray, test: Features) -> np.ndarray:
    head = net.heads["classification"]
    detector = theirs.SCALE(None, lambda maps: head(maps.flatten(1)), percentile=0.85)
    return detector.predict_feature_maps(maps(test.features)).numpy()


def faiss_knn(net: nn.Module, train: Features, labels: np.ndarray, test: Features) -> np.ndarray:
    """The distance to the 50th neighbour by faiss's exact index, in float32 as all of faiss."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    bank, queries = (
        x.features / np.linalg.norm(x.features, axis=1)[:, None] for x in (train, test)
    )
    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank)
    squares, _ = index.search(queries, 50)
    return np.sqrt(np.maximum(squares[:, -1], 0))


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
