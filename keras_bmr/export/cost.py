"""What a network costs: parameters, bytes and multiply-accumulates."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.export.converter import trace
from keras_bmr.export.cost_rules import LayerCall, cost_rule, known_classes
from keras_bmr.export.layer_calls import recorded_calls
from keras_bmr.export.network import deterministic_network, input_specifications

# TensorFlow's operations that multiply matrices. What of them lies in no layer with a
# rule is counted if it is a plain product, and an error otherwise.
_MATRIX_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
_PRODUCTS = (
    *_MATRIX_PRODUCTS,
    "Conv",
    "Conv2D",
    "Conv2DBackpropInput",
    "Conv3D",
    "Conv3DBackpropInputV2",
    "DepthwiseConv2dNative",
    "Einsum",
)


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one layer costs.

    Attributes:
        name: The layer's name.
        class_name: The name of its class.
        output_shape: Shape of the output of its last call, without the batch axis;
            empty if there are several outputs.
        width: Number of channels or units of that output.
        num_calls: How often one call of the network calls it.
        num_parameters: Number of its parameters.
        num_multiply_accumulates: For one example, all calls together.
    """

    name: str
    class_name: str
    output_shape: tuple[int, ...]
    width: int
    num_calls: int
    num_parameters: int
    num_multiply_accumulates: int


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """What a network costs. `print(cost)` shows a table.

    Attributes:
        name: The model's name.
        layers: The layers with parameters or multiply-accumulates, in the order of
            their first calls.
        num_parameters: Number of parameters, those of normalisations included.
        num_nonzero_parameters: How many of them are not zero.
        num_bytes: Bytes of the parameters in their dtypes.
        num_multiply_accumulates: For one example.
    """

    name: str
    layers: tuple[LayerCost, ...]
    num_parameters: int
    num_nonzero_parameters: int
    num_bytes: int
    num_multiply_accumulates: int

    def __str__(self) -> str:
        """Returns one line per layer, and the sums."""
        rows = [("layer", "output", "parameters", "multiply-accumulates")]
        rows += [
            (
                f"{layer.name} ({layer.class_name})",
                "x".join(map(str, layer.output_shape)),
                f"{layer.num_parameters:,}",
                f"{layer.num_multiply_accumulates:,}",
            )
            for layer in self.layers
        ]
        totals = (self.num_parameters, self.num_multiply_accumulates)
        rows.append((self.name, "", *(f"{total:,}" for total in totals)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  "
            f"{row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}"
            for row in rows
        )


def model_cost(model: keras.Model) -> ModelCost:
    """Counts parameters and multiply-accumulates of a model. It changes nothing.

    A Bayesian model counts as the deterministic network of its posterior means, which
    is what is exported. Weights that are zero cost as much as others, since a dense
    kernel multiplies with them, too; they are gone after `shrink`.

    Products of inputs with kernels, and of activations with each other in attention,
    are counted. Biases, normalisations, activations and pooling are not, as is usual.

    Args:
        model: A built Functional or Sequential model with inputs of fixed shape, or a
            subclassed one that was built for a single input.

    Returns:
        The numbers, for one example and layer by layer.

    Raises:
        TypeError: If the model is no Keras model.
        ValueError: If the model is not built, its inputs have no fixed shape, or a
            layer has weights and no rule says what it costs.

    Example:
        >>> cost = keras_bmr.export.model_cost(model)
        >>> print(cost)
        >>> cost.num_multiply_accumulates
    """
    network = deterministic_network(model)
    specifications = input_specifications(network, batch_size=1)
    layers = list(network._flatten_layers(include_self=False, recursive=True))
    _check_known(layers)
    calls, inside = {}, set()
    with recorded_calls(layers, calls, inside):
        function = trace(network, specifications, batch_size=1)
    costs = [_layer_cost(layer, calls[id(layer)]) for layer in _called(layers, calls)]
    costs += _products_outside(function.graph, inside)
    weights = network.weights
    return ModelCost(
        name=model.name,
        layers=tuple(
            cost
            for cost in costs
            if cost.num_parameters or cost.num_multiply_accumulates
        ),
        num_parameters=sum(math.prod(weight.shape) for weight in weights),
        num_nonzero_parameters=sum(
            int(np.count_nonzero(weight.numpy())) for weight in weights
        ),
        num_bytes=sum(
            math.prod(weight.shape) * tf.as_dtype(weight.dtype).size
            for weight in weights
        ),
        num_multiply_accumulates=sum(cost.num_multiply_accumulates for cost in costs),
    )


def _check_known(layers: list[keras.layers.Layer]) -> None:
    """Raises for layers with weights of their own and without a rule."""
    covered = set()
    for layer in layers:
        if cost_rule(layer) is not None:
            covered.update(id(inner) for inner in layer._flatten_layers())
    unknown = []
    for layer in layers:
        inner = layer._flatten_layers(include_self=False)
        of_others = {id(weight) for other in inner for weight in other.weights}
        own = [weight for weight in layer.weights if id(weight) not in of_others]
        if own and id(layer) not in covered:
            unknown.append(f"'{layer.name}' of class {type(layer).__name__}")
    if unknown:
        raise ValueError(
            "There is no rule for the multiply-accumulates of the layers "
            f"{', '.join(unknown)}. Register one with "
            f"`keras_bmr.export.register_cost_rule`. Known: {known_classes()}"
        )


def _called(layers: list, calls: dict) -> list[keras.layers.Layer]:
    """Returns the layers that were recorded, in the order of their first calls."""
    by_id = {id(layer): layer for layer in layers}
    return [by_id[key] for key in calls]


def _layer_cost(layer: keras.layers.Layer, calls: list[LayerCall]) -> LayerCost:
    rule = cost_rule(layer)
    output = calls[-1].output
    shape = output[1:] if isinstance(output, tuple) else ()
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    # A layer without a rule, such as a nested model, is the sum of what is inside.
    inner = [] if rule else layer._flatten_layers(include_self=False)
    of_others = {id(weight) for other in inner for weight in other.weights}
    return LayerCost(
        name=layer.name,
        class_name=type(layer).__name__,
        output_shape=shape,
        width=(shape[0] if channels_first else shape[-1]) if shape else 1,
        num_calls=len(calls),
        num_parameters=sum(
            math.prod(weight.shape)
            for weight in layer.weights
            if id(weight) not in of_others
        ),
        num_multiply_accumulates=sum(rule(layer, call) for call in calls)
        if rule
        else 0,
    )


def _products_outside(graph: Any, inside: set[str]) -> list[LayerCost]:
    """Returns the products of matrices that no layer with a rule accounts for."""
    outside = [
        operation
        for operation in graph.get_operations()
        if operation.type in _PRODUCTS and operation.name not in inside
    ]
    unknown = [op.name for op in outside if op.type not in _MATRIX_PRODUCTS]
    if unknown:
        raise ValueError(
            "The model multiplies outside of the layers whose multiply-accumulates "
            f"are known, in the operations {unknown}. Put them into a layer and "
            "register its class with `keras_bmr.export.register_cost_rule`."
        )
    costs = []
    for operation in outside:
        transposed = operation.type == "MatMul" and operation.get_attr("transpose_a")
        transposed |= operation.type != "MatMul" and operation.get_attr("adj_x")
        contracted = operation.inputs[0].shape[-2 if transposed else -1]
        shape = tuple(operation.outputs[0].shape)
        costs.append(
            LayerCost(
                name=operation.name,
                class_name=operation.type,
                output_shape=shape[1:],
                width=shape[-1],
                num_calls=1,
                num_parameters=0,
                num_multiply_accumulates=math.prod(shape) * contracted,
            )
        )
    return costs
