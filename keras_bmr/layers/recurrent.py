"""Bayesian recurrent layers."""

from typing import Any

import keras
import tensorflow as tf

from keras_bmr.layers.registry import register_variational
from keras_bmr.layers.variational import Variational


class RecurrentVariational(Variational):
    """Mixin for the recurrent layers of Keras.

    The weights are drawn once for a batch and stay the same over the whole sequence,
    since an output depends on them through all steps before it.

    References:
        Fortunato, Blundell and Vinyals, Bayesian recurrent neural networks,
        arXiv 1704.02798, section 3.
    """

    RANDOM_WEIGHTS = {
        "kernel": "cell.kernel",
        "recurrent_kernel": "cell.recurrent_kernel",
    }
    BIASES = {"bias": "cell.bias"}

    def build(
        self,
        sequences_shape: tuple[int | None, ...],
        initial_state_shape: Any = None,
    ) -> None:
        """Creates the variables."""
        super().build(sequences_shape, initial_state_shape)

    def call(
        self,
        sequences: tf.Tensor,
        initial_state: Any = None,
        mask: tf.Tensor | None = None,
        training: bool | None = False,
    ) -> Any:
        """Applies the layer."""
        return super().call(
            sequences, initial_state=initial_state, mask=mask, training=training
        )


@register_variational(keras.layers.SimpleRNN)
class SimpleRNNVariational(RecurrentVariational, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN` whose two kernels have posteriors.

    Args:
        units: Positive integer, the size of the output.
        **kwargs: Arguments of `keras.layers.SimpleRNN` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.SimpleRNNVariational(8, num_examples=60000)
        >>> layer(keras.ops.ones((2, 5, 4)), training=True).shape
        TensorShape([2, 8])
    """


@register_variational(keras.layers.LSTM)
class LSTMVariational(RecurrentVariational, keras.layers.LSTM):
    """`keras.layers.LSTM` whose two kernels have posteriors.

    Args:
        units: Positive integer, the size of the output.
        **kwargs: Arguments of `keras.layers.LSTM` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.LSTMVariational(8, num_examples=60000)
        >>> layer(keras.ops.ones((2, 5, 4)), training=True).shape
        TensorShape([2, 8])
    """


@register_variational(keras.layers.GRU)
class GRUVariational(RecurrentVariational, keras.layers.GRU):
    """`keras.layers.GRU` whose two kernels have posteriors.

    Args:
        units: Positive integer, the size of the output.
        **kwargs: Arguments of `keras.layers.GRU` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.GRUVariational(8, num_examples=60000)
        >>> layer(keras.ops.ones((2, 5, 4)), training=True).shape
        TensorShape([2, 8])
    """
