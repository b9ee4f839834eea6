"""Log-normal posteriors of the positive variables that a hierarchical prior has."""

import math
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

# Scales have to travel over decades while weights move by tenths. The variables hold
# the parameters divided by this, so that Adam's steps are as much larger.
_GAIN = 10.0
_INITIAL_SCALE = 0.1


def add_log_normal(
    add_weight: Callable[..., keras.Variable],
    name: str,
    shape: tuple[int, ...],
    median: float,
) -> dict[str, keras.Variable]:
    """Creates the variables of independent log-normal posteriors.

    Args:
        add_weight: See `Prior.add_weights`.
        name: Name of the positive variables.
        shape: Their shape.
        median: Positive float, where they start.

    Returns:
        The location and the log scale of the logarithms, by name.
    """
    return {
        f"{name}_{parameter}": add_weight(
            name=f"{name}_{parameter}",
            shape=shape,
            initializer=keras.initializers.Constant(math.log(start) / _GAIN),
            trainable=True,
        )
        for parameter, start in (("loc", median), ("log_scale", _INITIAL_SCALE))
    }


def log_normal(state: Mapping[str, keras.Variable], name: str) -> tfd.LogNormal:
    """The log-normal posteriors at the current values.

    Args:
        state: The variables of `add_log_normal`, others among them.
        name: Name of the positive variables.

    Returns:
        LogNormal with their shape.
    """
    return tfd.LogNormal(
        _GAIN * state[f"{name}_loc"].value,
        tf.exp(_GAIN * state[f"{name}_log_scale"].value),
    )


def gamma_divergence(
    posterior: tfd.LogNormal, concentration: float, rate: float
) -> tf.Tensor:
    """KL(posterior || Gamma(concentration, rate)) in nats.

    Args:
        posterior: Log-normal of any shape.
        concentration: Positive float.
        rate: Positive float.

    Returns:
        Tensor with the shape of the posterior.
    """
    dtype = posterior.dtype
    hyperprior = tfd.Gamma(tf.constant(concentration, dtype), tf.constant(rate, dtype))
    return tfd.kl_divergence(posterior, hyperprior)
