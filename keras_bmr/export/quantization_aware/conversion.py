"""From a network to one that trains as its int8 file will compute, and back."""

from typing import Any

import keras
import numpy as np

from keras_bmr.export.examples import MIN_REPRESENTATIVE, check_examples
from keras_bmr.export.int8_weights import operator_of
from keras_bmr.export.network import (
    call_flat,
    deterministic_network,
    input_specifications,
)
from keras_bmr.export.quantization_aware.activation import (
    FakeQuantization,
    check_momentum,
    observing,
)
from keras_bmr.export.quantization_aware.canonical_form import canonical_form
from keras_bmr.export.quantization_aware.folding import copy_weights
from keras_bmr.export.quantization_aware.placement import quantizer_behind
from keras_bmr.export.quantization_aware.rewriting import (
    Graph,
    rewritten,
    unique_names,
)
from keras_bmr.export.quantization_aware.weights import (
    QuantizationAware,
    kernel_variable,
    quantization_aware_class,
)
from keras_bmr.layers.checks import check_plain_kernels
from keras_bmr.layers.cloning import clone_with, copy_layer, copy_state, within
from keras_bmr.layers.pruned_weights import weight_mask
from keras_bmr.pruning.channels.calls import Call

_BATCH_SIZE = 128


def to_quantization_aware(
    model: keras.Model, representative_data: Any, momentum: float = 0.99
) -> keras.Model:
    """Copies a model as one that trains with the rounding of its int8 TFLite file.

    Kernels are rounded to a symmetric grid per output channel, activations to
    asymmetric ones whose ranges start at those of `representative_data` and follow
    the training. Zero is a point of every grid, and pruned weights stay pruned.
    Gradients go straight through the rounding. Batch normalisations become part of
    the weights before them, so train first and convert then. Compile and fit the
    result as any model, with a small learning rate; `export_tflite(result, path,
    quantize="int8")` writes weights and ranges as they were trained.

    Args:
        model: A built Sequential or Functional model, pruned or not, which is not
            changed. A Bayesian one is taken at its posterior means. Nested models are
            opened. Layers with weights: Dense, Conv1D, Conv2D, their depthwise,
            separable and transposed kinds, BatchNormalization, and what
            `register_quantization_aware` made known.
        representative_data: Inputs as `model.predict` takes them, at least 20
            examples (100-500 are usual).
        momentum: Share of its range that an activation keeps in a training step; the
            rest follows the batch. From 0 to 1.

    Returns:
        A new, uncompiled Functional model with the same inputs and outputs, whose
        outputs are those of the int8 file.

    Raises:
        TypeError: If the model is no Keras model, or data has a wrong type.
        ValueError: If a layer with weights is unknown, the model is quantization-aware
            already or not built, has an input that is not float32, or data or weights
            are invalid.

    Example:
        >>> aware = to_quantization_aware(pruned, x_train[:500])
        >>> aware.compile(keras.optimizers.Adam(1e-4), loss)
        >>> aware.fit(x_train, y_train, epochs=2)
        >>> keras_bmr.export_tflite(aware, "model.tflite", quantize="int8")
    """
    check_momentum(momentum)
    if is_quantization_aware(model):
        raise ValueError(
            f"Model '{model.name}' is quantization-aware already. Expected an ordinary "
            "or Bayesian model."
        )
    network = deterministic_network(model)
    check_plain_kernels(network._flatten_layers())
    specifications = input_specifications(network, 1)
    for item in specifications:
        if item.dtype != "float32":
            raise ValueError(
                "Quantization-aware training is for models of float32 inputs. "
                f"Received: input `{item.name}` of dtype {item.dtype}"
            )
    data = check_examples(
        representative_data,
        network,
        specifications,
        "representative_data",
        MIN_REPRESENTATIVE,
    )
    aware = _with_quantizers(canonical_form(network), momentum)
    quantizers = [
        layer for layer in aware.layers if isinstance(layer, FakeQuantization)
    ]
    with observing(quantizers):
        for start in range(0, len(data[0]), _BATCH_SIZE):
            batch = [array[start : start + _BATCH_SIZE] for array in data]
            call_flat(aware, [keras.ops.convert_to_tensor(array) for array in batch])
    return aware


def is_quantization_aware(model: Any) -> bool:
    """Whether a model has layers that `to_quantization_aware` makes.

    Args:
        model: A Keras model.

    Returns:
        True if it rounds weights or activations.
    """
    kinds = (QuantizationAware, FakeQuantization)
    return isinstance(model, keras.Model) and any(
        isinstance(layer, kinds) for layer in within(model)
    )


def with_rounded_weights(model: keras.Model) -> keras.Model:
    """Copies a quantization-aware model with ordinary layers of rounded kernels.

    Args:
        model: Result of `to_quantization_aware`. It stays as it is.

    Returns:
        A model with the same outputs, whose activations are still rounded.
    """

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, QuantizationAware):
            return layer.ordinary_layer()
        return copy_layer(layer)

    rounded = clone_with(model, convert)
    for layer, copy in zip(within(model), within(rounded), strict=True):
        if isinstance(layer, QuantizationAware):
            kernel_variable(copy).assign(layer.rounded_kernel())
            if copy.bias is not None:
                copy.bias.assign(_not_constant(copy.bias.numpy()))
    return rounded


def kept_kernels(
    network: keras.Model,
) -> dict[str, tuple[str, np.ndarray]]:
    """Which kernel entries of a network are not pruned, for `check_zeros`.

    Args:
        network: A model of ordinary layers.

    Returns:
        By the name of a layer with an int8 kernel: its TFLite operator, and a boolean
        array in the shape of the kernel.
    """
    return {
        layer.name: (operator_of(layer), weight_mask(layer, "kernel"))
        for layer in within(network)
        if operator_of(layer) is not None
    }


def _with_quantizers(network: keras.Model, momentum: float) -> keras.Model:
    """Rounds what a network in canonical form computes with."""
    graph = Graph(network)
    made: dict[int, keras.Operation] = {}
    unique = unique_names(network, (call.operation.name for call in graph.calls))

    def visit_input(tensor: keras.KerasTensor) -> keras.KerasTensor:
        name = tensor._keras_history.operation.name
        return FakeQuantization(momentum, name=unique(f"{name}_quantization"))(tensor)

    def visit(call: Call, arguments: tuple, keywords: dict[str, Any]) -> Any:
        operation = call.operation
        if id(operation) not in made:
            made[id(operation)] = _aware_copy(operation)
        outputs = made[id(operation)](*arguments, **keywords)

        def rounded(output: keras.KerasTensor) -> keras.KerasTensor:
            if "float" not in output.dtype:
                return output
            name = f"{operation.name}_quantization"
            quantizer = quantizer_behind(graph, call, momentum, name)
            if quantizer is None:
                return output
            quantizer.name = unique(name)
            return quantizer(output)

        return keras.tree.map_structure(rounded, outputs)

    return rewritten(network, graph, visit, visit_input)


def _aware_copy(operation: keras.Operation) -> keras.Operation:
    """The layer that stands for one of a network in canonical form."""
    target = quantization_aware_class(type(operation))
    if target is not None:
        copy = target.from_config(operation.get_config())
        copy.build_from_config(operation.get_build_config())
        copy_weights(operation, copy)
    else:
        copy = copy_layer(operation)
        if isinstance(operation, keras.layers.Layer):
            copy_state(operation, copy)
    if isinstance(operation, keras.layers.Layer):
        copy.trainable = operation.trainable
    return copy


def _not_constant(bias: np.ndarray) -> np.ndarray:
    """The bias, moved by one rounding error if all its entries are the same.

    TensorFlow 2.21's converter gives such a bias the scale of the first channel in
    all channels, if the ranges of a model are trained.
    """
    if bias.size > 1 and bias.flat[0] != 0 and np.all(bias == bias.flat[0]):
        bias = bias.copy()
        bias.flat[0] = np.nextafter(bias.flat[0], np.float32(np.inf))
    return bias
