"""Bayesian dense layers in Einstein notation."""

import re
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_bmr.layers.linear import LinearVariational
from keras_bmr.layers.registry import register_variational


@register_variational(keras.layers.EinsumDense)
class EinsumDenseVariational(LinearVariational, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` whose kernel has a posterior.

    Flipout flips signs along the axes that input or output share with the kernel.
    It needs a batch axis, the first one of input and output, that the kernel does not
    have.

    Args:
        equation: Equation such as "ab,bc->ac" or "...ab,bc->...ac".
        output_shape: Shape of the output without the batch axis and those of "...".
        **kwargs: Arguments of `keras.layers.EinsumDense` and those of
            `keras_bmr.layers.Variational`.

    Raises:
        ValueError: If `estimator="flipout"` and the equation has no such batch axis.

    Example:
        >>> layer = keras_bmr.layers.EinsumDenseVariational(
        ...     "abc,cd->abd", output_shape=(None, 8), num_examples=60000
        ... )
        >>> layer(keras.ops.ones((2, 5, 4)), training=True).shape
        TensorShape([2, 5, 8])
    """

    def __init__(self, equation: str, output_shape: Any, **kwargs: Any) -> None:
        super().__init__(equation, output_shape, **kwargs)
        inputs, kernel, outputs = _terms(equation)
        batched = inputs[0] == outputs[0] and inputs[0] not in kernel
        if self.estimator == "flipout" and not batched:
            raise ValueError(
                "Flipout needs a batch axis: the first index of input and output, "
                "absent from the kernel, as in 'ab,bc->ac'. Use another `estimator`. "
                f"Received: equation={equation!r}"
            )

    @property
    def input_channel_axes(self) -> tuple[int, ...]:
        """Axes of the input that the kernel has too."""
        inputs, kernel, _ = _terms(self.equation)
        return _axes_of(set(inputs) & set(kernel), inputs)

    @property
    def output_channel_axes(self) -> tuple[int, ...]:
        """Axes of the output that the kernel has too."""
        _, kernel, outputs = _terms(self.equation)
        return _axes_of(set(outputs) & set(kernel), outputs)

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear`."""
        return ops.einsum(self.equation, inputs, kernel)

    def linear_of_squares(self, inputs: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear_of_squares`."""
        terms, kernel, outputs = _terms(self.equation)
        # Inputs that meet the same weights in the same output are summed, not squared.
        summed = _axes_of(set(terms) - set(kernel) - set(outputs), terms)
        if summed:
            inputs = ops.sum(inputs, axis=summed, keepdims=True)
        return super().linear_of_squares(inputs, variance)


def _terms(equation: str) -> list[str]:
    """The indices of input, kernel and output, "0" standing for an ellipsis."""
    return re.split(",|->", equation.replace("...", "0").replace(" ", ""))


def _axes_of(indices: set[str], term: str) -> tuple[int, ...]:
    """Where the indices stand, counted from the end that has no ellipsis."""
    offset = len(term) if term.startswith("0") else 0
    return tuple(i - offset for i, index in enumerate(term) if index in indices - {"0"})
