"""Which channels of a model come and go together, and where their weights are."""

import collections
import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_bmr.pruning.channels import (  # noqa: F401 (they register their rules)
    attention,
    convolution,
    dense,
    elementwise,
    embedding,
    merging,
    noise,
    recurrent,
    scaling,
    shaping,
    wrappers,
)
from keras_bmr.pruning.channels.calls import Call, call_graph
from keras_bmr.pruning.channels.labels import FIXED, ChannelLabels
from keras_bmr.pruning.channels.masks import without_masks
from keras_bmr.pruning.channels.registry import rule_for
from keras_bmr.pruning.channels.rule import ChannelRule


@dataclasses.dataclass(frozen=True, eq=False)
class WeightAxis:
    """One axis of one weight, and the channels that its positions belong to.

    Attributes:
        layer: The layer.
        name: Path of the variable in the layer, such as "kernel" or "cell.kernel".
        axis: The axis, counted from 0.
        groups: Integer array with the group of each position, -1 where the channel
            must stay.
        role: "incoming" if the weight helps to make the channel (the output axis of
            a kernel, a bias, normalisation, a gate), "outgoing" if it reads it.
    """

    layer: keras.layers.Layer
    name: str
    axis: int
    groups: np.ndarray
    role: str


@dataclasses.dataclass(frozen=True, eq=False)
class TracedCall:
    """A call and the labels of its channels.

    Attributes:
        call: The call.
        rule: The rule of its layer.
        inputs: Labels of the inputs.
        outputs: Labels of the outputs and of channels inside of the layer.
    """

    call: Call
    rule: ChannelRule
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]


class ChannelGraph:
    """The channels of a model in coupled groups, each of which goes as a whole.

    Channels are coupled if they are added, or otherwise stand at the same place of
    one computation. Those that come in or out of the model must stay and belong to no
    group, as do those that a layer mixes without weights (softmax, layer
    normalisation).

    Args:
        model: A built Sequential or Functional model. Nested models are followed;
            calls of a shared layer are coupled.

    Attributes:
        axes: All axes of weights that have to do with channels.
        num_groups: Number of groups.
        num_channels: Integer array, the number of channels per group.
        widths: Number of channels by the name of the layer that makes them.

    Raises:
        ValueError: If the model is subclassed or not built, or a layer is of a class
            without a rule; the message names it.

    Example:
        >>> graph = keras_bmr.pruning.channels.ChannelGraph(model)
        >>> graph.num_groups
        84
    """

    axes: list[WeightAxis]
    num_groups: int
    num_channels: np.ndarray

    def __init__(self, model: keras.Model) -> None:
        graph = without_masks(call_graph(model))
        self.graph = graph
        self._labels = ChannelLabels()
        self._recorded: dict[tuple, tuple] = {}
        self.widths: dict[str, int] = {}
        # What comes from outside has no channels that can go, nor has a mask.
        values: dict[int, np.ndarray] = {
            value: np.full((1,) * len(shape), FIXED)
            for value, shape in enumerate(graph.shapes)
        }
        self.traced: list[TracedCall] = []
        self.num_calls: collections.Counter[int] = collections.Counter()
        first: dict[int, TracedCall] = {}
        for call in graph.calls:
            rule = self.rule_of(call.operation)
            inputs = [values[value] for value in call.inputs]
            outputs = rule.trace(call, inputs, self)
            traced = TracedCall(call, rule, inputs, outputs)
            self.traced.append(traced)
            values.update(zip(call.outputs, outputs, strict=False))
            self.num_calls[id(call.operation)] += 1
            if first.setdefault(id(call.operation), traced) is not traced:
                self._couple_calls(first[id(call.operation)], traced)
        #: The labels of the inputs of nested models, by the id of the model.
        self.model_inputs: dict[int, list[np.ndarray]] = {}
        for nested in graph.models:
            inputs = [values[value] for value in nested.inputs]
            known = self.model_inputs.setdefault(id(nested.model), inputs)
            if known is not inputs:
                # A model that is called twice has one input shape, whatever is inside.
                self._couple_all(known, inputs)
        for value in graph.outputs:
            self.fix(values[value])
        #: The group of each label.
        self.group_of = self._labels.groups()
        self.num_groups = int(self.group_of.max(initial=-1)) + 1
        grouped = self.group_of[self.group_of >= 0]
        self.num_channels = np.bincount(grouped, minlength=self.num_groups)
        self.axes = [
            WeightAxis(layer, name, axis, self.group_of[labels], role)
            for (_, name, axis), (layer, labels, role) in self._recorded.items()
        ]

    def rule_of(self, operation: keras.Operation) -> ChannelRule:
        """The rule of a layer.

        Args:
            operation: A layer of the model, or an operation.

        Returns:
            Its rule.

        Raises:
            ValueError: If there is none.
        """
        return rule_for(operation)

    def _couple_calls(self, first: TracedCall, other: TracedCall) -> None:
        """A layer that is called twice has one width."""
        operation = first.call.operation
        if not getattr(operation, "weights", ()) and not first.rule.config(
            first.call,
            [np.ones_like(labels, bool) for labels in first.inputs],
            [np.ones_like(labels, bool) for labels in first.outputs],
        ):
            return
        self._couple_all(first.inputs + first.outputs, other.inputs + other.outputs)

    def _couple_all(
        self, first: Sequence[np.ndarray], other: Sequence[np.ndarray]
    ) -> None:
        """Couples tensor by tensor; channels that do not match must stay."""
        for one, two in zip(first, other, strict=True):
            if one.shape == two.shape:
                self.couple(one, two)
            else:
                self.fix(one)
                self.fix(two)

    # --- What rules say, see `Recorder` ---

    def new(self, layer: keras.layers.Layer, count: int) -> np.ndarray:
        """Labels for the channels that a layer makes.

        Args:
            layer: The layer.
            count: Number of channels.

        Returns:
            Integer array of shape (count,).
        """
        self.widths.setdefault(layer.name, count)
        return self._labels.new(count)

    def couple(self, first: np.ndarray, second: np.ndarray) -> None:
        """Makes channels come and go together.

        Args:
            first: Labels.
            second: Labels that broadcast with the first ones.
        """
        self._labels.couple(first, second)

    def fix(self, labels: np.ndarray) -> None:
        """Makes channels stay.

        Args:
            labels: Their labels.
        """
        self._labels.fix(labels)

    def weight(
        self,
        layer: keras.layers.Layer,
        name: str,
        axis: int,
        labels: np.ndarray,
        role: str,
    ) -> None:
        """Says whose channels the positions along an axis of a weight are.

        Args:
            layer: The layer.
            name: Path of the variable in the layer.
            axis: Axis of the variable, counted from 0.
            labels: Integer array with an entry per position.
            role: "incoming" or "outgoing".
        """
        known = self._recorded.setdefault(
            (id(layer), name, axis), (layer, labels, role)
        )
        if known[1] is not labels:
            self.couple(known[1], labels)
