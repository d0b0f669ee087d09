"""Training images: their statistics, and shuffled, cropped and flipped batches (Sec. 5.1)."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semlib.datasets import ImageSet, augmentation


class Batches:
    """The training images on the generator's device; each iteration over it is a new order.

    recipe: a training.Recipe.
    """

    def __init__(self, data: ImageSet, recipe: Any, generator: torch.Generator) -> None:
        self.size = recipe.batch_size
        self.flip = recipe.flip
        self.generator = generator
        self.steps = len(data) // self.size  # an incomplete last batch is dropped
        if not self.steps:
            images = f"the {len(data)} training images"
            raise ValueError(f"batch_size = {self.size} is more than {images}")
        self.height, self.width = augmentation.centre(data.images, recipe.crop_side).shape[2:]
        padding = recipe.crop_padding
        if padding is None:  # ImageNet's crops are cut from larger images (Sec. 5.1)
            padding = 0 if recipe.crop_side else self.height // 8
        self.padded = torch.from_numpy(augmentation.pad(data.images, padding)).to(generator.device)
        self.labels = torch.from_numpy(data.labels).to(generator.device)

    def __iter__(self) -> Iterator[Tensor]:
        """Indices of images, (batch_size,) each."""
        count = len(self.labels)
        device = self.labels.device
        order = torch.randperm(count, generator=self.generator, device=device)
        return iter(order[: self.steps * self.size].split(self.size))

    def images(self, index: Tensor, augment: bool) -> Tensor:
        """Float images (n, C, H, W) in [0, 1]: randomly cropped and flipped, or the centre."""
        height = self.height
        width = self.width
        if not augment:
            top = (self.padded.shape[2] - height) // 2
            left = (self.padded.shape[3] - width) // 2
            images = self.padded[index, :, top : top + height, left : left + width]
            return augmentation.to_float(images)
        images = augmentation.random_crop(self.padded, index, height, width, self.generator)
        if self.flip:
            images = augmentation.random_flip(images, self.generator)
        return augmentation.to_float(images)


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 images (N, C, H, W), in [0, 1]."""
    means = []
    deviations = []
    values = np.arange(256) / 255
    for channel in images.swapaxes(0, 1):
        # From the histogram, which is exact and takes no float copy of the images.
        parts = np.array_split(channel, 64)
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
        share = counts / channel.size
        mean = float(share @ values)
        means.append(mean)
        deviations.append(max(1e-3, float(np.sqrt(share @ values**2 - mean**2))))
    return means, deviations
