"""Scores of a network's features and logits, some fitted on those of the training images. Higher =
more anomalous.

Each detector is fit(train, labels, net) -> score, and score(Features) -> (N,) float64. Its settings
are fixed here, before any anomaly is looked at, and the same for all classes and data sets.
Everything is computed in float64: float32 makes ties, which move the average precision.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from semlib.metrics.scores import as_floats, evaluating

OF_THE_HEAD = ("vim", "react", "scale", "fdbd")  # those that need a linear classification head
RIDGE = 1e-6  # of the mean eigenvalue, on a covariance's diagonal
NEIGHBOURS, GUIDES = 50, 10  # of knn, and of nnguide
SPARE = (
    10  # neighbours that the float32 search finds beyond those, before they are compared in float64
)
ROWS = 250  # images a product with all training images


class Features(NamedTuple):
    """What the classification head sees and says of N images: features (N, D) and logits (N, C),
    float32.
    """

    features: np.ndarray
    logits: np.ndarray


Detector = Callable[[Features], np.ndarray]


def features(net: nn.Module, images: np.ndarray, batch_size: int = 500) -> Features:
    """Features and logits of uint8 images (N, C, H, W), network in evaluation mode, float32, no
    augmentation.

    One forward pass; the features are what goes into `net.heads["classification"]`.
    """
    device, found, logits = next(net.parameters()).device, [], []
    head = net.get_submodule("heads.classification")
    handle = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].float().cpu()))
    try:
        with evaluating(net), torch.inference_mode():
            for start in range(0, len(images), batch_size):
                logits.append(
                    net(as_floats(images[start : start + batch_size], device)).float().cpu()
                )
    finally:
        handle.remove()
    return Features(torch.cat(found).numpy(), torch.cat(logits).numpy())


def fit(name: str, train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """The detector of that name, fitted on the training images' features and labels (N,);
    ValueError names the choices.
    """
    if name not in DETECTORS:
        raise ValueError(f"unknown detector {name!r}; choose from {', '.join(DETECTORS)}")
    if len(labels) != len(train.features):
        raise ValueError(
            f"labels should be of the {len(train.features)} training images, not of {len(labels)}"
        )
    return DETECTORS[name](train, np.asarray(labels), net)


# --- of the logits alone


def msp(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Maximum softmax probability (Hendrycks & Gimpel 2017)."""
    return lambda x: -np.exp(_log_softmax(x.logits).max(1))


def msp_t1000(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Maximum softmax probability at temperature 1000: ODIN (Liang et al. 2018) without its
    perturbation.
    """
    return lambda x: -np.exp(_log_softmax(_double(x.logits) / 1000).max(1))


def max_logit(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Minus the largest logit (Hendrycks et al. 2022)."""
    return lambda x: -_double(x.logits).max(1)


def energy(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Minus the log-sum-exp of the logits, temperature 1 (Liu et al. 2020)."""
    return lambda x: -_energy(x.logits)


def entropy(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Entropy of the softmax probabilities (Lakshminarayanan et al. 2017)."""

    def score(x: Features) -> np.ndarray:
        logs = _log_softmax(x.logits)
        return -(np.exp(logs) * logs).sum(1)

    return score


def gen(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Generalised entropy with gamma = 0.1 over all classes (Liu et al. 2023)."""

    def score(x: Features) -> np.ndarray:
        logits = _double(x.logits)
        logs, rows, largest = _log_softmax(logits), np.arange(len(logits)), logits.argmax(1)
        with np.errstate(divide="ignore"):
            rest = np.log1p(-np.exp(logs))  # log(1 - p)
        others = logits.copy()
        others[rows, largest] = -np.inf
        rest[rows, largest] = _energy(others) - _energy(
            logits
        )  # of a p near 1 the subtraction would leave nothing
        return np.exp(0.1 * (logs + rest)).sum(1)

    return score


# --- of the distances to training features


def mahalanobis(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Squared Mahalanobis distance to the nearest class mean, one covariance within classes (Lee et
    al. 2018).
    """
    return _nearest_mean(train, labels)


def rmd(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Mahalanobis distance relative to that of one Gaussian over all training features (Ren et al.
    2021).
    """
    near, all_ = _nearest_mean(train, labels), _nearest_mean(train, np.zeros(len(labels), int))
    return lambda x: near(x) - all_(x)


def cosine(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Minus the largest cosine with a class mean of the training features (as Techapanurak et al.
    2020 with class weights).
    """
    means = _unit(_means(_double(train.features), labels))
    return lambda x: -(_unit(x.features) @ means.T).max(1)


def knn(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Distance of the normalised features to their k-th nearest among training's, k = 50, at most N
    / C (Sun et al. 2022).
    """
    bank, k = _unit(train.features), min(NEIGHBOURS, len(labels) // len(np.unique(labels)))

    def score(x: Features) -> np.ndarray:
        queries, distances = _unit(x.features), np.empty(len(x.features))
        # |q - b|^2 = |q|^2 - 2 (qb - |b|^2 / 2): of a zero vector |b| is 0
        for rows, near, closeness in _nearest(queries, bank, k, (bank**2).sum(1).round() / 2):
            kth = np.argsort(-closeness, axis=1, kind="stable")[:, k - 1]
            distances[rows] = np.linalg.norm(
                queries[rows] - bank[near[np.arange(len(rows)), kth]], axis=1
            )
        return distances

    return score


def nnguide(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Energy guided by the ten nearest training images, each weighted with its own energy (Park et
    al. 2023).
    """
    bank, k = _unit(train.features) * _energy(train.logits)[:, None], min(GUIDES, len(labels))

    def score(x: Features) -> np.ndarray:
        queries, guidance = _unit(x.features), np.empty(len(x.features))
        for rows, _, products in _nearest(queries, bank, k, np.zeros(len(bank))):
            guidance[rows] = np.sort(products, axis=1)[:, -k:].mean(1)
        return -_energy(x.logits) * guidance

    return score


# --- of the features and the classification head


def vim(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Virtual-logit matching (Wang et al. 2022): the norm outside the main directions, scaled to
    logits, minus the energy.

    ValueError if nothing is outside: the features have no more dimensions than main directions.
    """
    weight, bias = linear_head(net, "vim")
    centre, dimensions = -np.linalg.pinv(weight) @ bias, weight.shape[1]
    main = 1000 if dimensions >= 2048 else 512 if dimensions >= 768 else max(1, dimensions // 2)
    centred = _double(train.features) - centre
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))  # rising
    outside = vectors[:, : dimensions - main]
    residual = np.linalg.norm(centred @ outside, axis=1).mean()
    if not residual > 1e-6 * np.sqrt(max(values.sum(), 0)):
        raise ValueError(
            f"vim: the training features lie in their {main} main directions; it needs some that do not"
        )
    alpha = _double(train.logits).max(1).mean() / residual
    return lambda x: (
        alpha * np.linalg.norm((_double(x.features) - centre) @ outside, axis=1) - _energy(x.logits)
    )


def react(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Energy of features clipped at the 90th percentile of training's, pooled over units (Sun et
    al. 2021).
    """
    weight, bias = linear_head(net, "react")
    most = np.percentile(_double(train.features), 90)
    return lambda x: -_energy(np.minimum(_double(x.features), most) @ weight.T + bias)


def scale(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Energy of features scaled by exp(sum / sum of the 15 % largest) (Xu et al. 2024)."""
    weight, bias = linear_head(net, "scale")

    def score(x: Features) -> np.ndarray:
        values = _double(x.features)
        largest = np.sort(values, axis=1)[:, round(0.85 * values.shape[1]) :].sum(1)
        ratio = np.divide(values.sum(1), largest, out=np.zeros(len(values)), where=largest != 0)
        return -_energy(values * np.exp(ratio)[:, None] @ weight.T + bias)

    return score


def fdbd(train: Features, labels: np.ndarray, net: nn.Module) -> Detector:
    """Mean distance to the decision boundaries, relative to that from the training mean (Liu & Qin
    2024).
    """
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


DETECTORS = {
    f.__name__: f
    for f in (
        msp,
        msp_t1000,
        max_logit,
        energy,
        entropy,
        gen,
        mahalanobis,
        rmd,
        knn,
        cosine,
        vim,
        react,
        scale,
        fdbd,
        nnguide,
    )
}


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
    """log-sum-exp minus the largest logit, (N,): exact where it is next to nothing, minus the log
    of a probability near 1.
    """
    others = np.exp(logits - logits.max(1, keepdims=True))
    others[np.arange(len(others)), logits.argmax(1)] = 0
    return np.log1p(others.sum(1))


def _unit(values: np.ndarray) -> np.ndarray:
    """Each row divided by its norm; zeros stay."""
    values = _double(values)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, norm, out=np.zeros_like(values), where=norm != 0)


def _means(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C, D) means of the classes."""
    return np.stack([values[labels == label].mean(0) for label in np.unique(labels)])


def _nearest_mean(train: Features, labels: np.ndarray) -> Detector:
    """The squared Mahalanobis distance to the nearest of the classes' means, with the covariance
    within them.
    """
    values = _double(train.features)
    means, which = _means(values, labels), np.unique(labels, return_inverse=True)[1]
    centred = values - means[which]
    covariance = centred.T @ centred / len(centred)
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T  # x @ whiten has unit covariance
    means = means @ whiten

    def score(x: Features) -> np.ndarray:
        white = _double(x.features) @ whiten
        return np.min([((white - mean) ** 2).sum(1) for mean in means], axis=0)

    return score


def _nearest(
    queries: np.ndarray, bank: np.ndarray, k: int, less: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Some rows of queries (n,), which of the bank have the k largest products with each (n, k +
    SPARE), and the products.

    Each of the bank's products is `less` (len(bank),) by a constant. The search is in float32, the
    products are in float64. Where rounding could hide one of the k, all are compared in float64.
    """
    found, wanted = torch.from_numpy(bank.astype(np.float32)), min(k + SPARE, len(bank))
    offset = torch.from_numpy(less.astype(np.float32))
    error = (
        1e-5 * np.linalg.norm(bank, axis=1).max()
    )  # of a float32 product with a unit row: its sum's roundings of 6e-8
    for start in range(0, len(queries), ROWS):
        rows = np.arange(start, min(start + ROWS, len(queries)))
        rough, near = torch.addmm(
            -offset, torch.from_numpy(queries[rows].astype(np.float32)), found.T
        ).topk(wanted, dim=1)
        unsure = ((rough[:, k - 1] - rough[:, -1]) < 2 * error).numpy() & (wanted < len(bank))
        near = near.numpy()
        for row in np.flatnonzero(unsure):
            near[row] = np.argsort(less - bank @ queries[rows[row]], kind="stable")[:wanted]
        yield rows, near, (bank[near] @ queries[rows, :, None])[:, :, 0] - less[near]


def linear_head(net: nn.Module, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, D) and bias (C,) of the linear classification head; ValueError if it is another."""
    linear = net.get_submodule("heads.classification")
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"{name} needs a linear classification head, not {type(linear).__name__}")
    weight = linear.weight.detach().double().cpu().numpy()
    return weight, np.zeros(
        len(weight)
    ) if linear.bias is None else linear.bias.detach().double().cpu().numpy()
