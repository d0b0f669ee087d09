"""Wide residual networks (Zagoruyko & Komodakis 2016) as tables of groups, with named heads over
the same features.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
# The ImageNet network with a first convolution of stride 2, symmetric padding and conditional
# normalisation (Appendix C).
CPC = ("wrn-imagenet-cpc",)


def groups(architecture: str, widen_factor: int | None = None) -> tuple[Group, ...]:
    """The table of wrn-D-K, D layers deep and K times as wide, or of a named network. ValueError
    names the choices.

    widen_factor: a named network's widening (None: its own, 4).
    """
    if architecture in NAMED:
        return tuple(
            group._replace(width=group.width // 4 * (widen_factor or 4))
            for group in NAMED[architecture]
        )
    match = re.fullmatch(r"wrn-(\d+)-(\d+)", architecture)
    depth, own = map(int, match.groups()) if match else (0, 0)
    if depth < 10 or depth % 6 != 4 or own < 1:
        raise ValueError(
            f"unknown architecture {architecture!r}; choose wrn-D-K with depth D = 10, 16, 22, 28, ... (6n + 4) "
            f"and widening K = 1, 2, ..., such as wrn-28-10, or {', '.join(NAMED)}"
        )
    if widen_factor is not None:
        raise ValueError(
            f"widen_factor: {architecture} has its own; leave it out, or choose wrn-{depth}-{widen_factor}"
        )
    n = (depth - 4) // 6
    return Group(16 * own, n, 1), Group(32 * own, n, 2), Group(64 * own, n, 2)


def _conv3(inputs: int, width: int, stride: int, symmetric: bool) -> nn.Conv2d:
    padding = (
        "replicate" if symmetric else "zeros"
    )  # one pixel: the border itself is its reflection
    return nn.Conv2d(inputs, width, 3, stride, padding=1, padding_mode=padding, bias=False)


class Block(nn.Module):
    """BN-ReLU-conv, dropout, BN-ReLU-conv. At a change of shape the shortcut is a 1x1 convolution
    of the activated input.

    cpc: symmetric instead of zero padding, and normalisation conditional on the task.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        dropout: float,
        norm_batch: int | None,
        cpc: bool = False,
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
    """float images (N, C, H, W) in [0, 1] -> logits (N, classes), or (N, outputs) of another head.

    The first layer normalises by mean and std. Logits have the images' dtype: float64 images are
    computed in float64. With cpc there is a head "cpc" too: patches (N, rows, columns, C, 64, 64)
    -> their codes and what is predicted of them, see Predictions.
    """

    mean: Tensor
    std: Tensor

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
        cpc: bool = False,
    ):
        super().__init__()
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            values = torch.as_tensor(
                [default] * channels if values is None else values, dtype=torch.float32
            )
            self.register_buffer(name, values.reshape(-1, 1, 1))
        self.stem = _conv3(channels, 16, stem_stride, cpc)
        self.pool = nn.AvgPool2d(2) if pooled else nn.Identity()
        blocks, width = [], 16
        for group in table:
            for i in range(group.blocks):
                blocks.append(
                    Block(
                        width, group.width, group.stride if i == 0 else 1, dropout, norm_batch, cpc
                    )
                )
                width = group.width
        self.blocks = nn.ModuleList(blocks)
        self.encoder = (
            len(blocks) - table[-1].blocks
        )  # blocks in a patch encoder: the last group is classification's
        # CPC's part of it is after the third group, which is as wide as the fourth.
        self.norm = (ConditionalBatchNorm if cpc else BatchNorm)(width, norm_batch)
        self.heads = nn.ModuleDict({"classification": nn.Linear(width, heads["classification"])})
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # He et al. 2015, fan-in
        for (
            name,
            outputs,
        ) in heads.items():  # drawn last: all methods of a trial begin with the same trunk
            if name != "classification":
                self.heads[name] = nn.Linear(width, outputs)
        if cpc:
            self.heads["cpc"] = Predictions(width)

    def features(self, images: Tensor, task: str = "classify") -> Tensor:
        """(N, C, H, W) -> (N, width): what every linear head sees. Of task cpc: patches' codes,
        without the last group.
        """
        images = self.pool(self.stem((images - self.mean) / self.std))
        for block in self.blocks[: self.encoder] if task == "cpc" else self.blocks:
            images = block(images, task)
        return F.relu(self.norm(images, task)).mean((2, 3))

    def forward(self, images: Tensor, head: str = "classification") -> Tensor:
        if not images.is_floating_point():
            raise TypeError(
                f"images should be floats in [0, 1], not {images.dtype}; divide uint8 by 255"
            )
        if head not in self.heads:
            raise ValueError(f"unknown head {head!r}; choose from {', '.join(self.heads)}")
        if images.dtype != self.stem.weight.dtype:
            state = {**dict(self.named_parameters()), **dict(self.named_buffers())}
            cast = {
                name: t.to(images.dtype) if t.is_floating_point() else t
                for name, t in state.items()
            }
            return torch.func.functional_call(self, cast, (images,), {"head": head})
        if isinstance(self.heads[head], Predictions):
            features = self.features(images.flatten(0, 2), "cpc").unflatten(
                0, images.shape[:3]
            )  # (N, rows, columns, width)
        else:
            features = self.features(images)
        return self.heads[head](features).to(images.dtype)


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
    """A network with random weights, from torch's global generator.

    architecture: wrn-D-K, wrn-stl10, wrn-imagenet or wrn-imagenet-cpc, which has head "cpc"
    besides. image_shape: (C, H, W). heads: outputs of each further linear head, e.g. {"rotation":
    4}. norm_batch: images that share batch-norm statistics in training (None: the batch). mean,
    std: of each channel, in [0, 1] pixel units (None: no normalisation). stem_stride: 2 halves the
    resolution at once. widen_factor: of a named architecture, None for its own 4.
    """
    channels, *sides = image_shape
    table, cpc = groups(architecture, widen_factor), architecture in CPC
    stride = 2 * stem_stride if cpc else stem_stride
    smallest = min(sides) // stride // (2 if architecture in POOLED else 1)
    for group in table:
        smallest //= group.stride
    if smallest < 1:
        raise ValueError(
            f"{architecture} with stem_stride {stem_stride} needs larger images than {sides[0]}x{sides[1]}"
        )
    named, pooled = {"classification": classes, **(heads or {})}, architecture in POOLED
    return WideResNet(table, named, channels, dropout, norm_batch, stride, mean, std, pooled, cpc)
