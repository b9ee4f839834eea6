"""Keras layers whose weights have posteriors."""

from keras_bmr.layers.conversion import to_deterministic, to_variational
from keras_bmr.layers.convolution import Conv2DVariational
from keras_bmr.layers.dense import DenseVariational
from keras_bmr.layers.linear import LinearVariational
from keras_bmr.layers.registry import register_variational
from keras_bmr.layers.traversal import variational_layers
from keras_bmr.layers.variational import Variational

__all__ = [
    "Conv2DVariational",
    "DenseVariational",
    "LinearVariational",
    "Variational",
    "register_variational",
    "to_deterministic",
    "to_variational",
    "variational_layers",
]
