"""Curvature rules of convolutions."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.laplace.curvature.registry import register_curvature_rule
from keras_bmr.laplace.curvature.rules.linear_rule import LinearRule
from keras_bmr.laplace.curvature.rules.moment_by_rows import (
    moment_by_rows,
    output_sizes,
    rows_are_cheaper,
)


def channels_last(layer: keras.layers.Layer, tensor: tf.Tensor) -> tf.Tensor:
    """Input or output of a convolution with its channels on the last axis."""
    if layer.data_format == "channels_last":
        return tensor
    rank = tensor.shape.rank
    return tf.transpose(tensor, [0, *range(2, rank), 1])


def padded(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """Inputs of shape (batch, *space, channels) with the zeros that it pads."""
    paddings = [(0, 0)]
    for size, kernel, stride, dilation in zip(
        inputs.shape[1:-1],
        layer.kernel_size,
        layer.strides,
        layer.dilation_rate,
        strict=True,
    ):
        reach = (kernel - 1) * dilation
        total = 0
        if layer.padding == "causal":
            paddings.append((reach, 0))
            continue
        if layer.padding == "same":
            total = max((math.ceil(size / stride) - 1) * stride + reach + 1 - size, 0)
        paddings.append((total // 2, total - total // 2))
    return tf.pad(inputs, [*paddings, (0, 0)])


def patches(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """What each output of a convolution sees.

    Args:
        layer: The convolution.
        inputs: Its inputs, of shape (batch, *space, channels).

    Returns:
        Tensor of shape (batch, positions, taps of the kernel, channels).
    """
    inputs = padded(layer, inputs)
    sizes, channels = output_sizes(layer, inputs.shape), inputs.shape[-1]
    seen = inputs
    # One axis of space after the other, the last first, so that the taps of the later
    # axes are copied in one piece with those of the earlier ones.
    for axis in reversed(range(len(sizes))):
        stride, dilation = layer.strides[axis], layer.dilation_rate[axis]
        windows = []
        for tap in range(layer.kernel_size[axis]):
            window = [slice(None)] * seen.shape.rank
            start = tap * dilation
            window[1 + axis] = slice(
                start, start + (sizes[axis] - 1) * stride + 1, stride
            )
            windows.append(seen[tuple(window)])
        seen = tf.concat(windows, -1)
    return tf.reshape(
        seen, (-1, math.prod(sizes), math.prod(layer.kernel_size), channels)
    )


class _ConvolutionRule(LinearRule):
    """What convolutions share."""

    def expand_outputs(
        self, layer: keras.layers.Layer, cotangents: tf.Tensor
    ) -> tf.Tensor:
        """See `LinearRule.expand_outputs`."""
        cotangents = channels_last(layer, cotangents)
        groups = self.num_groups(layer)
        positions = cotangents.shape[1:-1].num_elements()
        channels = cotangents.shape[-1] // groups
        return tf.reshape(
            cotangents, (tf.shape(cotangents)[0], positions, groups, channels)
        )

    def expand_inputs(self, layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
        """See `LinearRule.expand_inputs`."""
        seen = patches(layer, channels_last(layer, inputs))
        _, positions, taps, channels = seen.shape
        groups = self.num_groups(layer)
        size = channels // groups
        if groups > 1:
            seen = tf.reshape(seen, (-1, positions, taps, groups, size))
            seen = tf.transpose(seen, (0, 1, 3, 2, 4))
        return tf.reshape(seen, (-1, positions, groups, taps * size))

    def input_moment(
        self, layer: keras.layers.Layer, features: dict[str, Any]
    ) -> tf.Tensor:
        """See `LinearRule.input_moment`."""
        images = [padded(layer, channels_last(layer, i)) for i in features["inputs"]]
        if self.num_groups(layer) > 1 or not rows_are_cheaper(layer, images[0].shape):
            return super().input_moment(layer, features)
        return tf.add_n([moment_by_rows(layer, image) for image in images])

    def num_groups(self, layer: keras.layers.Layer) -> int:
        """Groups of channels that do not see each other."""
        raise NotImplementedError

    def kernel_layout(self, layer: keras.layers.Layer) -> tuple[tuple[int, ...], int]:
        """See `LinearRule.kernel_layout`: (*taps, channels in, channels out)."""
        rank = len(layer.kernel_size)
        return tuple(range(rank + 2)), rank + 1


@register_curvature_rule(keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
class ConvolutionRule(_ConvolutionRule):
    """Rule of convolutions, grouped ones included."""

    def num_groups(self, layer: keras.layers.Layer) -> int:
        """See `_ConvolutionRule.num_groups`."""
        return layer.groups


@register_curvature_rule(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
class DepthwiseConvolutionRule(_ConvolutionRule):
    """Rule of depthwise convolutions, where each channel is a group."""

    def num_groups(self, layer: keras.layers.Layer) -> int:
        """See `_ConvolutionRule.num_groups`."""
        return self.weights(layer)["kernel"].shape[-2]

    def kernel_layout(self, layer: keras.layers.Layer) -> tuple[tuple[int, ...], int]:
        """The kernel is (*taps, channels, multiplier): only taps are inputs."""
        rank = len(layer.kernel_size)
        return tuple(range(rank + 2)), rank
