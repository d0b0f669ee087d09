"""The paper's training (Sec. 4, 5.1): in each iteration a step on the auxiliary task, then one on classification.

for state in train(net, split.train, Recipe(epochs=10), auxiliary.rotation, seed=0):
    print(state.epoch, state.loss)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from semlib import randomness
from semlib.auxiliary import Loss
from semlib.datasets import ImageSet, augmentation
from semlib.metrics import full_float32

STEP_MILESTONES = (0.3, 0.6, 0.8)  # epochs 60, 120, 160 of 200
Transform = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's settings for CIFAR-10 (Sec. 5.1)."""

    epochs: int = 200
    batch_size: int = 512
    learning_rate: float = 0.1  # the schedule's peak
    weight_decay: float = 5e-4  # of all weights
    schedule: str = "step"  # the paper's; or one_cycle
    flip: bool = True  # random horizontal reflection
    crop_side: int | None = None  # pixels a side of random crops; None: as large as the image
    crop_padding: int | None = (
        None  # reflected pixels; None: an eighth of the side, 0 with crop_side
    )
    auxiliary_weight: float = 0.5  # the paper's lambda
    auxiliary_augment: bool = False  # crop and flip the auxiliary task's images too
    bfloat16: bool = False  # forward passes by autocast; else in float32 without TF32

    def rate(self, epoch: float) -> float:
        """The learning rate after so many epochs, a fraction within one."""
        progress = epoch / self.epochs
        if self.schedule == "step":
            return self.learning_rate * 0.2 ** sum(progress >= m for m in STEP_MILESTONES)
        rise = 0.25  # one_cycle: up in a quarter of the steps, down to zero in the rest
        return self.learning_rate * (
            progress / rise if progress < rise else (1 - progress) / (1 - rise)
        )


@dataclass
class State:
    """Training after `epoch` epochs. loss and auxiliary_loss are means over the last epoch."""

    epoch: int
    loss: float
    auxiliary_loss: float | None
    net: nn.Module
    optimizers: dict[str, SGD]
    generator: torch.Generator  # of batches and augmentation
    drawn: dict[str, Any]  # the global generators, as dropout and users' functions left them

    def state_dict(self) -> dict[str, Any]:
        """All that training depends on from here, for torch.save. Taken before the next epoch."""
        return {
            "epoch": self.epoch,
            "loss": self.loss,
            "auxiliary_loss": self.auxiliary_loss,
            "net": self.net.state_dict(),
            "optimizers": {task: sgd.state_dict() for task, sgd in self.optimizers.items()},
            "generator": self.generator.get_state(),
            **self.drawn,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.epoch, self.loss = saved["epoch"], saved["loss"]
        self.auxiliary_loss = saved["auxiliary_loss"]
        self.net.load_state_dict(saved["net"])
        for task, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][task])
        self.generator.set_state(saved["generator"])
        self.drawn |= {name: saved[name] for name in self.drawn}


def train(
    net: nn.Module,
    data: ImageSet,
    recipe: Recipe,
    auxiliary: Loss | None = None,
    *,
    seed: int = 0,
    transform: Transform | None = None,
    device: str = "cpu",
    compile: bool = False,
    resume: State | Mapping[str, Any] | None = None,
) -> Iterator[State]:
    """Train net on labelled images; one step of the iterator is one epoch.

    auxiliary: (net, images) -> scalar loss, its heads in the network already; None: classification
    alone. transform(images, generator): applied to classification batches (N, C, H, W) after crop
    and flip. resume: a State or its state_dict(); on the same CPU (threads, precision) training
    goes on bit for bit as if it had never stopped. FloatingPointError if a loss is not finite.
    """
    net.to(device).to(memory_format=torch.channels_last)
    generator = torch.Generator(device).manual_seed(seed)
    with randomness.seeded(seed, device):
        drawn = randomness.state(generator.device)
    optimizers = {"classification": _optimizer(net, recipe, "classification")}
    if auxiliary:
        optimizers["auxiliary"] = _optimizer(net, recipe, "auxiliary")
    state = State(0, float("nan"), None, net, optimizers, generator, drawn)
    if resume is not None:
        state.load_state_dict(resume.state_dict() if isinstance(resume, State) else resume)
    batches = _Batches(data, recipe, generator)
    forward = torch.compile(net, dynamic=False) if compile else net
    for epoch in range(state.epoch, recipe.epochs):
        precision = nullcontext() if recipe.bfloat16 else full_float32()
        with randomness.continuing(drawn, generator.device), precision:
            net.train()
            losses = _alternate(forward, batches, optimizers, recipe, epoch, auxiliary, transform)
        _check_finite(losses, net, epoch, recipe)
        state.epoch, state.loss = epoch + 1, losses[0].mean().item()
        state.auxiliary_loss = losses[1].mean().item() if auxiliary else None
        yield state


def _alternate(
    net: nn.Module,
    batches: "_Batches",
    optimizers: dict[str, SGD],
    recipe: Recipe,
    epoch: int,
    auxiliary: Loss | None,
    transform: Transform | None,
) -> Tensor:
    """Sec. 4, one epoch: in each iteration a step on the auxiliary task, then one on classification.

    Returns the losses of the steps, (2, steps): classification's and the auxiliary task's.
    """
    device = batches.labels.device
    losses = torch.zeros(2, batches.steps, device=device)  # reading one a step would hold a GPU up
    # One autocast for each forward pass: inside, it keeps bfloat16 copies of the weights, which
    # would be stale after a step.
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=recipe.bfloat16)
    for step, index in enumerate(batches):
        rate = recipe.rate(epoch + step / batches.steps)
        if auxiliary:
            part = index[: max(1, recipe.batch_size // getattr(auxiliary, "share", 1))]
            with autocast():
                loss = auxiliary(net, batches.images(part, recipe.auxiliary_augment))
            _update(optimizers["auxiliary"], recipe.auxiliary_weight * loss, rate)
            losses[1, step] = loss.detach()
        images = batches.images(index, augment=True)
        if transform:
            images = transform(images, batches.generator)
        with autocast():
            logits = net(images)
        loss = F.cross_entropy(logits, batches.labels[index])
        _update(optimizers["classification"], loss, rate)
        losses[0, step] = loss.detach()
    return losses


def _update(optimizer: SGD, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _optimizer(net: nn.Module, recipe: Recipe, task: str) -> SGD:
    """SGD over the shared weights and a task's own heads (Sec. 5.1).

    Shared weights are in both optimisers: each step decays them and has its own momentum. The other
    task's heads get no step and no decay. A weight that a task does not use (CPC's normalisation,
    say) has no gradient in its step, and SGD leaves it out.
    """
    parameters = []
    for name, parameter in net.named_parameters():
        module, head, *_ = [*name.split("."), ""]
        shared = module != "heads"
        if shared or (head == "classification") == (task == "classification"):
            parameters.append(parameter)
    cuda = parameters[0].device.type == "cuda"
    return SGD(
        parameters,
        lr=recipe.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
        fused=cuda,
        foreach=not cuda,
    )


class _Batches:
    """The training images on the generator's device, in batches of a new order each epoch."""

    def __init__(self, data: ImageSet, recipe: Recipe, generator: torch.Generator) -> None:
        self.recipe, self.generator = recipe, generator
        self.steps = len(data) // recipe.batch_size  # an incomplete last batch is dropped
        if not self.steps:
            size = recipe.batch_size
            raise ValueError(f"batch_size = {size} is more than the {len(data)} training images")
        centre = augmentation.centre(data.images[:1], recipe.crop_side)
        self.height, self.width = centre.shape[2:]
        padding = recipe.crop_padding
        if padding is None:  # ImageNet's crops are cut from larger images (Sec. 5.1)
            padding = 0 if recipe.crop_side else self.height // 8
        self.padded = torch.from_numpy(augmentation.pad(data.images, padding)).to(generator.device)
        self.labels = torch.from_numpy(data.labels).to(generator.device)

    def __iter__(self) -> Iterator[Tensor]:
        """Indices (batch_size,) of images."""
        count = len(self.labels)
        order = torch.randperm(count, generator=self.generator, device=self.labels.device)
        size = self.recipe.batch_size
        return iter(order[: self.steps * size].split(size))

    def images(self, index: Tensor, augment: bool) -> Tensor:
        """Float images (n, C, H, W) in [0, 1]: randomly cropped and flipped, or the centre."""
        height, width = self.height, self.width
        if not augment:
            top, left = (
                torch.full_like(index, (whole - side) // 2)
                for whole, side in zip(self.padded.shape[2:], (height, width), strict=True)
            )
            images = augmentation.crop(self.padded, index, top, left, height, width)
            return augmentation.to_float(images)
        images = augmentation.random_crop(self.padded, index, height, width, self.generator)
        if self.recipe.flip:
            images = augmentation.random_flip(images, self.generator)
        return augmentation.to_float(images)


def _check_finite(losses: Tensor, net: nn.Module, epoch: int, recipe: Recipe) -> None:
    bad = (~losses.isfinite()).any(0).nonzero()
    if not len(bad) and all(parameter.isfinite().all() for parameter in net.parameters()):
        return
    steps = losses.shape[1]
    step = bad[0].item() if len(bad) else steps - 1  # the last step's weights were not used yet
    raise FloatingPointError(
        f"the loss isn't finite at epoch {epoch + 1}, step {step + 1} of {steps}, learning rate "
        f"{recipe.rate(epoch + step / steps):.4g}; try a lower learning_rate"
    )
