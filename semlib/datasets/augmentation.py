"""Batches that live on the device: uint8 images stay there, each batch is cropped, flipped and scaled in a few operations."""

import numpy as np
import torch
from torch import Generator, Tensor


def pad(images: np.ndarray, padding: int) -> np.ndarray:
    """uint8 (N, C, H, W) -> (N, C, H + 2 padding, W + 2 padding), reflected without repeating the border."""
    return np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode="reflect") if padding else images


def crop(images: Tensor, index: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Images of that index, each cropped at its own place: (N, C, H, W) -> (len(index), C, height, width)."""
    windows = images.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, tops, lefts, height, width): a view, no copy
    return windows[index, :, top, left]


def random_crop(images: Tensor, index: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """Each image of that index cropped at a place of its own, uniform over all places."""
    tops, lefts = images.shape[2] - height + 1, images.shape[3] - width + 1
    top, left = (torch.randint(n, (len(index),), generator=generator, device=images.device) for n in (tops, lefts))
    return crop(images, index, top, left, height, width)


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Each image reflected left to right with probability 1/2."""
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def to_float(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [0, 1], channels last."""
    return images.float().div_(255).contiguous(memory_format=torch.channels_last)
