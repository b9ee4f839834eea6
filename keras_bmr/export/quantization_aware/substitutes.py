"""Layers that TFLite's converter puts in place of others."""

from collections.abc import Callable

import keras
import numpy as np

from keras_bmr.export.quantization_aware.folding import (
    Affine,
    affine_of,
    copy_weights,
    set_weight,
)

layers = keras.layers
SEPARABLE = {
    layers.SeparableConv1D: (layers.DepthwiseConv1D, layers.Conv1D),
    layers.SeparableConv2D: (layers.DepthwiseConv2D, layers.Conv2D),
}
# What a TFLite kernel applies itself before it rounds its output.
FUSED = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)
_SHARED_ARGUMENTS = ("padding", "data_format", "trainable", "dtype")


def is_fused_activation(operation: keras.Operation) -> bool:
    """Whether a layer is an activation that the kernel before it can apply.

    Args:
        operation: A layer or operation.
    """
    if type(operation) is layers.Activation:
        return operation.activation in FUSED
    return (
        type(operation) is layers.ReLU
        and operation.max_value in (None, 6.0)
        and not operation.negative_slope
        and not operation.threshold
    )


def separated(
    layer: keras.layers.Layer, affine: Affine | None, unique: Callable[[str], str]
) -> Callable:
    """A depthwise and a pointwise convolution instead of a separable one.

    Args:
        layer: A built SeparableConv1D or SeparableConv2D.
        affine: What the pointwise convolution takes up, or None.
        unique: Makes a name one that is not used yet.

    Returns:
        What to call in the place of the layer.
    """
    depthwise_class, pointwise_class = SEPARABLE[type(layer)]
    config = layer.get_config()
    shared = {key: config[key] for key in _SHARED_ARGUMENTS}
    depthwise = depthwise_class(
        config["kernel_size"],
        strides=config["strides"],
        dilation_rate=config["dilation_rate"],
        depth_multiplier=config["depth_multiplier"],
        depthwise_regularizer=config["depthwise_regularizer"],
        use_bias=False,
        name=unique(f"{layer.name}_depthwise"),
        **shared,
    )
    activation = layer.activation
    pointwise = pointwise_class(
        config["filters"],
        kernel_size=1,
        use_bias=config["use_bias"] or affine is not None,
        kernel_regularizer=None if affine is not None else layer.pointwise_regularizer,
        activation=activation if activation in FUSED else None,
        name=unique(f"{layer.name}_pointwise"),
        **shared,
    )
    channels, multiplier = layer.depthwise_kernel.shape[-2:]
    depthwise.build((None, *(None,) * layer.rank, channels))
    pointwise.build((None, *(None,) * layer.rank, channels * multiplier))
    copy_weights(layer, depthwise, kernel="depthwise_kernel")
    copy_weights(layer, pointwise, affine, kernel="pointwise_kernel")
    following = with_activation(pointwise, activation, unique)
    return lambda inputs: following(depthwise(inputs))


def pointwise_of(
    layer: keras.layers.Layer,
    input_shape: tuple[int | None, ...],
    unique: Callable[[str], str],
) -> Callable:
    """A depthwise convolution of size 1 instead of a factor and a shift.

    Args:
        layer: A BatchNormalization or a Rescaling layer.
        input_shape: Shape of its input, the batch axis included.
        unique: Makes a name one that is not used yet.

    Returns:
        What to call in the place of the layer.
    """
    affine = affine_of(layer, input_shape)
    name = unique(layer.name)
    # A Rescaling layer has no variables that training could move.
    trainable = layer.trainable and bool(layer.weights)
    convolution = layers.DepthwiseConv2D(1, name=name, trainable=trainable)
    channels = len(affine.factor)
    convolution.build((None, None, None, channels))
    shape = convolution.kernel.shape
    set_weight(
        convolution,
        "kernel",
        affine.factor.reshape(shape),
        affine.is_cut.reshape(shape),
    )
    set_weight(convolution, "bias", affine.shift, affine.is_cut & affine.is_linear)
    if len(input_shape) == 4:
        return lambda inputs, **ignored: convolution(inputs)
    # An image of one row, or of a single pixel.
    sizes = input_shape[1:-1]
    pixels = int(np.prod(sizes))
    image = layers.Reshape((1, pixels, channels), name=unique(f"{name}_image"))
    back = layers.Reshape((*sizes, channels), name=unique(f"{name}_back"))
    return lambda inputs, **ignored: back(convolution(image(inputs)))


def with_activation(
    layer: keras.layers.Layer, activation: Callable, unique: Callable[[str], str]
) -> Callable:
    """A layer followed by its activation if the kernel cannot apply that.

    Args:
        layer: The layer, which applies the activation itself if its kernel can.
        activation: A function of `keras.activations`.
        unique: Makes a name one that is not used yet.

    Returns:
        What to call in the place of the layer.
    """
    if activation in FUSED:
        return layer
    name = unique(f"{layer.name}_activation")
    if activation is keras.activations.silu:
        following = silu(name, unique)
    else:
        following = layers.Activation(activation, name=name)
    return lambda *arguments, **keywords: following(layer(*arguments, **keywords))


def silu(name: str, unique: Callable[[str], str]) -> Callable:
    """Swish from a sigmoid and a product, which have int8 kernels.

    Args:
        name: Name of the product.
        unique: Makes a name one that is not used yet.

    Returns:
        What to call in the place of the layer.
    """
    sigmoid = layers.Activation("sigmoid", name=unique(f"{name}_sigmoid"))
    multiply = layers.Multiply(name=name)
    return lambda inputs: multiply([inputs, sigmoid(inputs)])
