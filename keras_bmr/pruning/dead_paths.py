"""Weights that have no part in the output any more, since others were pruned."""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.layers import (
    Conv1DVariational,
    Conv2DVariational,
    Conv3DVariational,
    DenseVariational,
    LinearVariational,
)
from keras_bmr.layers.checks import check_finite
from keras_bmr.layers.traversal import layers_named
from keras_bmr.pruning.graph import Chain, chains

# A subclass may compute something else than its parent.
_WEIGHT_LAYERS = (
    DenseVariational,
    Conv1DVariational,
    Conv2DVariational,
    Conv3DVariational,
)
# Each output depends on the input of the same place alone.
_ELEMENTWISE = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
# Each output depends on inputs of one channel alone, and is constant if they are.
_MOVING = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.Reshape,
)
_ELEMENTWISE_ACTIVATIONS = frozenset(
    keras.activations.get(name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh "
        "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink "
        "softplus softsign squareplus tanh tanh_shrink threshold"
    ).split()
)


def remove_dead_paths(model: keras.Model, skip: Sequence[str] = ()) -> int:
    """Prunes what has no part in the output any more; the output stays the same.

    A unit whose outgoing weights are all pruned loses its incoming ones. A unit whose
    incoming weights are all pruned has a constant output; the bias of the next layer
    takes over what it contributes, and the unit loses its outgoing weights.

    This happens between two Bayesian layers, dense or convolutions, with activations,
    dropout, batch normalisation, pooling and Flatten in between. Where the graph
    branches, where a layer is shared, where a convolution pads a constant other than
    zero or something else stands in between, nothing is done. In training the output
    may differ: a constant that came through dropout or an uncertain weight was noisy,
    and is not any more.

    Args:
        model: A built Keras model; it is changed in place.
        skip: Names of layers that lose no weights.

    Returns:
        Number of weights that were pruned.

    Raises:
        ValueError: If `skip` names an unknown layer, or a weight is NaN or infinite.

    Example:
        >>> keras_bmr.pruning.remove_dead_paths(model)
        1250
    """
    skipped = layers_named(model, skip)
    check_finite(model)
    found = chains(model, _is_weight_layer, _passes_units)
    units = [_units_of_inputs(chain) for chain in found]
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


# --- What the graph may consist of ---


def _is_weight_layer(layer: keras.layers.Layer) -> bool:
    return type(layer) in _WEIGHT_LAYERS and getattr(layer, "groups", 1) == 1


def _passes_units(layer: keras.layers.Layer) -> bool:
    if type(layer) not in _ELEMENTWISE + _MOVING:
        return False
    return _is_elementwise(getattr(layer, "activation", None))


def _is_elementwise(activation: object) -> bool:
    return activation is None or activation in _ELEMENTWISE_ACTIVATIONS


def _channel_axis(layer: keras.layers.Layer) -> int:
    """Axis of the units in the output of a layer, and of its inputs' channels."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


# --- Which unit an input of the next layer belongs to ---


def _units_of_inputs(chain: Chain) -> np.ndarray | None:
    """The producer's unit behind each input channel of the consumer.

    None if there is no such thing, or the shapes are not known.
    """
    shape = (1, *chain.shape[1:])
    axis = _channel_axis(chain.producer)
    if not _is_elementwise(chain.producer.activation) or None in shape:
        return None
    layout = [1] * len(shape)
    layout[axis] = shape[axis]
    labels = np.broadcast_to(np.arange(float(shape[axis])).reshape(layout), shape)
    # Moved as the signal is, the labels end up where their signals do. If a layer
    # took the maximum or mean of several units, squares would not stay squares.
    moved = _move(labels, chain)
    if not np.allclose(_move(-np.square(labels), chain), -np.square(moved), rtol=1e-9):
        return None
    moved = np.moveaxis(np.round(moved), _channel_axis(chain.consumer), -1)
    moved = moved.reshape(-1, moved.shape[-1]).astype(int)
    return moved[0] if (moved == moved[:1]).all() else None


def _move(labels: np.ndarray, chain: Chain) -> np.ndarray:
    labels = tf.constant(labels)
    for layer in chain.between:
        if isinstance(layer, _MOVING):
            # Not `layer(...)`, which casts to the precision of the layer.
            labels = layer.call(labels)
    return labels.numpy()


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
    axis = _channel_axis(consumer)
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
    layout[_channel_axis(consumer)] = folded.size
    kernel = consumer.posterior_means()["kernel"]
    inputs = tf.cast(signal * folded.reshape(layout), kernel.dtype)
    output = np.moveaxis(
        np.asarray(consumer.linear(inputs, kernel)), _channel_axis(consumer), -1
    )
    output = output.reshape(math.prod(output.shape[:-1]), -1)
    # Padding makes the borders differ.
    tolerance = 1e-6 * max(np.abs(output).max(), 1e-30)
    if np.ptp(output, axis=0).max() > tolerance:
        return None
    return output[0]
