"""Augmentation on the device: uint8 images stay there, each batch takes a few operations."""

import numpy as np
import torch
from torch import Generator, Tensor


def pad(images: np.ndarray, padding: int) -> np.ndarray:
    """Extend each side by reflection, (N, C, H, W) -> (N, C, H + 2 padding, W + 2 padding)."""
    sides = (padding, padding)
    return np.pad(images, ((0, 0), (0, 0), sides, sides), mode="reflect") if padding else images


def random_crop(
    images: Tensor, index: Tensor, height: int, width: int, generator: Generator
) -> Tensor:
    """Crop each of images[index] anywhere: (N, C, H, W) -> (n, C, height, width)."""
    top, left = (
        torch.randint(whole - side + 1, index.shape, generator=generator, device=images.device)
        for whole, side in zip(images.shape[2:], (height, width), strict=True)
    )
    # unfold is a view, no copy: (N, C, tops, lefts, height, width)
    return images.unfold(2, height, 1).unfold(3, width, 1)[index, :, top, left]


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Flip each image left to right with probability 1/2."""
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def to_float(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [0, 1], channels last."""
    return images.float().div_(255).contiguous(memory_format=torch.channels_last)


def centre(images: np.ndarray, side: int | None) -> np.ndarray:
    """Crop the centre, (N, C, H, W) -> (N, C, side, side), a view; None: no crop."""
    height, width = images.shape[2:]
    if side is None:
        return images
    if side > min(height, width):
        raise ValueError(f"crop_side = {side} is more than the images' {width}x{height} pixels")
    top = (height - side) // 2
    left = (width - side) // 2
    return images[:, :, top : top + side, left : left + side]


def center_mask(images: Tensor, fill: Tensor, generator: Generator) -> Tensor:
    """Blank a random region of half the side within the centre of each float image (Sec. 5.2).

    In 32x32 images: 16x16 pixels within the central 21x21, so that its corner lies on row and
    column 5 to 10. fill: (C, 1, 1).
    """
    n, _, height, width = images.shape
    masks = []
    for length in (height, width):
        region = 21 * length // 32
        first = (length - region) // 2
        places = region - length // 2 + 1
        start = first + torch.randint(places, (n, 1), generator=generator, device=images.device)
        pixel = torch.arange(length, device=images.device)
        masks.append((pixel >= start) & (pixel < start + length // 2))  # (N, length)
    hidden = masks[0][:, None, :, None] & masks[1][:, None, None, :]
    return torch.where(hidden, fill.to(images.dtype), images)
