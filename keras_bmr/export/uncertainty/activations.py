"""Moments of activation functions of Gaussian numbers."""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.export.uncertainty.moments import Activated, Moments, Spread
from keras_bmr.export.uncertainty.normal_functions import (
    density,
    deviation_of,
    distribution_function,
)
from keras_bmr.export.uncertainty.probabilities import softmax_moments

_NUM_NODES = 7


def rectified(
    mean: tf.Tensor, variance: tf.Tensor, negative_slope: float | np.ndarray = 0.0
) -> Spread:
    """Moments of max(x, 0) + negative_slope min(x, 0), exact for a Gaussian x.

    With a = mean / deviation, Phi and phi of a, and Q = 1 - Phi, the expectations of
    max(x, 0) and max(-x, 0) are

        E = mean Phi + deviation phi,    D = deviation phi - mean Q,

    and max(x, 0) has the variance `variance Phi - E D`, a form of
    E[max(x, 0)^2] - E^2 without differences of large numbers.

    Args:
        mean: Mean of x.
        variance: Variance of x.
        negative_slope: Slope below zero, which broadcasts to x.

    Returns:
        The moments.

    References:
        Frey and Hinton, Variational learning in nonlinear Gaussian belief networks,
        Neural Computation 11 (1999), appendix C.
    """
    deviation = deviation_of(variance)
    a = mean / deviation
    square = tf.square(a)
    above, phi = distribution_function(a, square), density(square)
    around = deviation * phi
    expected = mean * above + around
    missing = around - mean * (1.0 - above)
    spread = tf.nn.relu(variance * above - expected * missing)
    if isinstance(negative_slope, float) and not negative_slope:
        return Spread(expected, spread, above)
    # x itself, and what max(x, 0) adds to a multiple of it.
    slope, rest = negative_slope, 1.0 - negative_slope
    covariance = above * variance
    return Spread(
        slope * mean + rest * expected,
        slope**2 * variance + rest * (rest * spread + 2 * slope * covariance),
        slope + rest * above,
    )


def clipped(
    mean: tf.Tensor, variance: tf.Tensor, low: float, high: float, slope: float = 1.0
) -> Spread:
    """Moments of slope times x clipped to [low, high], exact for a Gaussian x.

    Args:
        mean: Mean of x.
        variance: Variance of x.
        low: Lower bound.
        high: Upper bound.
        slope: Factor.

    Returns:
        The moments.
    """
    deviation = deviation_of(variance)
    # Everything relative to the mean, so that no large numbers cancel.
    to_low, to_high = low - mean, high - mean
    a, b = to_low / deviation, to_high / deviation
    below_low = distribution_function(a, tf.square(a))
    above_high = 1.0 - distribution_function(b, tf.square(b))
    phi_low, phi_high = density(tf.square(a)), density(tf.square(b))
    inside = 1.0 - below_low - above_high
    shift = to_low * below_low + to_high * above_high
    shift += deviation * (phi_low - phi_high)
    second = tf.square(to_low) * below_low + tf.square(to_high) * above_high
    second += variance * inside + deviation * (to_low * phi_low - to_high * phi_high)
    spread = tf.nn.relu(second - tf.square(shift))
    return Spread(slope * (mean + shift), slope**2 * spread, slope * inside)


def by_quadrature(
    function: Callable[[tf.Tensor], tf.Tensor], mean: tf.Tensor, variance: tf.Tensor
) -> Spread:
    """Moments of any function of a Gaussian number by Gauss-Hermite quadrature.

    Seven nodes: exact where the squared function is a polynomial of degree 13.

    Args:
        function: Treats every entry by itself.
        mean: Mean of the argument.
        variance: Variance of the argument.

    Returns:
        The moments.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
    weights = weights / weights.sum()
    deviation = deviation_of(variance)
    values = [function(mean + float(node) * deviation) for node in nodes]
    expected = _sum(weights, values)
    spread = _sum(weights, [tf.square(value - expected) for value in values])
    gain = _sum(weights * nodes, values) / deviation
    return Spread(expected, spread, gain)


def _sum(weights: np.ndarray, values: list[tf.Tensor]) -> tf.Tensor:
    terms = [
        float(weight) * value for weight, value in zip(weights, values, strict=True)
    ]
    # One by one: the kernel that adds many is none of the fast ones.
    return functools.reduce(tf.add, terms)


_BY_FORMULA = {
    "relu": rectified,
    "leaky_relu": functools.partial(rectified, negative_slope=0.2),
    "relu6": functools.partial(clipped, low=0.0, high=6.0),
    "hard_tanh": functools.partial(clipped, low=-1.0, high=1.0),
}
_RISING = ("celu", "elu", "log_sigmoid", "selu", "sigmoid", "softplus", "softsign")
_RISING = (*_RISING, "squareplus", "tanh", "exponential")
_OTHER = ("gelu", "hard_silu", "mish", "silu", "tanh_shrink")
_SPREADS = {
    keras.activations.get(name): (spread, True) for name, spread in _BY_FORMULA.items()
} | {
    keras.activations.get(name): (
        functools.partial(by_quadrature, keras.activations.get(name)),
        name in _RISING,
    )
    for name in (*_RISING, *_OTHER)
}


def _hard_sigmoid(mean: tf.Tensor, variance: tf.Tensor) -> Spread:
    expected, spread, gain = clipped(mean, variance, -3.0, 3.0, 1 / 6)
    return Spread(expected + 0.5, spread, gain)


_SPREADS[keras.activations.hard_sigmoid] = (_hard_sigmoid, True)


def known_activations() -> list[str]:
    """The names of the activation functions whose moments are known."""
    return sorted(["linear", "softmax", *(function.__name__ for function in _SPREADS)])


def activated(function: Callable | None, moments: Moments, owner: str) -> Moments:
    """Moments of an activation.

    Args:
        function: A function of `keras.activations`, or None for the identity.
        moments: Moments of its argument.
        owner: What the function belongs to, for the error message.

    Returns:
        Moments of its value.

    Raises:
        ValueError: If the function is not known.
    """
    if function is None or function is keras.activations.linear:
        return moments
    if moments.is_certain:
        return Moments(function(moments.mean))
    if function is keras.activations.softmax:
        return softmax_moments(moments)
    if function not in _SPREADS:
        name = getattr(function, "__name__", repr(function))
        raise ValueError(
            f"The moments of the activation `{name}` of {owner} are not known. "
            f"Expected one of {known_activations()}. Put the function into a layer of "
            "its own and register a rule for it with "
            "`keras_bmr.export.register_moment_rule`; "
            "`keras_bmr.export.elementwise_moments` serves for any function of single "
            f"numbers. Received: activation={function!r}"
        )
    return Activated(moments, *_SPREADS[function])


def elementwise_moments(
    function: Callable[[tf.Tensor], tf.Tensor], moments: Moments
) -> Moments:
    """Moments of any function that treats every number by itself, by quadrature.

    Args:
        function: Maps a tensor to one of the same shape, by operations that TFLite has.
        moments: Moments of its argument.

    Returns:
        Moments of its value.

    Example:
        >>> @keras_bmr.export.register_moment_rule(MySquare)
        ... def my_square(layer, weights, x):
        ...     return keras_bmr.export.elementwise_moments(tf.square, x)
    """
    if moments.is_certain:
        return Moments(function(moments.mean))
    return Activated(moments, functools.partial(by_quadrature, function), rises=False)
