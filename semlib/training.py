"""The paper's training (Sec. 4, 5.1): in each iteration a step on the auxiliary task, then one on classification."""

import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from tqdm import tqdm

from semlib.auxiliary import Loss
from semlib.config import Experiment
from semlib.datasets import ImageSet, augmentation
from semlib.files import one_line, save_atomically

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
    experiment: Experiment,
    auxiliary: Loss | None = None,
    *,
    seed: int = 0,
    transform: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    device: str = "cpu",
    autocast: bool = False,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    checkpoint: Path | None = None,
    stamp: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    description: str = "training",
) -> list[dict[str, float]]:
    """Train net on labelled images and return its history, a dict for each evaluated epoch.

    transform(images, generator): what classification steps do to their float images after crop and flip.
    evaluate(epoch): measures to add to the history, called every evaluate_every epochs and for the last ones.
    checkpoint: a file to resume from if it was written under the same stamp; it is left in place at the end. Resumed on
    the same machine (threads, precision), training ends bit for bit as if it had never stopped.
    FloatingPointError if a loss isn't finite.
    """
    net.to(device, memory_format=torch.channels_last)
    batch, steps = experiment.batch_size, len(data) // experiment.batch_size  # an incomplete last batch is dropped
    if not steps:
        raise ValueError(f"batch_size = {batch} is more than the {len(data)} training images")
    height, width = augmentation.centre(data.images[:1], experiment.crop_side).shape[2:]
    padding = experiment.crop_padding
    if padding is None:
        padding = 0 if experiment.crop_side else height // 8  # ImageNet's crops are cut from larger images (Sec. 5.1)
    images = torch.from_numpy(augmentation.pad(data.images, padding)).to(device)
    labels = torch.from_numpy(data.labels).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    optimizers = {"classification": _optimizer(net, experiment, lambda head: head == "classification")}
    if auxiliary:
        optimizers["auxiliary"] = _optimizer(net, experiment, lambda head: head != "classification")
    forward = torch.compile(net, dynamic=False) if experiment.compile else net

    def view(index: Tensor, augment: bool) -> Tensor:
        if not augment:
            top, left = (torch.full_like(index, (a - b) // 2) for a, b in zip(images.shape[2:], (height, width), strict=True))
            return augmentation.to_float(augmentation.crop(images, index, top, left, height, width))
        cropped = augmentation.random_crop(images, index, height, width, generator)
        return augmentation.to_float(augmentation.random_flip(cropped, generator) if experiment.flip else cropped)

    def computing() -> torch.autocast:
        # One for each forward pass: inside, autocast keeps bfloat16 copies of the weights that a step would leave stale.
        return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast)

    def update(task: str, loss: Tensor, weight: float, rate: float) -> Tensor:
        optimizer = optimizers[task]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        (weight * loss).backward()
        optimizer.step()
        return loss.detach()

    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices):  # dropout draws from the global generators
        torch.manual_seed(seed)
        state = _load(checkpoint, stamp, machine) if checkpoint else None
        history, seconds, begin = _restore(state, net, optimizers, generator, device) if state else ([], 0.0, 0)
        epochs = range(begin, experiment.epochs)
        for epoch in tqdm(epochs, description, experiment.epochs, initial=begin, unit="epoch", leave=False, mininterval=1):
            started = time.perf_counter()
            net.train()
            order = torch.randperm(len(data), generator=generator, device=device)
            losses = torch.zeros(2, steps, device=device)  # stays there: reading one a step would hold the device up
            for step in range(steps):
                rate = experiment.learning_rate * rate_factor(experiment.schedule, (epoch + step / steps) / experiment.epochs)
                index = order[step * batch : (step + 1) * batch]
                if auxiliary:
                    part = index[: max(1, batch // getattr(auxiliary, "share", 1))]
                    with computing():
                        loss = auxiliary(forward, view(part, experiment.auxiliary_augment))
                    losses[1, step] = update("auxiliary", loss, experiment.auxiliary_weight, rate)
                augmented = view(index, True)
                with computing():
                    logits = forward(transform(augmented, generator) if transform else augmented)
                losses[0, step] = update("classification", F.cross_entropy(logits, labels[index]), 1.0, rate)
            _check_finite(losses, net, epoch, experiment)
            seconds += time.perf_counter() - started
            final = epoch + 1 > experiment.epochs - experiment.average_last_epochs
            if evaluate and (final or (epoch + 1) // experiment.evaluate_every > epoch // experiment.evaluate_every):
                row = {"epoch": epoch + 1, "loss": losses[0].mean().item()}
                row |= {"auxiliary_loss": losses[1].mean().item()} if auxiliary else {}
                history.append(row | evaluate(epoch + 1) | {"seconds": round(seconds, 3)})
            if checkpoint and ((epoch + 1) % experiment.checkpoint_every == 0 or epoch + 1 == experiment.epochs):
                _save(checkpoint, stamp, machine, net, optimizers, generator, device, (history, seconds, epoch + 1))
    return history


def _optimizer(net: nn.Module, experiment: Experiment, mine: Callable[[str], bool]) -> SGD:
    """SGD over the shared weights and a task's own heads: the other task's heads get no step, and no decay (Sec. 5.1).

    Nor do other weights that a task doesn't use, CPC's normalisation say: their gradient is None, and SGD leaves them out.
    """
    parts = ((name.split("."), parameter) for name, parameter in net.named_parameters())
    parameters = [p for name, p in parts if name[0] != "heads" or mine(name[1])]
    fused = next(net.parameters()).device.type == "cuda"
    rate, decay = experiment.learning_rate, experiment.weight_decay
    return SGD(parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay, fused=fused or None)


def _check_finite(losses: Tensor, net: nn.Module, epoch: int, experiment: Experiment) -> None:
    bad, steps = (~losses.isfinite()).any(0).nonzero(), losses.shape[1]
    if len(bad) or not all(parameter.isfinite().all() for parameter in net.parameters()):
        step = bad[0].item() if len(bad) else steps - 1  # the last step's weights were not used yet
        rate = experiment.learning_rate * rate_factor(experiment.schedule, (epoch + step / steps) / experiment.epochs)
        raise FloatingPointError(
            f"the loss isn't finite at epoch {epoch + 1}, step {step + 1} of {steps}, learning rate {rate:.4g}; "
            "try a lower learning_rate"
        )


def _save(path, stamp, machine, net, optimizers, generator, device, progress) -> None:
    """The checkpoint before is kept too: the newer may turn out to be damaged."""
    state = {
        "stamp": stamp,
        "machine": machine,
        "net": net.state_dict(),
        "optimizers": {task: optimizer.state_dict() for task, optimizer in optimizers.items()},
        "generator": generator.get_state(),
        "cpu_generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state(device) if device.startswith("cuda") else None,
        "progress": progress,
    }
    newest, before = checkpoints(path)
    with suppress(FileNotFoundError):  # the first one, or another process's where locks do nothing
        newest.replace(before)
    save_atomically(newest, lambda file: torch.save(state, file))


def checkpoints(path: Path) -> tuple[Path, Path]:
    """The newest checkpoint's file and that of the one before."""
    return path, path.with_suffix(f".before{path.suffix}")


def read(path: Path) -> Any:
    """What torch.save wrote into a file; ValueError names one that is damaged. torch.load compares no checksum itself."""
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and zipfile raise many kinds
        raise ValueError(f"{path} can't be read ({one_line(error)})") from error


def _load(path: Path, stamp: Any, machine: Any) -> dict | None:
    """The state of the newest checkpoint that can be read and was written under the same stamp; None if there is none."""
    for file in filter(Path.exists, checkpoints(path)):
        try:
            state = read(file)
            if state["stamp"] == stamp:
                if state["machine"] != machine:
                    begun = f"was begun with {state['machine']}"
                    tqdm.write(f"{path.parent.name} goes on with {machine}, {begun}: last digits may differ")
                return state
            reason = "was made by other settings or on other data"
        except (ValueError, KeyError, TypeError) as error:
            reason = f"can't be read ({type(error.__cause__ or error).__name__})"
            if not isinstance(error.__cause__, OSError | MemoryError):
                file.unlink()  # or it would be kept as the one before
        tqdm.write(f"{file.name} in {path.parent.name} {reason}; training goes on from the one before, or anew")
    return None


def _restore(state: dict, net: nn.Module, optimizers: dict, generator: torch.Generator, device: str) -> tuple:
    net.load_state_dict(state["net"])
    for task, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][task])
    generator.set_state(state["generator"])
    torch.set_rng_state(state["cpu_generator"])
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(state["cuda_generator"], device)
    return state["progress"]
