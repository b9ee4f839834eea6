"""Rules of layers that weigh each channel by itself."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_bmr.pruning.channels.activations import is_elementwise, is_homogeneous
from keras_bmr.pruning.channels.along_axis import constants_along, labels_along
from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import channel_axis, spread
from keras_bmr.pruning.channels.passing_rules import (
    ChannelwiseRule,
    FixedRule,
    evaluate,
)
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import Recorder, Weights

layers = keras.layers


@register_channel_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseConvolutionRule(ChannelwiseRule):
    """All outputs of an input channel come and go with it."""

    def commutes(self, call: Call) -> bool:
        """See `ChannelRule.commutes`; a gate goes into the kernel."""
        del call
        return False

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        layer = call.operation
        axis = _axis(layer)
        shape = call.input_shapes[0]
        read = labels_along(inputs[0], axis, shape[axis], recorder)
        made = np.repeat(read, layer.depth_multiplier)
        if not is_elementwise(layer.activation):
            recorder.fix(made)
        recorder.weight(layer, "kernel", layer.rank, read, "incoming")
        if layer.bias is not None:
            recorder.weight(layer, "bias", 0, made, "incoming")
        return [spread(made, axis, len(shape))]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        layer = call.operation
        own = weights(layer)
        axis = _axis(layer)
        shape = call.input_shapes[0]
        values = constants_along(inputs[0], axis, shape[axis])
        outputs = np.repeat(values, layer.depth_multiplier)
        kernel = own.value("kernel")
        taps = kernel.reshape(-1, outputs.size)
        alive = own.nonzero("kernel").reshape(taps.shape).any(axis=0)
        mapped = outputs * taps.sum(axis=0)
        if layer.padding != "valid" and set(layer.kernel_size) != {1}:
            mapped = np.full_like(mapped, np.nan)
        outputs = np.where(alive & (outputs != 0), mapped, 0.0)
        if layer.bias is not None:
            bias = own.value("bias")
            if own.is_random("bias"):
                bias = np.where(own.nonzero("bias"), np.nan, bias)
            outputs = outputs + bias
        if layer.activation is not None and is_elementwise(layer.activation):
            outputs = evaluate(layer.activation, outputs)
        return [spread(outputs, axis, len(shape))]

    def input_rows(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """See `ChannelRule.input_rows`."""
        layer = call.operation
        if axis != _axis(layer) % len(call.input_shapes[0]):
            return None
        return {"kernel": layer.rank}

    def output_columns(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """See `ChannelRule.output_columns`."""
        layer = call.operation
        if axis != _axis(layer) % len(call.output_shapes[0]):
            return None
        if layer.depth_multiplier > 1 or not is_homogeneous(layer.activation):
            return None
        columns = {"kernel": layer.rank}
        return columns if layer.bias is None else {**columns, "bias": 0}


def _axis(layer: keras.layers.Layer) -> int:
    return 1 if layer.data_format == "channels_first" else -1


@register_channel_rule(layers.BatchNormalization)
class BatchNormalizationRule(ChannelwiseRule):
    """Moving statistics go with their channels."""

    PARAMETERS = ("gamma", "beta", "moving_mean", "moving_variance")

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        layer = call.operation
        shape = call.input_shapes[0]
        axis = layer.axis % len(shape)
        read = labels_along(inputs[0], axis, shape[axis], recorder)
        for name in self.PARAMETERS:
            if getattr(layer, name) is not None:
                recorder.weight(layer, name, 0, read, "incoming")
        return [spread(read, axis, len(shape))]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        layer = call.operation
        own = weights(layer)
        shape = call.input_shapes[0]
        axis = layer.axis % len(shape)
        outputs = constants_along(inputs[0], axis, shape[axis])
        spread_of = np.sqrt(own.value("moving_variance") + layer.epsilon)
        outputs = (outputs - own.value("moving_mean")) / spread_of
        if layer.gamma is not None:
            gamma, there = own.value("gamma"), own.nonzero("gamma")
            if own.is_random("gamma"):
                gamma = np.where(outputs == 0, gamma, np.nan)
            outputs = np.where(there, outputs * gamma, 0.0)
        if layer.beta is not None:
            beta = own.value("beta")
            if own.is_random("beta"):
                beta = np.where(own.nonzero("beta"), np.nan, beta)
            outputs = outputs + beta
        return [spread(outputs, axis, len(shape))]

    def commutes(self, call: Call) -> bool:
        """See `ChannelRule.commutes`; a gate would change the statistics."""
        del call
        return False

    def output_columns(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """See `ChannelRule.output_columns`."""
        layer = call.operation
        if layer.gamma is None or axis != layer.axis % len(call.output_shapes[0]):
            return None
        return {"gamma": 0} if layer.beta is None else {"gamma": 0, "beta": 0}


@register_channel_rule(layers.PReLU)
class PReLURule(ChannelwiseRule):
    """The slope of the negative side goes with its channel."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        layer = call.operation
        axis = channel_axis(inputs[0])
        if axis is None:
            return FixedRule().trace(call, inputs, recorder)
        if layer.alpha.shape[axis - 1] > 1:
            labels = inputs[0].reshape(-1)
            recorder.weight(layer, "alpha", axis - 1, labels, "incoming")
        return [inputs[0]]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        # A negative constant may meet different slopes at different places.
        return [np.where(inputs[0] >= 0, inputs[0], np.nan)]


register_channel_rule(
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)(FixedRule)
