"""A Gaussian prior in the loss, whose precision changes during training."""

from collections.abc import Sequence

import keras
import tensorflow as tf


class GaussianPrior(keras.regularizers.Regularizer):
    """sum(precision * weight^2) / 2, next to a regulariser of the user's.

    It belongs to a variable, not to the config of a layer: a model that is saved
    meanwhile does not speak of it.

    Args:
        variable: The weight.
    """

    def __init__(self, variable: keras.Variable) -> None:
        self.replaced = variable.regularizer
        self._precision = tf.Variable(tf.zeros(variable.shape), trainable=False)

    def follow(self, precision: tf.Tensor) -> None:
        """Takes another precision, a tensor that broadcasts to the weight's shape."""
        shape = self._precision.shape
        self._precision.assign(tf.broadcast_to(tf.cast(precision, tf.float32), shape))

    def __call__(self, weight: tf.Tensor) -> tf.Tensor:
        """The regularisation of a weight, a scalar."""
        squares = tf.square(tf.cast(tf.convert_to_tensor(weight), tf.float32))
        total = 0.5 * tf.reduce_sum(self._precision * squares)
        if self.replaced is not None:
            total += tf.cast(self.replaced(weight), tf.float32)
        return total


def attach_priors(variables: Sequence[keras.Variable]) -> list[GaussianPrior]:
    """Gives each variable a prior with precision 0.

    Args:
        variables: Trainable weights.

    Returns:
        One prior each.
    """
    # A training that was interrupted leaves its own behind.
    detach_priors(variables)
    for variable in variables:
        variable.regularizer = GaussianPrior(variable)
    return [variable.regularizer for variable in variables]


def detach_priors(variables: Sequence[keras.Variable]) -> None:
    """Takes the priors away again, and gives the user's regularisers back.

    Args:
        variables: As for `attach_priors`.
    """
    for variable in variables:
        if isinstance(variable.regularizer, GaussianPrior):
            variable.regularizer = variable.regularizer.replaced
