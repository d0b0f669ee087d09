"""What can be found wrong with an experiment before anything is trained.

A user's network, task and scores are tried on a few images.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semlib import datasets, metrics, models
from semlib.datasets import Dataset, Split, augmentation
from semlib.metrics import Features
from semlib.models.cpc import patches
from semlib.randomness import seeded
from workbench import own
from workbench.experiment import EXTERNAL, RANKED, ConfigError, Experiment, Training
from workbench.images.checks import check_parts
from workbench.runs import build, external, machine, plan, scoring
from workbench.runs.plan import Run

FEW_STEPS = 5  # of a training: fewer are warned of
FEW = 16  # images on which a user's code is tried
MADE_UP = 2000  # features to which a fitted score is tried


def check(experiment: Experiment) -> None:
    """ConfigError names a class, network, method, score or device that there isn't."""
    e = experiment
    plan.held_out(e)
    for name in (e.architecture, *e.trained_methods):
        if ":" in name:
            own.function(name)
    if ":" not in e.architecture:
        try:
            models.groups(e.architecture, e.widen_factor)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if "cpc" in e.methods and e.architecture not in models.CPC:
        needs = f"cpc needs a network that encodes patches, not {e.architecture}"
        raise ConfigError(f"methods: {needs}; choose architecture {', '.join(models.CPC)}")
    external.check(e)
    plan.how_scored(e)
    machine.device(e)
    if e.precision == "bfloat16" and e.missing == "train" and not machine.has_bfloat16(e):
        slow = "emulated on this processor or GPU, and slower than float32"
        warnings.warn(f"precision: bfloat16 is {slow}", stacklevel=2)


def check_data(experiment: Experiment, data: Dataset) -> None:
    """ConfigError or DataError if the experiment can't be trained on these images.

    The user's own functions are tried on some of them.
    """
    e = experiment
    check_parts(data)
    classes = plan.held_out(e)
    _check_sizes(e, data, classes)
    seen = plan.duplicates(e).seen
    if (hidden := {*seen} & {*classes}) and not e.allow_duplicates:
        counts = ", ".join(f"{seen[name]} of {name}" for name in sorted(hidden))
        found = f"among the training images of other classes are identical pictures: {counts}"
        raise ConfigError(f"hold_out: {found}; take them out, or set allow_duplicates")
    scores = [name for name in e.scores if ":" in name and not name.startswith(EXTERNAL)]
    detectors = [name for name in e.scores if name in RANKED and len(data.train) < MADE_UP]
    for method in e.trained_methods:
        run = Run(e, classes[0], method, e.first_trial)
        if scores or ":" in method or ":" in e.architecture:
            _try(run, data, scores)
        if detectors:
            _try_detectors(run, data, detectors)
        scores = detectors = []  # once is enough


def _check_sizes(experiment: Experiment, data: Dataset, classes: list[str | None]) -> None:
    e = experiment
    height, width = data.train.images.shape[2:]
    side = min(height, width)
    per_class = e.train_per_class
    groups = map(plan.classes_of, classes)
    count = min(len(datasets.training_indices(data, group, per_class)) for group in groups)
    few = "" if per_class is None else f" with train_per_class {per_class}"
    has = f"{data.name} has {count} images to train on{few}, of {width}x{height} pixels"
    for name, most in {"crop_side": side, "crop_padding": side - 1, "batch_size": count}.items():
        value = getattr(e, name) or 0
        if value > most:
            raise ConfigError(f"{name}: {value} is more than {most}; {has}")
    if e.trained_methods:
        _check_steps(e, count)
    if "rotation" in e.methods and height != width and not e.crop_side:
        do = f"choose crop_side (at most {side}), or prepare the images square"
        raise ConfigError(f"methods: rotation needs square images; {has}; {do}")
    if "cpc" in e.methods:
        try:
            patches(torch.zeros(1, 1, e.crop_side or height, e.crop_side or width))
        except ValueError as error:
            do = "choose a larger crop_side or image_side"
            raise ConfigError(f"methods: {error}; {do}") from None


def _check_steps(e: Training, images: int) -> None:
    """ConfigError or a warning if a training has too few steps."""
    steps = e.epochs * (images // e.batch_size)
    count = "1 training step" if steps == 1 else f"{steps} training steps"
    said = f"epochs: {e.epochs} with batch_size {e.batch_size} and {images} images make {count}"
    do = "choose more epochs or a smaller batch_size"
    if steps == 1 and e.schedule == "one_cycle":
        raise ConfigError(f"{said}, and the learning rate of one_cycle's first step is 0; {do}")
    if steps < FEW_STEPS:
        warnings.warn(f"{said}, too few to learn much; {do}", stacklevel=4)


# --- a user's network, task and scores


def _try(run: Run, data: Dataset, scores: list[str]) -> None:
    """ConfigError, one line, if the user's network, task or one of these scores doesn't work."""
    split = run.split(data)
    e = run.experiment
    device = machine.device(e)
    images = augmentation.to_float(torch.from_numpy(_few(split.train.images, e)))
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
        raise ConfigError(f"{doing}: {scoring.failure(error)} ({tried})") from error


def _try_detectors(run: Run, data: Dataset, names: list[str]) -> None:
    """ConfigError, one line, if there are too few training images to fit one of these detectors."""
    split = run.split(data)
    labels = split.train.labels
    net = build.network(run, split)
    made_up = _made_up(metrics.features(net, _few(split.train.images, run.experiment)), len(labels))
    for name in names:
        try:
            metrics.fit(name, made_up, labels, net)
        except ValueError as error:
            why = f"{error}, for there are {len(labels)} training images"
            raise ConfigError(f"scores: {why}; leave {name} out") from None


def _few(images: np.ndarray, e: Training) -> np.ndarray:
    """A few images from all over the data set, cropped to their centre."""
    return augmentation.centre(images[:: max(1, len(images) // FEW)][:FEW], e.crop_side)


def _made_up(like: Features, count: int) -> Features:
    draw = np.random.default_rng(0).standard_normal
    parts = [np.abs(draw((count, part.shape[1]))).astype(np.float32) for part in like]
    return Features(*parts)


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
            _check_matrix("features(images)", net.features(images), len(images), "D")
            _check_matrix("forward(images)", net(images), len(images), heads["classification"])
            for name, outputs in heads.items():
                call = f"forward(images, head={name!r})"
                _check_matrix(call, net(images, head=name), len(images), outputs)


def _check_matrix(call: str, values: Tensor, rows: int, columns: int | str) -> None:
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


def _try_score(run: Run, net: nn.Module, split: Split, name: str) -> None:
    """ScoreError unless a user's score works on a few images; it is fitted to made-up features."""
    function = own.function(name)
    images = _few(split.test.images, run.experiment)
    if not scoring.is_fitted(function):
        _, values = metrics.score(net, images, {name: scoring.guarded(name, function)})
        scoring.check_numbers(name, values[name])
        return
    test = metrics.features(net, images)
    # of each class as many as a covariance needs to be inverted like that of a whole data set
    labels = np.repeat(np.arange(len(split.classes)), max(MADE_UP // len(split.classes), 8))
    values = scoring.fit(name, function, _made_up(test, len(labels)), labels, net, test)
    scoring.check_numbers(name, values)
