"""Moments of normalisation layers."""

import keras
import tensorflow as tf

from keras_bmr.export.uncertainty.arithmetic import product, scaled
from keras_bmr.export.uncertainty.moments import Moments
from keras_bmr.export.uncertainty.registry import register_moment_rule
from keras_bmr.export.uncertainty.weight_moments import WeightMoments

layers = keras.layers


@register_moment_rule(layers.BatchNormalization)
def batch_normalization(
    layer: keras.layers.BatchNormalization, weights: WeightMoments, x: Moments
) -> Moments:
    """Affine, with the moving statistics; exact, also for random scales and shifts.

    Args:
        layer: The layer.
        weights: Its weights.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    shape = _along_axis(x, layer.axis)
    deviation = tf.sqrt(layer.moving_variance + layer.epsilon)
    factor = tf.reshape(1.0 / deviation, shape)
    offset = tf.reshape(-layer.moving_mean / deviation, shape)
    return _scaled_and_shifted(x, factor, offset, weights, shape)


@register_moment_rule(layers.LayerNormalization)
def layer_normalization(
    layer: keras.layers.LayerNormalization, weights: WeightMoments, x: Moments
) -> Moments:
    """Centred exactly; divided by the root of the expected square of what is centred.

    With `rms_scaling` Keras divides by the same and does not centre. The divisor, a
    mean over many features, counts as certain, and the features as uncorrelated.

    Args:
        layer: The layer.
        weights: Its weights.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    centred = x.mean - tf.reduce_mean(x.mean, axes, keepdims=True)
    square, variance = tf.square(centred), None
    if not x.is_certain:
        size = 1
        for axis in axes:
            size *= x.mean.shape[axis]
        mean_variance = tf.reduce_mean(x.variance, axes, keepdims=True)
        # Of x_i - sum_j x_j / n.
        variance = (1 - 2 / size) * x.variance + mean_variance / size
        square += variance
    factor = tf.math.rsqrt(tf.reduce_mean(square, axes, keepdims=True) + layer.epsilon)
    shape = [
        x.mean.shape[axis] if axis in {a % len(x.mean.shape) for a in axes} else 1
        for axis in range(len(x.mean.shape))
    ]
    normal = x if layer.rms_scaling else Moments(centred, variance)
    return _scaled_and_shifted(normal, factor, 0.0, weights, shape)


@register_moment_rule(layers.Normalization)
def normalization(
    layer: keras.layers.Normalization, weights: WeightMoments, x: Moments
) -> Moments:
    """Affine, with the adapted statistics.

    Args:
        layer: The layer.
        weights: None that are random.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    zero = layer(tf.zeros_like(x.mean))
    return scaled(x, layer(tf.ones_like(x.mean)) - zero, zero)


def _along_axis(x: Moments, axis: int) -> list[int]:
    rank = len(x.mean.shape)
    return [x.mean.shape[i] if i == axis % rank else 1 for i in range(rank)]


def _scaled_and_shifted(
    x: Moments,
    factor: tf.Tensor,
    offset: tf.Tensor | float,
    weights: WeightMoments,
    shape: list[int],
) -> Moments:
    """Moments of gamma (factor x + offset) + beta."""
    gamma, gamma_variance = weights.moments("gamma")
    beta, beta_variance = weights.moments("beta")
    shift = 0.0 if beta is None else tf.reshape(beta, shape)
    if gamma_variance is None:
        gain = 1.0 if gamma is None else tf.reshape(gamma, shape)
        outputs = scaled(x, gain * factor, gain * offset + shift)
    else:
        scale = Moments(tf.reshape(gamma, shape), tf.reshape(gamma_variance, shape))
        outputs = product(scaled(x, factor, offset), scale)
        outputs = Moments(outputs.mean + shift, outputs.variance)
    if beta_variance is None:
        return outputs
    variance = tf.reshape(beta_variance, shape)
    if not outputs.is_certain:
        variance += outputs.variance
    return Moments(outputs.mean, tf.broadcast_to(variance, outputs.mean.shape))
