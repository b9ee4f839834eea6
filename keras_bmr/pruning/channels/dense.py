"""Rules of dense layers."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.pruning.channels.along_axis import num_along
from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.linear_rule import LinearRule
from keras_bmr.pruning.channels.passing_rules import FixedRule
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import Recorder


@register_channel_rule(keras.layers.Dense)
class DenseRule(LinearRule):
    """Units are channels."""

    def axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """See `LinearRule.axes`."""
        return -1, -1

    def kernel_axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """See `LinearRule.kernel_axes`."""
        return 0, 1

    def matrices(
        self, layer: keras.layers.Layer, get: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """See `LinearRule.matrices`."""
        return get("kernel")[np.newaxis]

    def maps_constants(self, layer: keras.layers.Layer) -> bool:
        """See `LinearRule.maps_constants`."""
        return True

    def units(self, layer: keras.layers.Layer) -> tuple[str, ...]:
        """See `LinearRule.units`."""
        return ("units",)


@register_channel_rule(keras.layers.EinsumDense)
class EinsumDenseRule(LinearRule):
    """Channels lie along one index of the kernel that the input has, and one that not.

    With several indices on a side, such as heads and their width, the first one
    counts. Where the kernel shares an index with input and output both, all stays.
    """

    def axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """See `LinearRule.axes`."""
        inputs, kernel, outputs = _terms(layer)
        row, column = self.kernel_axes(layer)
        return (
            inputs.index(kernel[row]) - len(inputs),
            outputs.index(kernel[column]) - len(outputs),
        )

    def kernel_axes(self, layer: keras.layers.Layer) -> tuple[int, int]:
        """See `LinearRule.kernel_axes`."""
        inputs, kernel, outputs = _terms(layer)
        row = next(i for i, index in enumerate(kernel) if index not in outputs)
        column = next(i for i, index in enumerate(kernel) if index not in inputs)
        return row, column

    def matrices(
        self, layer: keras.layers.Layer, get: Callable[[str], np.ndarray]
    ) -> np.ndarray:
        """See `LinearRule.matrices`."""
        kernel = np.moveaxis(get("kernel"), self.kernel_axes(layer), (-2, -1))
        return kernel.reshape(-1, *kernel.shape[-2:])

    def maps_constants(self, layer: keras.layers.Layer) -> bool:
        """See `LinearRule.maps_constants`."""
        # Along a second index of the output the kernel differs.
        return len(_terms(layer)[1]) == 2

    def units(self, layer: keras.layers.Layer) -> tuple[str, ...]:
        """See `LinearRule.units`."""
        return ()

    def bias_axis(self, layer: keras.layers.Layer) -> int | None:
        """See `LinearRule.bias_axis`."""
        if layer.bias is None:
            # One could be added if the index is all there is to a channel.
            return None
        axis = self.axes(layer)[1] + len(layer.bias.shape)
        return axis if axis >= 0 and layer.bias.shape[axis] > 1 else None

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        if _is_plain(call.operation):
            return super().trace(call, inputs, recorder)
        return FixedRule().trace(call, inputs, recorder)

    def constants(self, call: Call, inputs: Sequence[np.ndarray], weights: Any) -> list:
        """See `ChannelRule.constants`."""
        if _is_plain(call.operation):
            return super().constants(call, inputs, weights)
        return FixedRule().constants(call, inputs, weights)

    def reads(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Any,
    ) -> list[np.ndarray]:
        """See `ChannelRule.reads`."""
        rule = super() if _is_plain(call.operation) else FixedRule()
        return rule.reads(call, constants, alive, weights)

    def shifts(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Any,
    ) -> dict[str, np.ndarray]:
        """See `ChannelRule.shifts`."""
        rule = super() if _is_plain(call.operation) else FixedRule()
        return rule.shifts(call, constants, alive, weights)

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        layer = call.operation
        if not _is_plain(layer):
            return {}
        shape = list(layer.partial_output_shape)
        axis = self.axes(layer)[1]
        shape[axis] = num_along(outputs[0], axis, call.output_shapes[0][axis])
        return {"output_shape": shape}

    def input_rows(self, call: Call, axis: int) -> Any:
        """See `ChannelRule.input_rows`."""
        rule = super() if _is_plain(call.operation) else FixedRule()
        return rule.input_rows(call, axis)

    def output_columns(self, call: Call, axis: int) -> Any:
        """See `ChannelRule.output_columns`."""
        rule = super() if _is_plain(call.operation) else FixedRule()
        return rule.output_columns(call, axis)


def _terms(layer: keras.layers.Layer) -> list[str]:
    """The indices of input, kernel and output, "0" standing for an ellipsis."""
    return re.split(",|->", layer.equation.replace("...", "0").replace(" ", ""))


def _is_plain(layer: keras.layers.Layer) -> bool:
    inputs, kernel, outputs = _terms(layer)
    shared = set(kernel) & set(inputs) & set(outputs)
    # An ellipsis at the end or in the middle would move what is counted from the end.
    ellipsis = all("0" not in term[1:] for term in (inputs, outputs))
    return (
        not shared
        and ellipsis
        and "0" not in kernel
        and any(index not in outputs for index in kernel)
        and any(index not in inputs for index in kernel)
    )
