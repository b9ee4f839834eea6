"""Weights that have no part in the output any more, since others were pruned."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.layers import LinearVariational
from keras_bmr.layers.checks import check_finite
from keras_bmr.layers.traversal import layers_named, require_variational_layers
from keras_bmr.pruning.graph import Chain, chains
from keras_bmr.pruning.units import (
    channel_axis,
    is_weight_layer,
    passes_units,
    units_of_inputs,
)


def remove_dead_paths(model: keras.Model, skip: Sequence[str] = ()) -> int:
    """Prunes what has no part in the output any more; the output stays the same.

    A unit whose outgoing weights are all pruned loses its incoming ones. A unit whose
    incoming weights are all pruned has a constant output; the bias of the next layer
    takes over what it contributes, and the unit loses its outgoing weights.

    This happens between two Bayesian layers, dense or convolutions, with activations,
    dropout, batch normalisation, pooling and Flatten in between. Where the graph
    branches, where a layer is shared, where a convolution pads a constant other than
    zero or something else stands in between, nothing is done. The output stays the same
    up to rounding in the precision of the layers. In training it may differ: a constant
    that came through dropout or an uncertain weight was noisy, and is not any more.

    Args:
        model: A built Keras model; it is changed in place.
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
    found = chains(model, is_weight_layer, passes_units)
    units = [units_of_inputs(chain) for chain in found]
    followed = [
        (chain, unit_of_input)
        for chain, unit_of_input in zip(found, units, strict=True)
        if unit_of_input is not None
    ]
    num_pruned = 0
    # Fan-out first, from the output on: what is gone has no need of a constant. What
    # loses its inputs then is a constant for the next layer.
    for chain, unit_of_input in reversed(followed):
        if id(chain.producer) not in skipped:
            num_pruned += _prune_without_fan_out(chain, unit_of_input)
    for chain, unit_of_input in followed:
        if id(chain.consumer) not in skipped:
            num_pruned += _fold_constants(chain, unit_of_input)
    return num_pruned


# --- Fan-in and fan-out ---


def _kept(layer: LinearVariational) -> np.ndarray:
    """The mask of the kernel as (positions, inputs, units)."""
    mask = layer.mask("kernel").numpy()
    return mask.reshape(-1, *mask.shape[-2:])


def _prune(layer: LinearVariational, keep: np.ndarray) -> int:
    """Prunes the kernel; `keep` broadcasts to (..., inputs, units)."""
    before = layer.mask("kernel").numpy()
    pruned = before & ~keep
    if pruned.any():
        layer.prune("kernel", ~pruned)
    return int(np.count_nonzero(pruned))


def _prune_without_fan_out(chain: Chain, unit_of_input: np.ndarray) -> int:
    read = _kept(chain.consumer).any(axis=(0, 2))
    has_fan_out = np.zeros(_kept(chain.producer).shape[-1], bool)
    has_fan_out[unit_of_input[read]] = True
    return _prune(chain.producer, has_fan_out)


def _fold_constants(chain: Chain, unit_of_input: np.ndarray) -> int:
    producer, consumer = chain.producer, chain.consumer
    constant = ~_kept(producer).any(axis=(0, 1)) & ~_has_random_bias(producer)
    if not constant.any():
        return 0
    signal = _constant_signal(chain)
    axis = channel_axis(consumer)
    # A zero contributes nothing wherever it goes.
    by_input = np.moveaxis(signal, axis, -1).reshape(-1, signal.shape[axis])
    is_zero = (by_input == 0).all(axis=0)
    removable = constant[unit_of_input] & is_zero
    folded = constant[unit_of_input] & ~is_zero & _kept(consumer).any(axis=(0, 2))
    if folded.any():
        shift = _contribution(consumer, signal, folded)
        if shift is not None:
            consumer.bias.assign_add(keras.ops.cast(shift, consumer.bias.dtype))
            removable |= folded
    return _prune(consumer, ~removable[:, np.newaxis])


def _has_random_bias(layer: LinearVariational) -> np.ndarray:
    """Whether each unit's bias is uncertain, which makes its output vary."""
    if "bias" not in layer.random_weight_names:
        return np.zeros(_kept(layer).shape[-1], bool)
    return layer.mask("bias").numpy()


def _constant_signal(chain: Chain) -> np.ndarray:
    """What the consumer reads if the producer outputs its biases alone."""
    producer = chain.producer
    signal = tf.zeros((1, *chain.shape[1:]), producer.variable_dtype)
    if producer.bias is not None:
        bias = producer.posterior_means().get("bias", producer.bias.value)
        signal += producer.broadcast_bias(tf.cast(bias, signal.dtype))
    if producer.activation is not None:
        signal = producer.activation(signal)
    for layer in chain.between:
        training = {"training": False} if layer._call_has_training_arg else {}
        signal = layer.call(signal, **training)
    return np.asarray(signal)


def _contribution(
    consumer: LinearVariational, signal: np.ndarray, folded: np.ndarray
) -> np.ndarray | None:
    """What some inputs contribute to each unit; None if the bias cannot hold it."""
    if consumer.bias is None or "bias" in consumer.random_weight_names:
        return None
    layout = [1] * signal.ndim
    layout[channel_axis(consumer)] = folded.size
    kernel = consumer.posterior_means()["kernel"]
    inputs = tf.cast(signal * folded.reshape(layout), kernel.dtype)
    output = np.moveaxis(
        np.asarray(consumer.linear(inputs, kernel)), channel_axis(consumer), -1
    )
    output = output.reshape(math.prod(output.shape[:-1]), -1)
    # Padding makes the borders differ.
    tolerance = 1e-6 * max(np.abs(output).max(), 1e-30)
    if np.ptp(output, axis=0).max() > tolerance:
        return None
    return output[0]
