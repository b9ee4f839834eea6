"""The smaller model without the channels that have no part in the output."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.layers.checks import check_finite, check_model, check_plain_kernels
from keras_bmr.layers.cloning import copy_state, within
from keras_bmr.layers.pruned_weights import (
    StaysPruned,
    prune_weight,
    release_unpruned_weights,
)
from keras_bmr.layers.variable_paths import variable_at
from keras_bmr.pruning.channels.gates import Factor, fold_gates
from keras_bmr.pruning.channels.graph import ChannelGraph, TracedCall
from keras_bmr.pruning.channels.layer_weights import random_weights
from keras_bmr.pruning.channels.nested_inputs import nested_input_shapes
from keras_bmr.pruning.channels.rebuild import rebuild
from keras_bmr.pruning.channels.survivors import Survivors

# Which positions along which axes of a variable stay.
Kept = dict[int, dict[int, np.ndarray]]


def shrink(model: keras.Model) -> keras.Model:
    """Copies a model without the channels and units that have no part in its output.

    Channels go that nothing reads any more, and those that are constant where the
    biases of what reads them can take the constant over. Channels that are added, or
    otherwise belong together, go together or stay. Each layer keeps a channel. In an
    ordinary layer zeros stand for pruned weights. Layers that lose all of these with
    their channels are as they were before pruning: without Bayesian layers, the
    smaller model is loaded by Keras alone.

    Noise gates are folded into the weights before or behind them and disappear,
    except where something stands in between that does not commute with a factor.

    The output is the same outside training, up to rounding. The smaller model is
    Bayesian if `model` is, with the same posteriors, priors and `num_examples`.

    Args:
        model: A built Sequential or Functional model, Bayesian or not. It stays as it
            is.

    Returns:
        A new, uncompiled model with the same names of layers.

    Raises:
        ValueError: If the model is subclassed or not built, has NaN or infinite
            weights, or a layer is of a class without a channel rule; the message
            names it and says what to register.

    Example:
        >>> reduced = keras_bmr.reduce_model(model, granularity="channel", sparsity=0.5)
        >>> small = keras_bmr.shrink(reduced)
        >>> small.count_params() < model.count_params()
        True
    """
    check_model(model)
    check_plain_kernels(model._flatten_layers())
    graph = ChannelGraph(model)
    check_finite(model)
    survivors = Survivors(graph)
    every_label = np.arange(graph.group_of.size)
    folded = fold_gates(graph, survivors.kept(every_label))
    shifts, changes = {}, {}
    for traced in graph.traced:
        layer = traced.call.operation
        if id(layer) in changes or id(layer) in folded:
            continue
        found = _shifts(traced, survivors)
        shifts.update({(id(layer), path): values for path, values in found.items()})
        changes[id(layer)] = _changes(traced, survivors, found)
    input_shapes = nested_input_shapes(graph, survivors)
    smaller, new_layers = rebuild(model, changes, set(folded), input_shapes)
    kept = _kept_positions(graph, survivors)
    for layer in within(model):
        new = new_layers.get(id(layer))
        if new is not None and not isinstance(layer, keras.Model):
            _copy_weights(layer, new, kept)
    for traced in graph.traced:
        layer = traced.call.operation
        for path in variable_paths_of(shifts, layer):
            outputs = survivors.kept(traced.outputs[0]).reshape(-1)
            variable = variable_at(new_layers[id(layer)], path)
            shift = shifts[id(layer), path]
            outputs = np.broadcast_to(outputs, shift.shape)
            variable.assign_add(keras.ops.cast(shift[outputs], variable.dtype))
        shifts = {key: value for key, value in shifts.items() if key[0] != id(layer)}
    for factors in folded.values():
        for factor in factors:
            _multiply(factor, new_layers[id(factor.layer)], kept)
    release_unpruned_weights(smaller)
    return smaller


def variable_paths_of(
    shifts: Mapping[tuple[int, str], np.ndarray], layer: keras.layers.Layer
) -> list[str]:
    """The paths of a layer's biases that are shifted."""
    return [path for owner, path in shifts if owner == id(layer)]


def _shifts(traced: TracedCall, survivors: Survivors) -> dict[str, np.ndarray]:
    return traced.rule.shifts(
        traced.call,
        survivors.constants(traced),
        [survivors.kept(labels) for labels in traced.inputs],
        survivors.weights,
    )


def _changes(
    traced: TracedCall, survivors: Survivors, shifts: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What changes in the config of a layer."""
    layer = traced.call.operation
    inputs, outputs = (
        [survivors.kept(labels) for labels in side]
        for side in (traced.inputs, traced.outputs)
    )
    changes: dict[str, Any] = {}
    if not all(kept.all() for kept in inputs + outputs):
        changes = traced.rule.config(traced.call, inputs, outputs)
    for path in shifts:
        if variable_at(layer, path) is None:
            changes = _with_bias(changes, layer, path)
    return changes


def _with_bias(
    changes: dict[str, Any], layer: keras.layers.Layer, path: str
) -> dict[str, Any]:
    wrapper, _, _ = path.rpartition(".")
    if not wrapper:
        return {**changes, "use_bias": True}
    inner = changes.get(wrapper, layer.get_config()[wrapper])
    config = {**inner["config"], "use_bias": True}
    return {**changes, wrapper: {**inner, "config": config}}


def _kept_positions(graph: ChannelGraph, survivors: Survivors) -> Kept:
    """Which positions of each variable stay, those of posteriors included."""
    kept: Kept = {}
    for axis in graph.axes:
        location = variable_at(axis.layer, axis.name)
        stays = survivors.stays(axis.groups)
        for variable in (location, *_companions(axis.layer, axis.name)):
            shape = variable.shape
            if (
                len(shape) == len(location.shape)
                and shape[axis.axis] == location.shape[axis.axis]
                and not stays.all()
            ):
                kept.setdefault(id(variable), {})[axis.axis] = stays
    return kept


def _companions(layer: keras.layers.Layer, path: str) -> list[keras.Variable]:
    """The variables that a weight with a posterior has besides its location."""
    name = random_weights(layer).get(path)
    if name is None:
        return []
    weight = layer._random[name]
    states = (weight.posterior_state, weight.prior_state)
    return [weight.mask, *(v for state in states for v in state.values())]


def _copy_weights(
    source: keras.layers.Layer, target: keras.layers.Layer, kept: Kept
) -> None:
    """Copies a layer's own weights, without what does not stay."""
    own = source._trainable_variables + source._non_trainable_variables
    if not any(id(variable) in kept for variable in own) and len(own) == len(
        target._trainable_variables + target._non_trainable_variables
    ):
        copy_state(source, target)
        return
    targets = {
        variable.name: variable
        for variable in target._trainable_variables + target._non_trainable_variables
    }
    for variable in own:
        value = variable.value
        for axis, stays in kept.get(id(variable), {}).items():
            value = tf.gather(value, np.flatnonzero(stays), axis=axis)
        new = targets[variable.name]
        if tuple(new.shape) != tuple(value.shape):
            raise ValueError(
                f"Weight '{variable.name}' of layer '{source.name}' should have the "
                f"shape {tuple(value.shape)} in the smaller model. Received: "
                f"{tuple(new.shape)}. The channel rule of {type(source).__name__}, or "
                "one before it, changes the config in another way than the weights."
            )
        new.assign(value)
        if isinstance(variable.constraint, StaysPruned) and not isinstance(
            new.constraint, StaysPruned
        ):
            new.constraint = StaysPruned(new.constraint)


def _multiply(factor: Factor, new: keras.layers.Layer, kept: Kept) -> None:
    """Multiplies a weight, its posterior if it has one, along an axis."""
    old = variable_at(factor.layer, factor.path)
    values = np.broadcast_to(factor.values, (old.shape[factor.axis],))
    stays = kept.get(id(old), {}).get(factor.axis)
    if stays is not None:
        values = values[stays]
    layout = [1] * len(old.shape)
    layout[factor.axis] = values.size
    values = values.reshape(layout)
    variable = variable_at(new, factor.path)
    if not values.all():
        # A closed gate: no posterior has a scale of zero.
        keep = np.broadcast_to(values != 0, variable.shape)
        prune_weight(new, factor.path, keep)
        values = np.where(values == 0, 1.0, values)
    name = random_weights(new).get(factor.path)
    if name is None:
        variable.assign(variable.value * tf.cast(values, variable.dtype))
        return
    posterior = new.unmasked_posterior(name)
    everywhere = tf.ones(variable.shape, tf.bool)
    scaled = new._posterior_family.rescale(
        posterior, tf.cast(values, posterior.dtype), everywhere
    )
    new.assign_posterior(name, scaled)
