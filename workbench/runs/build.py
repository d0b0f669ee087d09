"""What semlib trains a run with, of the run's settings: network, auxiliary loss, recipe."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial

import torch
from torch import nn

from semlib import auxiliary, holdout
from semlib.auxiliary import Loss
from semlib.datasets import Split, augmentation
from semlib.training import Recipe, Transform
from workbench import own
from workbench.experiment import Network
from workbench.runs import machine
from workbench.runs.plan import Run


def network(run: Run, split: Split) -> nn.Module:
    """The untrained network."""
    e = run.experiment
    architecture: str | Callable[..., nn.Module] = e.architecture
    settings = e.model_dump(include=Network.model_fields.keys() - {"architecture"})
    if ":" in e.architecture:
        architecture = own.function(e.architecture)
        settings = {}
    return holdout.network(split, architecture, loss(run), run.trial, e.crop_side, **settings)


def loss(run: Run) -> Loss | None:
    """The method's auxiliary loss; None: classification alone (center_mask only masks)."""
    if run.method in ("classification", "center_mask"):
        return None
    if run.method == "rotation":
        return auxiliary.rotation
    if run.method == "cpc":
        e = run.experiment
        return partial(auxiliary.cpc, negatives=e.cpc_negatives, augment=e.cpc_augment)
    return own.function(run.method)


def recipe(run: Run) -> Recipe:
    names = {field.name for field in fields(Recipe)} - {"bfloat16"}
    bfloat16 = machine.precision(run.experiment) == "bfloat16"
    return Recipe(**run.experiment.model_dump(include=names), bfloat16=bfloat16)


def transform(run: Run, split: Split) -> Transform | None:
    """The method's extra augmentation of classification batches, applied after crop and flip."""
    if run.method != "center_mask":
        return None
    values = holdout.pixel_statistics(split.train.images)[0]
    if run.experiment.mask_fill is not None:
        values = [run.experiment.mask_fill] * len(values)
    fill = torch.tensor(values)[:, None, None]  # (C, 1, 1)
    return lambda images, generator: augmentation.center_mask(
        images, fill.to(images.device), generator
    )
