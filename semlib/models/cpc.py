"""Contrastive predictive coding (Appendix C): patches, the head that predicts codes, the loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 64  # pixels a side
STRIDE = 32  # pixels from one patch to the next
CROP = 56  # pixels a side of augmented patches, before they are padded
STEPS = 5  # rows below that are predicted
NEGATIVES = ("image", "batch")


def patches(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, rows, columns, C, 64, 64), overlapping by half; 6x6 of 224x224 pixels."""
    height, width = images.shape[2:]
    if height < PATCH + STRIDE or width < PATCH:
        wanted = f"{PATCH + STRIDE}x{PATCH} pixels, two rows of patches"
        raise ValueError(f"cpc needs images of at least {wanted}, not {height}x{width}")
    windows = images.unfold(2, PATCH, STRIDE).unfold(3, PATCH, STRIDE)  # (N, C, rows, cols, 64, 64)
    return windows.permute(0, 2, 3, 4, 5, 1).contiguous().permute(0, 1, 2, 5, 3, 4)


def augmented(patches: Tensor) -> Tensor:
    """Each patch in one channel, cropped to 56 pixels, padded symmetrically, flipped, at random."""
    shape = patches.shape
    device = patches.device
    flat = patches.flatten(0, 2)  # (M, C, 64, 64)
    edge = (PATCH - CROP) // 2
    crop = torch.arange(CROP, device=device)
    place = torch.cat([crop[:edge].flip(0), crop, crop[-edge:].flip(0)])  # (64,) pixels of the crop
    channel, top, left, flip = (
        torch.randint(n, (len(flat), 1), device=device) for n in (shape[3], 9, 9, 2)
    )
    rows = top + place  # (M, 64)
    columns = left + torch.where(flip == 1, place.flip(0), place)
    each = torch.arange(len(flat), device=device)[:, None, None]
    grey = flat[each, channel[:, None], rows[:, :, None], columns[:, None]]  # (M, 64, 64)
    coloured = grey[:, None].expand_as(flat).contiguous(memory_format=torch.channels_last)
    return coloured.unflatten(0, shape[:3])


class Predictions(nn.Module):
    """codes (N, rows, columns, D) -> (N, rows, columns, 1 + steps, D).

    Of [..., k, :] the first is the patch's own code, normalised, the others predict the codes k
    rows below, linearly from the patch's context: masked convolutions over the rows at and above
    it, so that no patch below is seen. Codes and contexts are normalised one by one (statistics of
    a batch would be of all rows): unbounded, they diverge at the paper's learning rate and weight.
    """

    def __init__(self, width: int, layers: int = 4):
        super().__init__()
        # Each layer sees one row more.
        self.context = nn.ModuleList(nn.Conv2d(width, width, (2, 3)) for _ in range(layers))
        self.steps = nn.Linear(width, STEPS * width)  # the predictors of all steps
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


def info_nce(predictions: Tensor, negatives: str) -> Tensor:
    """The head's (N, rows, columns, 1 + steps, D) -> scalar, the mean over all pairs of rows.

    A code's logit is the mean over D of its product with the prediction, so that steps are as large
    whatever the width. negatives: the other codes of the same "image", or of the "batch".
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives can't be {negatives!r}; choose {', '.join(NEGATIVES)}")
    n, rows, columns, steps, width = predictions.shape
    place = torch.arange(n * rows * columns, device=predictions.device).view(n, rows, columns)
    above, below = torch.triu_indices(rows, rows, 1, device=predictions.device)  # all pairs of rows
    near = below - above < steps
    above = above[near]
    below = below[near]
    predicted = predictions[:, above, :, below - above].transpose(0, 1).flatten(1, 2)
    codes = predictions[..., 0, :].flatten(1, 2)  # (N, rows * columns, D); predicted (N, pairs, D)
    right = place[:, below].flatten(1)  # (N, pairs)
    if negatives == "image":
        right = right % (rows * columns)
    else:
        codes = codes.flatten(0, 1)  # (N * rows * columns, D)
    with torch.autocast(predictions.device.type, enabled=False):  # bfloat16 logits are too coarse
        return F.cross_entropy((predicted @ codes.mT / width).flatten(0, 1), right.flatten())
