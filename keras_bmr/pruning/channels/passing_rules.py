"""Rules of layers without weights that channels pass through, or stop at."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.labels import FIXED
from keras_bmr.pruning.channels.rule import ChannelRule, Recorder, Weights


class FixedRule(ChannelRule):
    """All channels that go in and come out must stay."""

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        for labels in inputs:
            recorder.fix(labels)
        return [np.full((1,) * len(shape), FIXED) for shape in call.output_shapes]


class ChannelwiseRule(ChannelRule):
    """Each output channel is made of one input channel by itself.

    A constant stays the same constant: so it is in pooling, or in what moves channels.
    """

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """See `ChannelRule.trace`."""
        (labels,) = inputs[:1]
        moved = self.move(call, labels)
        if moved is None:
            return FixedRule().trace(call, inputs, recorder)
        return [moved]

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        moved = self.move(call, inputs[0])
        if moved is None:
            return super().constants(call, inputs, weights)
        return [moved]

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """See `ChannelRule.move`; as it is by default."""
        del call
        return array

    def commutes(self, call: Call) -> bool:
        """See `ChannelRule.commutes`."""
        del call
        return True


class ElementwiseRule(ChannelwiseRule):
    """Each number of the output is a function of the same number of the input.

    Constants are found by calling the layer, so that a rule for a layer of one's own
    needs nothing more than the registration.
    """

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """See `ChannelRule.constants`."""
        (values,) = super().constants(call, inputs[:1], weights)
        return [evaluate(call.operation, values)]

    def commutes(self, call: Call) -> bool:
        """See `ChannelRule.commutes`."""
        del call
        return False


def evaluate(function: Callable, values: np.ndarray) -> np.ndarray:
    """Applies an element-wise function to constants.

    Args:
        function: A layer or function.
        values: Constants, NaN where there are none.

    Returns:
        Constants.
    """
    known = ~np.isnan(values)
    if not known.any():
        return values
    inputs = keras.ops.convert_to_tensor(np.where(known, values, 0), "float32")
    outputs = np.asarray(keras.ops.cast(function(inputs), "float32"), "float64")
    return np.where(known, outputs, np.nan)
