"""Moments of pooling, whose windows see the same weights in all their positions."""

import keras
import tensorflow as tf

from keras_bmr.export.uncertainty.convolution import Convolved
from keras_bmr.export.uncertainty.moments import Activated, Moments
from keras_bmr.export.uncertainty.registry import register_moment_rule
from keras_bmr.export.uncertainty.weight_moments import WeightMoments

layers = keras.layers


@register_moment_rule(
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
)
def max_pooling(
    layer: keras.layers.Layer, weights: WeightMoments, x: Moments
) -> Moments:
    """The maximum of numbers that go up and down together.

    Neighbouring outputs of a convolution share its weights, so that they are taken as
    mean + deviation z with one standard normal z for the whole window. The maximum is
    evaluated at the two nodes z = -1 and z = 1 of Gauss-Hermite quadrature, by plain
    pooling; exact where one position has the largest value at both of them.

    An activation that rises is applied after the pooling, which is the same for every
    draw of the weights. Right behind a convolution the positions of a window differ
    little in deviation; there they share one, the root of the mean variance, so that
    the maximum is that of the means.

    Args:
        layer: The layer.
        weights: None, of a pooling layer.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    if isinstance(x, Activated) and x.rises:
        return Activated(max_pooling(layer, weights, x.before), x.spread, x.rises)
    if isinstance(x, Convolved) and _has_windows(layer):
        return Moments(layer(x.mean), x.variance_of_windows(layer.pool_size))
    deviation = tf.sqrt(x.variance)
    high, low = layer(x.mean + deviation), layer(x.mean - deviation)
    return Moments(0.5 * (high + low), tf.square(0.5 * (high - low)))


def _has_windows(layer: keras.layers.Layer) -> bool:
    """Whether windows follow each other without overlap, as `Convolved` knows them."""
    return (
        type(layer) is layers.MaxPooling2D
        and layer.padding == "valid"
        and tuple(layer.strides) == tuple(layer.pool_size)
    )


@register_moment_rule(
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
def average_pooling(
    layer: keras.layers.Layer, weights: WeightMoments, x: Moments
) -> Moments:
    """The mean of numbers that go up and down together.

    As for `max_pooling`: the standard deviation of an average is the average of the
    standard deviations.

    Args:
        layer: The layer.
        weights: None, of a pooling layer.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    return Moments(layer(x.mean), tf.square(layer(tf.sqrt(x.variance))))
