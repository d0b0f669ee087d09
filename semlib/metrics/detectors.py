"""Scores of a network's features and logits, some fitted on those of the training images.

Higher = more anomalous. Each detector is fit(train, labels, net) -> score, and
score(Features) -> (N,) float64. Settings are fixed here, before any anomaly is looked at, and are
the same for all classes and data sets. Everything is computed in float64: float32 makes ties, which
move the average precision. A new detector is listed in DETECTORS and written out literally in
tests/test_detectors.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

# PyTorch is imported where it is used: whoever reads the list of detectors needs none.
if TYPE_CHECKING:
    from torch.nn import Module

OF_THE_HEAD = ("vim", "react", "scale", "fdbd")  # those that need a linear classification head
RIDGE = 1e-6  # of the mean eigenvalue, added to a covariance's diagonal
KNN_NEIGHBOURS = 50
NNGUIDE_NEIGHBOURS = 10
SPARE = 10  # neighbours that the float32 search finds beyond those, to be compared in float64
CHUNK = 250  # images that are compared with all training images at once


class Features(NamedTuple):
    """What the classification head sees and says of N images, both float32."""

    features: np.ndarray  # (N, D)
    logits: np.ndarray  # (N, C)


Detector = Callable[[Features], np.ndarray]


def features(net: Module, images: np.ndarray, batch_size: int = 500) -> Features:
    """Features and logits of uint8 images (N, C, H, W) in evaluation mode, without augmentation.

    The features are the input of net.heads["classification"].
    """
    import torch

    from semlib.metrics.evaluation import as_floats, evaluating

    found = []
    logits = []
    device = next(net.parameters()).device
    head = net.get_submodule("heads.classification")
    handle = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].float().cpu()))
    try:
        with evaluating(net), torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = as_floats(images[start : start + batch_size], device)
                logits.append(net(batch).float().cpu())
    finally:
        handle.remove()
    return Features(torch.cat(found).numpy(), torch.cat(logits).numpy())


def fit(name: str, train: Features, labels: np.ndarray, net: Module) -> Detector:
    """The detector of that name, fitted on the training images' features and labels (N,)."""
    if name not in DETECTORS:
        raise ValueError(f"unknown detector {name!r}; choose from {', '.join(DETECTORS)}")
    if len(labels) != len(train.features):
        images = f"the {len(train.features)} training images"
        raise ValueError(f"labels should be of {images}, not of {len(labels)}")
    return DETECTORS[name](train, np.asarray(labels), net)


# --- of the logits alone


def msp_t1000(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """MSP at temperature 1000, that is ODIN (Liang et al. 2018) without its perturbation."""
    return lambda x: -np.exp(_log_softmax(_double(x.logits) / 1000).max(1))


def max_logit(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Minus the largest logit (Hendrycks et al. 2022)."""
    return lambda x: -_double(x.logits).max(1)


def energy(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Minus the log-sum-exp of the logits, temperature 1 (Liu et al. 2020)."""
    return lambda x: -_energy(x.logits)


def entropy(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Entropy of the softmax probabilities (Lakshminarayanan et al. 2017)."""

    def score(x: Features) -> np.ndarray:
        logs = _log_softmax(x.logits)
        return -(np.exp(logs) * logs).sum(1)

    return score


def gen(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Generalised entropy, the sum over classes of (p (1 - p)) ** 0.1 (Liu et al. 2023)."""

    def score(x: Features) -> np.ndarray:
        logits = _double(x.logits)
        log_p = _log_softmax(x.logits)
        largest = np.arange(len(logits)), logits.argmax(1)
        with np.errstate(divide="ignore"):
            log_rest = np.log1p(-np.exp(log_p))  # log(1 - p)
        # Of the largest p, which may be 1 up to rounding: the other classes' share of the energy.
        others = logits.copy()
        others[largest] = -np.inf
        log_rest[largest] = _energy(others) - _energy(logits)
        return np.exp(0.1 * (log_p + log_rest)).sum(1)

    return score


# --- of the distances to training features


def mahalanobis(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Squared Mahalanobis distance to the nearest class mean (Lee et al. 2018)."""
    return _nearest_mean(train, labels)


def rmd(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Mahalanobis distance minus that to one Gaussian of all features (Ren et al. 2021)."""
    classes = _nearest_mean(train, labels)
    whole = _nearest_mean(train, np.zeros(len(labels), int))
    return lambda x: classes(x) - whole(x)


def cosine(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Minus the largest cosine with a class mean (Techapanurak et al. 2020, with class weights)."""
    means = _unit(_means(_double(train.features), labels))
    return lambda x: -(_unit(x.features) @ means.T).max(1)


def knn(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Distance of normalised features to their k-th nearest among training's (Sun et al. 2022).

    k = 50, or the number of training images a class if that is less.
    """
    bank = _unit(train.features)
    k = min(KNN_NEIGHBOURS, len(labels) // len(np.unique(labels)))
    # |q - b|^2 / 2 = |q|^2 / 2 - (q b - |b|^2 / 2), and |b| is 1, or 0 of a zero vector
    half_squares = (bank**2).sum(1).round() / 2

    def score(x: Features) -> np.ndarray:
        queries = _unit(x.features)
        distances = np.empty(len(x.features))
        for rows, near, closeness in _nearest(queries, bank, k, half_squares):
            kth = np.argsort(-closeness, axis=1, kind="stable")[:, k - 1]
            neighbours = bank[near[np.arange(len(rows)), kth]]
            distances[rows] = np.linalg.norm(queries[rows] - neighbours, axis=1)
        return distances

    return score


def nnguide(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Energy times the mean product with the ten nearest training images (Park et al. 2023).

    Products are of normalised features, those of a training image times its own energy.
    """
    bank = _unit(train.features) * _energy(train.logits)[:, None]
    k = min(NNGUIDE_NEIGHBOURS, len(labels))

    def score(x: Features) -> np.ndarray:
        queries = _unit(x.features)
        guidance = np.empty(len(x.features))
        for rows, _, products in _nearest(queries, bank, k, np.zeros(len(bank))):
            guidance[rows] = np.sort(products, axis=1)[:, -k:].mean(1)
        return -_energy(x.logits) * guidance

    return score


# --- of the features and the classification head


def vim(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Norm outside the main directions, scaled to logits, minus the energy (Wang et al. 2022).

    ValueError if no training feature has a part outside: alpha would be infinite.
    """
    weight, bias = linear_head(net, "vim")
    centre = -np.linalg.pinv(weight) @ bias
    dimensions = weight.shape[1]
    main = max(1, dimensions // 2)
    if dimensions >= 768:
        main = 512
    if dimensions >= 2048:
        main = 1000
    centred = _double(train.features) - centre
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))  # values rise
    outside = vectors[:, : dimensions - main]
    residual = np.linalg.norm(centred @ outside, axis=1).mean()
    if not residual > 1e-6 * np.sqrt(max(values.sum(), 0)):
        raise ValueError(f"vim: no training feature lies outside the {main} main directions")
    alpha = _double(train.logits).max(1).mean() / residual

    def score(x: Features) -> np.ndarray:
        norm = np.linalg.norm((_double(x.features) - centre) @ outside, axis=1)
        return alpha * norm - _energy(x.logits)

    return score


def react(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Energy of features clipped at the 90th percentile of all training's (Sun et al. 2021)."""
    weight, bias = linear_head(net, "react")
    most = np.percentile(_double(train.features), 90)
    return lambda x: -_energy(np.minimum(_double(x.features), most) @ weight.T + bias)


def scale(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Energy of features scaled by exp(their sum / sum of the 15 % largest) (Xu et al. 2024)."""
    weight, bias = linear_head(net, "scale")

    def score(x: Features) -> np.ndarray:
        values = _double(x.features)
        largest = np.sort(values, axis=1)[:, round(0.85 * values.shape[1]) :].sum(1)
        ratio = np.divide(values.sum(1), largest, out=np.zeros(len(values)), where=largest != 0)
        return -_energy(values * np.exp(ratio)[:, None] @ weight.T + bias)

    return score


def fdbd(train: Features, labels: np.ndarray, net: Module) -> Detector:
    """Minus the mean distance to the decision boundaries over that to the mean (Liu & Qin 2024)."""
    weight, _ = linear_head(net, "fdbd")
    centre = _double(train.features).mean(0)
    between = np.linalg.norm(weight[:, None] - weight[None], axis=2)  # (C, C)
    between[between == 0] = np.inf  # a class and itself

    def score(x: Features) -> np.ndarray:
        logits = _double(x.logits)
        gaps = (logits.max(1, keepdims=True) - logits) / between[logits.argmax(1)]
        norm = np.linalg.norm(_double(x.features) - centre, axis=1)
        return -gaps.sum(1) / (logits.shape[1] - 1) / np.maximum(norm, np.finfo(float).tiny)

    return score


_ALL = (msp_t1000, max_logit, energy, entropy, gen, mahalanobis, rmd, knn, cosine)
_ALL += (vim, react, scale, fdbd, nnguide)
DETECTORS = {detector.__name__: detector for detector in _ALL}


# --- arithmetic


def _double(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64)


def _energy(logits: np.ndarray) -> np.ndarray:
    """log-sum-exp, (N, C) -> (N,)."""
    return _double(logits).max(1) + _beyond_largest(_double(logits))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = _double(logits)
    return logits - logits.max(1, keepdims=True) - _beyond_largest(logits)[:, None]


def _beyond_largest(logits: np.ndarray) -> np.ndarray:
    """log-sum-exp minus the largest logit, (N,): exact also where it is next to 0."""
    others = np.exp(logits - logits.max(1, keepdims=True))
    others[np.arange(len(others)), logits.argmax(1)] = 0
    return np.log1p(others.sum(1))


def _unit(values: np.ndarray) -> np.ndarray:
    """Each row divided by its norm; rows of zeros stay."""
    values = _double(values)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, norm, out=np.zeros_like(values), where=norm != 0)


def _means(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C, D) means of the classes."""
    return np.stack([values[labels == label].mean(0) for label in np.unique(labels)])


def _nearest_mean(train: Features, labels: np.ndarray) -> Detector:
    """Squared Mahalanobis distance to the nearest class mean, by the covariance within classes."""
    values = _double(train.features)
    means = _means(values, labels)
    centred = values - means[np.unique(labels, return_inverse=True)[1]]
    covariance = centred.T @ centred / len(centred)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T  # x @ whiten has unit covariance
    means = means @ whiten

    def score(x: Features) -> np.ndarray:
        white = _double(x.features) @ whiten
        return np.min([((white - mean) ** 2).sum(1) for mean in means], axis=0)

    return score


def _nearest(
    queries: np.ndarray, bank: np.ndarray, k: int, offset: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For some queries (n,) at a time, the k + SPARE of the bank with the largest product - offset.

    Yields the queries' rows (n,), indices into the bank and these differences (n, k + SPARE). The
    search is in float32, the differences are in float64. Where float32's rounding could hide one of
    the k, all of the bank are compared in float64.
    """
    import torch

    wanted = min(k + SPARE, len(bank))
    bank32 = torch.from_numpy(bank.astype(np.float32))
    offset32 = torch.from_numpy(offset.astype(np.float32))
    # Of a float32 product with a unit row: the roundings of 6e-8 in its sum.
    error = 1e-5 * np.linalg.norm(bank, axis=1).max()
    for start in range(0, len(queries), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(queries)))
        queries32 = torch.from_numpy(queries[rows].astype(np.float32))
        rough, near = torch.addmm(-offset32, queries32, bank32.T).topk(wanted, dim=1)
        near = near.numpy()
        unsure = ((rough[:, k - 1] - rough[:, -1]) < 2 * error).numpy() & (wanted < len(bank))
        for row in np.flatnonzero(unsure):
            exact = offset - bank @ queries[rows[row]]
            near[row] = np.argsort(exact, kind="stable")[:wanted]
        yield rows, near, (bank[near] @ queries[rows, :, None])[:, :, 0] - offset[near]


def linear_head(net: Module, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, D) and bias (C,) of the classification head; ValueError if it isn't linear."""
    from torch import nn

    linear = net.get_submodule("heads.classification")
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"{name} needs a linear classification head, not {type(linear).__name__}")
    weight = linear.weight.detach().double().cpu().numpy()
    if linear.bias is None:
        return weight, np.zeros(len(weight))
    return weight, linear.bias.detach().double().cpu().numpy()
