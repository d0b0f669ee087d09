"""The paper's training (Sec. 4, 5.1): a step on the auxiliary task, then one on classification.

for state in train(net, split.train, Recipe(epochs=10), auxiliary.rotation, seed=0):
    print(state.epoch, state.loss)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from semlib import randomness
from semlib.auxiliary import Loss
from semlib.batches import Batches
from semlib.datasets import ImageSet
from semlib.metrics.evaluation import full_float32

MILESTONES = (0.3, 0.6, 0.8)  # of all epochs: 60, 120 and 160 of 200
Transform = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's settings for CIFAR-10 (Sec. 5.1)."""

    epochs: int = 200
    batch_size: int = 512
    learning_rate: float = 0.1  # the schedule's peak
    weight_decay: float = 5e-4  # of all weights, biases and batch norm's scales included
    schedule: str = "step"  # the paper's; or one_cycle
    flip: bool = True  # random horizontal reflection
    crop_side: int | None = None  # pixels a side of random crops; None: as large as the images
    crop_padding: int | None = None  # reflected pixels; None: 1/8 of the height, 0 with crop_side
    auxiliary_weight: float = 0.5  # the paper's lambda
    auxiliary_augment: bool = False  # crop and flip the auxiliary task's images too
    bfloat16: bool = False  # forward passes by autocast; otherwise float32 without TF32

    def __post_init__(self) -> None:
        if self.schedule not in ("step", "one_cycle"):
            raise ValueError(f"unknown schedule {self.schedule!r}; choose step or one_cycle")

    def rate(self, epoch: float) -> float:
        """The learning rate after so many epochs; a fraction is a part of an epoch."""
        progress = epoch / self.epochs
        if self.schedule == "step":
            return self.learning_rate * 0.2 ** sum(progress >= m for m in MILESTONES)
        rise = 0.25  # one_cycle: linearly up in a quarter of all steps, down to 0 in the rest
        if progress < rise:
            return self.learning_rate * (progress / rise)
        return self.learning_rate * ((1 - progress) / (1 - rise))


@dataclass(eq=False)
class State:
    """Training after `epoch` epochs. The losses are unweighted means over the last of them."""

    epoch: int
    loss: float
    auxiliary_loss: float | None  # None: no auxiliary task
    net: nn.Module
    optimizers: dict[str, SGD]  # of classification and, if there is one, of the auxiliary task
    generator: torch.Generator  # draws the order of images, crops and flips
    global_generators: dict[str, Any]  # as dropout and users' functions left them
    is_current: bool = True  # False as soon as training, which uses all of these, goes on

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that training depends on from here, to resume from or for torch.save."""
        if not self.is_current:
            said = f"training has gone on since epoch {self.epoch}"
            raise RuntimeError(f"{said}; take state_dict() before the iterator's next step")
        losses = {"loss": self.loss, "auxiliary_loss": self.auxiliary_loss}
        saved = {"epoch": self.epoch, **losses, "net": self.net.state_dict()}
        saved["optimizers"] = {task: sgd.state_dict() for task, sgd in self.optimizers.items()}
        saved["generator"] = self.generator.get_state()
        saved["global_generators"] = self.global_generators
        return deepcopy(saved)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from there; `saved` stays as it is."""
        self.epoch = saved["epoch"]
        self.net.load_state_dict(saved["net"])
        for task, optimizer in self.optimizers.items():
            # a copy: SGD would take the momenta themselves and change them
            optimizer.load_state_dict(deepcopy(saved["optimizers"][task]))
        self.generator.set_state(saved["generator"])
        self.global_generators.update(saved["global_generators"])


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

    auxiliary: (net, images) -> scalar loss, whose heads net has; None: classification alone.
    seed: of batches, augmentation and dropout; the caller's generators stay as they are.
    transform: (images, generator) -> images, of classification batches after crop and flip.
    device: where net is moved. compile: by torch.compile. resume: a State or its state_dict(); on
    the same CPU and number of threads, training goes on bit for bit as if it had never stopped.
    ValueError if there are fewer images than a batch, FloatingPointError if a loss isn't finite.
    """
    net.to(device).to(memory_format=torch.channels_last)
    generator = torch.Generator(device).manual_seed(seed)
    with randomness.seeded(seed, device):
        global_generators = randomness.state(device)
    optimizers = {"classification": _optimizer(net, recipe, "classification")}
    if auxiliary:
        optimizers["auxiliary"] = _optimizer(net, recipe, "auxiliary")
    state = State(0, float("nan"), None, net, optimizers, generator, global_generators)
    if resume is not None:
        state.load_state_dict(resume.state_dict() if isinstance(resume, State) else resume)
    batches = Batches(data, recipe, generator)
    forward: Any = torch.compile(net, dynamic=False) if compile else net
    for epoch in range(state.epoch, recipe.epochs):
        state.is_current = False
        precision = nullcontext() if recipe.bfloat16 else full_float32()
        with randomness.continuing(global_generators, device), precision:
            net.train()
            losses = _alternate(forward, batches, optimizers, recipe, epoch, auxiliary, transform)
        _check_finite(losses, net, recipe, epoch)
        loss = losses[0].mean().item()
        other = losses[1].mean().item() if auxiliary else None
        state = replace(state, epoch=epoch + 1, loss=loss, auxiliary_loss=other, is_current=True)
        yield state


def _alternate(
    net: nn.Module,
    batches: Batches,
    optimizers: dict[str, SGD],
    recipe: Recipe,
    epoch: int,
    auxiliary: Loss | None,
    transform: Transform | None,
) -> Tensor:
    """Sec. 4, one epoch: in each iteration a step on the auxiliary task, then on classification.

    Returns the losses of all steps (2, steps): classification's, and the auxiliary task's.
    """
    device = batches.labels.device
    losses = torch.zeros(2, batches.steps, device=device)  # .item() at each step would stall a GPU
    # One autocast for each forward pass: inside, it keeps bfloat16 copies of the weights, which
    # would be stale after a step.
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=recipe.bfloat16)
    share = max(1, recipe.batch_size // getattr(auxiliary, "share", 1))
    for step, index in enumerate(batches):
        rate = recipe.rate(epoch + step / batches.steps)
        if auxiliary:
            images = batches.images(index[:share], augment=recipe.auxiliary_augment)
            with autocast():
                loss = auxiliary(net, images)
            net.train()  # a user's loss may have left it in evaluation mode
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
    """One step at this learning rate. A weight without a gradient gets none: no decay either."""
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _optimizer(net: nn.Module, recipe: Recipe, task: str) -> SGD:
    """SGD over the shared weights and the task's own heads (Sec. 5.1).

    Shared weights are in both optimisers: each decays them and has momenta of its own for them.
    """
    parameters = []
    for name, parameter in net.named_parameters():
        parts = name.split(".")
        if parts[0] != "heads" or (parts[1] == "classification") == (task == "classification"):
            parameters.append(parameter)
    cuda = parameters[0].device.type == "cuda"
    how: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": recipe.weight_decay}
    return SGD(parameters, lr=recipe.learning_rate, fused=cuda, foreach=not cuda, **how)


def _check_finite(losses: Tensor, net: nn.Module, recipe: Recipe, epoch: int) -> None:
    steps = losses.shape[1]
    bad = (~losses.isfinite()).any(0).nonzero().flatten().tolist()
    if not all(parameter.isfinite().all() for parameter in net.parameters()):
        bad.append(steps - 1)  # the last step's weights were not used yet
    if bad:
        rate = f"learning rate {recipe.rate(epoch + bad[0] / steps):.4g}; try a lower learning_rate"
        where = f"epoch {epoch + 1}, step {bad[0] + 1} of {steps}"
        raise FloatingPointError(f"the loss isn't finite at {where}, {rate}")
