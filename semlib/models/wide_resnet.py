"""Wide residual networks (Zagoruyko & Komodakis 2016) as tables of groups, with named heads."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semlib.models.conditional_norm import BatchNorm, ConditionalBatchNorm
from semlib.models.cpc import Predictions


class Group(NamedTuple):
    """A row of the table: residual blocks of one width; the first of them strides."""

    width: int
    blocks: int
    stride: int


WRN_28_4 = (Group(64, 4, 1), Group(128, 4, 2), Group(256, 4, 2))
# Sec. 5.1: for STL-10 a fourth group as wide as the third; for ImageNet average pooling after the
# first convolution too.
NAMED = dict.fromkeys(
    ("wrn-stl10", "wrn-imagenet", "wrn-imagenet-cpc"), (*WRN_28_4, Group(256, 4, 2))
)
POOLED = ("wrn-imagenet", "wrn-imagenet-cpc")
# Appendix C: a first convolution of stride 2, symmetric padding and conditional normalisation.
CPC = ("wrn-imagenet-cpc",)


def groups(architecture: str, widen_factor: int | None = None) -> tuple[Group, ...]:
    """The table of wrn-D-K, D layers deep and K times as wide, or of a named network.

    widen_factor: a named network's widening; None: its own, 4.
    """
    if architecture in NAMED:
        widen = widen_factor or 4
        return tuple(g._replace(width=g.width // 4 * widen) for g in NAMED[architecture])
    match = re.fullmatch(r"wrn-(\d+)-(\d+)", architecture)
    depth, widen = map(int, match.groups()) if match else (0, 0)
    if depth < 10 or depth % 6 != 4 or widen < 1:
        raise ValueError(
            f"unknown architecture {architecture!r}; choose wrn-D-K with depth D = 10, 16, 22, 28, "
            "... (6n + 4) and widening K = 1, 2, ..., such as wrn-28-10, or " + ", ".join(NAMED)
        )
    if widen_factor is not None:
        choice = f"leave it out, or choose wrn-{depth}-{widen_factor}"
        raise ValueError(f"widen_factor: {architecture} has its own; {choice}")
    blocks = (depth - 4) // 6
    return Group(16 * widen, blocks, 1), Group(32 * widen, blocks, 2), Group(64 * widen, blocks, 2)


def _conv3(inputs: int, width: int, stride: int, cpc: bool) -> nn.Conv2d:
    # Of one pixel, replicating the border is symmetric padding.
    padding = "replicate" if cpc else "zeros"
    return nn.Conv2d(inputs, width, 3, stride, padding=1, padding_mode=padding, bias=False)


class Block(nn.Module):
    """BN-ReLU-conv, dropout, BN-ReLU-conv, added to the shortcut.

    At a change of shape the shortcut is a 1x1 convolution of the activated input. cpc: symmetric
    instead of zero padding, and normalisation conditional on the task.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, dropout: float, norm_batch: Any, cpc: bool
    ):
        super().__init__()
        norm = ConditionalBatchNorm if cpc else BatchNorm
        self.norm1 = norm(inputs, norm_batch)
        self.conv1 = _conv3(inputs, width, stride, cpc)
        self.norm2 = norm(width, norm_batch)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _conv3(width, width, 1, cpc)
        same = inputs == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, images: Tensor, task: str = "classify") -> Tensor:
        activated = F.relu(self.norm1(images, task))
        shortcut = images if self.shortcut is None else self.shortcut(activated)
        residual = self.conv1(activated)
        return shortcut + self.conv2(self.dropout(F.relu(self.norm2(residual, task))))


class WideResNet(nn.Module):
    """Float images (N, C, H, W) in [0, 1] -> logits (N, classes), or outputs of another head.

    The first layer normalises by mean and std, of each channel. float64 images are computed in
    float64. heads: the outputs of each linear head. cpc: there is a head "cpc" too, which takes
    patches (N, rows, columns, C, 64, 64); see Predictions.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        table: Sequence[Group],
        heads: Mapping[str, int],
        mean: Sequence[float],
        std: Sequence[float],
        dropout: float = 0.0,
        norm_batch: int | None = None,
        stem_stride: int = 1,
        pooled: bool = False,
        cpc: bool = False,
    ):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])
        self.stem = _conv3(len(mean), 16, stem_stride, cpc)
        self.pool = nn.AvgPool2d(2) if pooled else nn.Identity()
        self.blocks = nn.ModuleList()
        width = 16
        for group in table:
            for i in range(group.blocks):
                stride = group.stride if i == 0 else 1
                self.blocks.append(Block(width, group.width, stride, dropout, norm_batch, cpc))
                width = group.width
        # CPC's patch encoder ends before the last group, which is as wide as the one before it.
        self.encoder = len(self.blocks) - table[-1].blocks
        self.norm = (ConditionalBatchNorm if cpc else BatchNorm)(width, norm_batch)
        self.heads = nn.ModuleDict({"classification": nn.Linear(width, heads["classification"])})
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # He et al. 2015, fan-in
        # The other heads are drawn last: the shared weights are the same for all auxiliary tasks.
        for name in heads:
            if name != "classification":
                self.heads[name] = nn.Linear(width, heads[name])
        if cpc:
            self.heads["cpc"] = Predictions(width)

    def features(self, images: Tensor, task: str = "classify") -> Tensor:
        """(N, C, H, W) -> (N, width): what the heads see. task cpc: codes of patches."""
        images = self.pool(self.stem((images - self.mean) / self.std))
        for block in self.blocks[: self.encoder] if task == "cpc" else self.blocks:
            images = block(images, task)
        return F.relu(self.norm(images, task)).mean((2, 3))

    def forward(self, images: Tensor, head: str = "classification") -> Tensor:
        if not images.is_floating_point():
            found = f"not {images.dtype}; divide uint8 by 255"
            raise TypeError(f"images should be floats in [0, 1], {found}")
        if head not in self.heads:
            raise ValueError(f"unknown head {head!r}; choose from {', '.join(self.heads)}")
        if images.dtype != self.stem.weight.dtype:
            return self._in_precision_of(images, head)
        if not isinstance(self.heads[head], Predictions):
            return self.heads[head](self.features(images)).to(images.dtype)
        codes = self.features(images.flatten(0, 2), "cpc").unflatten(0, images.shape[:3])
        return self.heads[head](codes).to(images.dtype)  # codes (N, rows, columns, width)

    def _in_precision_of(self, images: Tensor, head: str) -> Tensor:
        """forward with weights and statistics cast to the images' precision."""
        cast = {}
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            cast[name] = tensor.to(images.dtype) if tensor.is_floating_point() else tensor
        return torch.func.functional_call(self, cast, (images,), {"head": head})


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
    widen_factor: int | None = None,
) -> WideResNet:
    """A network with random weights, from PyTorch's global generator.

    architecture: wrn-D-K, or wrn-stl10, wrn-imagenet, wrn-imagenet-cpc, which has head "cpc" too.
    image_shape: (C, H, W). heads: outputs of each further linear head, e.g. {"rotation": 4}.
    norm_batch: images of a ghost batch of batch normalisation; None: the whole batch. mean, std: of
    each channel of the training images, in [0, 1]; None: no normalisation. stem_stride: 2 halves
    the resolution at once. widen_factor: of a named architecture; None: its own, 4.
    """
    channels, *sides = image_shape
    table = groups(architecture, widen_factor)
    cpc = architecture in CPC
    pooled = architecture in POOLED
    stride = 2 * stem_stride if cpc else stem_stride
    smallest = min(sides) // stride // (2 if pooled else 1)
    for group in table:
        smallest //= group.stride
    if smallest < 1:
        needs = f"needs larger images than {sides[0]}x{sides[1]}"
        raise ValueError(f"{architecture} with stem_stride {stem_stride} {needs}")
    named = {"classification": classes, **(heads or {})}
    mean = [0.0] * channels if mean is None else mean
    std = [1.0] * channels if std is None else std
    return WideResNet(table, named, mean, std, dropout, norm_batch, stride, pooled, cpc)
