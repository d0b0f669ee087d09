"""Batch normalisation in groups of images, and one of its own for each task (de Vries et al. 2017)."""

import torch
from torch import Tensor, nn

TASKS = ("classify", "cpc")


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose training statistics are those of each `norm_batch` consecutive
    images, as on several GPUs.
    """

    def __init__(self, channels: int, norm_batch: int | None = None):
        super().__init__(channels)
        self.norm_batch = norm_batch

    def forward(self, input: Tensor, task: str = "classify") -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), the same for every task."""
        if not self.training or not self.norm_batch or len(input) <= self.norm_batch:
            return super().forward(input)
        return torch.cat(
            [super(BatchNorm, self).forward(part) for part in input.split(self.norm_batch)]
        )


class ConditionalBatchNorm(nn.ModuleDict):
    """Batch normalisation with a scale, a shift and running statistics of its own for each task
    (Sec. 5.1).
    """

    def __init__(self, channels: int, norm_batch: int | None = None):
        super().__init__({task: BatchNorm(channels, norm_batch) for task in TASKS})

    def forward(self, images: Tensor, task: str = "classify") -> Tensor:
        return self[task](images)
