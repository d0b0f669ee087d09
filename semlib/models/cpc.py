"""Contrastive predictive coding's patches and its head: from each patch's context the codes of the
patches below it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH, STRIDE, CROP = (
    64,
    32,
    56,
)  # pixels: a patch's side, from one patch to the next, augmentation's crop
STEPS = 5  # rows below that are predicted


def patches(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, rows, columns, C, 64, 64), overlapping by half; each is channels last.
    6x6 of 224x224 pixels.
    """
    height, width = images.shape[2:]
    if height < PATCH + STRIDE or width < PATCH:
        wanted = f"{PATCH + STRIDE}x{PATCH} pixels, two rows of patches"
        raise ValueError(f"cpc needs images of at least {wanted}, not {height}x{width}")
    windows = images.unfold(2, PATCH, STRIDE).unfold(
        3, PATCH, STRIDE
    )  # (N, C, rows, columns, 64, 64), a view
    return windows.permute(0, 2, 3, 4, 5, 1).contiguous().permute(0, 1, 2, 5, 3, 4)


def augmented(patches: Tensor) -> Tensor:
    """Of each patch one colour channel, flipped or not, cropped to 56 pixels at random and padded
    back to 64 symmetrically.
    """
    shape, device = patches.shape, patches.device
    flat = patches.flatten(0, 2)  # (M, C, 64, 64)
    edge, crop = (PATCH - CROP) // 2, torch.arange(CROP, device=device)
    place = torch.cat([crop[:edge].flip(0), crop, crop[-edge:].flip(0)])  # (64,) pixels of the crop
    channel, top, left, flip = (
        torch.randint(n, (len(flat), 1), device=device) for n in (shape[3], 9, 9, 2)
    )
    rows, columns = top + place, left + torch.where(flip == 1, place.flip(0), place)  # (M, 64)
    each = torch.arange(len(flat), device=device)[:, None, None]
    grey = flat[each, channel[:, None], rows[:, :, None], columns[:, None]]  # (M, 64, 64)
    return (
        grey[:, None]
        .expand_as(flat)
        .contiguous(memory_format=torch.channels_last)
        .unflatten(0, shape[:3])
    )


class Predictions(nn.Module):
    """codes (N, rows, columns, D) -> (N, rows, columns, 1 + steps, D): [..., k, :] predicts the
    code k rows below, 0 is it.

    Each prediction is linear in the context of its patch: masked convolutions over the rows at and
    above it, so that no patch below is seen. Codes and contexts are normalised each by itself
    (batch statistics would be of all rows): unbounded, they diverge at the paper's learning rate
    and auxiliary weight.
    """

    def __init__(self, width: int, layers: int = 4):
        super().__init__()
        self.context = nn.ModuleList(
            nn.Conv2d(width, width, (2, 3)) for _ in range(layers)
        )  # each sees one row more
        self.steps = nn.Linear(
            width, STEPS * width
        )  # the predictors of all steps, one below the other
        nn.init.zeros_(self.steps.weight)  # whatever the codes' scale, training begins at chance
        nn.init.zeros_(self.steps.bias)

    def forward(self, codes: Tensor) -> Tensor:
        codes = F.layer_norm(codes, codes.shape[3:])
        context = codes.movedim(3, 1)  # (N, D, rows, columns)
        for layer in self.context:
            # Padded above and beside only. Symmetrically: row 0 is above itself, no row is shown
            # what is below.
            context = context + layer(F.pad(F.relu(context), (1, 1, 1, 0), mode="replicate"))
        context = F.layer_norm(context.movedim(1, 3), codes.shape[3:])
        predicted = self.steps(context).unflatten(3, (STEPS, -1))
        return torch.cat([codes.unsqueeze(3), predicted], dim=3)
