"""Networks by name: `models.build`."""

from semlib.models.wide_resnet import CPC, WideResNet, build, groups

__all__ = ["CPC", "WideResNet", "build", "groups"]
