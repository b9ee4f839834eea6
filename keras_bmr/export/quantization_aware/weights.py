"""Layers whose kernels train on the grid of TFLite's int8 weights."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.layers.substitution import call_with_values

_LARGEST = 127.0
_WITH_INT8_KERNELS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
)
_CLASSES: dict[type, type] = {}


def fake_quantize_weights(weights: Any, channel_axes: Sequence[int]) -> tf.Tensor:
    """Rounds weights to the symmetric int8 grid of their output channel.

    The grid has 255 points from -127 to 127 times the channel's scale, which is its
    largest absolute value over 127 (TFLite's 8-bit quantisation specification). Zero
    is one of them. The gradient goes straight through.

    Args:
        weights: Tensor or variable.
        channel_axes: The axes that tell output channels apart.

    Returns:
        Tensor of the same shape.

    Example:
        >>> fake_quantize_weights(layer.kernel, channel_axes=[-1])
    """
    weights = tf.convert_to_tensor(weights)
    rank = weights.shape.rank
    kept = {axis % rank for axis in channel_axes}
    others = [axis for axis in range(rank) if axis not in kept]
    largest = tf.reduce_max(tf.abs(weights), axis=others, keepdims=True)
    # Any grid will do for a channel of zeros.
    scale = tf.where(largest > 0.0, largest, 1.0) / _LARGEST
    rounded = tf.round(weights / scale) * scale
    return weights + tf.stop_gradient(rounded - weights)


class QuantizationAware(keras.layers.Layer):
    """A layer that computes with the kernel that TFLite's int8 kernels would have.

    Everything else is that of the Keras layer, the kernel's constraint included, so
    that pruned weights stay pruned. The bias is not rounded: TFLite holds it in 32
    bits.
    """

    CHANNEL_AXES: tuple[int, ...]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Calls the Keras layer with the rounded kernel."""
        kernel = kernel_variable(self)
        values = {id(kernel): self.rounded_kernel()}
        return call_with_values(self, super().call, values, inputs, training=training)

    def rounded_kernel(self) -> tf.Tensor:
        """The kernel on the grid, with a gradient that goes straight through."""
        kernel = kernel_variable(self)
        return fake_quantize_weights(kernel.value, self.CHANNEL_AXES)

    def ordinary_layer(self) -> keras.layers.Layer:
        """A new Keras layer of the class that this one derives from."""
        return ordinary_class(type(self)).from_config(self.get_config())


def kernel_variable(layer: keras.layers.Layer) -> keras.Variable:
    """The variable of a layer's kernel.

    Args:
        layer: A built layer of a class that has quantisation-aware one.

    Returns:
        The variable itself where `kernel` may be a tensor made of it.
    """
    # A property over `_kernel` in some layers, where it may add LoRA factors.
    variable = getattr(layer, "_kernel", None)
    return layer.kernel if variable is None else variable


def register_quantization_aware(layer_class: type) -> Callable[[type], type]:
    """Class decorator: makes a layer known to `to_quantization_aware`.

    The layer computes what its Keras class does: an activation of an operation on
    inputs and kernel, plus the bias. A batch normalisation behind it may become part
    of kernel and bias, and the activation a layer of its own.

    Args:
        layer_class: The layer class that the decorated one derives from. It derives
            from Dense, Conv1D, Conv2D, DepthwiseConv1D, DepthwiseConv2D,
            Conv1DTranspose or Conv2DTranspose, which TFLite has int8 kernels for.

    Returns:
        The decorator.

    Raises:
        ValueError: If `layer_class` has such a layer or derives from none of those
            classes, or the decorated class does not derive from it and from
            `QuantizationAware`, or lacks `CHANNEL_AXES`.

    Example:
        >>> @register_quantization_aware(MyDense)
        ... class MyDenseQuantizationAware(QuantizationAware, MyDense):
        ...     CHANNEL_AXES = (-1,)
    """

    def register(aware: type) -> type:
        if not issubclass(layer_class, _WITH_INT8_KERNELS):
            raise ValueError(
                f"{layer_class.__name__} derives from no layer class that TFLite has "
                "an int8 kernel for. Expected a class that derives from one of "
                f"{[known.__name__ for known in _WITH_INT8_KERNELS]} and computes the "
                f"same. Received: {layer_class}"
            )
        if layer_class in _CLASSES:
            raise ValueError(
                f"{layer_class.__name__} already has a quantization-aware layer, "
                f"{_CLASSES[layer_class].__name__}. Received: {aware.__name__}"
            )
        if not issubclass(aware, layer_class) or not issubclass(
            aware, QuantizationAware
        ):
            raise ValueError(
                f"{aware.__name__} must derive from QuantizationAware and "
                f"{layer_class.__name__}, which it stands for."
            )
        if not getattr(aware, "CHANNEL_AXES", ()):
            raise ValueError(
                f"{aware.__name__} must say by `CHANNEL_AXES` which axes of the kernel "
                "tell output channels apart, for example CHANNEL_AXES = (-1,)."
            )
        package = aware.__module__.partition(".")[0]
        keras.saving.register_keras_serializable(package=package)(aware)
        _CLASSES[layer_class] = aware
        return aware

    return register


def quantization_aware_class(layer_class: type) -> type | None:
    """The class that stands for exactly this layer class.

    Args:
        layer_class: A Keras layer class.

    Returns:
        The quantisation-aware class, or None if none is registered.
    """
    return _CLASSES.get(layer_class)


def ordinary_class(aware: type) -> type:
    """The Keras class that a quantisation-aware class stands for.

    Args:
        aware: A registered class.

    Returns:
        The Keras layer class.
    """
    return next(known for known, found in _CLASSES.items() if found is aware)


def known_classes() -> list[str]:
    """The sorted names of the Keras classes with a quantisation-aware one."""
    return sorted(known.__name__ for known in _CLASSES)
