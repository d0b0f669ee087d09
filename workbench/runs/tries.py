"""A user's network, task and scores are tried on a few images before anything is trained."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semlib import datasets, metrics
from semlib.datasets import Dataset, augmentation
from semlib.metrics import Features
from semlib.randomness import seeded
from workbench import own
from workbench.experiment import ConfigError
from workbench.runs import build, machine, plan, scoring
from workbench.runs.plan import Run
from workbench.runs.scoring import failure, guarded

FEW = 16  # images on which they are tried
MADE_UP = 2000  # features to which a fitted score is tried


def attempt(run: Run, data: Dataset, scores: list[str]) -> None:
    """ConfigError, one line, if the user's network, task or one of these scores doesn't work."""
    split = run.split(data)
    e = run.experiment
    device = machine.device(run.experiment)
    images = augmentation.centre(_spread(split.train.images), e.crop_side)
    images = augmentation.to_float(torch.from_numpy(images))
    before = (run.sources, plan.how_scored(e))
    doing = f"architecture: {e.architecture}" if ":" in e.architecture else f"methods: {run.method}"
    try:
        with seeded(run.trial, device):
            net = build.network(run, split)
            if ":" in e.architecture:
                heads = getattr(build.loss(run), "heads", None) or {}
                heads = {"classification": len(split.classes), **heads}
                _try_network(net, heads, images[:2])
                for name in {*e.scores} & {*metrics.OF_THE_HEAD}:
                    metrics.linear_head(net, name)
            net.to(device).to(memory_format=torch.channels_last)
            doing = f"methods: {run.method}"
            if ":" in run.method:
                _try_task(run, net, images.to(device))
            doing = "scores"
            for name in scores:
                _try_score(run, net, split, name)
        doing = "functions from cells"
        if (replace(run).sources, plan.how_scored(e)) != before:  # a copy computes them anew
            raise ValueError("one changes a variable of the notebook that it names")
    except Exception as error:  # a user's code can raise any
        tried = "tried on a few images, nothing was trained"
        raise ConfigError(f"{doing}: {failure(error)} ({tried})") from error


def fit(run: Run, data: Dataset, names: list[str]) -> None:
    """ConfigError, one line, if there are too few training images to fit one of these detectors."""
    split = run.split(data)
    labels = split.train.labels
    net = build.network(run, split)
    few = augmentation.centre(split.train.images[:2], run.experiment.crop_side)
    draw = np.random.default_rng(0).standard_normal
    made_up = [draw((len(labels), part.shape[1])) for part in metrics.features(net, few)]
    for name in names:
        try:
            metrics.fit(name, Features(*made_up), labels, net)
        except ValueError as error:
            why = f"{error}, for there are {len(labels)} training images"
            raise ConfigError(f"scores: {why}; leave {name} out") from None


def _spread(images: np.ndarray) -> np.ndarray:
    """A few images from all over the data set."""
    return images[:: max(1, len(images) // FEW)][:FEW]


def _try_network(net: Any, heads: Mapping[str, int], images: Tensor) -> None:
    """ValueError, one line, unless net has these heads and takes images (N, C, H, W) in [0, 1].

    heads: the number of outputs of each. features(images) should be (N, D), forward(images, head)
    (N, outputs), classification's without `head`.
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"should return a torch.nn.Module, not a {type(net).__name__}")
    found = getattr(net, "heads", None)
    if not isinstance(found, nn.ModuleDict) or not set(heads) <= set(found):
        raise ValueError(f"its heads should be a torch.nn.ModuleDict with {', '.join(heads)}")
    if any(isinstance(weights, nn.UninitializedParameter) for weights in net.parameters()):
        raise ValueError("its parameters should have their shapes from the start: no Lazy modules")
    for training in (True, False):
        net.train(training)
        with torch.no_grad():
            _matrix("features(images)", net.features(images), len(images), "D")
            _matrix("forward(images)", net(images), len(images), heads["classification"])
            for name, outputs in heads.items():
                call = f"forward(images, head={name!r})"
                _matrix(call, net(images, head=name), len(images), outputs)


def _matrix(call: str, values: Tensor, rows: int, columns: int | str) -> None:
    shape = tuple(getattr(values, "shape", ()))
    if len(shape) != 2 or shape[0] != rows or columns not in ("D", shape[1]):
        raise ValueError(f"{call} should be ({rows}, {columns}), not {shape or values!r:.80}")
    if not values.is_floating_point() or not values.isfinite().all():
        raise ValueError(f"{call} should be finite floats")


def _try_task(run: Run, net: nn.Module, images: Tensor) -> None:
    """ValueError unless the user's task returns a loss with a gradient."""
    task = own.function(run.method)
    recipe = build.recipe(run)
    few = images[: max(1, recipe.batch_size // getattr(task, "share", 1))]
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        loss = task(net.train(), few)
    wanted = "a tensor of one number with a gradient"
    if not isinstance(loss, Tensor):
        raise ValueError(f"its loss should be {wanted}, not a {type(loss).__name__}")
    if loss.numel() != 1 or not loss.requires_grad:
        raise ValueError(f"its loss should be {wanted}, not a tensor {tuple(loss.shape)}")
    if not loss.isfinite():
        raise ValueError(f"its loss is {loss.item()} before any training")
    loss.backward()


def _try_score(run: Run, net: nn.Module, split: datasets.Split, name: str) -> None:
    """ScoreError unless a user's score works on a few images; it is fitted to made-up features."""
    function = own.function(name)
    images = augmentation.centre(_spread(split.test.images), run.experiment.crop_side)
    if not scoring.is_fitted(function):
        _, values = metrics.score(net, images, {name: guarded(name, function)})
        scoring.check_numbers(name, values[name])
        return
    test = metrics.features(net, images)
    # of each class as many as a covariance needs to be inverted like that of a whole data set
    each = max(MADE_UP // len(split.classes), 8)
    labels = np.repeat(np.arange(len(split.classes)), each)
    draw = np.random.default_rng(0).standard_normal
    made_up = [np.abs(draw((len(labels), part.shape[1]))).astype(np.float32) for part in test]
    values = scoring.fit(name, function, Features(*made_up), labels, net, test)
    scoring.check_numbers(name, values)
