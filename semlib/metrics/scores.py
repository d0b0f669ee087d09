"""Every score: one float64 an image, higher = more anomalous.

Networks are evaluated in float32 and the softmax is taken in float64: in bfloat16 ODIN's
perturbation of 5e-5 drowns, and a float32 softmax ties at 1.0, which changes the average precision.
"""

import copy
import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semlib.randomness import seeded

UPRIGHT_BATCH = 256  # images
Score = Callable[..., Tensor]  # of any of net, images, logits, by these names


class ScoreError(ValueError):
    """A score that can't be computed; `name` says which."""

    def __init__(self, name: str, what: object) -> None:
        super().__init__(f"score {name}{'' if isinstance(what, str) else ':'} {failure(what)}")
        self.name = name


def failure(error: object) -> str:
    """What a user's function raised, or a sentence, in one line."""
    plain = isinstance(error, str | ValueError)
    return " ".join(str(error if plain else f"{type(error).__name__}: {error}").split())[:500]


def max_softmax(logits: Tensor) -> Tensor:
    """MSP (Hendrycks & Gimpel 2017): (N, classes) -> (N,) float64, minus the largest probability."""
    return -logits.double().softmax(1).amax(1)


def odin(
    net: nn.Module,
    images: Tensor,
    temperature: float = 1000.0,
    epsilon: float = 5e-5,
    logits: Tensor | None = None,
) -> Tensor:
    """ODIN (Liang et al. 2018): (N, C, H, W) -> (N,) float64. epsilon is in [0, 1] pixel units;
    images are not clipped.

    Each pixel moves by epsilon in the direction that raises the predicted class's probability at
    the temperature; the score is minus the largest probability of the moved image. The network's
    mode and gradients stay as they were. logits: net(images) where it is there already, of images
    that require a gradient.
    """
    given = logits is not None
    with evaluating(net), torch.inference_mode(False), torch.enable_grad():
        if not given:
            images = images.detach().clone().requires_grad_()
            logits = net(images)
        # sum, not mean: the gradient's sign is the same, and its size doesn't shrink with the batch
        # towards underflow
        loss = F.cross_entropy(logits / temperature, logits.argmax(1), reduction="sum")
        (gradient,) = torch.autograd.grad(
            loss, images, retain_graph=given
        )  # other scores may need the graph
        with torch.no_grad():
            return max_softmax(net(images - epsilon * gradient.sign()).double() / temperature)


@contextmanager
def evaluating(net: nn.Module) -> Generator[nn.Module, None, None]:
    """The network in evaluation mode and full float32 (no autocast, no TF32); every module's mode
    is restored after.
    """
    modes = [(module, module.training) for module in net.modules()]
    device = next(net.parameters()).device.type
    net.eval()
    try:
        with torch.autocast(device, enabled=False), full_float32():
            yield net
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def full_float32() -> Generator[None, None, None]:
    """No TF32 in matrix products and convolutions; the settings are restored after."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    if hasattr(
        cudnn, "conv"
    ):  # torch >= 2.9 has a setting for each, and minds it if the older ones are mixed in
        places, name, full = (cuda.matmul, cudnn.conv, cudnn.rnn), "fp32_precision", "ieee"
    else:
        places, name, full = (cuda.matmul, cudnn), "allow_tf32", False
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, full)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


@contextmanager
def upright(net: nn.Module, images: np.ndarray) -> Generator[nn.Module, None, None]:
    """The network with batch-norm statistics over these training images alone, uint8 (N, C, H, W);
    restored after.

    In training an auxiliary task's images move the running averages too. Here every image counts
    once, in float32, without dropout or augmentation. Of k batches the j-th is every k-th image:
    all are alike, also where images lie class by class. Statistics that no image reaches (CPC's
    own) stay.
    """
    norms: list[Any] = [
        m
        for m in net.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    before = [
        (copy.deepcopy(norm.state_dict()), norm.momentum, getattr(norm, "norm_batch", None))
        for norm in norms
    ]
    parts = -(-len(images) // UPRIGHT_BATCH) if norms else 0
    device = next(net.parameters()).device
    try:
        with evaluating(net), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
                norm.momentum, norm.norm_batch = (
                    None,
                    None,
                )  # the mean over all batches, each as a whole
            for k in range(parts):
                net(as_floats(images[k::parts], device))
        for norm, (state, *_) in zip(norms, before, strict=True):
            if not norm.num_batches_tracked:
                norm.load_state_dict(state)
        yield net
    finally:
        for norm, (state, norm.momentum, norm.norm_batch) in zip(norms, before, strict=True):
            norm.load_state_dict(state)


def as_floats(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (N, C, H, W) -> float32 in [0, 1], channels last, on the device."""
    return (
        torch.from_numpy(images)
        .to(device)
        .float()
        .div_(255)
        .contiguous(memory_format=torch.channels_last)
    )


def score(
    net: nn.Module, images: np.ndarray, scores: Mapping[str, Score], batch_size: int = 500
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Predicted classes (N,) int64 and, by name, scores (N,) float64 of uint8 images (N, C, H, W),
    batch by batch.

    scores: functions that are given what their parameters name of net, images and logits:
    max_softmax, odin (settings bound by functools.partial), a user's own. One forward pass serves
    the prediction and every score that takes logits. One that takes images may differentiate by
    them: they require a gradient, and logits carry theirs. What a user's own function is given is
    its own, and so are its random numbers: whatever it does, the network and other scores are as
    without it. ScoreError if a score fails or isn't one number an image.
    """
    device = next(net.parameters()).device
    offered = {name: inspect.signature(function).parameters for name, function in scores.items()}
    differentiable = any("images" in parameters for parameters in offered.values())
    predicted, found = [], {name: [] for name in scores}
    with evaluating(net), torch.inference_mode(False), torch.set_grad_enabled(differentiable):
        for start in range(0, len(images), batch_size):
            batch = as_floats(images[start : start + batch_size], device).requires_grad_(
                differentiable
            )
            logits = net(batch)
            predicted.append(logits.argmax(1).cpu())
            for name, function in scores.items():
                try:
                    arguments = _arguments(function, set(offered[name]), net, batch, logits)
                    with seeded(start, device), torch.set_grad_enabled(differentiable):
                        values = function(**arguments)
                except Exception as error:  # a user's function can raise any
                    raise ScoreError(name, error) from error
                if not isinstance(values, Tensor):
                    raise ScoreError(name, f"should be a tensor, not a {type(values).__name__}")
                if values.shape != (len(batch),):
                    raise ScoreError(
                        name,
                        f"should be ({len(batch)},), one number an image, not {tuple(values.shape)}",
                    )
                found[name].append(values.detach().cpu().to(torch.float64, copy=True))
    return torch.cat(predicted).numpy(), {
        name: torch.cat(parts).numpy() for name, parts in found.items()
    }


def _arguments(
    function: Score, wanted: set[str], net: nn.Module, images: Tensor, logits: Tensor
) -> dict[str, Any]:
    """What a score is given, by name; of a user's own function copies, and logits with a graph of
    its own.
    """
    if "images" not in wanted:
        logits = logits.detach()
    if getattr(function, "func", function) not in (max_softmax, odin):
        if "net" in wanted:
            net = copy.deepcopy(net)
        if "images" in wanted:
            images = images.detach().clone().requires_grad_(images.requires_grad)
        if "logits" in wanted:
            logits = net(images) if "images" in wanted else logits.clone()
    return {
        name: value
        for name, value in {"net": net, "images": images, "logits": logits}.items()
        if name in wanted
    }
