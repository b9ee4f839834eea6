"""The rule of noise gates."""

from collections.abc import Sequence

import numpy as np

from keras_bmr.layers import MultiplicativeNoise
from keras_bmr.pruning.channels.along_axis import constants_along, labels_along
from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import spread
from keras_bmr.pruning.channels.passing_rules import ChannelwiseRule
from keras_bmr.pruning.channels.registry import register_channel_rule
from keras_bmr.pruning.channels.rule import Recorder, Weights


@register_channel_rule(MultiplicativeNoise)
class MultiplicativeNoiseRule(ChannelwiseRule):
    """A gate goes with its channel; what a closed gate lets through is zero."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        layer = call.operation
        shape = call.input_shapes[0]
        read = labels_along(inputs[0], layer.axis, shape[layer.axis], recorder)
        for name in ("noise", "closed"):
            recorder.weight(layer, name, 0, read, "incoming")
        return [spread(read, layer.axis, len(shape))]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        layer = call.operation
        shape = call.input_shapes[0]
        values = constants_along(inputs[0], layer.axis, shape[layer.axis])
        factors = weights(layer).value("noise")
        values = np.where(factors == 0, 0.0, values * factors)
        return [spread(values, layer.axis, len(shape))]

    def commutes(self, call: Call) -> bool:
        """See `ChannelRule.commutes`; two gates are not made one."""
        del call
        return False
