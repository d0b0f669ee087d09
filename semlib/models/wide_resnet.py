"""Wide residual networks (Zagoruyko & Komodakis 2016) as tables of groups, with named heads over the same features."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Group(NamedTuple):
    """A row of the table: residual blocks of one width; the first of them strides."""

    width: int
    blocks: int
    stride: int


WRN_28_4 = (Group(64, 4, 1), Group(128, 4, 2), Group(256, 4, 2))
# Sec. 5.1: for STL-10 a fourth group as wide as the third; for ImageNet average pooling after the first convolution too.
NAMED = {"wrn-stl10": (*WRN_28_4, Group(256, 4, 2)), "wrn-imagenet": (*WRN_28_4, Group(256, 4, 2))}
POOLED = ("wrn-imagenet",)


def groups(architecture: str) -> tuple[Group, ...]:
    """The table of wrn-D-K, D layers deep and K times as wide, or of a named network. ValueError names the choices."""
    if architecture in NAMED:
        return NAMED[architecture]
    match = re.fullmatch(r"wrn-(\d+)-(\d+)", architecture)
    depth, widen_factor = map(int, match.groups()) if match else (0, 0)
    if depth < 10 or depth % 6 != 4 or widen_factor < 1:
        raise ValueError(
            f"unknown architecture {architecture!r}; choose wrn-D-K with depth D = 10, 16, 22, 28, ... (6n + 4) "
            f"and widening K = 1, 2, ..., such as wrn-28-10, or {', '.join(NAMED)}"
        )
    n = (depth - 4) // 6
    return Group(16 * widen_factor, n, 1), Group(32 * widen_factor, n, 2), Group(64 * widen_factor, n, 2)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose training statistics are those of each `norm_batch` consecutive images, as on several GPUs."""

    def __init__(self, channels: int, norm_batch: int | None = None):
        super().__init__(channels)
        self.norm_batch = norm_batch

    def forward(self, images: Tensor) -> Tensor:
        if not self.training or not self.norm_batch or len(images) <= self.norm_batch:
            return super().forward(images)
        return torch.cat([super(BatchNorm, self).forward(part) for part in images.split(self.norm_batch)])


class Block(nn.Module):
    """BN-ReLU-conv, dropout, BN-ReLU-conv. At a change of shape the shortcut is a 1x1 convolution of the activated input."""

    def __init__(self, inputs: int, width: int, stride: int, dropout: float, norm_batch: int | None):
        super().__init__()
        self.norm1 = BatchNorm(inputs, norm_batch)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.norm2 = BatchNorm(width, norm_batch)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = inputs == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        activated = F.relu(self.norm1(images))
        shortcut = images if self.shortcut is None else self.shortcut(activated)
        residual = self.conv1(activated)
        return shortcut + self.conv2(self.dropout(F.relu(self.norm2(residual))))


class WideResNet(nn.Module):
    """float images (N, C, H, W) in [0, 1] -> logits (N, classes), or (N, outputs) of another head.

    The first layer normalises by mean and std. Logits have the images' dtype: float64 images are computed in float64.
    """

    def __init__(
        self,
        table: Sequence[Group],
        heads: Mapping[str, int],
        channels: int = 3,
        dropout: float = 0.0,
        norm_batch: int | None = None,
        stem_stride: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pooled: bool = False,
    ):
        super().__init__()
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            values = torch.as_tensor([default] * channels if values is None else values, dtype=torch.float32)
            self.register_buffer(name, values.reshape(-1, 1, 1))
        self.stem = nn.Conv2d(channels, 16, 3, stem_stride, padding=1, bias=False)
        self.pool = nn.AvgPool2d(2) if pooled else nn.Identity()
        blocks, width = [], 16
        for group in table:
            for i in range(group.blocks):
                blocks.append(Block(width, group.width, group.stride if i == 0 else 1, dropout, norm_batch))
                width = group.width
        self.blocks = nn.Sequential(*blocks)
        self.norm = BatchNorm(width, norm_batch)
        self.heads = nn.ModuleDict({"classification": nn.Linear(width, heads["classification"])})
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # He et al. 2015, fan-in
        for name, outputs in heads.items():  # drawn last: all methods of a trial begin with the same trunk
            if name != "classification":
                self.heads[name] = nn.Linear(width, outputs)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width): what every head sees."""
        images = (images - self.mean) / self.std
        return F.relu(self.norm(self.blocks(self.pool(self.stem(images))))).mean((2, 3))

    def forward(self, images: Tensor, head: str = "classification") -> Tensor:
        if not images.is_floating_point():
            raise TypeError(f"images should be floats in [0, 1], not {images.dtype}; divide uint8 by 255")
        if head not in self.heads:
            raise ValueError(f"unknown head {head!r}; choose from {', '.join(self.heads)}")
        if images.dtype != self.stem.weight.dtype:
            state = {**dict(self.named_parameters()), **dict(self.named_buffers())}
            cast = {name: t.to(images.dtype) if t.is_floating_point() else t for name, t in state.items()}
            return torch.func.functional_call(self, cast, (images,), {"head": head})
        return self.heads[head](self.features(images)).to(images.dtype)


def build(
    architecture: str,
    classes: int,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    dropout: float = 0.0,
    heads: Mapping[str, int] | None = None,
    norm_batch: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem_stride: int = 1,
) -> WideResNet:
    """A network with random weights, from torch's global generator.

    architecture: wrn-D-K, wrn-stl10 or wrn-imagenet. image_shape: (C, H, W). heads: outputs of each further linear head,
    e.g. {"rotation": 4}. norm_batch: images that share batch-norm statistics in training (None: the batch). mean, std: of
    each channel, in [0, 1] pixel units (None: no normalisation). stem_stride: 2 halves the resolution at once.
    """
    channels, *sides = image_shape
    table = groups(architecture)
    smallest = min(sides) // stem_stride // (2 if architecture in POOLED else 1)
    for group in table:
        smallest //= group.stride
    if smallest < 1:
        raise ValueError(f"{architecture} with stem_stride {stem_stride} needs larger images than {sides[0]}x{sides[1]}")
    named = {"classification": classes, **(heads or {})}
    return WideResNet(table, named, channels, dropout, norm_batch, stem_stride, mean, std, pooled=architecture in POOLED)
