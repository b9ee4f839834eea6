"""Bayesian convolutions."""

import keras
import tensorflow as tf
from keras import ops

from keras_bmr.layers.linear import LinearVariational
from keras_bmr.layers.registry import register_variational


class ConvolutionVariational(LinearVariational):
    """Mixin for the convolutions of Keras: their channels and their linear map.

    The default is flipout. Local reparameterisation would draw noise for every pixel
    on its own, which takes longer than the convolution and, forgetting that pixels
    share a kernel, trains posteriors that are too wide for kernels that are drawn.
    """

    ESTIMATORS = ("flipout", "local_reparameterization", "reparameterization")

    @property
    def _channel_axes(self) -> tuple[int, ...]:
        return (1,) if self.data_format == "channels_first" else (-1,)

    input_channel_axes = _channel_axes
    output_channel_axes = _channel_axes

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear`."""
        return self.convolution_op(inputs, kernel)


@register_variational(keras.layers.Conv1D)
class Conv1DVariational(ConvolutionVariational, keras.layers.Conv1D):
    """`keras.layers.Conv1D` whose kernel has a posterior.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer.
        **kwargs: Arguments of `keras.layers.Conv1D` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.Conv1DVariational(8, 3, num_examples=60000)
        >>> layer(keras.ops.ones((2, 8, 1)), training=True).shape
        TensorShape([2, 6, 8])
    """

    def linear(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """See `LinearVariational.linear`."""
        padding = self.padding
        if padding == "causal":
            # The past alone is padded, which `keras.ops.conv` does not know.
            inputs = ops.pad(inputs, self._compute_causal_padding())
            padding = "valid"
        return ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


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


@register_variational(keras.layers.Conv3D)
class Conv3DVariational(ConvolutionVariational, keras.layers.Conv3D):
    """`keras.layers.Conv3D` whose kernel has a posterior.

    Args:
        filters: Positive integer, the number of output channels.
        kernel_size: Integer or triple of integers.
        **kwargs: Arguments of `keras.layers.Conv3D` and those of
            `keras_bmr.layers.Variational`.

    Example:
        >>> layer = keras_bmr.layers.Conv3DVariational(8, 3, num_examples=60000)
        >>> layer(keras.ops.ones((2, 8, 8, 8, 1)), training=True).shape
        TensorShape([2, 6, 6, 6, 8])
    """
