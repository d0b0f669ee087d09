"""Every score: one float an image, higher = more anomalous. Every metric: the anomaly is the
positive class.
"""

from semlib.metrics.detection import accuracy, average_precision
from semlib.metrics.detectors import DETECTORS, OF_THE_HEAD, Features, features, fit, linear_head
from semlib.metrics.pixel_gaussian import PixelGaussian, PixelMixture, edge_energy
from semlib.metrics.scores import (
    ScoreError,
    evaluating,
    failure,
    full_float32,
    max_softmax,
    odin,
    score,
    upright,
)

__all__ = [
    "DETECTORS",
    "OF_THE_HEAD",
    "Features",
    "PixelGaussian",
    "PixelMixture",
    "ScoreError",
    "accuracy",
]
__all__ += [
    "average_precision",
    "edge_energy",
    "evaluating",
    "failure",
    "features",
    "fit",
    "full_float32",
    "linear_head",
]
__all__ += ["max_softmax", "odin", "score", "upright"]
