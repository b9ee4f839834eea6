"""Bayesian embeddings."""

import keras
import tensorflow as tf
from keras import ops

from keras_bmr.layers.linear import LinearVariational
from keras_bmr.layers.registry import register_variational


@register_variational(keras.layers.Embedding)
class EmbeddingVariational(LinearVariational, keras.layers.Embedding):
    """`keras.layers.Embedding` whose vectors have a posterior.

    Local reparameterisation draws a token's vector anew wherever the token occurs,
    "reparameterization" once for the batch. Flipout is not offered: its signs per
    input unit have no meaning for an index.

    Args:
        input_dim: Positive integer, the size of the vocabulary.
        output_dim: Positive integer, the size of a vector.
        **kwargs: Arguments of `keras.layers.Embedding` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.EmbeddingVariational(100, 8, num_examples=60000)
        >>> layer(keras.ops.ones((2, 5), dtype="int32"), training=True).shape
        TensorShape([2, 5, 8])
    """

    ESTIMATORS = ("local_reparameterization", "reparameterization")
    RANDOM_WEIGHTS = {"embeddings": "embeddings"}

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear`."""
        if inputs.dtype not in (tf.int32, tf.int64):
            inputs = ops.cast(inputs, "int32")
        return ops.take(kernel, inputs, axis=0)

    def linear_of_squares(self, inputs: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear_of_squares`; an index stands for a one."""
        return self.linear(inputs, variance)
