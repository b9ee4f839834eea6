"""Rules of recurrent layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.pruning.channels.along_axis import constants_along, labels_along
from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import along, spread
from keras_bmr.pruning.channels.layer_weights import LayerWeights
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import ChannelRule, Recorder, Weights

layers = keras.layers


@register_channel_rule(layers.SimpleRNN, layers.GRU, layers.LSTM)
class RecurrentRule(ChannelRule):
    """Units are channels: all gates of a unit and what its state feeds."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        made = self.record(call, call.operation, inputs[0], recorder)
        units = made.size
        for labels in inputs[1:]:
            # The states that it starts from have the channels of the layer.
            recorder.couple(labels_along(labels, -1, units, recorder), made)
        return [spread(made, -1, len(shape)) for shape in call.output_shapes]

    def record(
        self,
        call: Call,
        layer: keras.layers.Layer,
        labels: np.ndarray,
        recorder: Recorder,
    ) -> np.ndarray:
        """Records the weights of a layer and returns the labels of its units."""
        size = call.input_shapes[0][-1]
        read = labels_along(labels, -1, size, recorder)
        made = recorder.new(layer, layer.units)
        gates = np.tile(made, layer.cell.kernel.shape[-1] // layer.units)
        recorder.weight(layer, "cell.kernel", 0, read, "outgoing")
        recorder.weight(layer, "cell.kernel", 1, gates, "incoming")
        recorder.weight(layer, "cell.recurrent_kernel", 0, made, "outgoing")
        recorder.weight(layer, "cell.recurrent_kernel", 1, gates, "incoming")
        if layer.use_bias:
            axis = len(layer.cell.bias.shape) - 1
            recorder.weight(layer, "cell.bias", axis, gates, "incoming")
        if getattr(layer, "stateful", False):
            recorder.fix(made)
        return made

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        layer = call.operation
        values = silent_units(layer, inputs[0], call, weights(layer))
        if len(inputs) > 1:
            values = np.full_like(values, np.nan)
        return [spread(values, -1, len(shape)) for shape in call.output_shapes]

    def reads(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> list[np.ndarray]:
        """See `ChannelRule.reads`."""
        layer = call.operation
        units = along(alive[0], -1, layer.units)
        needed = read_by(layer, units, constants[0], call, weights(layer))
        others = [np.zeros((1,) * len(shape), bool) for shape in call.input_shapes]
        state = fed_back(layer, units, weights(layer))
        states = [spread(state, -1, len(shape)) for shape in call.output_shapes]
        return [needed, *others[1:], *states]

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        return {"units": int(np.count_nonzero(outputs[0]))}

    def input_rows(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """See `ChannelRule.input_rows`."""
        return {"cell.kernel": 0} if axis == 2 else None


def gates_of(layer: keras.layers.Layer, weight: np.ndarray) -> np.ndarray:
    """A kernel or bias with an axis of gates before that of the units."""
    return weight.reshape(*weight.shape[:-1], -1, layer.units)


def silent_units(
    layer: keras.layers.Layer, inputs: np.ndarray, call: Call, own: LayerWeights
) -> np.ndarray:
    """Zero for each unit whose state never leaves zero, NaN for the others."""
    values = constants_along(inputs, -1, call.input_shapes[0][-1])
    kernel = gates_of(layer, own.nonzero("cell.kernel"))
    driven = kernel[values != 0].any(axis=(0, 1))
    driven |= gates_of(layer, own.nonzero("cell.recurrent_kernel")).any(axis=(0, 1))
    if layer.use_bias:
        # The candidate of a GRU and LSTM is its third gate; a SimpleRNN has one.
        bias = gates_of(layer, own.nonzero("cell.bias"))
        bias = bias.reshape(-1, *bias.shape[-2:]).any(axis=0)
        driven |= bias[min(2, len(bias) - 1)]
    rest = np.zeros(1, "float32")
    if np.any(keras.ops.convert_to_numpy(layer.activation(rest))):
        driven |= True
    return np.where(driven, np.nan, 0.0)


def read_by(
    layer: keras.layers.Layer,
    units: np.ndarray,
    constants: np.ndarray,
    call: Call,
    own: LayerWeights,
) -> np.ndarray:
    """Which inputs are read by units that stay."""
    kernel = gates_of(layer, own.nonzero("cell.kernel"))
    needed = kernel[..., units].any(axis=(1, 2))
    needed &= constants_along(constants, -1, needed.size) != 0
    return spread(needed, -1, len(call.input_shapes[0]))


def fed_back(
    layer: keras.layers.Layer, units: np.ndarray, own: LayerWeights
) -> np.ndarray:
    """Which units are read by units that stay."""
    kernel = gates_of(layer, own.nonzero("cell.recurrent_kernel"))
    return kernel[..., units].any(axis=(1, 2))


@register_channel_rule(layers.Bidirectional)
class BidirectionalRule(RecurrentRule):
    """The units of both directions are coupled: Keras wants as many of each."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        wrapper = call.operation
        made = [
            self.record(call, layer, inputs[0], recorder) for layer in _both(wrapper)
        ]
        if len(call.output_shapes) > 1 or len(inputs) > 1 or not _is_known(wrapper):
            for labels in (*made, *inputs):
                recorder.fix(labels)
            return [np.zeros((1,) * len(shape), int) for shape in call.output_shapes]
        recorder.couple(*made)
        concatenated = wrapper.merge_mode == "concat"
        labels = np.concatenate(made) if concatenated else made[0]
        return [spread(labels, -1, len(call.output_shapes[0]))]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        wrapper = call.operation
        if len(call.output_shapes) > 1 or len(inputs) > 1 or not _is_known(wrapper):
            return ChannelRule.constants(self, call, inputs, weights)
        values = [
            silent_units(layer, inputs[0], call, weights(layer))
            for layer in _both(wrapper)
        ]
        joined = (
            np.concatenate(values) if wrapper.merge_mode == "concat" else sum(values)
        )
        return [spread(joined, -1, len(call.output_shapes[0]))]

    def reads(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> list[np.ndarray]:
        """See `ChannelRule.reads`."""
        wrapper = call.operation
        needed = [
            read_by(layer, units, constants[0], call, weights(layer))
            for layer, units in zip(_both(wrapper), _split(call, alive), strict=True)
        ]
        others = [np.zeros((1,) * len(shape), bool) for shape in call.input_shapes]
        inputs = [needed[0] | needed[1], *others[1:]]
        if len(call.output_shapes) > 1:
            return inputs
        states = [
            fed_back(layer, units, weights(layer))
            for layer, units in zip(_both(wrapper), _split(call, alive), strict=True)
        ]
        joined = (
            np.concatenate(states)
            if wrapper.merge_mode == "concat"
            else states[0] | states[1]
        )
        return [*inputs, spread(joined, -1, len(call.output_shapes[0]))]

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """See `ChannelRule.config`."""
        wrapper = call.operation
        config = wrapper.get_config()
        kept = _split(call, outputs)
        for key, units in zip(("layer", "backward_layer"), kept, strict=True):
            config[key]["config"]["units"] = int(np.count_nonzero(units))
            # It would be built for the inputs that were.
            config[key].pop("build_config", None)
        return {key: config[key] for key in ("layer", "backward_layer")}

    def input_rows(self, call: Call, axis: int) -> None:
        """See `ChannelRule.input_rows`; the two kernels belong to two layers."""
        del call, axis
        return None


def _both(wrapper: keras.layers.Layer) -> tuple[keras.layers.Layer, ...]:
    return wrapper.forward_layer, wrapper.backward_layer


def _is_known(wrapper: keras.layers.Layer) -> bool:
    return wrapper.merge_mode in ("concat", "sum", "ave", "mul")


def _split(call: Call, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The part of each direction."""
    wrapper = call.operation
    forward, backward = (layer.units for layer in _both(wrapper))
    if wrapper.merge_mode == "concat" and len(call.output_shapes) == 1:
        whole = np.broadcast_to(arrays[0].reshape(-1), (forward + backward,))
        return np.split(whole, [forward])
    whole = np.broadcast_to(arrays[0].reshape(-1), (forward,))
    return [whole, whole]
