"""Auxiliary self-supervised losses (Sec. 4): (net, images) -> scalar, a mean, not yet weighted.

images are float (N, C, H, W) in [0, 1]. A loss says what it needs by two optional attributes:
`heads`, the outputs of each linear head of its own, and `share`: it takes 1/share of a batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from semlib.models.cpc import augmented, info_nce, patches

Forward = Callable[..., Tensor]  # (images, head) -> outputs: a network, compiled or not
Loss = Callable[[Forward, Tensor], Tensor]


def quarter_turns(images: Tensor) -> Tensor:
    """(N, C, H, H) -> (4N, C, H, H): each image turned by 0, 90, 180 and 270 degrees.

    The four lie side by side, so that each group of images that share batch-norm statistics in
    training (ghost batch normalisation) holds all turns.
    """
    return torch.stack([images.rot90(k, (2, 3)) for k in range(4)], dim=1).flatten(0, 1)


def rotation(net: Forward, images: Tensor) -> Tensor:
    """Cross-entropy of the quarter turn by which each image is rotated (Gidaris et al. 2018)."""
    turned = quarter_turns(images).contiguous(memory_format=torch.channels_last)  # (4N, C, H, H)
    turns = torch.arange(4, device=images.device).repeat(len(images))  # (4N,)
    return F.cross_entropy(net(turned, head="rotation"), turns)


# Attributes of a function, as users set them
rotation.heads = {"rotation": 4}  # ty: ignore[missing-attribute]
# A quarter of the batch, four turns each: both tasks' steps take as many images.
rotation.share = 4  # ty: ignore[missing-attribute]


def cpc(net: Forward, images: Tensor, negatives: str = "image", augment: bool = False) -> Tensor:
    """Contrastive predictive coding (van den Oord et al. 2018; Appendix C).

    Cross-entropy of telling the code of a patch 1 to 5 rows below from other patches' codes.
    negatives: those of the same image ("image") or of the batch ("batch"). augment: each patch is
    seen in one colour channel, flipped and shifted, by PyTorch's global generators.
    """
    cut = patches(images)
    return info_nce(net(augmented(cut) if augment else cut, head="cpc"), negatives)
