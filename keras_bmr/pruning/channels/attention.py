"""The rule of attention."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.pruning.channels.along_axis import constants_along, labels_along
from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import FIXED, spread
from keras_bmr.pruning.channels.layer_weights import LayerWeights
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import ChannelRule, Recorder, Weights


@register_channel_rule(keras.layers.MultiHeadAttention)
class MultiHeadAttentionRule(ChannelRule):
    """Heads are channels inside of the layer, and so are the numbers it returns."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        layer = call.operation
        sources = _sources(call)
        heads = recorder.new(layer, layer.num_heads)
        for name, index in sources.items():
            width = call.input_shapes[index][-1]
            read = labels_along(inputs[index], -1, width, recorder)
            path = f"_{name}_dense"
            recorder.weight(layer, f"{path}.kernel", 0, read, "outgoing")
            recorder.weight(layer, f"{path}.kernel", 1, heads, "incoming")
            if getattr(layer, path).bias is not None:
                recorder.weight(layer, f"{path}.bias", 0, heads, "incoming")
        recorder.weight(layer, "_output_dense.kernel", 0, heads, "outgoing")
        shape = call.output_shapes[0]
        if len(layer._output_dense.kernel.shape) > 3:
            made = np.full(shape[-1], FIXED)
        else:
            made = recorder.new(layer, shape[-1])
            recorder.weight(layer, "_output_dense.kernel", 2, made, "incoming")
            if layer._output_dense.bias is not None:
                recorder.weight(layer, "_output_dense.bias", 0, made, "incoming")
        if len(call.output_shapes) > 1:
            # The scores of each head are returned.
            recorder.fix(heads)
        scores = [np.full((1,) * len(other), FIXED) for other in call.output_shapes[1:]]
        return [spread(made, -1, len(shape)), *scores, heads]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        layer = call.operation
        own = weights(layer)
        others = super().constants(call, inputs, weights)[1:]
        kernel = own.nonzero("_output_dense.kernel")
        if kernel.ndim > 3:
            return super().constants(call, inputs, weights)
        silent = ~kernel.any(axis=(0, 1))
        values = np.where(silent, 0.0, np.nan)
        if layer._output_dense.bias is not None:
            bias = own.value("_output_dense.bias")
            if own.is_random("_output_dense.bias"):
                bias = np.where(own.nonzero("_output_dense.bias"), np.nan, bias)
            values = values + bias
        return [spread(values, -1, len(call.output_shapes[0])), *others]

    def reads(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> list[np.ndarray]:
        """See `ChannelRule.reads`."""
        own = weights(call.operation)
        heads = alive[len(call.output_shapes)]
        needed = super().reads(call, constants, alive, weights)
        for name, index in _sources(call).items():
            kernel = own.nonzero(f"_{name}_dense.kernel")
            read = kernel[:, heads].any(axis=(1, 2))
            read &= constants_along(constants[index], -1, read.size) != 0
            needed[index] = needed[index] | spread(
                read, -1, len(call.input_shapes[index])
            )
        outputs = [np.zeros((1,) * len(shape), bool) for shape in call.output_shapes]
        return [*needed, *outputs, self._heads_read(own, alive[0])]

    def _heads_read(self, own: LayerWeights, alive: np.ndarray) -> np.ndarray:
        """Which heads return something that outputs read."""
        read = own.nonzero("_output_dense.kernel").any(axis=1)
        read = read.reshape(len(read), -1)
        outputs = np.broadcast_to(alive.reshape(-1), read.shape[1:])
        speaks = own.nonzero("_value_dense.kernel").any(axis=(0, 2))
        if own.has("_value_dense.bias"):
            speaks |= own.nonzero("_value_dense.bias").any(axis=1)
        return read[:, outputs].any(axis=1) & speaks

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        layer = call.operation
        config = {"num_heads": int(np.count_nonzero(outputs[len(call.output_shapes)]))}
        if len(layer._output_dense.kernel.shape) == 3:
            width = call.output_shapes[0][-1]
            kept = np.broadcast_to(outputs[0].reshape(-1), (width,))
            config["output_shape"] = int(np.count_nonzero(kept))
        return config


def _sources(call: Call) -> dict[str, int]:
    """Which input each projection reads."""
    layer = call.operation
    signature = inspect.signature(keras.layers.MultiHeadAttention.call)
    bound = signature.bind(layer, *call.arguments, **call.keywords).arguments
    value = call.position(bound["value"])
    key = bound.get("key")
    query = call.position(bound["query"])
    sources = {
        "query": query,
        "key": value if key is None else call.position(key),
        "value": value,
    }
    return {**sources, "gate": query} if layer._use_gate else sources
