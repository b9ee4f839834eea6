"""Factors and shifts per channel that become part of a layer's weights."""

import dataclasses
from collections.abc import Sequence
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
        """This one and another behind it as one."""
        return Affine(
            self.factor * following.factor,
            self.shift * following.factor + following.shift,
            self.is_cut | following.is_cut,
            following.is_linear & (self.is_linear | following.is_cut),
        )

    def prune(self, layer: keras.layers.Layer, kernel_shape: Sequence[int]) -> None:
        """Prunes what the layer that takes this one up has in channels that are cut.

        Args:
            layer: A built layer with a kernel, and a bias per channel or none.
            kernel_shape: Shape to which the channels broadcast in the kernel.
        """
        if not self.is_cut.any():
            return
        kept = ~self.is_cut.reshape(kernel_shape)
        prune_weight(
            layer, "kernel", np.broadcast_to(kept, kernel_variable(layer).shape)
        )
        silent = self.is_cut & self.is_linear
        if silent.any() and layer.bias is not None:
            prune_weight(layer, "bias", ~silent.reshape(layer.bias.shape))


def affine_of(layer: keras.layers.Layer, input_shape: tuple[int | None, ...]) -> Affine:
    """What an affine layer multiplies by and adds outside of training.

    Args:
        layer: A built BatchNormalization or a Rescaling layer.
        input_shape: Shape of its input, the batch axis included.

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
    one, zero = np.ones(channels), np.zeros(channels)
    gamma, beta = (
        default if variable is None else variable.numpy().astype("float64")
        for variable, default in ((layer.gamma, one), (layer.beta, zero))
    )
    factor = gamma / np.sqrt(layer.moving_variance.numpy() + float(layer.epsilon))
    is_cut = zero > 0
    if layer.gamma is not None:
        is_cut = ~weight_mask(layer, "gamma")
    return Affine(factor, beta - layer.moving_mean.numpy() * factor, is_cut, zero > 0)


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
) -> None:
    """Copies kernel, bias and mask of a layer to one of the same class.

    Args:
        source: A built layer of a class that has a quantisation-aware one.
        target: A built layer.
        affine: What follows each output channel and is taken up, or None.
    """
    kernel = kernel_variable(source).numpy().astype("float64")
    bias = 0.0 if source.bias is None else source.bias.numpy().astype("float64")
    axes = quantization_aware_class(type(source)).CHANNEL_AXES
    kept = {axis % kernel.ndim for axis in axes}
    shape = [n if axis in kept else 1 for axis, n in enumerate(kernel.shape)]
    if affine is not None:
        kernel = multiplied(kernel, affine.factor.reshape(shape))
        bias = bias * affine.factor + affine.shift
    kernel_variable(target).assign(kernel)
    if target.bias is not None:
        target.bias.assign(np.broadcast_to(bias, target.bias.shape))
    names = {"kernel": "kernel", "bias": "bias"}
    copy_masks(source, target, names, affine is not None)
    if affine is not None:
        affine.prune(target, shape)


def multiplied(kernel: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """A kernel times factors, without the -0.0 that marks a pruned weight.

    Args:
        kernel: Array.
        factor: Array that broadcasts to it.
    """
    # A factor of zero makes -0.0 as well.
    return np.where(kernel == 0, 0.0, kernel * factor + 0.0)


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
