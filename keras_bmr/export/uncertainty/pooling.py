"""Moments of pooling, whose windows see the same weights in all their positions."""

import math

import keras
import tensorflow as tf

from keras_bmr.export.uncertainty.convolution import Convolved
from keras_bmr.export.uncertainty.moments import Activated, Moments
from keras_bmr.export.uncertainty.registry import register_moment_rule
from keras_bmr.export.uncertainty.weight_moments import WeightMoments

layers = keras.layers
# Of two positions of the same channel, for averages.
_CORRELATION = 0.5


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
    """The mean of numbers of which any two have the correlation 1/2.

    Positions share the weights of the convolution before, but see other inputs. With
    correlation c the variance of their mean is c times the square of the average
    deviation, as if they went up and down together, plus 1 - c times the average
    variance over their number, as if they were uncorrelated. Half way between was
    closest to samples, see the page on uncertainty on the device.

    Args:
        layer: The layer.
        weights: None, of a pooling layer.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    sizes = getattr(layer, "pool_size", None)
    if sizes is None:
        channels_first = layer.data_format == "channels_first"
        sizes = x.mean.shape[2:] if channels_first else x.mean.shape[1:-1]
    together = tf.square(layer(tf.sqrt(x.variance)))
    apart = layer(x.variance) / math.prod(sizes)
    variance = _CORRELATION * together + (1 - _CORRELATION) * apart
    return Moments(layer(x.mean), variance)
