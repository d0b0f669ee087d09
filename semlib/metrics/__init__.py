"""Scores: one float an image, higher = more anomalous. Metrics: the anomaly is the positive class.

`DETECTORS` is the one list of scores beside MSP and ODIN. PyTorch isn't needed to read it, so the
functions that evaluate a network are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from semlib.metrics.detection import accuracy, average_precision
from semlib.metrics.detectors import DETECTORS, OF_THE_HEAD, Features, features, fit, linear_head
from semlib.metrics.pixel_gaussian import PixelGaussian, PixelMixture, edge_energy

if TYPE_CHECKING:
    from semlib.metrics.evaluation import evaluating, full_float32, upright
    from semlib.metrics.scores import max_softmax, odin, score

HOME = dict.fromkeys(("evaluating", "full_float32", "upright"), "semlib.metrics.evaluation")
HOME |= dict.fromkeys(("max_softmax", "odin", "score"), "semlib.metrics.scores")
__all__ = ["DETECTORS", "OF_THE_HEAD", "Features", "PixelGaussian", "PixelMixture"]
__all__ += ["accuracy", "average_precision", "edge_energy", "evaluating", "features", "fit"]
__all__ += ["full_float32", "linear_head", "max_softmax", "odin", "score", "upright"]


def __getattr__(name: str) -> Any:
    if name in HOME:
        return getattr(import_module(HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
