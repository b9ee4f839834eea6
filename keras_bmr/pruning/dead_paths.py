"""Weights that have no part in the output any more, since others were pruned."""

from collections.abc import Collection, Sequence

import keras
import numpy as np

from keras_bmr.layers.checks import check_finite
from keras_bmr.layers.traversal import layers_named, require_variational_layers
from keras_bmr.layers.variable_paths import variable_at
from keras_bmr.pruning.channels.calls import has_graph
from keras_bmr.pruning.channels.graph import ChannelGraph, TracedCall
from keras_bmr.pruning.channels.labels import along, channel_axis
from keras_bmr.pruning.channels.layer_weights import random_weights
from keras_bmr.pruning.channels.passing_rules import FixedRule
from keras_bmr.pruning.channels.registry import has_rule, rule_for
from keras_bmr.pruning.channels.rule import ChannelRule
from keras_bmr.pruning.channels.survivors import Survivors


def remove_dead_paths(model: keras.Model, skip: Sequence[str] = ()) -> int:
    """Prunes what has no part in the output any more; the output stays the same.

    A channel or unit whose outgoing weights are all pruned loses its incoming ones. One
    whose incoming weights are all pruned has a constant output; the bias of the next
    layer takes over what it contributes, and the unit loses its outgoing weights.

    Channels are followed through all layers with a channel rule, see
    `keras_bmr.pruning.channels`; around others nothing is done. The output stays the
    same up to rounding in the precision of the layers. In training it may differ: a
    constant that came through dropout or an uncertain weight was noisy, and is not any
    more.

    Args:
        model: A built Keras model; it is changed in place. Of a subclassed one nothing
            is known, so that nothing is done.
        skip: Names of layers that lose no weights.

    Returns:
        Number of weights that were pruned.

    Raises:
        ValueError: If the model has no built Bayesian layer, `skip` names an unknown
            layer, or a weight is NaN or infinite.

    Example:
        >>> keras_bmr.pruning.remove_dead_paths(model)
        1250
    """
    skipped = layers_named(model, skip)
    require_variational_layers(model)
    check_finite(model)
    if not has_graph(model):
        return 0
    graph = _KnownChannels(model)
    unchanged = {
        id(traced.call.operation)
        for traced in graph.traced
        if not _takes_constants(traced, skipped)
    }
    survivors = Survivors(graph, keep_one=False, unshifted=unchanged)
    # First all that depends on the weights as they are.
    shifts = [(traced, _shifts(traced, survivors)) for traced in graph.traced]
    num_pruned = 0
    for traced, found in shifts:
        layer = traced.call.operation
        for path, shift in found.items():
            bias = variable_at(layer, path)
            bias.assign_add(keras.ops.cast(shift, bias.dtype))
        if id(layer) not in skipped and graph.num_calls[id(layer)] == 1:
            num_pruned += _prune_constant_rows(traced, survivors)
    for axis in graph.axes:
        if id(axis.layer) not in skipped:
            keep = survivors.stays(axis.groups)
            num_pruned += _prune(axis.layer, axis.name, axis.axis, keep)
    return num_pruned


class _KnownChannels(ChannelGraph):
    """The channels as far as they are known; around other layers all stay."""

    def rule_of(self, operation: keras.Operation) -> ChannelRule:
        inner = getattr(operation, "layer", operation)
        known = has_rule(operation) and has_rule(inner)
        return rule_for(operation) if known else FixedRule()


def _takes_constants(traced: TracedCall, skipped: Collection[int]) -> bool:
    """Whether a layer has a bias that may change, and rows to prune in return."""
    layer = traced.call.operation
    axes = range(len(traced.call.input_shapes[0]))
    return (
        id(layer) not in skipped
        and getattr(layer, "bias", None) is not None
        and len(traced.inputs) == 1
        and any(traced.rule.input_rows(traced.call, axis) for axis in axes)
    )


def _shifts(traced: TracedCall, survivors: Survivors) -> dict[str, np.ndarray]:
    """What the biases of a layer gain if all constants among its inputs are folded."""
    nothing = [np.zeros_like(labels, bool) for labels in traced.inputs]
    constants = survivors.constants(traced)
    return traced.rule.shifts(traced.call, constants, nothing, survivors.weights)


def _prune_constant_rows(traced: TracedCall, survivors: Survivors) -> int:
    """Prunes what reads constants that are zero or were folded."""
    if len(traced.inputs) != 1:
        return 0
    (constants,) = survivors.constants(traced)
    axis = channel_axis(constants)
    rows = None if axis is None else traced.rule.input_rows(traced.call, axis)
    if rows is None:
        return 0
    size = traced.call.input_shapes[0][axis]
    values = along(constants, axis, size)
    if not traced.rule.folds(traced.call, survivors.weights):
        values = np.where(values == 0, values, np.nan)
    layer = traced.call.operation
    return sum(_prune(layer, path, row, np.isnan(values)) for path, row in rows.items())


def _prune(layer: keras.layers.Layer, path: str, axis: int, keep: np.ndarray) -> int:
    """Prunes positions along an axis of a weight, if it has a posterior."""
    name = random_weights(layer).get(path)
    if name is None or keep.all():
        return 0
    before = layer.mask(name).numpy()
    layout = [1] * before.ndim
    layout[axis] = keep.size
    pruned = before & ~keep.reshape(layout)
    if pruned.any():
        layer.prune(name, ~pruned)
    return int(np.count_nonzero(pruned))
