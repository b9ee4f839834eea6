"""A Keras 3 network built anew from the layers of tf_keras, which tfmot knows."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras

from keras_bmr.export.network import call_flat, deterministic_network
from keras_bmr.export.quantization_aware.rewriting import input_names, unique_names
from keras_bmr.pruning.channels.calls import Call, call_graph

_COMMON = ("name", "trainable")
_CONVOLUTION = (
    "kernel_size",
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
    "activation",
    "use_bias",
)
_POOLING = ("pool_size", "strides", "padding", "data_format")
# The arguments of each layer's constructor that decide what it computes.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "Average": (),
    "AveragePooling2D": _POOLING,
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": ("filters", "groups", *_CONVOLUTION),
    "Conv2DTranspose": ("filters", "output_padding", *_CONVOLUTION),
    "Dense": ("units", "activation", "use_bias"),
    "DepthwiseConv2D": ("depth_multiplier", *_CONVOLUTION),
    "Dropout": ("rate",),
    "Flatten": ("data_format",),
    "GlobalAveragePooling2D": ("data_format", "keepdims"),
    "GlobalMaxPooling2D": ("data_format", "keepdims"),
    "MaxPooling2D": _POOLING,
    "Multiply": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Reshape": ("target_shape",),
    "SeparableConv2D": ("filters", "depth_multiplier", *_CONVOLUTION),
    "Softmax": ("axis",),
    "ZeroPadding2D": ("padding", "data_format"),
}
# Beyond rounding: largest difference over max(1, largest output).
_TOLERANCE = 1e-5
_NUM_EXAMPLES = 8


def to_tf_keras(model: keras.Model) -> tf_keras.Model:
    """Builds a Keras 3 model anew in tf_keras (Keras 2), with the same outputs.

    Args:
        model: A built Sequential or Functional model; a Bayesian one is taken at its
            posterior means, nested models are opened.

    Returns:
        A new, uncompiled Functional model of tf_keras. Its weights are those of
        `model`; regularizers and constraints are left out, masks with them.

    Raises:
        TypeError: If the model is no Keras model.
        ValueError: If the model has a layer that tf_keras or tfmot lacks, an
            activation that tf_keras lacks or computes in another way, or an operation
            that is no layer, with its name.
        RuntimeError: If the outputs for random inputs differ by more than rounding.

    Example:
        >>> network = keras_bmr.export.tfmot_bridge.to_tf_keras(model)
    """
    network = deterministic_network(model)
    graph = call_graph(network)
    unique = unique_names(network)
    for call in graph.calls:
        if _class_name(call.operation) not in _ARGUMENTS:
            raise ValueError(
                f"Layer '{call.operation.name}' of class "
                f"{type(call.operation).__name__} has no counterpart that tfmot can "
                f"train. Expected one of {sorted(_ARGUMENTS)}. `keras_bmr.export."
                "to_quantization_aware` may know it."
            )
        _check_activation(call.operation)
    inputs = [
        tf_keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for tensor, name in zip(network.inputs, input_names(network), strict=True)
    ]
    values = dict(zip(graph.inputs, inputs, strict=True))
    made: dict[int, Callable] = {}
    for call in graph.calls:
        key = id(call.operation)
        if key not in made:
            made[key] = _rebuilt(call, unique)
        (output,) = call.outputs
        values[output] = made[key](_arguments(call, values))
    outputs = [values[value] for value in graph.outputs]
    rebuilt = tf_keras.Model(inputs, outputs, name=network.name)
    _check_equal(network, rebuilt)
    return rebuilt


def _class_name(operation: keras.Operation) -> str:
    # A class of another package may have the name of a Keras layer.
    is_keras = type(operation) is getattr(
        keras.layers, type(operation).__name__, type(None)
    )
    return type(operation).__name__ if is_keras else ""


def _arguments(call: Call, values: dict[int, Any]) -> Any:
    """The tensors of a call: one, or a list of them."""
    tensors = [values[value] for value in call.inputs]
    return tensors if _reads_list(call) else tensors[0]


def _reads_list(call: Call) -> bool:
    inputs = call.arguments[0] if call.arguments else call.keywords["inputs"]
    return isinstance(inputs, (list, tuple))


def _check_activation(layer: keras.layers.Layer) -> None:
    """Checks that tf_keras means the same by the name of an activation."""
    activation = layer.get_config().get("activation")
    if activation is None:
        return
    x = np.linspace(-8.0, 8.0, 65, dtype="float32")[None]
    try:
        received = np.asarray(tf_keras.activations.get(activation)(tf.constant(x)))
    except (TypeError, ValueError):
        received = np.full_like(x, np.nan)
    if not np.allclose(received, layer.activation(x), _TOLERANCE, _TOLERANCE):
        raise ValueError(
            f"Layer '{layer.name}' has an activation that tf_keras does not know, or "
            "computes in another way. Expected one that both have, as relu, sigmoid "
            "and tanh. `keras_bmr.export.to_quantization_aware` may know it. "
            f"Received: activation={activation!r}"
        )


def _rebuilt(call: Call, unique: Callable[[str], str]) -> Callable:
    """The tf_keras layer of a call, or several that it stands for."""
    layer = call.operation
    shape = [tuple(tensor.shape) for tensor in call.tensors]
    shape = shape if _reads_list(call) else shape[0]
    config = layer.get_config()
    name = type(layer).__name__
    if name == "SeparableConv2D":
        return _separated(layer, config, shape, unique)
    config["name"] = unique(layer.name)
    copy = _layer(name, config)
    copy.build(shape)
    if layer.weights:
        copy.set_weights(layer.get_weights())
    return copy


def _separated(
    layer: keras.layers.Layer,
    config: dict[str, Any],
    shape: Any,
    unique: Callable[[str], str],
) -> Callable:
    """A depthwise and a pointwise convolution, as TFLite has them."""
    depthwise = _layer(
        "DepthwiseConv2D",
        {
            **config,
            "name": unique(f"{layer.name}_depthwise"),
            "activation": None,
            "use_bias": False,
        },
    )
    pointwise = _layer(
        "Conv2D",
        {
            **config,
            "name": unique(f"{layer.name}_pointwise"),
            "kernel_size": 1,
            "strides": 1,
            "dilation_rate": 1,
            "groups": 1,
        },
    )
    depthwise.build(shape)
    pointwise.build(depthwise.compute_output_shape(shape))
    kernel, *others = layer.get_weights()
    depthwise.set_weights([kernel])
    pointwise.set_weights(others)
    return lambda inputs: pointwise(depthwise(inputs))


def _layer(class_name: str, config: dict[str, Any]) -> tf_keras.layers.Layer:
    arguments = (*_COMMON, *_ARGUMENTS[class_name])
    config = {key: config[key] for key in arguments if key in config}
    return getattr(tf_keras.layers, class_name)(**config)


def _check_equal(network: keras.Model, rebuilt: tf_keras.Model) -> None:
    generator = np.random.default_rng(0)
    inputs = [
        tf.constant(
            generator.normal(size=(tensor.shape[0] or _NUM_EXAMPLES, *tensor.shape[1:]))
            if "float" in tensor.dtype
            else generator.integers(
                0, 2, size=(tensor.shape[0] or _NUM_EXAMPLES, *tensor.shape[1:])
            ),
            tensor.dtype,
        )
        for tensor in network.inputs
    ]
    expected = [np.asarray(output) for output in call_flat(network, inputs)]
    received = tf.nest.flatten(rebuilt(inputs, training=False))
    for wanted, output in zip(expected, received, strict=True):
        difference = np.max(np.abs(wanted - output.numpy()))
        if not difference <= _TOLERANCE * max(1.0, np.max(np.abs(wanted))):
            raise RuntimeError(
                f"Model '{network.name}' computes something else in tf_keras. Expected "
                f"equal outputs. Received: a largest difference of {difference:.3g}"
            )
