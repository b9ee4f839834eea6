"""Which channels have a part in the output, and which are constants."""

import functools
from collections.abc import Callable, Collection

import keras
import numpy as np

from keras_bmr.pruning.channels.graph import ChannelGraph, TracedCall
from keras_bmr.pruning.channels.layer_weights import LayerWeights


class Survivors:
    """The groups of a model that must stay for its output to stay the same.

    A group can go if nothing that stays reads its channels with weights other than
    zero, or if these channels are constants which biases can take over.

    Args:
        graph: The channels of the model.
        keep_one: Whether each layer keeps a channel.
        unshifted: The ids of layers whose biases take nothing over.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        keep_one: bool = True,
        unshifted: Collection[int] = (),
    ) -> None:
        self._graph = graph
        self._unshifted = unshifted
        self.weights: Callable[[keras.layers.Layer], LayerWeights] = functools.cache(
            LayerWeights
        )
        self._constants = self._propagate()
        # The last entry stands for group -1, the channels that stay in any case.
        self._alive = np.zeros(graph.num_groups + 1, bool)
        self._alive[-1] = True
        self._spread()
        while keep_one and self._revive():
            self._spread()

    def stays(self, groups: np.ndarray) -> np.ndarray:
        """Whether groups stay.

        Args:
            groups: Integer array of groups, -1 for channels that stay in any case.

        Returns:
            Boolean array of the same shape.
        """
        return self._alive[groups]

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """Which channels stay.

        Args:
            labels: Labels of a tensor.

        Returns:
            Boolean array of the same shape.
        """
        return self._alive[self._graph.group_of[labels]]

    def constants(self, traced: TracedCall) -> list[np.ndarray]:
        """The constants of the inputs of a call that biases may take over.

        Args:
            traced: The call.

        Returns:
            Constants of each input, NaN where there are none.
        """
        constants = [self._constants[value] for value in traced.call.inputs]
        layer = id(traced.call.operation)
        if layer in self._unshifted or self._graph.num_calls[layer] > 1:
            # The bias of a shared layer is that of all its calls.
            return [np.where(array == 0, 0.0, np.nan) for array in constants]
        return constants

    def _propagate(self) -> dict[int, np.ndarray]:
        calls = self._graph.graph
        constants = {
            value: np.full((1,) * len(calls.shapes[value]), np.nan)
            for value in calls.inputs
        }
        for traced in self._graph.traced:
            call = traced.call
            inputs = [constants[value] for value in call.inputs]
            outputs = traced.rule.constants(call, inputs, self.weights)
            constants.update(zip(call.outputs, outputs, strict=True))
        return constants

    def _spread(self) -> None:
        """Marks what living channels read, from the output on."""
        before = -1
        while before != np.count_nonzero(self._alive):
            before = np.count_nonzero(self._alive)
            for traced in reversed(self._graph.traced):
                labels = traced.inputs + traced.outputs
                reads = traced.rule.reads(
                    traced.call,
                    self.constants(traced),
                    [self.kept(output) for output in traced.outputs],
                    self.weights,
                )
                for read, needed in zip(labels, reads, strict=False):
                    read, needed = np.broadcast_arrays(read, needed)
                    self._alive[self._graph.group_of[read[needed]]] = True

    def _revive(self) -> bool:
        """Keeps a channel where a tensor or weight would have none."""
        changed = False
        tensors = [
            self._graph.group_of[labels]
            for traced in self._graph.traced
            for labels in traced.inputs + traced.outputs
        ]
        for groups in [*tensors, *(axis.groups for axis in self._graph.axes)]:
            if not self._alive[groups].any():
                self._alive[groups.flat[0]] = True
                changed = True
        return changed
