"""Rules of activations that are layers or operations of their own."""

import functools
from collections.abc import Callable

import keras
from keras.src.ops import nn as nn_operations
from keras.src.ops import numpy as numpy_operations

from keras_bmr.export.uncertainty.activations import (
    activated,
    by_quadrature,
    clipped,
    rectified,
)
from keras_bmr.export.uncertainty.moments import Activated, Moments
from keras_bmr.export.uncertainty.probabilities import softmax_moments
from keras_bmr.export.uncertainty.registry import register_moment_rule
from keras_bmr.export.uncertainty.weight_moments import WeightMoments

layers = keras.layers


@register_moment_rule(layers.Activation)
def activation(
    layer: keras.layers.Activation, weights: WeightMoments, x: Moments
) -> Moments:
    """A function of `keras.activations`.

    Args:
        layer: The layer.
        weights: None.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    return activated(layer.activation, x, f"layer '{layer.name}'")


@register_moment_rule(layers.ReLU)
def relu_layer(layer: keras.layers.ReLU, weights: WeightMoments, x: Moments) -> Moments:
    """A rectifier, which may have a slope below zero or a ceiling.

    Args:
        layer: The layer.
        weights: None.
        x: Moments of its input.

    Returns:
        Moments of its output.

    Raises:
        ValueError: If it has both, or a threshold.
    """
    slope, ceiling = float(layer.negative_slope or 0), layer.max_value
    if layer.threshold or (slope and ceiling is not None):
        raise ValueError(
            f"The moments of a ReLU with a threshold, or with both a slope below zero "
            f"and a ceiling, are not known. Received: layer '{layer.name}' with "
            f"max_value={ceiling}, negative_slope={slope}, threshold={layer.threshold}"
        )
    if ceiling is not None:
        spread = functools.partial(clipped, low=0.0, high=float(ceiling))
    else:
        spread = functools.partial(rectified, negative_slope=slope)
    return Activated(x, spread, rises=slope >= 0)


@register_moment_rule(layers.Softmax)
def softmax_layer(
    layer: keras.layers.Softmax, weights: WeightMoments, x: Moments
) -> Moments:
    """Class probabilities.

    Args:
        layer: The layer.
        weights: None.
        x: Moments of its input.

    Returns:
        Moments of its output.

    Raises:
        ValueError: If it is not along the last axis.
    """
    if layer.axis not in (-1, len(x.mean.shape) - 1):
        raise ValueError(
            "The moments of a softmax are known along the last axis. Received: layer "
            f"'{layer.name}' with axis={layer.axis}"
        )
    return softmax_moments(x)


@register_moment_rule(layers.LeakyReLU, nn_operations.LeakyRelu)
def leaky_relu(layer: keras.Operation, weights: WeightMoments, x: Moments) -> Moments:
    """A rectifier with a slope below zero.

    Args:
        layer: The layer or operation.
        weights: None.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    slope = float(layer.negative_slope)
    return Activated(
        x, functools.partial(rectified, negative_slope=slope), rises=slope >= 0
    )


@register_moment_rule(layers.PReLU)
def parametric_relu(
    layer: keras.layers.PReLU, weights: WeightMoments, x: Moments
) -> Moments:
    """A rectifier with learned slopes below zero.

    Args:
        layer: The layer.
        weights: Its slopes, "alpha".
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    slope, _ = weights.moments("alpha")
    return Activated(x, functools.partial(rectified, negative_slope=slope), rises=False)


@register_moment_rule(layers.ELU)
def elu_layer(layer: keras.layers.ELU, weights: WeightMoments, x: Moments) -> Moments:
    """An exponential linear unit, by quadrature.

    Args:
        layer: The layer.
        weights: None.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    return Activated(x, functools.partial(by_quadrature, layer), rises=layer.alpha >= 0)


def _operation_rule(function: Callable) -> Callable:
    def rule(layer: keras.Operation, weights: WeightMoments, x: Moments) -> Moments:
        return activated(function, x, f"operation '{layer.name}'")

    rule.__name__ = f"operation_{function.__name__}"
    return rule


for _operation, _function in (
    (nn_operations.Relu, keras.activations.relu),
    (nn_operations.Relu6, keras.activations.relu6),
    (nn_operations.HardSigmoid, keras.activations.hard_sigmoid),
    (nn_operations.Sigmoid, keras.activations.sigmoid),
    (nn_operations.Silu, keras.activations.silu),
    (nn_operations.Softplus, keras.activations.softplus),
    (numpy_operations.Tanh, keras.activations.tanh),
):
    register_moment_rule(_operation)(_operation_rule(_function))
