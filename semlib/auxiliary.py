"""Auxiliary losses: (net, images) -> scalar. images are float (N, C, H, W) in [0, 1]; the loss is a mean, not yet weighted.

A loss says what it needs by two optional attributes: `heads`, the outputs of each linear head of its own, and `share`, the
part 1/share of a batch that it takes. A user's own is named package.module:function among the methods.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semlib import config

Loss = Callable[[nn.Module, Tensor], Tensor]


def quarter_turns(images: Tensor) -> Tensor:
    """(N, C, H, H) -> (4N, C, H, H): each image turned by 0, 90, 180 and 270 degrees, the four side by side.

    Side by side, so that every group of images which shares batch-norm statistics holds all four turns.
    """
    return torch.stack([images.rot90(k, (2, 3)) for k in range(4)], dim=1).flatten(0, 1)


def rotation(net: nn.Module, images: Tensor) -> Tensor:
    """Cross-entropy of telling by which quarter turn each image is rotated (Gidaris et al. 2018); all four turns of each."""
    turned = quarter_turns(images).contiguous(memory_format=torch.channels_last)  # (4N, C, H, H)
    turns = torch.arange(4, device=images.device).repeat(len(images))  # (4N,)
    return F.cross_entropy(net(turned, head="rotation"), turns)


rotation.heads = {"rotation": 4}
rotation.share = 4  # a quarter of the batch, four turns each: both tasks' steps cost the same


LOSSES: dict[str, Loss | None] = {"classification": None, "center_mask": None, "rotation": rotation}


def find(method: str) -> Loss | None:
    """The auxiliary loss of a method: a built-in, the user's function, or None (center_mask only masks its images)."""
    return LOSSES[method] if method in LOSSES else config.function(method)
