"""Networks by name: `models.build`."""

from semlib.models.wide_resnet import WideResNet, build, groups

__all__ = ["WideResNet", "build", "groups"]
