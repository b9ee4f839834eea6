"""Bayesian densely connected layers."""

import keras
import tensorflow as tf
from keras import ops

from keras_bmr.layers.linear import LinearVariational
from keras_bmr.layers.registry import register_variational


@register_variational(keras.layers.Dense)
class DenseVariational(LinearVariational, keras.layers.Dense):
    """`keras.layers.Dense` whose kernel has a posterior.

    In training the kernel is random; outside training the layer is
    `keras.layers.Dense` at the posterior mean.

    Args:
        units: Positive integer, the size of the output.
        **kwargs: Arguments of `keras.layers.Dense` and those of
            `keras_bmr.layers.Variational`: `posterior`, `prior`, `estimator`,
            `bayesian_bias`, `num_examples`, `seed`.

    Example:
        >>> layer = keras_bmr.layers.DenseVariational(10, num_examples=60000)
        >>> layer(keras.ops.ones((2, 4)), training=True).shape
        TensorShape([2, 10])
    """

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear`."""
        return ops.matmul(inputs, kernel)
