"""A network with the layers that its int8 file will have, and the same outputs."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_bmr.export.quantization_aware.folding import (
    copy_masks,
    copy_weights,
    factor_and_shift,
    folded_config,
    is_affine,
    multiplied,
)
from keras_bmr.export.quantization_aware.rewriting import Graph, rewritten
from keras_bmr.export.quantization_aware.weights import (
    known_classes,
    quantization_aware_class,
)
from keras_bmr.layers.cloning import copy_layer, copy_state
from keras_bmr.pruning.channels.calls import Call

layers = keras.layers
_SEPARABLE = {
    layers.SeparableConv1D: (layers.DepthwiseConv1D, layers.Conv1D),
    layers.SeparableConv2D: (layers.DepthwiseConv2D, layers.Conv2D),
}
# What a TFLite kernel applies itself before it rounds its output.
_FUSED = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)
_SHARED_ARGUMENTS = ("padding", "data_format", "trainable", "dtype")


def canonical_form(network: keras.Model) -> keras.Model:
    """Rewrites a network as TFLite's converter would, outside of training.

    Batch normalisations and factors per channel become part of the weights before
    them; where there are none, depthwise convolutions of size 1. Separable
    convolutions become two layers. Activations that a kernel cannot apply itself
    become layers. Nested models are opened.

    Args:
        network: A built Sequential or Functional float32 model without posteriors.

    Returns:
        A new Functional model with the same outputs outside of training.

    Raises:
        ValueError: If a layer with weights has no int8 kernel that is known, or its
            channels are not on the last axis; the message names it.
    """
    graph = Graph(network)
    for call in graph.calls:
        _check_layer(call.operation)
    made: dict[int, Callable] = {}
    folded: set[int] = set()
    names: set[str] = set()

    def unique(name: str) -> str:
        # Layers of nested models may have the names of others.
        candidate, number = name, 0
        while candidate in names:
            number += 1
            candidate = f"{name}_{number}"
        names.add(candidate)
        return candidate

    def visit(call: Call, arguments: tuple, keywords: dict[str, Any]) -> Any:
        operation = call.operation
        if id(call) in folded:
            return arguments[0]
        if id(operation) not in made:
            if is_affine(operation):
                replacement = _pointwise(operation, call.input_shapes[0], unique)
            elif _has_kernel(operation):
                following = _affine_followers(graph, call)
                folded.update(id(follower) for follower in following)
                replacement = _with_followers(operation, following, unique)
            else:
                replacement = _copy(operation, unique)
            made[id(operation)] = replacement
        return made[id(operation)](*arguments, **keywords)

    return rewritten(network, graph, visit)


def is_fused_activation(operation: keras.Operation) -> bool:
    """Whether a layer is an activation that the kernel before it can apply.

    Args:
        operation: A layer or operation.
    """
    if type(operation) is layers.Activation:
        return operation.activation in _FUSED
    return (
        type(operation) is layers.ReLU
        and operation.max_value in (None, 6.0)
        and not operation.negative_slope
        and not operation.threshold
    )


def _has_kernel(operation: keras.Operation) -> bool:
    return (
        type(operation) in _SEPARABLE
        or quantization_aware_class(type(operation)) is not None
    )


def _check_layer(operation: keras.Operation) -> None:
    if is_affine(operation) or not getattr(operation, "weights", None):
        return
    if not _has_kernel(operation):
        known = [*known_classes(), *(known.__name__ for known in _SEPARABLE)]
        raise ValueError(
            f"Layer '{operation.name}' of class {type(operation).__name__} has weights "
            "and no quantization-aware layer stands for it. Expected "
            f"BatchNormalization or one of {sorted(known)}; register another with "
            "`keras_bmr.export.quantization_aware.register_quantization_aware`."
        )
    if getattr(operation, "data_format", "channels_last") != "channels_last":
        raise ValueError(
            f"Layer '{operation.name}' has its channels on the first axis; TFLite's "
            'int8 kernels have them on the last. Expected data_format="channels_last". '
            f"Received: data_format={operation.data_format!r}"
        )


def _affine_followers(graph: Graph, call: Call) -> list[Call]:
    """The calls behind a layer whose factors and shifts its weights can take up."""
    followers: list[Call] = []
    if call.operation.activation is not keras.activations.linear:
        return followers
    while graph.is_called_once(call):
        reader = graph.sole_reader(call)
        if (
            reader is None
            or not is_affine(reader.operation)
            or not graph.is_called_once(reader)
        ):
            break
        followers.append(reader)
        call = reader
    return followers


def _with_followers(
    layer: keras.layers.Layer, followers: list[Call], unique: Callable[[str], str]
) -> Callable:
    """A layer that takes up the factors and shifts of those behind it."""
    factor = shift = None
    for call in followers:
        next_factor, next_shift = factor_and_shift(call.operation, call.input_shapes[0])
        if factor is None:
            factor, shift = next_factor, next_shift
        else:
            factor, shift = factor * next_factor, shift * next_factor + next_shift
    if type(layer) in _SEPARABLE:
        return _separated(layer, factor, shift, unique)
    config = layer.get_config() if factor is None else folded_config(layer)
    activation = layer.activation
    if activation not in _FUSED:
        config["activation"] = "linear"
    copy = type(layer).from_config({**config, "name": unique(layer.name)})
    _build_like(copy, layer)
    copy_weights(layer, copy, factor, shift)
    return _then(copy, activation, unique)


def _separated(layer, factor, shift, unique: Callable[[str], str]) -> Callable:
    """A depthwise and a pointwise convolution instead of a separable one."""
    depthwise_class, pointwise_class = _SEPARABLE[type(layer)]
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
        use_bias=config["use_bias"] or factor is not None,
        kernel_regularizer=None if factor is not None else layer.pointwise_regularizer,
        activation=activation if activation in _FUSED else None,
        name=unique(f"{layer.name}_pointwise"),
        **shared,
    )
    channels, multiplier = layer.depthwise_kernel.shape[-2:]
    depthwise.build((None, *(None,) * layer.rank, channels))
    pointwise.build((None, *(None,) * layer.rank, channels * multiplier))
    depthwise.kernel.assign(layer.depthwise_kernel)
    copy_masks(layer, depthwise, {"kernel": "depthwise_kernel"})
    kernel = layer.pointwise_kernel.numpy().astype("float64")
    bias = 0.0 if layer.bias is None else layer.bias.numpy().astype("float64")
    if factor is not None:
        kernel, bias = multiplied(kernel, factor), bias * factor + shift
    pointwise.kernel.assign(kernel)
    if pointwise.bias is not None:
        pointwise.bias.assign(np.broadcast_to(bias, pointwise.bias.shape))
    names = {"kernel": "pointwise_kernel", "bias": "bias"}
    copy_masks(layer, pointwise, names, factor is not None)
    following = _then(pointwise, activation, unique)
    return lambda inputs: following(depthwise(inputs))


def _pointwise(
    layer: keras.layers.Layer,
    input_shape: tuple[int | None, ...],
    unique: Callable[[str], str],
) -> Callable:
    """A depthwise convolution of size 1 instead of a factor and a shift."""
    factor, shift = factor_and_shift(layer, input_shape)
    name = unique(layer.name)
    convolution = layers.DepthwiseConv2D(1, name=name, trainable=layer.trainable)
    channels = len(factor)
    convolution.build((None, None, None, channels))
    convolution.kernel.assign(factor.reshape(1, 1, channels, 1))
    convolution.bias.assign(shift)
    if len(input_shape) == 4:
        return lambda inputs, **ignored: convolution(inputs)
    # An image of one row, or of a single pixel.
    sizes = input_shape[1:-1]
    pixels = int(np.prod(sizes))
    image = layers.Reshape((1, pixels, channels), name=unique(f"{name}_image"))
    back = layers.Reshape((*sizes, channels), name=unique(f"{name}_back"))
    return lambda inputs, **ignored: back(convolution(image(inputs)))


def _copy(operation: keras.Operation, unique: Callable[[str], str]) -> Callable:
    """The same layer or operation; swish from parts that have int8 kernels."""
    activation = getattr(operation, "activation", None)
    if type(operation) is layers.Activation and activation is keras.activations.silu:
        return _silu(unique(operation.name), unique)
    name = unique(operation.name)
    copy = copy_layer(operation, lambda config: {**config, "name": name})
    if isinstance(operation, layers.Layer):
        for original, copied in zip(
            operation._flatten_layers(), copy._flatten_layers(), strict=True
        ):
            copy_state(original, copied)
        copy.trainable = operation.trainable
    return copy


def _then(
    layer: keras.layers.Layer, activation: Callable, unique: Callable[[str], str]
) -> Callable:
    """A layer followed by its activation if the kernel cannot apply that."""
    if activation in _FUSED:
        return layer
    name = unique(f"{layer.name}_activation")
    if activation is keras.activations.silu:
        following = _silu(name, unique)
    else:
        following = layers.Activation(activation, name=name)
    return lambda *arguments, **keywords: following(layer(*arguments, **keywords))


def _silu(name: str, unique: Callable[[str], str]) -> Callable:
    sigmoid = layers.Activation("sigmoid", name=unique(f"{name}_sigmoid"))
    multiply = layers.Multiply(name=name)
    return lambda inputs: multiply([inputs, sigmoid(inputs)])


def _build_like(copy: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    copy.build_from_config(layer.get_build_config())
    copy.trainable = layer.trainable
