"""Rules of layers and operations that join several tensors."""

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras.src.ops import numpy as numpy_operations

from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import FIXED, channel_axis
from keras_bmr.pruning.channels.passing_rules import FixedRule
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import ChannelRule, Recorder, Weights

layers = keras.layers


def _multiply(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    # Zero times what varies is zero.
    return np.where((first == 0) | (second == 0), 0.0, first * second)


def _average(*values: np.ndarray) -> np.ndarray:
    return functools.reduce(np.add, values) / len(values)


_FUNCTIONS: dict[type, Callable] = {
    layers.Add: np.add,
    layers.Average: _average,
    layers.Maximum: np.maximum,
    layers.Minimum: np.minimum,
    layers.Multiply: _multiply,
    layers.Subtract: np.subtract,
    numpy_operations.Add: np.add,
    numpy_operations.Divide: np.divide,
    numpy_operations.Maximum: np.maximum,
    numpy_operations.Minimum: np.minimum,
    numpy_operations.Multiply: _multiply,
    numpy_operations.Subtract: np.subtract,
    numpy_operations.TrueDivide: np.divide,
}


@register_channel_rule(*_FUNCTIONS)
class MergingRule(ChannelRule):
    """Channels at the same place come and go together."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        rank = len(call.output_shapes[0])
        whole = [
            array.reshape((1,) * (rank - array.ndim) + array.shape) for array in inputs
        ]
        shapes = [
            (1,) * (rank - len(shape)) + tuple(shape) for shape in call.input_shapes
        ]
        axes = {channel_axis(array) for array in whole} - {None}
        if len(axes) > 1 or not _constants_of_call(call):
            return FixedRule().trace(call, inputs, recorder)
        axis = next(iter(axes), -1)
        size = call.output_shapes[0][axis]
        outputs = None
        for array, shape in zip(whole, shapes, strict=True):
            if shape[axis] != size:
                # One channel meets all of the others.
                recorder.fix(array)
            elif outputs is None:
                outputs = array
            else:
                recorder.couple(outputs, array)
        if outputs is None:
            outputs = np.full((1,) * rank, FIXED)
        return [outputs]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        arguments = iter(inputs)
        if not isinstance(call.operation, keras.layers.Layer):
            arguments = [
                np.float64(argument)
                if (position := call.position(argument)) is None
                and np.ndim(argument) == 0
                else (np.full((), np.nan) if position is None else inputs[position])
                for argument in (*call.arguments, *call.keywords.values())
            ]
        function = _FUNCTIONS[type(call.operation)]
        arguments = list(arguments)
        with np.errstate(divide="ignore", invalid="ignore"):
            if function is _average:
                outputs = _average(*arguments)
            else:
                outputs = functools.reduce(function, arguments)
        outputs = np.where(np.isfinite(outputs), outputs, np.nan)
        rank = len(call.output_shapes[0])
        return [outputs.reshape((1,) * (rank - outputs.ndim) + outputs.shape)]


def _constants_of_call(call: Call) -> bool:
    """Whether the arguments that are no tensors have no channels of their own."""
    if isinstance(call.operation, keras.layers.Layer):
        return True
    return all(
        call.position(argument) is not None or np.ndim(argument) == 0
        for argument in (*call.arguments, *call.keywords.values())
    )


@register_channel_rule(layers.Concatenate, numpy_operations.Concatenate)
class ConcatenationRule(ChannelRule):
    """Channels stand side by side, or are the same ones if other axes are joined."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        joined = self._joined_axis(call, inputs)
        if joined is None:
            return FixedRule().trace(call, inputs, recorder)
        if any(channel_axis(array) == joined for array in inputs):
            return [self._join(call, inputs, joined)]
        for array in inputs[1:]:
            recorder.couple(inputs[0], array)
        widest = max(inputs, key=np.size)
        return [widest]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        joined = self._joined_axis(call, inputs)
        if joined is None or call.output_shapes[0][joined] is None:
            return super().constants(call, inputs, weights)
        return [self._join(call, inputs, joined)]

    def _joined_axis(self, call: Call, inputs: Sequence[np.ndarray]) -> int | None:
        joined = call.operation.axis % len(call.output_shapes[0])
        axes = {channel_axis(array) for array in inputs} - {None}
        if joined in axes and len(axes) > 1:
            return None
        return joined

    def _join(
        self, call: Call, inputs: Sequence[np.ndarray], joined: int
    ) -> np.ndarray:
        # The others know nothing of sizes, so that all have the shape of the largest.
        shape = np.max([array.shape for array in inputs], axis=0)
        parts = []
        for array, full in zip(inputs, call.input_shapes, strict=True):
            shape[joined] = 1 if full[joined] is None else full[joined]
            parts.append(np.broadcast_to(array, shape))
        return np.concatenate(parts, axis=joined)
