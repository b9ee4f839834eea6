"""Bayesian convolutions."""

import keras
import tensorflow as tf

from keras_bmr.layers.linear import LinearVariational
from keras_bmr.layers.registry import register_variational


class ConvolutionVariational(LinearVariational):
    """Mixin for the convolutions of `keras.layers.ConvND`."""

    @property
    def _channel_axes(self) -> tuple[int, ...]:
        return (1,) if self.data_format == "channels_first" else (-1,)

    input_channel_axes = _channel_axes
    output_channel_axes = _channel_axes

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Applies the layer."""
        return super().call(inputs, training=training)

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear`."""
        return self.convolution_op(inputs, kernel)


@register_variational(keras.layers.Conv2D)
class Conv2DVariational(ConvolutionVariational, keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose kernel has a posterior.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or pair of integers.
        **kwargs: Arguments of `keras.layers.Conv2D` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.Conv2DVariational(8, 3, num_examples=60000)
        >>> layer(keras.ops.ones((2, 8, 8, 1)), training=True).shape
        TensorShape([2, 6, 6, 8])
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the variables."""
        super().build(input_shape)
