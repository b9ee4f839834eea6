"""Export of a model with a format of its own for the weights of each layer."""

import os
from typing import Any

from keras_bmr.argument_checks import require_integer
from keras_bmr.export import converter, latency, verify
from keras_bmr.export.metadata import Metadata
from keras_bmr.export.network import (
    deterministic_network,
    input_specifications,
    reference,
)
from keras_bmr.export.output_path import check_path
from keras_bmr.export.precision_choice import PrecisionChoice
from keras_bmr.export.report import ExportReport
from keras_bmr.export.verified_file import verification_inputs, write_verified


def export_precision(
    choice: PrecisionChoice,
    path: str | os.PathLike,
    validation_data: Any = None,
    batch_size: int = 1,
    sparse: bool = False,
    metadata: Metadata | None = None,
) -> ExportReport:
    """Writes a TFLite file whose weights have the formats of a choice.

    Weights are stored as chosen and widened to float32 when the file is loaded, so that
    the kernels, the activations and the memory at run time are those of a float file.
    The file is run before it appears at `path` and must agree with the Keras network
    of the rounded weights as a float file must: within 1e-4 of max(1, largest output).
    How the rounded network differs from the model itself stands in a note.

    Args:
        choice: Result of `choose_precision` or `WeightPrecision.assign`.
        path: File to write. Its folder must exist.
        validation_data: Inputs to verify with, shape `(num_examples, ...)`, a list or
            a dictionary of such arrays. Without them the file is verified with seeded
            random inputs.
        batch_size: Number of examples per call of the file.
        sparse: Whether weights that stay float32 get TFLite's sparse encodings where
            they are smaller, as in `export_tflite`. Where that makes no smaller file
            or one that does not run, they stay dense and the report says so.
        metadata: Labels, scaling of the inputs and a description to keep in the file.

    Returns:
        An `ExportReport`; `report.layout` has the formats layer by layer.

    Raises:
        ImportError: If ai-edge-litert is not installed (extra `litert`).
        TypeError: If `choice` is something else, or the path or data has a wrong type.
        ValueError: If an argument or the data is invalid, or the model has changed
            since the choice.
        OSError: If the folder of `path` does not exist (FileNotFoundError), or takes no
            file.
        RuntimeError: If the file does not load or disagrees with Keras.

    Example:
        >>> choice = keras_bmr.export.choose_precision(model, max_bytes=80_000)
        >>> report = keras_bmr.export.export_precision(choice, "model.tflite", x_test)
    """
    if not isinstance(choice, PrecisionChoice):
        raise TypeError(
            "Expected the result of `choose_precision` or `WeightPrecision.assign`. "
            f"Received: choice={choice!r}"
        )
    require_integer("batch_size", batch_size, at_least=1)
    # TensorFlow's shapes take no unsigned integers of NumPy.
    batch_size = int(batch_size)
    path = check_path(path)
    latency.litert_interpreter()
    network = deterministic_network(choice.model)
    specifications = input_specifications(network, batch_size)
    inputs = verification_inputs(
        None, validation_data, network, specifications, batch_size, 1
    )
    function = converter.trace(network, specifications, batch_size)
    content = choice.encode(converter.convert(function))
    expected = verify.run_keras(choice.network(), inputs.arrays, batch_size)
    of_model = verify.run_keras(
        reference(choice.model, network), inputs.arrays, batch_size
    )
    rounding = verify.compare(of_model, expected)
    note = f"rounding: relative difference {rounding.relative_difference:.3g}"
    if rounding.top1_agreement is not None:
        note += f", top-1 agreement with the model {rounding.top1_agreement:.2%}"
    return write_verified(
        content,
        path,
        inputs,
        expected,
        None,
        batch_size,
        sparse=sparse,
        notes=(note,),
        layer_names=[layer.name for layer in network._flatten_layers()],
        metadata=metadata,
    )
