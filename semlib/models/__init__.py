"""Networks by name: `models.build`."""

from semlib.models.wide_resnet import WideResNet, build

__all__ = ["WideResNet", "build"]
