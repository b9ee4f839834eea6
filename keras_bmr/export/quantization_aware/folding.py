"""Factors and shifts per channel that become part of a layer's weights."""

from typing import Any

import keras
import numpy as np

from keras_bmr.export.quantization_aware.weights import (
    kernel_variable,
    quantization_aware_class,
)
from keras_bmr.layers.pruned_weights import StaysPruned, prune_weight, weight_mask

_AFFINE = (keras.layers.BatchNormalization, keras.layers.Rescaling)


def is_affine(layer: keras.Operation) -> bool:
    """Whether a layer multiplies by a factor and adds a shift, each per channel.

    Args:
        layer: A layer or operation.
    """
    return type(layer) in _AFFINE


def factor_and_shift(
    layer: keras.layers.Layer, input_shape: tuple[int | None, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """What an affine layer multiplies by and adds outside of training.

    Args:
        layer: A built BatchNormalization or a Rescaling layer.
        input_shape: Shape of its input, the batch axis included.

    Returns:
        Two float64 arrays of shape `(channels,)`.

    Raises:
        ValueError: If the channels are not on the last axis.
    """
    channels = input_shape[-1]
    if isinstance(layer, keras.layers.Rescaling):
        values = [np.asarray(v, "float64") for v in (layer.scale, layer.offset)]
        if any(np.size(v) not in (1, channels) or v.ndim > 1 for v in values):
            raise _not_last(layer)
        factor, shift = (np.broadcast_to(v, (channels,)) for v in values)
        return factor, shift
    if layer.axis not in (-1, len(input_shape) - 1):
        raise _not_last(layer)
    one, zero = np.ones(channels), np.zeros(channels)
    gamma, beta = (
        default if variable is None else variable.numpy().astype("float64")
        for variable, default in ((layer.gamma, one), (layer.beta, zero))
    )
    factor = gamma / np.sqrt(layer.moving_variance.numpy() + float(layer.epsilon))
    return factor, beta - layer.moving_mean.numpy() * factor


def folded_config(layer: keras.layers.Layer) -> dict[str, Any]:
    """The config of a layer that takes up factors and shifts.

    Args:
        layer: A layer with weights.

    Returns:
        One with a bias, and without constraints but that of pruned weights.
    """
    config = {**layer.get_config(), "use_bias": True, "bias_initializer": "zeros"}
    for key in config:
        # They are about weights before the factor.
        if key.endswith("_constraint"):
            config[key] = None
        if key.endswith("_regularizer"):
            config[key] = None
    return config


def copy_weights(
    source: keras.layers.Layer,
    target: keras.layers.Layer,
    factor: np.ndarray | None = None,
    shift: np.ndarray | None = None,
) -> None:
    """Copies kernel, bias and mask of a layer to one of the same class.

    Args:
        source: A built layer of a class that has a quantisation-aware one.
        target: A built layer.
        factor: Multiplied to each output channel, shape `(channels,)`, or None.
        shift: Added after it.
    """
    kernel = kernel_variable(source).numpy().astype("float64")
    bias = 0.0 if source.bias is None else source.bias.numpy().astype("float64")
    if factor is not None:
        axes = quantization_aware_class(type(source)).CHANNEL_AXES
        kept = {axis % kernel.ndim for axis in axes}
        shape = [n if axis in kept else 1 for axis, n in enumerate(kernel.shape)]
        kernel = multiplied(kernel, factor.reshape(shape))
        bias = bias * factor + shift
    kernel_variable(target).assign(kernel)
    if target.bias is not None:
        target.bias.assign(np.broadcast_to(bias, target.bias.shape))
    copy_masks(source, target, {"kernel": "kernel", "bias": "bias"}, factor is not None)


def multiplied(kernel: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """A kernel times factors, without the -0.0 that marks a pruned weight.

    Args:
        kernel: Array.
        factor: Array that broadcasts to it.
    """
    return np.where(kernel == 0, 0.0, kernel * factor)


def copy_masks(
    source: keras.layers.Layer,
    target: keras.layers.Layer,
    names: dict[str, str],
    is_folded: bool = False,
) -> None:
    """Prunes weights of a layer where those of another are pruned.

    Args:
        source: A built layer.
        target: A built layer with weights of the same shapes.
        names: Name of the weight of `source` for that of `target`.
        is_folded: Whether a pruned bias may have got a shift, and is none any more.
    """
    for name, source_name in names.items():
        variable = getattr(source, source_name, None)
        if variable is None or (is_folded and name == "bias"):
            continue
        if isinstance(getattr(variable, "constraint", None), StaysPruned):
            prune_weight(target, name, weight_mask(source, source_name))


def _not_last(layer: keras.layers.Layer) -> ValueError:
    return ValueError(
        f"Layer '{layer.name}' of class {type(layer).__name__} does not act on the "
        "last axis. Expected channels on the last axis, as TFLite's kernels have them. "
        f"Received: {layer.get_config()}"
    )
