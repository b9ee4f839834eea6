"""Bayesian separable convolutions."""

import keras
import tensorflow as tf

from keras_bmr.layers.registry import register_variational
from keras_bmr.layers.variational import Variational


class SeparableConvolutionVariational(Variational):
    """Mixin for the separable convolutions of Keras.

    The output is linear in each of the two kernels but not in both together, so that
    one draw of both serves a whole batch.
    """

    RANDOM_WEIGHTS = {
        "depthwise_kernel": "depthwise_kernel",
        "pointwise_kernel": "pointwise_kernel",
    }

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables."""
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Applies the layer."""
        return super().call(inputs, training=training)


@register_variational(keras.layers.SeparableConv1D)
class SeparableConv1DVariational(
    SeparableConvolutionVariational, keras.layers.SeparableConv1D
):
    """`keras.layers.SeparableConv1D` whose two kernels have posteriors.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer.
        **kwargs: Arguments of `keras.layers.SeparableConv1D` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.SeparableConv1DVariational(8, 3, num_examples=100)
        >>> layer(keras.ops.ones((2, 8, 4)), training=True).shape
        TensorShape([2, 6, 8])
    """


@register_variational(keras.layers.SeparableConv2D)
class SeparableConv2DVariational(
    SeparableConvolutionVariational, keras.layers.SeparableConv2D
):
    """`keras.layers.SeparableConv2D` whose two kernels have posteriors.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or pair of integers.
        **kwargs: Arguments of `keras.layers.SeparableConv2D` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.SeparableConv2DVariational(8, 3, num_examples=100)
        >>> layer(keras.ops.ones((2, 8, 8, 4)), training=True).shape
        TensorShape([2, 6, 6, 8])
    """
