"""Mean and variance of predictions on the device."""

from keras_bmr.export.uncertainty.activations import elementwise_moments
from keras_bmr.export.uncertainty.moments import Moments
from keras_bmr.export.uncertainty.propagation import propagate_moments
from keras_bmr.export.uncertainty.registry import register_moment_rule

__all__ = [
    "Moments",
    "elementwise_moments",
    "propagate_moments",
    "register_moment_rule",
]
