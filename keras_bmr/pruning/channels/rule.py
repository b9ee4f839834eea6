"""What a rule says of a layer class."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from keras_bmr.pruning.channels.calls import Call
from keras_bmr.pruning.channels.layer_weights import LayerWeights

Weights = Callable[[keras.layers.Layer], LayerWeights]


class Recorder(Protocol):
    """What a rule tells the graph, see `ChannelGraph`."""

    def new(self, layer: keras.layers.Layer, count: int) -> np.ndarray:
        """Labels for the channels that a layer makes, of shape (count,)."""

    def couple(self, first: np.ndarray, second: np.ndarray) -> None:
        """Makes channels come and go together."""

    def fix(self, labels: np.ndarray) -> None:
        """Makes channels stay."""

    def weight(
        self,
        layer: keras.layers.Layer,
        name: str,
        axis: int,
        labels: np.ndarray,
        role: str,
    ) -> None:
        """Says whose channels the positions along an axis of a weight are."""


class ChannelRule:
    """How channels pass through one class of layers.

    Arrays of labels, constants and the like broadcast to the shape of their tensor
    and have size 1 on all axes but that of the channels. A constant is the value that
    a channel has for every input of the model, NaN where there is none.
    """

    def trace(
        self, call: Call, inputs: Sequence[np.ndarray], recorder: Recorder
    ) -> list[np.ndarray]:
        """Follows the channels through a call.

        Args:
            call: The call.
            inputs: Labels of its inputs.
            recorder: Takes couplings and axes of weights.

        Returns:
            Labels of the outputs, and behind them those of channels inside of the
            layer, such as heads.
        """
        raise NotImplementedError

    def constants(
        self, call: Call, inputs: Sequence[np.ndarray], weights: Weights
    ) -> list[np.ndarray]:
        """Follows constants through a call, outside training.

        Args:
            call: The call.
            inputs: Constants of its inputs.
            weights: Gives the weights of a layer.

        Returns:
            Constants of the outputs; by default there are none.
        """
        del inputs, weights
        return [np.full((1,) * len(shape), np.nan) for shape in call.output_shapes]

    def reads(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> list[np.ndarray]:
        """Which channels a call has need of.

        A channel whose weights are all zero is not needed, nor is one whose constant
        can be folded. Channels that are coupled with outputs need no mention.

        Args:
            call: The call.
            constants: Constants of the inputs.
            alive: Which of the channels that `trace` returned stay, boolean.
            weights: Gives the weights of a layer.

        Returns:
            Boolean array for each input; by default nothing is needed. Where a layer
            reads what it makes, arrays in the order of `trace` follow.
        """
        del constants, alive, weights
        return [np.zeros((1,) * len(shape), bool) for shape in call.input_shapes]

    def folds(self, call: Call, weights: Weights) -> bool:
        """Whether biases can take over what constant inputs contribute.

        Args:
            call: The call.
            weights: Gives the weights of a layer.

        Returns:
            True if `shifts` says how.
        """
        del call, weights
        return False

    def shifts(
        self,
        call: Call,
        constants: Sequence[np.ndarray],
        alive: Sequence[np.ndarray],
        weights: Weights,
    ) -> dict[str, np.ndarray]:
        """What the biases of a layer gain when input channels go.

        Args:
            call: The call.
            constants: Constants of the inputs.
            alive: Which channels of the inputs stay, boolean.
            weights: Gives the weights of a layer.

        Returns:
            What is added to the variable at each path, with its shape; by default
            nothing.
        """
        del call, constants, alive, weights
        return {}

    def config(
        self,
        call: Call,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
    ) -> dict[str, Any]:
        """How the arguments of the layer change when channels go.

        Args:
            call: The call.
            inputs: Which channels of the inputs stay, boolean.
            outputs: Which of the channels that `trace` returned stay, boolean.

        Returns:
            The entries of the config that change; by default none.
        """
        del call, inputs, outputs
        return {}

    def input_rows(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """Where a gate on the inputs can be folded into.

        Args:
            call: The call, which has one input.
            axis: Axis of the gated channels in the input, counted from 0.

        Returns:
            The axis along which each weight, named by its path, is multiplied; None
            if nothing there has the effect of a gate.
        """
        del call, axis
        return None

    def output_columns(self, call: Call, axis: int) -> Mapping[str, int] | None:
        """Where a gate on the outputs can be folded into.

        Args:
            call: The call, which has one output.
            axis: Axis of the gated channels in the output, counted from 0.

        Returns:
            As `input_rows`.
        """
        del call, axis
        return None

    def move(self, call: Call, array: np.ndarray) -> np.ndarray | None:
        """Moves what belongs to the channels of the input to those of the output.

        Args:
            call: The call, which has one input and one output.
            array: An entry per channel, in the layout of labels.

        Returns:
            The same for the output; None if output channels are no input channels.
        """
        del call, array
        return None

    def commutes(self, call: Call) -> bool:
        """Whether a gate before the call may as well stand behind it.

        Args:
            call: The call, which has one input and one output.

        Returns:
            True if positive factors of channels pass through.
        """
        del call
        return False
