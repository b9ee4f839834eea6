"""Bayesian scales of normalisation layers."""

import keras
import tensorflow as tf

from keras_bmr.layers.registry import register_variational
from keras_bmr.layers.variational import Variational


class NormalizationVariational(Variational):
    """Mixin for normalisation layers with a scale per channel.

    The prior of a scale is centred at 0, as that of any weight here: gamma ~ N(0, v).
    Its simplest model is a channel that is not there, so that pruning a scale prunes
    a channel (what is left of it is the constant beta, which the next layer's bias can
    take over). The prior is proper and independent of the next layer's weights, so
    that the evidence lower bound is one of an ordinary model, although the data tell
    about the product of a scale and the weights behind it only. For that reason
    `to_variational` leaves normalisation layers as they are: use these classes where
    channels are to be pruned.

    With `bayesian_bias=True` beta has a posterior too.
    """

    RANDOM_WEIGHTS = {"gamma": "gamma"}
    BIASES = {"beta": "beta"}

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables."""
        super().build(input_shape)


@register_variational(keras.layers.LayerNormalization)
class LayerNormalizationVariational(
    NormalizationVariational, keras.layers.LayerNormalization
):
    """`keras.layers.LayerNormalization` whose scale gamma has a posterior.

    The prior is centred at 0, see `NormalizationVariational`.

    Args:
        **kwargs: Arguments of `keras.layers.LayerNormalization` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.LayerNormalizationVariational(num_examples=60000)
        >>> layer(keras.ops.ones((2, 4)), training=True).shape
        TensorShape([2, 4])
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Applies the layer."""
        return super().call(inputs, training=training)


@register_variational(keras.layers.BatchNormalization)
class BatchNormalizationVariational(
    NormalizationVariational, keras.layers.BatchNormalization
):
    """`keras.layers.BatchNormalization` whose scale gamma has a posterior.

    The prior is centred at 0, see `NormalizationVariational`. As with any batch
    normalisation, an example's likelihood in training depends on its batch, so that
    the lower bound holds for the model given the batch statistics.

    Args:
        **kwargs: Arguments of `keras.layers.BatchNormalization` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.BatchNormalizationVariational(num_examples=60000)
        >>> layer(keras.ops.ones((2, 4)), training=True).shape
        TensorShape([2, 4])
    """

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Applies the layer."""
        return super().call(inputs, training=training, mask=mask)
