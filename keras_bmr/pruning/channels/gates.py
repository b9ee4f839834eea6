"""Into which weights the noise gates of a model can be folded."""

import collections
import dataclasses

import keras
import numpy as np

from keras_bmr.layers import MultiplicativeNoise
from keras_bmr.pruning.channels.graph import ChannelGraph, TracedCall
from keras_bmr.pruning.channels.labels import channel_axis, spread


@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """What a weight is multiplied by along one axis.

    Attributes:
        layer: The layer.
        path: Path of the variable in the layer.
        axis: The axis.
        values: Array with the size of the axis.
    """

    layer: keras.layers.Layer
    path: str
    axis: int
    values: np.ndarray


def fold_gates(graph: ChannelGraph, kept: np.ndarray) -> dict[int, list[Factor]]:
    """Finds weights that can stand in for the gates outside training.

    A gate goes into the layers that read the channel, through layers that commute
    with a positive factor, or into the one that makes it.

    Args:
        graph: The channels of the model.
        kept: Boolean array, whether each label stays.

    Returns:
        The factors by the id of the gate that they stand in for. A gate that is not
        there has to stay.
    """
    readers = collections.defaultdict(list)
    makers = {}
    for traced in graph.traced:
        for value in traced.call.inputs:
            readers[value].append(traced)
        for value in traced.call.outputs:
            makers[value] = traced
    path = _Paths(graph, readers, makers)
    folded = {}
    for traced in graph.traced:
        gate = traced.call.operation
        if not isinstance(gate, MultiplicativeNoise) or not path.is_single(traced):
            continue
        values = np.asarray(gate.posterior_means()["noise"], "float64")
        labels = np.broadcast_to(traced.outputs[0].reshape(-1), values.shape)
        # Gates of channels that go along may be closed.
        values = np.where(kept[labels], values, 1.0)
        rank = len(traced.call.input_shapes[0])
        factors = spread(values, gate.axis, rank)
        found = path.forward(traced.call.outputs[0], factors)
        if found is None:
            found = path.backward(traced.call.inputs[0], factors)
        if found is not None:
            folded[id(gate)] = found
    return folded


class _Paths:
    """Follows factors through the graph until a weight takes them."""

    def __init__(
        self,
        graph: ChannelGraph,
        readers: dict[int, list[TracedCall]],
        makers: dict[int, TracedCall],
    ) -> None:
        self._graph = graph
        self._readers = readers
        self._makers = makers

    def is_single(self, traced: TracedCall) -> bool:
        """Whether a layer is called once, with one tensor."""
        call = traced.call
        return (
            self._graph.num_calls[id(call.operation)] == 1
            and len(call.inputs) == 1
            and len(call.outputs) == 1
        )

    def forward(self, value: int, factors: np.ndarray) -> list[Factor] | None:
        """The weights of all that reads a value; None if not all take the factors."""
        if value in self._graph.graph.outputs or not self._readers[value]:
            return None
        axis = channel_axis(factors)
        found = []
        for traced in self._readers[value]:
            if not self.is_single(traced) or axis is None:
                return None
            rows = traced.rule.input_rows(traced.call, axis)
            if rows is not None:
                found += _factors(traced, rows, factors)
                continue
            more = None
            if traced.rule.commutes(traced.call):
                moved = traced.rule.move(traced.call, factors)
                if moved is not None:
                    more = self.forward(traced.call.outputs[0], moved)
            if more is None:
                return None
            found += more
        return found

    def backward(self, value: int, factors: np.ndarray) -> list[Factor] | None:
        """The weights that make a value; None if they cannot take the factors."""
        traced = self._makers.get(value)
        axis = channel_axis(factors)
        if traced is None or axis is None or not self.is_single(traced):
            return None
        if value in self._graph.graph.outputs or len(self._readers[value]) > 1:
            return None
        columns = traced.rule.output_columns(traced.call, axis)
        if columns is not None:
            return _factors(traced, columns, factors)
        if not traced.rule.commutes(traced.call):
            return None
        moved = traced.rule.move(traced.call, factors)
        if moved is None or not np.array_equal(moved, factors):
            return None
        return self.backward(traced.call.inputs[0], factors)


def _factors(
    traced: TracedCall, axes: dict[str, int], factors: np.ndarray
) -> list[Factor]:
    return [
        Factor(traced.call.operation, path, axis, factors.reshape(-1))
        for path, axis in axes.items()
    ]
