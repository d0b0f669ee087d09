"""Scores of a network, MSP and ODIN (Sec. 5): one float64 an image, higher = more anomalous.

Networks are evaluated in float32 and the softmax is taken in float64: in bfloat16 ODIN's
perturbation of 5e-5 drowns, and a float32 softmax ties at 1.0, which changes average precision.
"""

import inspect
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semlib.metrics.evaluation import as_floats, evaluating
from semlib.randomness import seeded

Score = Callable[..., Tensor]  # its parameters name what it needs of net, images and logits


def max_softmax(logits: Tensor) -> Tensor:
    """MSP (Hendrycks & Gimpel 2017), (N, classes) -> (N,): minus the largest probability."""
    return -logits.double().softmax(1).amax(1)


def odin(
    net: nn.Module,
    images: Tensor,
    temperature: float = 1000.0,
    epsilon: float = 5e-5,
    logits: Tensor | None = None,
) -> Tensor:
    """ODIN (Liang et al. 2018), (N, C, H, W) -> (N,). epsilon is in [0, 1] pixel units.

    Each pixel moves by epsilon in the direction that raises the predicted class's probability at
    the temperature, beyond [0, 1] too. The score is minus the largest probability, at the
    temperature, of the moved image. logits: net(images), if they are there and the images require
    a gradient.
    """
    given = logits is not None
    with evaluating(net), torch.inference_mode(False), torch.enable_grad():
        if not given:
            images = images.detach().clone().requires_grad_()
            logits = net(images)
        # The sum's gradient has the sign of the mean's, and doesn't underflow with the batch.
        loss = F.cross_entropy(logits / temperature, logits.argmax(1), reduction="sum")
        # The graph of given logits is kept for other scores.
        (gradient,) = torch.autograd.grad(loss, images, retain_graph=given)
        with torch.no_grad():
            return max_softmax(net(images - epsilon * gradient.sign()).double() / temperature)


def score(
    net: nn.Module, images: np.ndarray, scores: Mapping[str, Score], batch_size: int = 500
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Predicted classes (N,) int64 and, by name, scores (N,) float64 of uint8 images (N, C, H, W).

    scores: functions, such as max_softmax and odin (settings bound by functools.partial). Each is
    given what its parameters name of net, images and logits of a batch. All share one forward pass;
    if a score takes images, they require a gradient and logits carry theirs.
    """
    device = next(net.parameters()).device
    wanted = {name: inspect.signature(function).parameters for name, function in scores.items()}
    differentiable = any("images" in parameters for parameters in wanted.values())
    predicted = []
    found = {name: [] for name in scores}
    with evaluating(net), torch.inference_mode(False), torch.set_grad_enabled(differentiable):
        for start in range(0, len(images), batch_size):
            batch = as_floats(images[start : start + batch_size], device)
            logits = net(batch.requires_grad_(differentiable))
            predicted.append(logits.argmax(1).cpu())
            for name, function in scores.items():
                given = {"net": net, "images": batch, "logits": logits}
                if "images" not in wanted[name]:
                    given["logits"] = logits.detach()
                with seeded(start, device):  # a random score doesn't depend on those beside it
                    values = function(**{key: given[key] for key in given if key in wanted[name]})
                found[name].append(values.detach().cpu().double())
    values = {name: torch.cat(parts).numpy() for name, parts in found.items()}
    return torch.cat(predicted).numpy(), values
