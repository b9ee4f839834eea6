"""Bayesian depthwise convolutions."""

import keras
import tensorflow as tf
from keras import ops

from keras_bmr.layers.convolution import ConvolutionVariational
from keras_bmr.layers.registry import register_variational


class DepthwiseConvolutionVariational(ConvolutionVariational):
    """Mixin for the depthwise convolutions of Keras."""

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear`."""
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@register_variational(keras.layers.DepthwiseConv1D)
class DepthwiseConv1DVariational(
    DepthwiseConvolutionVariational, keras.layers.DepthwiseConv1D
):
    """`keras.layers.DepthwiseConv1D` whose kernel has a posterior.

    Args:
        kernel_size: Integer.
        **kwargs: Arguments of `keras.layers.DepthwiseConv1D` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.DepthwiseConv1DVariational(3, num_examples=100)
        >>> layer(keras.ops.ones((2, 8, 4)), training=True).shape
        TensorShape([2, 6, 4])
    """


@register_variational(keras.layers.DepthwiseConv2D)
class DepthwiseConv2DVariational(
    DepthwiseConvolutionVariational, keras.layers.DepthwiseConv2D
):
    """`keras.layers.DepthwiseConv2D` whose kernel has a posterior.

    Args:
        kernel_size: Integer or pair of integers.
        **kwargs: Arguments of `keras.layers.DepthwiseConv2D` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.DepthwiseConv2DVariational(3, num_examples=100)
        >>> layer(keras.ops.ones((2, 8, 8, 4)), training=True).shape
        TensorShape([2, 6, 6, 4])
    """
