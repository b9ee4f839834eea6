"""The granularity "channel"."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_bmr.pruning.channels.graph import ChannelGraph, WeightAxis
from keras_bmr.pruning.groups.parameter_groups import ParameterGroups, is_gate
from keras_bmr.pruning.prunable_weight import PrunableWeight
from keras_bmr.pruning.weight_reduction import WeightReduction


class ChannelAxis(NamedTuple):
    """An axis of a weight tensor and the group behind each of its positions.

    Attributes:
        axis: The axis.
        groups: Integer array with its size, -1 where there is no group.
    """

    axis: int
    groups: np.ndarray


class ChannelGroups(ParameterGroups):
    """The granularity "channel": all weights that make or read a channel or unit.

    Channels that are added to each other, or that one depthwise convolution passes
    on, make one group. A group has the weights that make its channels (columns of
    kernels, biases, normalisation) and those that read them (rows of the kernels that
    follow). So a kernel entry belongs to two groups, that of its column and that of
    its row. Weights without a posterior bring no evidence and go with their group.

    A channel behind a noise gate is decided by its gate alone, and so is each gate.

    Args:
        members: The weight tensors.
        axes: For each of them, by the `id` of the member, its axes.
        num_groups: Number of groups.
        layer: The first of the layers that make the channels.
    """

    OVERLAPPING = True

    def __init__(
        self,
        members: Sequence[WeightReduction],
        axes: Mapping[int, Sequence[ChannelAxis]],
        num_groups: int,
        layer: keras.layers.Layer,
    ) -> None:
        super().__init__(members)
        self._axes = axes
        self._num_groups = num_groups
        self._layer = layer

    @property
    def layer(self) -> keras.layers.Layer:
        """The first of the layers that make the channels."""
        return self._layer

    def shape(self) -> tuple[int, ...]:
        """Shape of an array with one entry per group."""
        return (self._num_groups,)

    @classmethod
    def partition(
        cls,
        model: keras.Model,
        weights: Sequence[WeightReduction],
        skipped: Collection[int],
    ) -> list[ParameterGroups]:
        """See `ParameterGroups.partition`.

        Raises:
            ValueError: If the model has a layer of an unknown class.
        """
        graph = ChannelGraph(model)
        gates = [
            ParameterGroups([weight])
            for weight in weights
            if is_gate(weight.weight) and id(weight.weight.layer) not in skipped
        ]
        return cls.of_axes(graph.axes, graph.num_groups, weights, skipped) + gates

    @classmethod
    def of_axes(
        cls,
        weight_axes: Sequence[WeightAxis],
        num_groups: int,
        weights: Sequence[WeightReduction],
        skipped: Collection[int],
    ) -> list[ParameterGroups]:
        """As `partition`, without the gates, of axes that are known.

        Args:
            weight_axes: The axes, from the input of the model to its output.
            num_groups: Number of groups that the axes speak of.
            weights: The weights with posteriors.
            skipped: The ids of layers to leave alone.

        Returns:
            The groups, those made by one layer together.
        """
        layers = [axis.layer for axis in weight_axes]
        maker = np.full(num_groups, len(layers))
        stays = np.zeros(num_groups, bool)
        for index, axis in enumerate(weight_axes):
            found = axis.groups[axis.groups >= 0]
            if axis.role != "incoming":
                continue
            maker[found] = np.minimum(maker[found], index)
            if id(axis.layer) in skipped or is_gate(
                PrunableWeight(axis.layer, axis.name)
            ):
                stays[found] = True
        maker[stays] = -1
        known = {id(weight.weight.variable): weight for weight in weights}
        members = [
            _member(axis.layer, axis.name, known)
            if id(axis.layer) not in skipped
            else None
            for axis in weight_axes
        ]
        first = {id(layer): i for i, layer in reversed(list(enumerate(layers)))}
        of_layer = np.array([first[id(layer)] for layer in layers] + [-1])
        maker = of_layer[maker]
        found = []
        for index in np.unique(maker[maker >= 0]):
            ids = np.flatnonzero(maker == index)
            local = np.full(num_groups + 1, -1)
            local[ids] = np.arange(ids.size)
            axes: dict[int, list[ChannelAxis]] = {}
            used = {}
            for axis, member in zip(weight_axes, members, strict=True):
                groups = local[axis.groups]
                if member is not None and (groups >= 0).any():
                    axes.setdefault(id(member), []).append(
                        ChannelAxis(axis.axis, groups)
                    )
                    used[id(member)] = member
            groups = cls(list(used.values()), axes, ids.size, layers[index])
            if groups.evident():
                found.append(groups)
        return found

    def reduce(self, member: WeightReduction, values: np.ndarray) -> np.ndarray:
        """See `ParameterGroups.reduce`."""
        axes = self._axes[id(member)]
        totals = np.zeros(self._num_groups)
        for axis, groups in axes:
            others = tuple(i for i in range(values.ndim) if i != axis)
            totals += self._by_group(groups, values.sum(others, dtype=np.float64))
        # An entry whose row and column are of one group is one weight of it.
        for first, second in itertools.combinations(axes, 2):
            equal = first.groups[:, np.newaxis] == second.groups
            equal &= first.groups[:, np.newaxis] >= 0
            if equal.any():
                moved = np.moveaxis(values, (first.axis, second.axis), (0, 1))
                table = moved.sum(tuple(range(2, values.ndim)), dtype=np.float64)
                rows = np.where(equal, table, 0).sum(axis=1)
                totals -= self._by_group(first.groups, rows)
        return totals

    def _by_group(self, groups: np.ndarray, values: np.ndarray) -> np.ndarray:
        inside = groups >= 0
        return np.bincount(groups[inside], values[inside], self._num_groups)

    def expand(self, member: WeightReduction, values: np.ndarray) -> np.ndarray:
        """See `ParameterGroups.expand`."""
        greatest = True if values.dtype == bool else np.iinfo(values.dtype).max
        expanded = np.full(member.shape, greatest, values.dtype)
        for axis, groups in self._axes[id(member)]:
            of_positions = np.where(groups >= 0, values[groups], greatest)
            layout = [1] * expanded.ndim
            layout[axis] = -1
            np.minimum(expanded, of_positions.reshape(layout), out=expanded)
        return expanded


def _member(
    layer: keras.layers.Layer, name: str, known: dict[int, WeightReduction]
) -> WeightReduction | None:
    """The weight, one with a posterior if it is among those that are known."""
    weight = PrunableWeight(layer, name)
    if is_gate(weight):
        return None
    variable = weight.variable
    if _is_statistic(layer, variable):
        return None
    return known.setdefault(id(variable), WeightReduction(weight))


def _is_statistic(layer: keras.layers.Layer, variable: keras.Variable) -> bool:
    """Whether a variable is no weight, such as a moving mean."""
    return any(
        variable is statistic
        for inner in layer._flatten_layers()
        for statistic in inner._non_trainable_variables
    )
