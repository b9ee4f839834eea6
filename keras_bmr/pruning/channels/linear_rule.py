"""The rule of layers that are linear in their inputs: outputs are new channels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.pruning.channels.activations import is_elementwise, is_homogeneous
from keras_bmr.pruning.channels.along_axis import constants_along, labels_along
from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import along, spread
from keras_bmr.pruning.channels.layer_weights import LayerWeights
from keras_bmr.pruning.channels.passing_rules import evaluate
from keras_bmr.pruning.channels.rule import ChannelRule, Recorder, Weights


class LinearRule(ChannelRule):
    """activation(linear(inputs, kernel) + bias), one bias per output channel.

    A subclass says where the channels are and what the kernel looks like as a matrix.
    """

    KERNELS: tuple[str, ...] = ("kernel",)

    # --- What a subclass says ---

    def axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """The axes of the channels of input and output."""
        raise NotImplementedError

    def kernel_axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """The axes of the kernel of input and output channels."""
        raise NotImplementedError

    def matrices(
        self, layer: keras.layers.Layer, get: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """The kernel as matrices, an output being the sum of their products.

        Args:
            layer: The layer.
            get: Gives the values of a weight, or which ones are not zero.

        Returns:
            Array of shape (matrices, input channels, output channels).
        """
        raise NotImplementedError

    def maps_constants(self, layer: keras.layers.Layer) -> bool:
        """Whether constant inputs make constant outputs: not where zeros are padded."""
        raise NotImplementedError

    def units(self, layer: keras.layers.Layer) -> tuple[str, ...]:
        """Names in the config of the number of output channels."""
        raise NotImplementedError

    def bias_axis(self, layer: keras.layers.Layer) -> int | None:
        """The axis of the bias that is that of the output channels."""
        del layer
        return 0

    # --- What follows from it ---

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        layer = call.operation
        input_axis, output_axis = self.axes(layer)
        shape, output_shape = call.input_shapes[0], call.output_shapes[0]
        read = labels_along(inputs[0], input_axis, shape[input_axis], recorder)
        made = recorder.new(layer, output_shape[output_axis])
        if not is_elementwise(getattr(layer, "activation", None)):
            recorder.fix(made)
        self.record(layer, read, made, recorder)
        return [spread(made, output_axis, len(output_shape))]

    def record(
        self,
        layer: keras.layers.Layer,
        read: np.ndarray,
        made: np.ndarray,
        recorder: Recorder,
    ) -> None:
        """Records the axes of the weights."""
        row, column = self.kernel_axes(layer)
        (kernel,) = self.KERNELS
        recorder.weight(layer, kernel, row, read, "outgoing")
        recorder.weight(layer, kernel, column, made, "incoming")
        bias_axis = self.bias_axis(layer)
        if layer.bias is not None and bias_axis is not None:
            recorder.weight(layer, "bias", bias_axis, made, "incoming")

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        layer = call.operation
        own = weights(layer)
        input_axis, output_axis = self.axes(layer)
        size = call.input_shapes[0][input_axis]
        values = constants_along(inputs[0], input_axis, size)
        varying = np.isnan(values)
        if not self.maps_constants(layer):
            varying |= values != 0
        matrices = self.matrices(layer, own.nonzero)
        outputs = np.where(matrices[:, varying].any(axis=(0, 1)), np.nan, 0.0)
        outputs += self._response(layer, own, np.where(varying, 0, values))
        outputs += self._bias(layer, own, outputs.size)
        activation = getattr(layer, "activation", None)
        if activation is not None:
            outputs = (
                evaluate(activation, outputs)
                if is_elementwise(activation)
                else np.full_like(outputs, np.nan)
            )
        return [spread(outputs, output_axis, len(call.output_shapes[0]))]

    def _response(
        self, layer: keras.layers.Layer, own: LayerWeights, values: np.ndarray
    ) -> np.ndarray:
        rows = np.flatnonzero(values)
        if not rows.size:
            return np.zeros(())
        summed = self.matrices(layer, own.value)[:, rows].sum(axis=0)
        return values[rows] @ summed

    def _bias(
        self, layer: keras.layers.Layer, own: LayerWeights, size: int
    ) -> np.ndarray:
        if layer.bias is None:
            return np.zeros(size)
        value = own.value("bias")
        axis = self.bias_axis(layer)
        if axis is None:
            uniform = np.full(size, value.flat[0])
            values = np.where((value == value.flat[0]).all(), uniform, np.nan)
        else:
            values = np.moveaxis(value, axis, 0).reshape(size, -1)
            same = (values == values[:, :1]).all(axis=1)
            values = np.where(same, values[:, 0], np.nan)
        if own.is_random("bias"):
            # An uncertain bias makes the output vary in training.
            values = np.where(own.nonzero("bias"), np.nan, values)
        return values

    def folds(self, call: Call, weights: Weights) -> bool:
        """See `ChannelRule.folds`."""
        return self._can_shift(call.operation, weights(call.operation))

    def _can_shift(self, layer: keras.layers.Layer, own: LayerWeights) -> bool:
        if not self.maps_constants(layer) or self.bias_axis(layer) is None:
            return False
        if layer.bias is None:
            return not getattr(layer, "bayesian_bias", False)
        return not own.is_random("bias")

    def reads(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> list[np.ndarray]:
        """See `ChannelRule.reads`."""
        layer = call.operation
        own = weights(layer)
        input_axis, output_axis = self.axes(layer)
        shape = call.input_shapes[0]
        size = shape[input_axis]
        outputs = along(alive[0], output_axis, call.output_shapes[0][output_axis])
        needed = self.matrices(layer, own.nonzero)[..., outputs].any(axis=(0, 2))
        values = constants_along(constants[0], input_axis, size)
        needed &= values != 0
        if self._can_shift(layer, own):
            needed &= np.isnan(values)
        return [spread(needed, input_axis, len(shape))]

    def shifts(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> dict[str, np.ndarray]:
        """See `ChannelRule.shifts`."""
        layer = call.operation
        own = weights(layer)
        input_axis, _ = self.axes(layer)
        size = call.input_shapes[0][input_axis]
        kept = along(alive[0], input_axis, size)
        if not self._can_shift(layer, own) or kept is None:
            return {}
        values = constants_along(constants[0], input_axis, size)
        gone = np.where(kept | np.isnan(values), 0, values)
        if not gone.any():
            return {}
        return {"bias": self._response(layer, own, gone)}

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        del inputs
        kept = int(np.count_nonzero(outputs[0]))
        return {name: kept for name in self.units(call.operation)}

    def input_rows(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """See `ChannelRule.input_rows`."""
        layer = call.operation
        if axis != self.axes(layer)[0] % len(call.input_shapes[0]):
            return None
        return {self.KERNELS[0]: self.kernel_axes(layer)[0]}

    def output_columns(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """See `ChannelRule.output_columns`."""
        layer = call.operation
        if axis != self.axes(layer)[1] % len(call.output_shapes[0]):
            return None
        bias_axis = self.bias_axis(layer)
        has_bias = layer.bias is not None
        if not is_homogeneous(getattr(layer, "activation", None)):
            return None
        if has_bias and bias_axis is None:
            return None
        columns = {self.KERNELS[-1]: self.kernel_axes(layer)[1]}
        return {**columns, "bias": bias_axis} if has_bias else columns
