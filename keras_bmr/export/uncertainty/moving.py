"""Layers that move numbers, or do nothing outside training."""

import keras
from keras.src.ops import numpy as numpy_operations

from keras_bmr.export.uncertainty.moments import Moments
from keras_bmr.export.uncertainty.registry import register_moment_rule
from keras_bmr.export.uncertainty.weight_moments import WeightMoments

layers = keras.layers


@register_moment_rule(
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
def identity(layer: keras.layers.Layer, weights: WeightMoments, x: Moments) -> Moments:
    """Nothing happens outside training.

    Args:
        layer: The layer.
        weights: None.
        x: Moments of its input.

    Returns:
        The same moments.
    """
    return x


@register_moment_rule(
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Flatten,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.UpSampling1D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    numpy_operations.ExpandDims,
    numpy_operations.Reshape,
    numpy_operations.Squeeze,
    numpy_operations.Swapaxes,
    numpy_operations.Transpose,
)
def moved(layer: keras.Operation, weights: WeightMoments, x: Moments) -> Moments:
    """Numbers change places, and zeros may come in between.

    Args:
        layer: The layer or operation.
        weights: None.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    # A vector stays as it is, with all that is known of it.
    if type(layer) is layers.Flatten and len(x.mean.shape) == 2:
        return x
    return Moments(layer(x.mean), layer(x.variance))
