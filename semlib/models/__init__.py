"""Networks by name: `models.build`; a user's own: `models.own.check` says what it must be."""

from semlib.models import own
from semlib.models.wide_resnet import CPC, WideResNet, build, groups

__all__ = ["CPC", "WideResNet", "build", "groups", "own"]
