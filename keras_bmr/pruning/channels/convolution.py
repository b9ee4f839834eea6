"""Rules of convolutions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.linear_rule import LinearRule
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import Recorder


class SpatialRule(LinearRule):
    """What the convolutions have in common."""

    def axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """See `LinearRule.axes`."""
        axis = 1 if layer.data_format == "channels_first" else -1
        return axis, axis

    def kernel_axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """See `LinearRule.kernel_axes`."""
        return layer.rank, layer.rank + 1

    def maps_constants(self, layer: keras.layers.Layer) -> bool:
        """See `LinearRule.maps_constants`."""
        return layer.padding == "valid" or set(layer.kernel_size) == {1}

    def units(self, layer: keras.layers.Layer) -> tuple[str, ...]:
        """See `LinearRule.units`."""
        return ("filters",)


@register_channel_rule(
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
class ConvolutionRule(SpatialRule):
    """Filters are channels.

    In a grouped convolution with few groups the channels at the same place of every
    group come and go together; with many groups, all channels of a group do.
    """

    def matrices(
        self, layer: keras.layers.Layer, get: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """See `LinearRule.matrices`."""
        kernel = get("kernel")
        kernel = kernel.reshape(-1, *kernel.shape[-2:])
        groups = layer.groups
        if groups == 1:
            return kernel
        taps, rows, columns = kernel.shape
        blocks = np.zeros((taps, groups, rows, groups, columns // groups), kernel.dtype)
        kernel = kernel.reshape(taps, rows, groups, -1)
        for group in range(groups):
            blocks[:, group, :, group] = kernel[:, :, group]
        return blocks.reshape(taps, rows * groups, columns)

    def record(
        self,
        layer: keras.layers.Layer,
        read: np.ndarray,
        made: np.ndarray,
        recorder: Recorder,
    ) -> None:
        """See `LinearRule.record`."""
        if layer.groups > 1:
            by_group = read.reshape(layer.groups, -1), made.reshape(layer.groups, -1)
            if _removes_groups(layer):
                for labels in by_group:
                    recorder.couple(labels, by_group[1][:, :1])
                recorder.weight(layer, "kernel", layer.rank + 1, made, "incoming")
                if layer.bias is not None:
                    recorder.weight(layer, "bias", 0, made, "incoming")
                return
            for labels in by_group:
                recorder.couple(labels, labels[:1])
            read = by_group[0][0]
        super().record(layer, read, made, recorder)

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        config = super().config(call, inputs, outputs)
        layer = call.operation
        if layer.groups > 1 and _removes_groups(layer):
            width = layer.filters // layer.groups
            config["groups"] = config["filters"] // width
        return config

    def input_rows(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """See `ChannelRule.input_rows`."""
        return super().input_rows(call, axis) if call.operation.groups == 1 else None


def _removes_groups(layer: keras.layers.Layer) -> bool:
    return layer.groups >= layer.kernel.shape[-2]


@register_channel_rule(
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
class TransposedConvolutionRule(SpatialRule):
    """Filters are channels; the kernel has them before the inputs."""

    def kernel_axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """See `LinearRule.kernel_axes`."""
        return layer.rank + 1, layer.rank

    def matrices(
        self, layer: keras.layers.Layer, get: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """See `LinearRule.matrices`."""
        kernel = get("kernel")
        return np.swapaxes(kernel.reshape(-1, *kernel.shape[-2:]), 1, 2)

    def maps_constants(self, layer: keras.layers.Layer) -> bool:
        """See `LinearRule.maps_constants`."""
        # Neighbours overlap, but not at the border.
        return set(layer.kernel_size) == {1} and set(layer.strides) == {1}


@register_channel_rule(keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
class SeparableConvolutionRule(SpatialRule):
    """Filters of the pointwise convolution are channels."""

    KERNELS = ("depthwise_kernel", "pointwise_kernel")

    def matrices(
        self, layer: keras.layers.Layer, get: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """See `LinearRule.matrices`."""
        depthwise, pointwise = (get(name).astype("float64") for name in self.KERNELS)
        depthwise = depthwise.reshape(-1, *depthwise.shape[-2:]).sum(axis=0)
        inputs, multiplier = depthwise.shape
        pointwise = pointwise.reshape(inputs, multiplier, -1)
        return np.moveaxis(depthwise[..., np.newaxis] * pointwise, 1, 0)

    def record(
        self,
        layer: keras.layers.Layer,
        read: np.ndarray,
        made: np.ndarray,
        recorder: Recorder,
    ) -> None:
        """See `LinearRule.record`."""
        depthwise, pointwise = self.KERNELS
        repeated = np.repeat(read, layer.depth_multiplier)
        recorder.weight(layer, depthwise, layer.rank, read, "outgoing")
        recorder.weight(layer, pointwise, layer.rank, repeated, "outgoing")
        recorder.weight(layer, pointwise, layer.rank + 1, made, "incoming")
        if layer.bias is not None:
            recorder.weight(layer, "bias", 0, made, "incoming")
