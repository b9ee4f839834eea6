"""Moments of sums, products and affine functions."""

import collections
import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras.src.ops import numpy as numpy_operations

from keras_bmr.export.uncertainty.activations import elementwise_moments
from keras_bmr.export.uncertainty.moments import Moments
from keras_bmr.export.uncertainty.registry import register_moment_rule
from keras_bmr.export.uncertainty.weight_moments import WeightMoments

layers = keras.layers


def _total(variances: Sequence[tf.Tensor | None]) -> tf.Tensor | None:
    known = [variance for variance in variances if variance is not None]
    return functools.reduce(tf.add, known) if known else None


def _counted(inputs: Sequence[Moments]) -> list[tuple[Moments, int]]:
    """The different inputs, and how often each of them stands there."""
    counts = collections.Counter(map(id, inputs))
    return [(x, counts.pop(id(x))) for x in inputs if id(x) in counts]


@register_moment_rule(layers.Add, numpy_operations.Add)
def add(layer: keras.Operation, weights: WeightMoments, *inputs: Moments) -> Moments:
    """A sum of tensors that are uncorrelated, the two ends of a residual block too.

    Args:
        layer: The layer or operation.
        weights: None.
        *inputs: Moments of the summands.

    Returns:
        Moments of the sum.
    """
    terms = [scaled(x, float(count)) for x, count in _counted(inputs)]
    mean = functools.reduce(tf.add, [x.mean for x in terms])
    variance = _total([x.variance for x in terms])
    return Moments(mean, tf.broadcast_to(variance, mean.shape))


@register_moment_rule(layers.Subtract, numpy_operations.Subtract)
def subtract(
    layer: keras.Operation, weights: WeightMoments, x: Moments, y: Moments
) -> Moments:
    """A difference of tensors that are uncorrelated.

    Args:
        layer: The layer or operation.
        weights: None.
        x: Moments of what is subtracted from.
        y: Moments of what is subtracted.

    Returns:
        Moments of the difference.
    """
    mean = x.mean - y.mean
    variance = _total([x.variance, y.variance])
    return Moments(mean, tf.broadcast_to(variance, mean.shape))


@register_moment_rule(layers.Average)
def average(
    layer: keras.layers.Layer, weights: WeightMoments, *inputs: Moments
) -> Moments:
    """A mean of tensors that are uncorrelated.

    Args:
        layer: The layer.
        weights: None.
        *inputs: Moments of the tensors.

    Returns:
        Moments of their mean.
    """
    total = add(layer, weights, *inputs)
    return scaled(total, 1.0 / len(inputs))


@register_moment_rule(layers.Multiply, numpy_operations.Multiply)
def multiply(
    layer: keras.Operation, weights: WeightMoments, *inputs: Moments
) -> Moments:
    """A product of tensors that are independent.

    Args:
        layer: The layer or operation.
        weights: None.
        *inputs: Moments of the factors.

    Returns:
        Moments of the product.
    """
    powers = [
        x if count == 1 else elementwise_moments(_power(count), x)
        for x, count in _counted(inputs)
    ]
    return functools.reduce(product, powers)


def _power(exponent: int) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda value: functools.reduce(tf.multiply, [value] * exponent)


@register_moment_rule(numpy_operations.TrueDivide, numpy_operations.Divide)
def divide(
    layer: keras.Operation, weights: WeightMoments, x: Moments, y: Moments
) -> Moments:
    """A quotient by a certain number.

    Args:
        layer: The operation.
        weights: None.
        x: Moments of what is divided.
        y: Moments of what it is divided by.

    Returns:
        Moments of the quotient.

    Raises:
        ValueError: If the divisor is random.
    """
    if not y.is_certain:
        raise ValueError(
            "The moments of a quotient are known for a certain divisor only. Received: "
            f"operation '{layer.name}', which divides by what depends on the weights"
        )
    return product(x, Moments(1.0 / y.mean))


def product(x: Moments, y: Moments) -> Moments:
    """Moments of the product of independent numbers.

    Args:
        x: Moments of one factor.
        y: Moments of the other one.

    Returns:
        Exact mean and variance.
    """
    terms = []
    if not x.is_certain:
        terms.append(x.variance * tf.square(y.mean))
    if not y.is_certain:
        terms.append(y.variance * tf.square(x.mean))
    if len(terms) == 2:
        terms.append(x.variance * y.variance)
    return Moments(x.mean * y.mean, _total(terms))


def scaled(
    x: Moments,
    factor: tf.Tensor | float,
    offset: tf.Tensor | float = 0.0,
) -> Moments:
    """Moments of factor x + offset, entry by entry.

    Args:
        x: Moments of x.
        factor: Broadcasts to x.
        offset: Broadcasts to x.

    Returns:
        The moments; of vectors with the covariance that x has.
    """
    mean = x.mean * factor + offset
    if x.is_certain:
        return Moments(mean)
    correlated = x.correlated
    if correlated is not None:
        correlated = correlated.scaled(tf.convert_to_tensor(factor))
    return Moments(mean, x.variance * tf.square(factor), correlated)


@register_moment_rule(layers.Rescaling)
def rescaling(
    layer: keras.layers.Rescaling, weights: WeightMoments, x: Moments
) -> Moments:
    """Fixed factors, or the random ones of `keras_bmr.layers.MultiplicativeNoise`.

    Args:
        layer: The layer.
        weights: Those of a noise gate: "noise", one factor for each channel.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    factor = tf.cast(tf.convert_to_tensor(layer.scale), x.mean.dtype)
    if weights.are_certain:
        return scaled(x, factor, tf.cast(layer.offset, x.mean.dtype))
    _, variance = weights.moments("noise")
    return product(x, Moments(factor, tf.reshape(variance, factor.shape)))


@register_moment_rule(layers.Concatenate)
def concatenate(
    layer: keras.layers.Concatenate, weights: WeightMoments, *inputs: Moments
) -> Moments:
    """Tensors side by side.

    Args:
        layer: The layer.
        weights: None.
        *inputs: Moments of the tensors.

    Returns:
        Moments of all of them.
    """
    variances = [tf.zeros_like(x.mean) if x.is_certain else x.variance for x in inputs]
    return Moments(layer([x.mean for x in inputs]), layer(variances))
