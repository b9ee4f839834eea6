"""Which unit of a layer the inputs of the next one come from."""

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.layers import (
    Conv1DVariational,
    Conv2DVariational,
    Conv3DVariational,
    DenseVariational,
)
from keras_bmr.pruning.graph import Chain

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


def is_weight_layer(layer: keras.layers.Layer) -> bool:
    """Whether a layer has units that only its kernel and bias make.

    Args:
        layer: A layer.

    Returns:
        True for Bayesian dense layers and convolutions without groups.
    """
    return type(layer) in _WEIGHT_LAYERS and getattr(layer, "groups", 1) == 1


def passes_units(layer: keras.layers.Layer) -> bool:
    """Whether what a layer outputs depends on inputs of one unit only.

    Args:
        layer: A layer without a kernel.

    Returns:
        True for activations, dropout, batch normalisation, pooling and the like.
    """
    if type(layer) not in _ELEMENTWISE + _MOVING:
        return False
    return _is_elementwise(getattr(layer, "activation", None))


def _is_elementwise(activation: object) -> bool:
    return activation is None or activation in _ELEMENTWISE_ACTIVATIONS


def channel_axis(layer: keras.layers.Layer) -> int:
    """Axis of the units in the output of a layer, and of its inputs' channels.

    Args:
        layer: A dense layer or convolution.

    Returns:
        1 or -1.
    """
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def units_of_inputs(chain: Chain) -> np.ndarray | None:
    """The producer's unit behind each input channel of the consumer.

    Args:
        chain: The two layers and what stands in between.

    Returns:
        Integer array of shape (input channels,); None if there is no such unit, or
        the shapes are not known.
    """
    shape = (1, *chain.shape[1:])
    axis = channel_axis(chain.producer)
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
    moved = np.moveaxis(np.round(moved), channel_axis(chain.consumer), -1)
    moved = moved.reshape(-1, moved.shape[-1]).astype(int)
    return moved[0] if (moved == moved[:1]).all() else None


def _move(labels: np.ndarray, chain: Chain) -> np.ndarray:
    labels = tf.constant(labels)
    for layer in chain.between:
        if isinstance(layer, _MOVING):
            # Not `layer(...)`, which casts to the precision of the layer.
            labels = layer.call(labels)
    return labels.numpy()
