"""What can be found wrong with an experiment before anything is trained."""

import warnings

import torch

from semlib import datasets, models
from semlib.datasets import Dataset
from semlib.models.cpc import patches
from workbench import own
from workbench.experiment import EXTERNAL, RANKED, ConfigError, Experiment, Training
from workbench.images.checks import check_parts
from workbench.runs import external, machine, plan, tries
from workbench.runs.plan import Run

FEW_STEPS = 5  # of a training: fewer are warned of


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
    check_parts(data)
    classes = plan.held_out(experiment)
    _check_sizes(experiment, data, classes)
    seen = plan.duplicates(experiment).seen
    if (hidden := {*seen} & {*classes}) and not experiment.allow_duplicates:
        counts = ", ".join(f"{seen[name]} of {name}" for name in sorted(hidden))
        found = f"among the training images of other classes are identical pictures: {counts}"
        raise ConfigError(f"hold_out: {found}; take them out, or set allow_duplicates")
    scores = [name for name in experiment.scores if ":" in name and not name.startswith(EXTERNAL)]
    for method in experiment.trained_methods:
        if scores or ":" in method or ":" in experiment.architecture:
            tries.attempt(Run(experiment, classes[0], method, experiment.first_trial), data, scores)
        scores = []  # once is enough
    detectors = [name for name in experiment.scores if name in RANKED]
    if detectors and experiment.trained_methods and len(data.train) < tries.MADE_UP:
        method = experiment.trained_methods[0]
        tries.fit(Run(experiment, classes[0], method, experiment.first_trial), data, detectors)


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
