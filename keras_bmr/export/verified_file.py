"""A TFLite file appears at its path once it was run and agreed with Keras."""

import dataclasses
import functools
import gzip
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.export import examples, operators, verify
from keras_bmr.export.file_layout import file_layout
from keras_bmr.export.metadata import Metadata, check_metadata, with_metadata
from keras_bmr.export.network import InputSpecification
from keras_bmr.export.output_path import temporary_path
from keras_bmr.export.packing import compact
from keras_bmr.export.report import ExportReport
from keras_bmr.export.sparse_encoding import encode_sparse


@dataclasses.dataclass(frozen=True)
class VerificationInputs:
    """What a file is run on before it appears.

    Attributes:
        arrays: One array per input, their length a multiple of the batch size.
        are_real: False for random stand-ins.
        description: What they are, for the report.
        representative: The checked `representative_data`, or None.
    """

    arrays: list[np.ndarray]
    are_real: bool
    description: str
    representative: list[np.ndarray] | None


def verification_inputs(
    representative_data: Any,
    validation_data: Any,
    network: keras.Model,
    specifications: list[InputSpecification],
    batch_size: int,
    min_representative: int,
) -> VerificationInputs:
    """Checks the data of a user and chooses what to verify with.

    Args:
        representative_data: Inputs as a user gives them, or None.
        validation_data: The same; preferred if given.
        network: The model that takes the data.
        specifications: Its inputs.
        batch_size: Number of examples per call.
        min_representative: Least number of representative examples.

    Returns:
        The inputs; seeded random ones where there are no data.

    Raises:
        TypeError: If data has a wrong type.
        ValueError: If data does not fit the model.
    """
    real = representative = None
    if representative_data is not None:
        real = representative = examples.check_examples(
            representative_data,
            network,
            specifications,
            "representative_data",
            max(min_representative, batch_size),
        )
    if validation_data is not None:
        real = examples.check_examples(
            validation_data, network, specifications, "validation_data", batch_size
        )
    inputs = real or examples.random_examples(specifications, batch_size)
    num_used = len(inputs[0]) // batch_size * batch_size
    description = f"{num_used} random inputs (none given)"
    if real is not None:
        source = "representative_data" if real is representative else "validation_data"
        description = f"{num_used} examples of {source}"
    return VerificationInputs(
        arrays=[array[:num_used] for array in inputs],
        are_real=real is not None,
        description=description,
        representative=representative,
    )


def write_verified(
    content: bytes,
    path: str,
    inputs: VerificationInputs,
    expected: list[np.ndarray],
    quantize: str | None,
    batch_size: int,
    sparse: bool = False,
    uncertainty: str | None = None,
    notes: tuple[str, ...] = (),
    layer_names: Sequence[str] = (),
    metadata: Metadata | None = None,
) -> ExportReport:
    """Runs a file, compares it with Keras and puts it at its path.

    In its shortest form, and with sparse encodings if they are wanted, make it smaller
    and run; else dense.

    Args:
        content: The bytes of the file, dense.
        path: Where it shall appear; what is there stays until then.
        inputs: What to run it on.
        expected: The outputs of Keras for them.
        quantize: The mode, which decides the tolerance.
        batch_size: Number of examples per call.
        sparse: Whether zeros shall be stored in TFLite's sparse encoding.
        uncertainty: None, or how the file's mean and variance are made.
        notes: Remarks for the report.
        layer_names: Of the Keras model, to name the layers in the report with.
        metadata: What to add to the file, or None.

    Returns:
        The report, with a note where the file is not sparse though it should be.

    Raises:
        ValueError: If the metadata do not fit the outputs.
        RuntimeError: If the file does not load or disagrees with Keras.
    """
    if metadata is not None:
        check_metadata(metadata, [output.shape for output in expected])
    content = compact(content)
    write = functools.partial(
        _write,
        path=path,
        inputs=inputs,
        expected=expected,
        quantize=quantize,
        batch_size=batch_size,
        uncertainty=uncertainty,
        layer_names=layer_names,
        metadata=metadata,
    )
    if not sparse:
        return write(content, is_sparse=False, notes=notes)
    compressed, _ = encode_sparse(content)
    if len(compressed) >= len(content):
        reason = "it would not be smaller"
    else:
        try:
            return write(compressed, is_sparse=True, notes=notes)
        except RuntimeError as error:
            reason = str(error)
    note = f"dense encoding instead of sparse: {reason}"
    return write(content, is_sparse=False, notes=(*notes, note))


def _write(
    content: bytes,
    is_sparse: bool,
    notes: tuple[str, ...],
    path: str,
    inputs: VerificationInputs,
    expected: list[np.ndarray],
    quantize: str | None,
    batch_size: int,
    uncertainty: str | None,
    layer_names: Sequence[str],
    metadata: Metadata | None,
) -> ExportReport:
    """Writes one encoding of a file if it agrees with Keras."""
    if metadata is not None:
        content = with_metadata(content, metadata)
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        outputs, latency_ms = verify.run_file(temporary, inputs.arrays, batch_size)
        comparison = verify.compare(expected, outputs, uncertainty is not None)
        verify.check(comparison, quantize, inputs.are_real)
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return ExportReport(
        path=path,
        bytes=len(content),
        gzip_bytes=len(gzip.compress(content, mtime=0)),
        max_difference=comparison.max_difference,
        relative_difference=comparison.relative_difference,
        top1_agreement=comparison.top1_agreement,
        latency_ms=latency_ms,
        ops=operators.operator_names(content),
        quantize=quantize,
        sparse=is_sparse,
        batch_size=batch_size,
        verified_on=inputs.description,
        layout=file_layout(content, layer_names),
        uncertainty=uncertainty,
        notes=notes,
        metadata=metadata,
    )
