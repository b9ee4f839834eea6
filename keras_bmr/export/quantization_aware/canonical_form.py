"""A network with the layers that its int8 file will have, and the same outputs."""

from collections.abc import Callable
from typing import Any

import keras

from keras_bmr.export.quantization_aware.folding import (
    affine_of,
    copy_weights,
    folded_config,
    is_affine,
)
from keras_bmr.export.quantization_aware.rewriting import (
    Graph,
    rewritten,
    unique_names,
)
from keras_bmr.export.quantization_aware.substitutes import (
    FUSED,
    SEPARABLE,
    pointwise_of,
    separated,
    silu,
    with_activation,
)
from keras_bmr.export.quantization_aware.weights import (
    known_classes,
    quantization_aware_class,
)
from keras_bmr.layers.cloning import copy_layer, copy_state
from keras_bmr.pruning.channels.calls import Call

layers = keras.layers


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
    unique = unique_names(network)

    def visit(call: Call, arguments: tuple, keywords: dict[str, Any]) -> Any:
        operation = call.operation
        if id(call) in folded:
            return arguments[0] if arguments else keywords["inputs"]
        if id(operation) not in made:
            if is_affine(operation):
                replacement = pointwise_of(operation, call.input_shapes[0], unique)
            elif _has_kernel(operation):
                following = _affine_followers(graph, call)
                folded.update(id(follower) for follower in following)
                replacement = _with_followers(operation, following, unique)
            else:
                replacement = _copy(operation, unique)
            made[id(operation)] = replacement
        return made[id(operation)](*arguments, **keywords)

    return rewritten(network, graph, visit)


def _has_kernel(operation: keras.Operation) -> bool:
    return (
        type(operation) in SEPARABLE
        or quantization_aware_class(type(operation)) is not None
    )


def _check_layer(operation: keras.Operation) -> None:
    if is_affine(operation) or not getattr(operation, "weights", None):
        return
    if not _has_kernel(operation):
        known = [*known_classes(), *(known.__name__ for known in SEPARABLE)]
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
    affine = None
    for call in followers:
        following = affine_of(call.operation, call.input_shapes[0])
        affine = following if affine is None else affine.then(following)
    if type(layer) in SEPARABLE:
        return separated(layer, affine, unique)
    config = layer.get_config() if affine is None else folded_config(layer)
    activation = layer.activation
    if activation not in FUSED:
        config["activation"] = "linear"
    copy = type(layer).from_config({**config, "name": unique(layer.name)})
    _build_like(copy, layer)
    copy_weights(layer, copy, affine)
    return with_activation(copy, activation, unique)


def _copy(operation: keras.Operation, unique: Callable[[str], str]) -> Callable:
    """The same layer or operation; swish from parts that have int8 kernels."""
    activation = getattr(operation, "activation", None)
    if type(operation) is layers.Activation and activation is keras.activations.silu:
        return silu(unique(operation.name), unique)
    name = unique(operation.name)
    copy = copy_layer(operation, lambda config: {**config, "name": name})
    if isinstance(operation, layers.Layer):
        for original, copied in zip(
            operation._flatten_layers(), copy._flatten_layers(), strict=True
        ):
            copy_state(original, copied)
        copy.trainable = operation.trainable
    return copy


def _build_like(copy: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    copy.build_from_config(layer.get_build_config())
    copy.trainable = layer.trainable
