"""Rules of layers and operations that move channels, and of pooling."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras.src.ops import numpy as numpy_operations

from keras_bmr.pruning.channels.along_axis import num_along
from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import channel_axis, compress
from keras_bmr.pruning.channels.passing_rules import ChannelwiseRule, FixedRule
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import Recorder

layers = keras.layers


@register_channel_rule(
    layers.Flatten, layers.Permute, layers.RepeatVector, layers.Reshape
)
class MovingRule(ChannelwiseRule):
    """Numbers are moved as they are."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        moved = self.move(call, inputs[0])
        if moved is None:
            return FixedRule().trace(call, inputs, recorder)
        varying = [axis for axis, size in enumerate(moved.shape) if size > 1]
        if len(varying) > 1:
            # Made of a vector: the channels are those of what reads it.
            first = keras.config.image_data_format() == "channels_first"
            axis = varying[0 if first else -1]
            one = moved
            for other in set(varying) - {axis}:
                one = np.take(one, [0], axis=other)
            recorder.couple(moved, one)
            moved = one
        return [moved]

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`."""
        shape = (1, *call.input_shapes[0][1:])
        if None in shape:
            return None
        whole = keras.ops.convert_to_tensor(np.broadcast_to(array, shape))
        # Not `operation(...)`, which casts to the precision of the layer.
        return compress(np.asarray(call.operation.call(whole)))

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        if not isinstance(call.operation, layers.Reshape):
            return {}
        return {"target_shape": _shape(call, outputs[0])[1:]}


def _shape(call: Call, kept: np.ndarray) -> tuple[int, ...]:
    sizes = [
        num_along(kept, axis, size) for axis, size in enumerate(call.output_shapes[0])
    ]
    return tuple(-1 if size is None else size for size in sizes)


@register_channel_rule(numpy_operations.Reshape)
class ReshapeOperationRule(MovingRule):
    """As the layer, with the batch axis in the new shape."""

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`."""
        shape = (1, *call.input_shapes[0][1:])
        output_shape = (1, *call.output_shapes[0][1:])
        same_batch = call.output_shapes[0][0] == call.input_shapes[0][0]
        if None in shape + output_shape or not same_batch:
            return None
        if np.prod(shape) != np.prod(output_shape):
            return None
        return compress(np.broadcast_to(array, shape).reshape(output_shape))

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        return {"newshape": _shape(call, outputs[0])}


@register_channel_rule(
    numpy_operations.ExpandDims,
    numpy_operations.Squeeze,
    numpy_operations.Swapaxes,
    numpy_operations.Transpose,
)
class AxesOperationRule(MovingRule):
    """Axes change places."""

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`."""
        shape = (1, *(size or 1 for size in call.input_shapes[0][1:]))
        moved = call.operation.call(np.broadcast_to(array, shape))
        moved = compress(np.asarray(moved))
        return moved if moved.shape[0] == 1 else None


@register_channel_rule(numpy_operations.GetItem)
class GetItemRule(MovingRule):
    """A slice or an entry along an axis that is not that of the channels."""

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`."""
        key = call.arguments[1] if len(call.arguments) > 1 else call.keywords["key"]
        keys = key if isinstance(key, tuple) else (key,)
        axis = channel_axis(array)
        plain = all(isinstance(entry, (int, slice)) for entry in keys)
        if not plain or not keys or keys[0] != slice(None):
            return None
        if axis is not None and axis < len(keys) and keys[axis] != slice(None):
            return None
        dropped = [i for i, entry in enumerate(keys) if isinstance(entry, int)]
        return np.squeeze(array, axis=tuple(dropped))


@register_channel_rule(
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.Resizing,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
)
class PoolingRule(ChannelwiseRule):
    """Places of one channel are taken together, or repeated."""

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`."""
        return array if _is_at_channels(call, array) else None


@register_channel_rule(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
class ZeroPaddingRule(PoolingRule):
    """Zeros beside a constant other than zero make no constant."""

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Any
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        (values,) = super().constants(call, inputs, weights)
        return [np.where(values == 0, 0.0, np.nan)]


@register_channel_rule(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
class GlobalPoolingRule(PoolingRule):
    """One number of each channel is left."""

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`."""
        if not _is_at_channels(call, array):
            return None
        if call.operation.keepdims:
            return array
        return array.reshape(1, -1)


def _is_at_channels(call: Call, array: np.ndarray) -> bool:
    """Whether differences are along the axis that the layer takes for channels."""
    layer = call.operation
    first = getattr(layer, "data_format", None) == "channels_first"
    axis = 1 if first else array.ndim - 1
    return array.size == array.shape[axis]


@register_channel_rule(numpy_operations.Mean, numpy_operations.Max)
class ReductionOperationRule(ChannelwiseRule):
    """A mean or maximum over places."""

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`."""
        operation = call.operation
        rank = array.ndim
        if operation.axis is None:
            return None
        axes = tuple(axis % rank for axis in np.atleast_1d(operation.axis))
        if 0 in axes or any(array.shape[axis] > 1 for axis in axes):
            return None
        return array if operation.keepdims else np.squeeze(array, axis=axes)
