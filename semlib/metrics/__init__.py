"""Every score: one float an image, higher = more anomalous. Every metric: the anomaly is the positive class."""

from semlib.metrics.detection import accuracy, average_precision
from semlib.metrics.scores import evaluating, max_softmax, odin, score

__all__ = ["accuracy", "average_precision", "evaluating", "max_softmax", "odin", "score"]
