"""Moments of convolutions of images, which pooling can ask for window by window."""

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.export.uncertainty.activations import activated
from keras_bmr.export.uncertainty.linear import linear_layer
from keras_bmr.export.uncertainty.moments import Moments
from keras_bmr.export.uncertainty.registry import register_moment_rule
from keras_bmr.export.uncertainty.weight_moments import WeightMoments

layers = keras.layers


class Convolved(Moments):
    """Moments of a convolution, whose variance is evaluated when it is asked for.

    Args:
        mean: The mean, shape (batch, height, width, channels).
        variance_of: Maps the sizes of windows, (1, 1) for single positions, to the mean
            variance of each of the windows that follow each other without overlap.
    """

    def __init__(
        self,
        mean: tf.Tensor,
        variance_of: Callable[[tuple[int, int]], tf.Tensor],
    ) -> None:
        super().__init__(mean)
        self.variance_of_windows = variance_of

    @functools.cached_property
    def _evaluated(self) -> tf.Tensor:
        return self.variance_of_windows((1, 1))

    @property
    def variance(self) -> tf.Tensor:
        """See `Moments.variance`."""
        return self._evaluated

    @property
    def is_certain(self) -> bool:
        """See `Moments.is_certain`."""
        return False


@register_moment_rule(layers.Conv2D)
def convolution(layer: layers.Conv2D, weights: WeightMoments, x: Moments) -> Moments:
    """As `linear_layer`; the mean variance of a window takes one convolution.

    The variance of a convolution is a convolution, with the variances of the kernel in
    place of the kernel. Its mean over windows of p x q positions is one with strides
    (p, q) and a kernel that is averaged over as many shifts: p q times fewer positions.

    Args:
        layer: The layer.
        weights: Its weights.
        x: Moments of its input.

    Returns:
        Moments of its output.
    """
    kernel, kernel_variance = weights.moments("kernel")
    bias, bias_variance = weights.moments("bias")
    plain = (
        layer.data_format == "channels_last"
        and layer.groups == 1
        and set(layer.strides) == set(layer.dilation_rate) == {1}
    )
    if not plain:
        return linear_layer(layer, weights, x)
    mean = tf.nn.conv2d(x.mean, kernel, 1, layer.padding.upper())
    if bias is not None:
        mean += bias

    def variance_of(window: tuple[int, int]) -> tf.Tensor:
        terms = []
        if kernel_variance is not None:
            terms.append((tf.square(x.mean), kernel_variance))
        if not x.is_certain:
            own = 0.0 if kernel_variance is None else kernel_variance
            terms.append((x.variance, np.square(kernel) + own))
        total = functools.reduce(
            tf.add,
            [_mean_of_windows(values, sizes, layer, window) for values, sizes in terms],
        )
        return total if bias_variance is None else total + bias_variance

    outputs = Convolved(mean, variance_of)
    return activated(layer.activation, outputs, f"layer '{layer.name}'")


def _mean_of_windows(
    values: tf.Tensor,
    kernel: np.ndarray,
    layer: layers.Conv2D,
    window: tuple[int, int],
) -> tf.Tensor:
    """The mean of a convolution over windows that follow each other."""
    if window == (1, 1):
        return tf.nn.conv2d(values, kernel, 1, layer.padding.upper())
    height, width = window
    padded = np.zeros(
        (kernel.shape[0] + height - 1, kernel.shape[1] + width - 1, *kernel.shape[2:])
    )
    for row in range(height):
        for column in range(width):
            rows = slice(row, row + kernel.shape[0])
            padded[rows, column : column + kernel.shape[1]] += kernel
    padding = [[0, 0]] * 4
    if layer.padding == "same":
        padding[1:3] = [[(n - 1) // 2, n // 2] for n in kernel.shape[:2]]
    averaged = (padded / (height * width)).astype("float32")
    return tf.nn.conv2d(tf.pad(values, padding), averaged, window, "VALID")
