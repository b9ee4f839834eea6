"""Export of a model to a verified TFLite file."""

import os
from typing import Any

import keras

from keras_bmr.argument_checks import require_integer
from keras_bmr.export import converter, latency, operators
from keras_bmr.export.examples import MIN_REPRESENTATIVE
from keras_bmr.export.int8_weights import check_zeros
from keras_bmr.export.metadata import Metadata
from keras_bmr.export.network import deterministic_network, input_specifications
from keras_bmr.export.output_path import check_path
from keras_bmr.export.quantization_aware.conversion import (
    is_quantization_aware,
    kept_kernels,
    with_rounded_weights,
)
from keras_bmr.export.report import ExportReport
from keras_bmr.export.uncertainty.settings import check_uncertainty, inference_of
from keras_bmr.export.verified_file import verification_inputs, write_verified

_MODES = (None, "float16", "dynamic", "int8")


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike,
    quantize: str | None = None,
    representative_data: Any = None,
    batch_size: int = 1,
    sparse: bool = False,
    validation_data: Any = None,
    metadata: Metadata | None = None,
    uncertainty: str | None = None,
    num_samples: int | None = None,
    from_logits: bool = False,
    seed: int = 0,
) -> ExportReport:
    """Writes a model as a TFLite file that was run and compared with Keras.

    A Bayesian model is exported as the deterministic network of its posterior means,
    or with `uncertainty`: then the file has two outputs, mean and variance. It uses
    TFLite's builtin operators only, takes and returns the dtypes of the Keras model
    (float32 also where the kernels are int8), and has fixed shapes. Zero points and
    other vectors that are equal are in it once, and names of tensors are short. It is
    run by the LiteRT interpreter before it appears at `path`: if it disagrees with
    Keras, an error is raised and whatever was at `path` stays.

    A float file may differ from Keras by 1e-4 of max(1, largest output), a float16
    file by 1e-2 of it. A quantised file ("dynamic", "int8") may have a relative
    difference (root mean square difference over standard deviation of the output) of
    0.2, and of 0.05 if fewer than 95 % of its predictions are Keras'.

    Args:
        model: A built Functional or Sequential model, or a subclassed one that was
            built for a single input.
        path: File to write. Its folder must exist.
        quantize: None for float32 weights; "float16" for half-precision weights;
            "dynamic" for int8 weights with activations quantised at run time; "int8"
            for int8 weights and activations with ranges from `representative_data`,
            or with those that a model of `to_quantization_aware` was trained with.
        representative_data: Inputs as `model.predict` takes them, shape
            `(num_examples, ...)`, a list or a dictionary of such arrays; no targets.
            Required for "int8" without trained ranges, at least 20 examples (100-500
            are usual).
        batch_size: Number of examples per call of the file. Examples beyond a
            multiple of it are left out.
        sparse: Whether to use TFLite's sparse encodings where they are smaller, layer
            by layer: `report.layout` tells which. `Dense` layers get faster, too, if
            at least 80 % of the blocks of four consecutive inputs of one output are
            zero. float32 only. Where no layer gets smaller the dense file is written
            and the report says so.
        validation_data: Inputs to verify with, in the form of `representative_data`,
            which is used if there is none. Without both the file is verified with
            seeded random inputs, which the report mentions.
        metadata: Labels, scaling of the inputs and a description to keep in the file,
            see `read_metadata`.
        uncertainty: "moments" propagates mean and variance through the layers in one
            pass, see `propagate_moments`; "ensemble" runs several draws from the
            posterior side by side. Both need Bayesian layers and one output, and files
            in int8 are refused.
        num_samples: Number of draws of an ensemble, at least 2; 8 unless given.
        from_logits: Whether the model's outputs are logits, of which the file shall
            have mean and variance of the class probabilities.
        seed: Of the draws: the file has the mean and the variance of
            `predictive(model, x, num_samples, seed=seed)`.

    Returns:
        An `ExportReport`: bytes, layer by layer, too, differences, top-1 agreement,
        latency, operators.

    Raises:
        ImportError: If ai-edge-litert is not installed (extra `litert`).
        TypeError: If the model is no Keras model, or the path or data has a wrong type.
        ValueError: If an argument, a weight or the data is invalid, or the model has
            operations without a TFLite kernel.
        OSError: If the folder of `path` does not exist (FileNotFoundError), or takes no
            file.
        RuntimeError: If the converted file does not load or disagrees with Keras, or a
            pruned weight of a quantization-aware model is not zero in it.

    Example:
    ```python
    report = keras_bmr.export_tflite(
        model, "model.tflite", quantize="int8", representative_data=x_train[:500]
    )
    print(report)
    ```
    """
    check_uncertainty(uncertainty, num_samples, seed, from_logits, quantize)
    has_ranges = is_quantization_aware(model)
    if has_ranges:
        _check_mode(model, quantize)
    needs_data = quantize == "int8" and not has_ranges
    path = _check_arguments(
        path, quantize, representative_data, batch_size, sparse, needs_data
    )
    # TensorFlow's shapes take no unsigned integers of NumPy.
    batch_size = int(batch_size)
    latency.litert_interpreter()
    network = deterministic_network(model)
    if has_ranges:
        network = with_rounded_weights(network)
    specifications = input_specifications(network, batch_size)

    inputs = verification_inputs(
        representative_data,
        validation_data,
        network,
        specifications,
        batch_size,
        min_representative=MIN_REPRESENTATIVE if needs_data else 1,
    )
    inference = inference_of(
        model, network, uncertainty, num_samples, seed, from_logits
    )
    function = converter.trace_function(inference.infer, specifications, batch_size)
    content, notes = _convert(function, quantize, inputs.representative, has_ranges)
    if has_ranges:
        check_zeros(content, kept_kernels(network))
    notes += inference.notes
    expected = inference.expected(inputs.arrays, batch_size)
    return write_verified(
        content,
        path,
        inputs,
        expected,
        quantize,
        batch_size,
        sparse=sparse,
        uncertainty=inference.uncertainty,
        notes=notes,
        layer_names=[layer.name for layer in network._flatten_layers()],
        metadata=metadata,
    )


def _check_mode(model, quantize) -> None:
    """Refuses other modes for a model that was trained for int8."""
    if quantize != "int8":
        raise ValueError(
            f"Model '{model.name}' is quantization-aware, that is to say trained for "
            'an int8 file. Expected quantize="int8"; export the model that it was made '
            f"from for other modes. Received: quantize={quantize!r}"
        )


def _check_arguments(
    path, quantize, representative_data, batch_size, sparse, needs_data
) -> str:
    """Returns the path as a string, after a check of all plain arguments."""
    if quantize not in _MODES:
        raise ValueError(
            f"Invalid value for `quantize`, expected one of {_MODES}. Received: "
            f"quantize={quantize!r}"
        )
    require_integer("batch_size", batch_size, at_least=1)
    if sparse and quantize is not None:
        # int8 and dynamic files do not load then; float16 in blocks answers nan.
        raise ValueError(
            "TFLite's sparse encoding works with float32 weights only. Expected either "
            "`sparse=True` or a quantised file; gzip makes zeros small in both. "
            f"Received: sparse=True, quantize={quantize!r}"
        )
    if needs_data and representative_data is None:
        raise ValueError(
            'quantize="int8" fixes the range of every activation in advance and needs '
            "inputs to measure them: pass `representative_data=x_train[:500]`. "
            "Received: representative_data=None"
        )
    return check_path(path)


def _convert(function, quantize, representative, has_ranges):
    """Returns the file's bytes, dense, and notes about them."""
    if has_ranges:
        return _checked_int8(converter.convert(function, "int8"))
    # The float file first, whatever the mode: its operators tell what would crash the
    # calibration of int8 (a loop in its own subgraph ends the process).
    content = converter.convert(function)
    operators.check_operators(operators.operator_names(content))
    if quantize is None:
        return content, ()
    if quantize == "int8" and operators.has_control_flow(content):
        raise ValueError(
            'quantize="int8" cannot calibrate loops, which recurrent layers become. '
            "Build those layers with `unroll=True`, or use quantize='dynamic' or "
            "'float16'. Received: a model whose conversion has the operators "
            f"{operators.operator_names(content)}"
        )
    content = converter.convert(function, quantize, representative)
    if quantize == "int8":
        return _checked_int8(content)
    operators.check_operators(operators.operator_names(content))
    return content, ()


def _checked_int8(content):
    """Returns an int8 file's bytes and a note about operators in float."""
    operators.check_operators(operators.operator_names(content))
    in_float = operators.float_operators(content)
    notes = (f"without an int8 kernel, in float32: {', '.join(in_float)}",)
    return content, notes if in_float else ()
