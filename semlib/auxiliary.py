"""Auxiliary losses: (net, images) -> scalar. images are float (N, C, H, W) in [0, 1]; the loss is a
mean, not yet weighted.

A loss says what it needs by two optional attributes: `heads`, the outputs of each linear head of
its own, and `share`, the part 1/share of a batch that it takes. A user's own is named
package.module:function among the methods.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from semlib.models.cpc import augmented, patches

Forward = Callable[..., Tensor]  # (images, head) -> outputs: a module, compiled or not
Loss = Callable[[Forward, Tensor], Tensor]


def quarter_turns(images: Tensor) -> Tensor:
    """(N, C, H, H) -> (4N, C, H, H): each image turned by 0, 90, 180 and 270 degrees, the four side
    by side.

    Side by side, so that every group of images which shares batch-norm statistics holds all four
    turns.
    """
    return torch.stack([images.rot90(k, (2, 3)) for k in range(4)], dim=1).flatten(0, 1)


def rotation(net: Forward, images: Tensor) -> Tensor:
    """Cross-entropy of telling by which quarter turn each image is rotated (Gidaris et al. 2018);
    all four turns of each.
    """
    turned = quarter_turns(images).contiguous(memory_format=torch.channels_last)  # (4N, C, H, H)
    turns = torch.arange(4, device=images.device).repeat(len(images))  # (4N,)
    return F.cross_entropy(net(turned, head="rotation"), turns)


rotation.heads = {"rotation": 4}  # ty: ignore[missing-attribute]  # of a function, as users set them
# a quarter of the batch, four turns each: both tasks' steps cost the same
rotation.share = 4  # ty: ignore[missing-attribute]


def cpc(net: Forward, images: Tensor, negatives: str = "image", augment: bool = False) -> Tensor:
    """InfoNCE of telling a patch's code by the context of one above it (van den Oord et al. 2018;
    Appendix C).

    The mean over all pairs of a patch and one 1 to 5 rows below it. negatives: the image's own
    other patches ("image"), or the batch's ("batch"). augment: each patch is seen in one colour,
    flipped and shifted by torch's global generators.
    """
    cut = patches(images)
    return info_nce(net(augmented(cut) if augment else cut, head="cpc"), negatives)


def info_nce(predictions: Tensor, negatives: str) -> Tensor:
    """(N, rows, columns, 1 + steps, D) -> scalar. [..., k, :] predicts the code k rows below, [...,
    0, :] are the codes.

    A code's logit is the mean over D of its product with the prediction: steps are as large
    whatever the width.
    """
    if negatives not in ("image", "batch"):
        raise ValueError(
            f"negatives are of the same image or of the batch, not of {negatives!r}; choose image, batch"
        )
    n, rows, columns, steps, width = predictions.shape
    place = torch.arange(n * rows * columns, device=predictions.device).view(n, rows, columns)
    above, below = torch.triu_indices(rows, rows, 1, device=predictions.device)  # all pairs of rows
    above, below = above[below - above < steps], below[below - above < steps]
    predicted = (
        predictions[:, above, :, below - above].transpose(0, 1).flatten(1, 2)
    )  # (N, pairs, D)
    codes = predictions[..., 0, :].flatten(1, 2)  # (N, rows * columns, D)
    right = place[:, below].flatten(1)  # (N, pairs)
    if negatives == "image":
        right = right % (rows * columns)
    else:
        codes = codes.flatten(0, 1)  # (N * rows * columns, D)
    with torch.autocast(
        predictions.device.type, enabled=False
    ):  # bfloat16 logits would be too coarse for the logarithm
        return F.cross_entropy((predicted @ codes.mT / width).flatten(0, 1), right.flatten())
