"""EfficientNet-Lite (Tan & Le 2019, without squeeze-and-excitation) as a table of groups."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A group of blocks each: expansion, kernel and stride.
GROUPS = ((1, 3, 1), (6, 3, 2), (6, 5, 2), (6, 3, 2), (6, 5, 1), (6, 5, 2), (6, 3, 1))
# Their widths and blocks; lite2 is 1.1 times as wide and 1.2 times as deep.
WIDTHS = {"lite0": (16, 24, 40, 80, 112, 192, 320), "lite2": (16, 24, 48, 88, 120, 208, 352)}
BLOCKS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite2": (1, 3, 3, 4, 4, 5, 1)}


class Convolution(nn.Module):
    """Convolution and batch normalisation; where padding is odd, its larger half comes last."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, images: Tensor) -> Tensor:
        padding = self.conv.kernel_size[0] - 1 - (images.shape[-1] - 1) % self.conv.stride[0]
        sides = (padding // 2, padding - padding // 2)
        return self.norm(self.conv(F.pad(images, (*sides, *sides))))


class Bottleneck(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018): widened, convolved by channel, projected."""

    def __init__(self, inputs: int, width: int, expand: int, kernel: int, stride: int):
        super().__init__()
        wide = inputs * expand
        first = [Convolution(inputs, wide, 1), nn.ReLU6()] if expand > 1 else []
        by_channel = Convolution(wide, wide, kernel, stride, groups=wide)
        self.layers = nn.Sequential(*first, by_channel, nn.ReLU6(), Convolution(wide, width, 1))
        self.shortcut = inputs == width and stride == 1

    def forward(self, images: Tensor) -> Tensor:
        return images + self.layers(images) if self.shortcut else self.layers(images)


def efficientnet(variant: str) -> nn.Sequential:
    """EfficientNet-lite0 or -lite2 for square images and 1,000 classes, with random weights."""
    layers: list[nn.Module] = [Convolution(3, 32, 3, 2), nn.ReLU6()]
    inputs = 32
    for group, width, blocks in zip(GROUPS, WIDTHS[variant], BLOCKS[variant], strict=True):
        for i in range(blocks):
            layers.append(Bottleneck(inputs, width, *group[:2], group[2] if i == 0 else 1))
            inputs = width
    layers += [Convolution(inputs, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 1000))


def load_weights(net: nn.Module, file: Path) -> None:
    """Load published weights, which lie in the file in the order of the layers, by their shapes."""
    weights = torch.load(file, weights_only=True, map_location="cpu").values()
    own = net.state_dict()
    if [tensor.shape for tensor in weights] != [tensor.shape for tensor in own.values()]:
        raise ValueError(f"{file} has the weights of another network")
    net.load_state_dict(dict(zip(own, weights, strict=True)))
