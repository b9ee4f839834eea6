"""Bayesian transposed convolutions."""

import keras
import tensorflow as tf
from keras import ops

from keras_bmr.layers.convolution import ConvolutionVariational
from keras_bmr.layers.registry import register_variational


class TransposedConvolutionVariational(ConvolutionVariational):
    """Mixin for the transposed convolutions of Keras."""

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear`."""
        return ops.conv_transpose(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@register_variational(keras.layers.Conv1DTranspose)
class Conv1DTransposeVariational(
    TransposedConvolutionVariational, keras.layers.Conv1DTranspose
):
    """`keras.layers.Conv1DTranspose` whose kernel has a posterior.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer.
        **kwargs: Arguments of `keras.layers.Conv1DTranspose` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.Conv1DTransposeVariational(8, 3, num_examples=100)
        >>> layer(keras.ops.ones((2, 6, 1)), training=True).shape
        TensorShape([2, 8, 8])
    """


@register_variational(keras.layers.Conv2DTranspose)
class Conv2DTransposeVariational(
    TransposedConvolutionVariational, keras.layers.Conv2DTranspose
):
    """`keras.layers.Conv2DTranspose` whose kernel has a posterior.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or pair of integers.
        **kwargs: Arguments of `keras.layers.Conv2DTranspose` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.Conv2DTransposeVariational(8, 3, num_examples=100)
        >>> layer(keras.ops.ones((2, 6, 6, 1)), training=True).shape
        TensorShape([2, 8, 8, 8])
    """


@register_variational(keras.layers.Conv3DTranspose)
class Conv3DTransposeVariational(
    TransposedConvolutionVariational, keras.layers.Conv3DTranspose
):
    """`keras.layers.Conv3DTranspose` whose kernel has a posterior.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or triple of integers.
        **kwargs: Arguments of `keras.layers.Conv3DTranspose` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.Conv3DTransposeVariational(8, 3, num_examples=100)
        >>> layer(keras.ops.ones((2, 6, 6, 6, 1)), training=True).shape
        TensorShape([2, 8, 8, 8, 8])
    """
