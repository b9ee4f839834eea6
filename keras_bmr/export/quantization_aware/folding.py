"""Factors and shifts per channel that become part of a layer's weights."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_bmr.export.quantization_aware.weights import quantization_aware_class
from keras_bmr.layers.pruned_weights import prune_weight, weight_mask, weight_variable

_AFFINE = (keras.layers.BatchNormalization, keras.layers.Rescaling)


def is_affine(layer: keras.Operation) -> bool:
    """Whether a layer multiplies by a factor and adds a shift, each per channel.

    Args:
        layer: A layer or operation.
    """
    return type(layer) in _AFFINE


@dataclasses.dataclass(frozen=True)
class Affine:
    """A factor and a shift per channel, outside of training.

    Attributes:
        factor: Array of shape `(channels,)`, float64.
        shift: The same; added after the factor.
        is_cut: Boolean, where the factor is zero for good: by a pruned gate or scale.
        is_linear: Boolean, where the shift is zero for good.
    """

    factor: np.ndarray
    shift: np.ndarray
    is_cut: np.ndarray
    is_linear: np.ndarray

    def then(self, following: "Affine") -> "Affine":
        """This one and another behind it as one.

        Args:
            following: What acts on the outputs of this one.
        """
        return Affine(
            self.factor * following.factor,
            self.shift * following.factor + following.shift,
            self.is_cut | following.is_cut,
            following.is_linear & (self.is_linear | following.is_cut),
        )


def affine_of(layer: keras.layers.Layer, input_shape: tuple[int | None, ...]) -> Affine:
    """What an affine layer multiplies by and adds outside of training.

    Args:
        layer: A built BatchNormalization or a Rescaling layer. The latter has no
            weights: its zeros, those of pruned gates among them, are for good.
        input_shape: Shape of its input, the batch axis included.

    Returns:
        The factors and shifts of its channels.

    Raises:
        ValueError: If the channels are not on the last axis.
    """
    channels = input_shape[-1]
    if isinstance(layer, keras.layers.Rescaling):
        values = [np.asarray(v, "float64") for v in (layer.scale, layer.offset)]
        if any(np.size(v) not in (1, channels) or v.ndim > 1 for v in values):
            raise _not_last(layer)
        factor, shift = (np.broadcast_to(v, (channels,)) for v in values)
        return Affine(factor, shift, factor == 0, shift == 0)
    if layer.axis not in (-1, len(input_shape) - 1):
        raise _not_last(layer)
    gamma, is_cut = np.ones(channels), np.zeros(channels, bool)
    if layer.gamma is not None:
        gamma, is_cut = _value_and_pruned(layer, "gamma")
    beta, is_zero = np.zeros(channels), np.ones(channels, bool)
    if layer.beta is not None:
        beta, is_zero = _value_and_pruned(layer, "beta")
    factor = gamma / np.sqrt(layer.moving_variance.numpy() + float(layer.epsilon))
    shift = beta - layer.moving_mean.numpy() * factor
    return Affine(factor, shift, is_cut, is_cut & is_zero)


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
    affine: Affine | None = None,
    kernel: str = "kernel",
) -> None:
    """Copies a kernel, the bias and their masks to a layer that computes with them.

    Args:
        source: A built layer with weights.
        target: A built layer of a class that has a quantisation-aware one, or of that.
        affine: What `target`, which has a bias then, does to its outputs as well.
        kernel: Name of the weight of `source` that is the kernel of `target`.
    """
    value, pruned = _value_and_pruned(source, kernel)
    bias, bias_pruned = np.zeros(()), np.ones((), bool)
    if source.bias is not None:
        bias, bias_pruned = _value_and_pruned(source, "bias")
    if affine is not None:
        axes = quantization_aware_class(type(target)).CHANNEL_AXES
        axes = {axis % value.ndim for axis in axes}
        shape = [size if axis in axes else 1 for axis, size in enumerate(value.shape)]
        value = value * affine.factor.reshape(shape)
        pruned = pruned | affine.is_cut.reshape(shape)
        bias = bias * affine.factor + affine.shift
        bias_pruned = (bias_pruned | affine.is_cut) & affine.is_linear
    set_weight(target, "kernel", value, pruned)
    if target.bias is not None:
        set_weight(target, "bias", bias, bias_pruned)


def set_weight(
    layer: keras.layers.Layer, name: str, value: np.ndarray, pruned: np.ndarray
) -> None:
    """Sets a weight and prunes entries of it.

    Args:
        layer: A built layer.
        name: Name of the weight.
        value: Array of its shape.
        pruned: Boolean array of its shape.
    """
    # Zero times a negative factor, or what is too small for float32, must not become
    # -0.0: that is the mark of a pruned weight.
    weight_variable(layer, name).assign(value.astype("float32") + np.float32(0.0))
    if np.any(pruned):
        prune_weight(layer, name, ~pruned)


def _value_and_pruned(
    layer: keras.layers.Layer, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """A weight in float64, and a boolean array of what is pruned of it."""
    value = weight_variable(layer, name).numpy().astype("float64")
    return value, ~weight_mask(layer, name)


def _not_last(layer: keras.layers.Layer) -> ValueError:
    return ValueError(
        f"Layer '{layer.name}' of class {type(layer).__name__} does not act on the "
        "last axis. Expected channels on the last axis, as TFLite's kernels have them. "
        f"Received: {layer.get_config()}"
    )
