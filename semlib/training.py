"""The paper's training (Sec. 4, 5.1): in each iteration a step on the auxiliary task, then one on classification."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from tqdm import tqdm

from semlib.auxiliary import Loss
from semlib.checkpoint import Checkpoint
from semlib.config import Training
from semlib.datasets import ImageSet, augmentation
from semlib.metrics import full_float32
from semlib.randomness import seeded

STEP_MILESTONES = (0.3, 0.6, 0.8)  # epochs 60, 120, 160 of 200


def rate_factor(schedule: str, progress: float) -> float:
    """The learning rate's factor at `progress`, the share of all steps that is done. step is the paper's."""
    if schedule == "step":
        return 0.2 ** sum(progress >= milestone for milestone in STEP_MILESTONES)
    rise = 0.25  # one_cycle: up in a quarter of the steps, down to zero in the rest
    return progress / rise if progress < rise else (1 - progress) / (1 - rise)


def train(
    net: nn.Module,
    data: ImageSet,
    how: Training,
    auxiliary: Loss | None = None,
    *,
    seed: int = 0,
    transform: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    device: str = "cpu",
    autocast: bool = False,
    compile: bool = False,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    evaluate_every: float = 10,
    checkpoint: Checkpoint | None = None,
    checkpoint_every: int = 1,
    description: str = "training",
) -> list[dict[str, float]]:
    """Train net on labelled images and return its history, a dict for each evaluated epoch.

    transform(images, generator): what classification steps do to their float images after crop and flip.
    evaluate(epoch): measures to add to the history, called every evaluate_every epochs and for the last ones.
    checkpoint: resumed from if there is one; it is left in place at the end. Resumed on the same CPU (threads,
    precision), training ends bit for bit as if it had never stopped; on a GPU it may differ.
    FloatingPointError if a loss isn't finite.
    """
    net.to(device).to(memory_format=torch.channels_last)
    generator = torch.Generator(device).manual_seed(seed)
    batches = _Batches(data, how, generator)
    optimizers = {"classification": _optimizer(net, how, "classification")}
    if auxiliary:
        optimizers["auxiliary"] = _optimizer(net, how, "auxiliary")
    forward: nn.Module = torch.compile(net, dynamic=False) if compile else net  # ty: ignore[invalid-assignment]
    precision = nullcontext() if autocast else full_float32()
    with seeded(seed, device), precision:  # dropout and users' tasks draw from the global generators
        resumed = checkpoint.restore(net, optimizers, generator) if checkpoint else None
        history, seconds, begin = resumed or ([], 0.0, 0)
        if evaluate and history and history[-1]["epoch"] == begin:  # stopped between its checkpoint and its evaluation
            history[-1] |= evaluate(begin) | {"seconds": round(seconds, 3)}
        epochs = range(begin, how.epochs)
        for epoch in tqdm(epochs, description, how.epochs, initial=begin, unit="epoch", leave=False, mininterval=1):
            started = time.perf_counter()
            net.train()
            losses = _epoch(epoch, forward, batches, optimizers, how, auxiliary, transform, autocast)
            _check_finite(losses, net, epoch, how)
            seconds += time.perf_counter() - started
            done, final = epoch + 1, epoch + 1 > how.epochs - how.average_last_epochs
            due = final or done // evaluate_every > epoch // evaluate_every
            if evaluate and due:
                history.append({"epoch": done, "loss": losses[0].mean().item()})
                history[-1] |= {"auxiliary_loss": losses[1].mean().item()} if auxiliary else {}
            if checkpoint and (done % checkpoint_every == 0 or done == how.epochs):
                checkpoint.save(net, optimizers, generator, (history, seconds, done))
            if evaluate and due:  # after the checkpoint: what fails here costs no training
                history[-1] |= evaluate(done) | {"seconds": round(seconds, 3)}
    return history


def _epoch(
    epoch: int,
    forward: nn.Module,
    batches: "_Batches",
    optimizers: dict[str, SGD],
    how: Training,
    auxiliary: Loss | None,
    transform: Callable[[Tensor, torch.Generator], Tensor] | None,
    autocast: bool,
) -> Tensor:
    """Sec. 4: in each iteration a step on the auxiliary task, then one on classification. Losses (2, steps) of the two."""
    device = batches.labels.device
    losses = torch.zeros(2, batches.steps, device=device)  # stays there: reading one a step would hold the device up
    modes = [(module, module.training) for module in forward.modules()]
    # An autocast for each forward pass: inside, it keeps bfloat16 copies of the weights that a step would leave stale.
    computing = partial(torch.autocast, device.type, torch.bfloat16, enabled=autocast)
    for step, index in enumerate(batches):
        rate = _rate(how, epoch + step / batches.steps)
        if auxiliary:
            part = index[: max(1, how.batch_size // getattr(auxiliary, "share", 1))]
            with computing():
                loss = auxiliary(forward, batches.images(part, how.auxiliary_augment))
            for module, training in modes:  # a user's task may have changed them
                module.training = training
            _update(optimizers["auxiliary"], how.auxiliary_weight * loss, rate)
            losses[1, step] = loss.detach()
        augmented = batches.images(index, augment=True)
        with computing():
            logits = forward(transform(augmented, batches.generator) if transform else augmented)
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


class _Batches:
    """The training images on the generator's device, in batches of a new order each epoch."""

    def __init__(self, data: ImageSet, how: Training, generator: torch.Generator) -> None:
        self.how, self.generator, device = how, generator, generator.device
        self.steps = len(data) // how.batch_size  # an incomplete last batch is dropped
        if not self.steps:
            raise ValueError(f"batch_size = {how.batch_size} is more than the {len(data)} training images")
        self.height, self.width = augmentation.centre(data.images[:1], how.crop_side).shape[2:]
        padding = how.crop_padding
        if padding is None:
            padding = 0 if how.crop_side else self.height // 8  # ImageNet's crops are cut from larger images (Sec. 5.1)
        self.padded = torch.from_numpy(augmentation.pad(data.images, padding)).to(device)
        self.labels = torch.from_numpy(data.labels).to(device)

    def __iter__(self) -> Iterator[Tensor]:
        """Indices (batch_size,) of images."""
        order = torch.randperm(len(self.labels), generator=self.generator, device=self.labels.device)
        return iter(order[: self.steps * self.how.batch_size].split(self.how.batch_size))

    def images(self, index: Tensor, augment: bool) -> Tensor:
        """Float images (n, C, H, W) in [0, 1]: randomly cropped and flipped, or the centre."""
        if augment:
            cropped = augmentation.random_crop(self.padded, index, self.height, self.width, self.generator)
            return augmentation.to_float(augmentation.random_flip(cropped, self.generator) if self.how.flip else cropped)
        sides = zip(self.padded.shape[2:], (self.height, self.width), strict=True)
        top, left = (torch.full_like(index, (whole - side) // 2) for whole, side in sides)
        return augmentation.to_float(augmentation.crop(self.padded, index, top, left, self.height, self.width))


def _rate(how: Training, epoch: float) -> float:
    return how.learning_rate * rate_factor(how.schedule, epoch / how.epochs)


def _optimizer(net: nn.Module, how: Training, task: str) -> SGD:
    """SGD over the shared weights and a task's own heads: the other task's heads get no step, and no decay (Sec. 5.1).

    Shared weights are in both: each step decays them and has a momentum of its own. A weight that a task doesn't use (CPC's
    normalisation, say) has no gradient in its step, and SGD leaves it out.
    """
    parts = ((name.split("."), parameter) for name, parameter in net.named_parameters())
    classifies = task == "classification"
    parameters = [p for name, p in parts if name[0] != "heads" or (name[1] == "classification") == classifies]
    cuda = next(net.parameters()).device.type == "cuda"
    rate, decay = how.learning_rate, how.weight_decay
    return SGD(parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay, fused=cuda, foreach=not cuda)


def _check_finite(losses: Tensor, net: nn.Module, epoch: int, how: Training) -> None:
    bad, steps = (~losses.isfinite()).any(0).nonzero(), losses.shape[1]
    if len(bad) or not all(parameter.isfinite().all() for parameter in net.parameters()):
        step = bad[0].item() if len(bad) else steps - 1  # the last step's weights were not used yet
        rate = _rate(how, epoch + step / steps)
        raise FloatingPointError(
            f"the loss isn't finite at epoch {epoch + 1}, step {step + 1} of {steps}, learning rate {rate:.4g}; "
            "try a lower learning_rate"
        )
