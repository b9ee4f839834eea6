"""Moments of layers that are linear in their inputs and in one kernel."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_bmr.export.uncertainty.activations import activated
from keras_bmr.export.uncertainty.moments import Correlated, Moments, per_sum
from keras_bmr.export.uncertainty.probabilities import MAX_SUMS
from keras_bmr.export.uncertainty.registry import register_moment_rule
from keras_bmr.export.uncertainty.weight_moments import WeightMoments
from keras_bmr.layers import LinearVariational

layers = keras.layers
_COLUMNS = 16
# Of the variance of outputs, in the directions that count for their covariance.
_SHARE = 0.8
# Shares of a variance below count as rounding.
_LITTLE = 1e-5


@register_moment_rule(LinearVariational)
def linear_layer(layer: Any, weights: WeightMoments, inputs: Moments) -> Moments:
    """Dense layers, convolutions and embeddings.

    With inputs of mean m and variance v, and weights of mean M and variance S, all
    independent, a sum of products has the mean m M and the variance
    m^2 S + v (M^2 + S). Where v = 0 this is exact.

    Args:
        layer: A layer whose Bayesian class is a `LinearVariational`.
        weights: Its weights.
        inputs: Moments of its input.

    Returns:
        Moments of its output.

    References:
        Hernandez-Lobato and Adams, Probabilistic backpropagation for scalable learning
        of Bayesian neural networks, ICML 2015, equations 13 and 14.
    """
    linear = weights.linear_layer
    (name,) = linear.RANDOM_WEIGHTS
    kernel, kernel_variance = weights.moments(name)
    outputs = _product_moments(
        linear.linear, inputs, kernel, kernel_variance, linear.linear_of_squares
    )
    mean, variance = outputs.mean, outputs.variance
    bias, bias_variance = weights.moments("bias")
    if bias is not None:
        mean += linear.broadcast_bias(bias)
    if bias_variance is not None:
        bias_variance = linear.broadcast_bias(bias_variance)
        variance = bias_variance if variance is None else variance + bias_variance
        variance = tf.broadcast_to(variance, mean.shape)
    activation = getattr(layer, "activation", None)
    return activated(activation, Moments(mean, variance), f"layer '{layer.name}'")


@register_moment_rule(layers.Dense)
def dense(layer: keras.layers.Dense, weights: WeightMoments, x: Moments) -> Moments:
    """As `linear_layer`; of a vector the covariance of the outputs is known, too.

    A sum over the outputs is a sum over the inputs with the mean weights, which has
    the covariance of the inputs, plus what stems from the weights of this layer, which
    is uncorrelated. Where nothing is known of the covariance of the inputs, the outputs
    have the correlations that inputs alike in variance give them.

    Args:
        layer: The layer.
        weights: Its weights.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    if len(x.mean.shape) != 2:
        return linear_layer(layer, weights, x)
    kernel, kernel_variance = weights.moments("kernel")
    bias, own = weights.moments("bias")
    mean = _vector_times(x.mean, kernel)
    if bias is not None:
        mean += bias
    if kernel_variance is not None:
        second_moment = tf.square(x.mean)
        if not x.is_certain:
            second_moment += x.variance
        spread = _vector_times(second_moment, kernel_variance)
        own = spread if own is None else own + spread
    elif own is not None:
        own = tf.broadcast_to(own, mean.shape)
    if x.is_certain:
        return activated(layer.activation, Moments(mean, own), f"layer '{layer.name}'")
    passed = _vector_times(x.variance, np.square(kernel))
    variance = passed if own is None else own + passed

    # For the first and the last of several layers only, and it takes cubic time.
    root = functools.cache(lambda: _root_of_correlations(kernel))

    def of_sums(coefficients: tf.Tensor) -> tf.Tensor:
        if x.correlated is not None:
            return x.accumulate(_product(coefficients, kernel.T))
        scaled = coefficients * per_sum(tf.sqrt(passed))
        together = tf.reduce_sum(tf.square(_product(scaled, root())), axis=-1)
        missing = (1 - np.square(root()).sum(axis=1)).astype("float32")
        if missing.max() < _LITTLE:
            return together
        return together + tf.reduce_sum(tf.square(scaled) * missing, axis=-1)

    correlated = Correlated(passed, own, of_sums, root)
    outputs = Moments(mean, variance, correlated)
    return activated(layer.activation, outputs, f"layer '{layer.name}'")


def _root_of_correlations(kernel: np.ndarray) -> np.ndarray:
    """The root of the correlations of outputs whose inputs are alike in variance.

    Of many outputs the directions of least variance are left out, for the sake of time,
    up to a fifth of it.

    Args:
        kernel: Matrix of shape (inputs, outputs).

    Returns:
        Matrix of shape (outputs, directions).
    """
    gram = (kernel.T @ kernel).astype("float64")
    norms = np.sqrt(np.maximum(np.diag(gram), np.finfo("float32").tiny))
    variances, directions = np.linalg.eigh(gram / np.outer(norms, norms))
    variances = np.maximum(variances[::-1], 0.0)
    num_needed = 1 + np.count_nonzero(np.cumsum(variances) < _SHARE * variances.sum())
    num_kept = max(-(-num_needed // _COLUMNS) * _COLUMNS, MAX_SUMS)
    root = directions[:, ::-1][:, :num_kept] * np.sqrt(variances[:num_kept])
    return root.astype("float32")


def _product(coefficients: tf.Tensor, matrix: np.ndarray) -> tf.Tensor:
    """Coefficients of sums, in one of their shapes, times a matrix."""
    *leading, size = coefficients.shape
    if not leading[1:]:
        return tf.matmul(coefficients, matrix)
    product = tf.matmul(tf.reshape(coefficients, (-1, size)), matrix)
    return tf.reshape(product, (*leading, matrix.shape[1]))


def _vector_times(x: tf.Tensor, kernel: np.ndarray) -> tf.Tensor:
    """The product of vectors and a matrix.

    LiteRT's kernels work on 16 columns at a time. For a single vector those that are
    left over take almost as long as all others: zeros fill them up.
    """
    num_columns = kernel.shape[1]
    num_missing = -num_columns % _COLUMNS
    if x.shape[0] != 1 or num_columns < _COLUMNS or not num_missing:
        return tf.matmul(x, kernel)
    filled = np.pad(kernel, ((0, 0), (0, num_missing)))
    return tf.matmul(x, filled)[:, :num_columns]


@register_moment_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(layer: Any, weights: WeightMoments, x: Moments) -> Moments:
    """A depthwise convolution, then one of 1x1, uncorrelated in between.

    Args:
        layer: The layer.
        weights: Its weights.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """

    def depthwise(inputs: tf.Tensor, kernel: np.ndarray) -> tf.Tensor:
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    def pointwise(inputs: tf.Tensor, kernel: np.ndarray) -> tf.Tensor:
        return ops.conv(inputs, kernel, data_format=layer.data_format)

    x = _product_moments(depthwise, x, *weights.moments("depthwise_kernel"))
    x = _product_moments(pointwise, x, *weights.moments("pointwise_kernel"))
    shape = [-1] if layer.data_format == "channels_last" else [-1, *[1] * layer.rank]
    bias, bias_variance = weights.moments("bias")
    mean, variance = x.mean, x.variance
    if bias is not None:
        mean += np.reshape(bias, shape)
    if bias_variance is not None:
        variance += np.reshape(bias_variance, shape)
    return activated(layer.activation, Moments(mean, variance), f"layer '{layer.name}'")


def _product_moments(
    linear: Callable,
    x: Moments,
    kernel: np.ndarray,
    kernel_variance: np.ndarray | None,
    linear_of_squares: Callable | None = None,
) -> Moments:
    """Moments of a map that is linear in its input and in a kernel."""
    own = passed = None
    if kernel_variance is not None:
        own = (linear_of_squares or _of_squares(linear))(x.mean, kernel_variance)
    if not x.is_certain:
        second_moment = np.square(kernel)
        if kernel_variance is not None:
            second_moment = second_moment + kernel_variance
        passed = linear(x.variance, second_moment)
    variance = passed if own is None else own if passed is None else own + passed
    return Moments(linear(x.mean, kernel), variance)


def _of_squares(linear: Callable) -> Callable:
    return lambda inputs, variance: linear(tf.square(inputs), variance)
