"""Which activation functions treat each channel by itself."""

from typing import Any

import keras

ELEMENTWISE = frozenset(
    keras.activations.get(name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh "
        "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink "
        "softplus softsign squareplus tanh tanh_shrink threshold"
    ).split()
)
# f(c x) = c f(x) for positive c.
HOMOGENEOUS = frozenset(map(keras.activations.get, ("linear", "relu", "leaky_relu")))


def is_elementwise(activation: Any) -> bool:
    """Whether a function computes each number from the same number of its input.

    Args:
        activation: A function; None stands for the identity.

    Returns:
        True if it is known to.
    """
    return activation is None or activation in ELEMENTWISE


def is_homogeneous(activation: Any) -> bool:
    """Whether a function commutes with positive factors.

    Args:
        activation: A function; None stands for the identity.

    Returns:
        True if it is known to.
    """
    return activation is None or activation in HOMOGENEOUS
