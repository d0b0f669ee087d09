"""Batch normalisation: in ghost batches, and conditional on the task."""

import torch
from torch import Tensor, nn

TASKS = ("classify", "cpc")


class BatchNorm(nn.BatchNorm2d):
    """Ghost batch normalisation (Hoffer et al. 2017): in training, statistics of parts of a batch.

    norm_batch: the ghost batch's images, consecutive ones; None: the whole batch. It makes one
    device compute what several do, of which each normalises its own part.
    """

    def __init__(self, channels: int, norm_batch: int | None = None):
        super().__init__(channels)
        self.norm_batch = norm_batch

    def forward(self, input: Tensor, task: str = "classify") -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), the same for every task."""
        if not self.training or not self.norm_batch or len(input) <= self.norm_batch:
            return super().forward(input)
        parts = input.split(self.norm_batch)
        return torch.cat([super(BatchNorm, self).forward(part) for part in parts])


class ConditionalBatchNorm(nn.ModuleDict):
    """A scale, a shift and running statistics for each task (Sec. 5.1; de Vries et al. 2017)."""

    def __init__(self, channels: int, norm_batch: int | None = None):
        super().__init__({task: BatchNorm(channels, norm_batch) for task in TASKS})

    def forward(self, images: Tensor, task: str = "classify") -> Tensor:
        return self[task](images)
