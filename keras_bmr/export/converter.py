"""From a Keras network to the bytes of a TFLite file."""

import contextlib
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.export.network import InputSpecification, call_flat


def trace(
    network: keras.Model, specifications: list[InputSpecification], batch_size: int
):
    """Returns the network's concrete function for inputs of fixed shape.

    Args:
        network: Result of `deterministic_network`.
        specifications: Its inputs.
        batch_size: Number of examples per call.

    Raises:
        ValueError: If a layer assigns to a variable at inference.
    """
    return trace_function(
        lambda *tensors: call_flat(network, tensors), specifications, batch_size
    )


def trace_function(
    infer: Callable, specifications: list[InputSpecification], batch_size: int
):
    """As `trace`, for any function.

    Args:
        infer: Takes one tensor per input and returns a list of tensors.
        specifications: Its inputs.
        batch_size: Number of examples per call.

    Raises:
        ValueError: If a layer assigns to a variable at inference.
    """
    signature = [
        tf.TensorSpec((batch_size, *item.shape), item.dtype, name=item.name)
        for item in specifications
    ]

    @tf.function(autograph=False)
    def traced(*tensors):
        return infer(*tensors)

    function = traced.get_concrete_function(*signature)
    assignments = [
        operation.name
        for operation in function.graph.get_operations()
        if operation.type.startswith("Assign")
    ]
    if assignments:
        raise ValueError(
            "The model changes a variable at inference, as layers do that draw random "
            "numbers or keep a state; expected a deterministic network. Remove the "
            "layer, or make it act in training only. Received: the operation "
            f"`{assignments[0]}`"
        )
    return function


def convert(
    function,
    quantize: str | None = None,
    representative: list[np.ndarray] | None = None,
) -> bytes:
    """Returns the TFLite flatbuffer of a concrete function.

    Args:
        function: Result of `trace`.
        quantize: None, "float16", "dynamic" or "int8".
        representative: One array per input, to calibrate "int8" with. None if the
            function rounds activations itself (fake quantisation).

    Raises:
        ValueError: If the converter refuses, with the operators at fault.
    """
    # Without the model as second argument: with it, weights are left out of the file
    # (they are taken for variables) and the file answers nan.
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8" and representative is not None:
        batch_size = function.inputs[0].shape[0]

        def batches():
            for start in range(0, len(representative[0]) - batch_size + 1, batch_size):
                yield [array[start : start + batch_size] for array in representative]

        converter.representative_dataset = batches
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        with quiet():
            return converter.convert()
    except Exception as error:
        # The converter has no public exception class; its text names the operators.
        raise ValueError(_explain(str(error))) from error


def _explain(text: str) -> str:
    """Returns what a user can act on in the converter's error text."""
    names = re.findall(r"(?:TF Select|Custom) ops: (.+)", text)
    names += re.findall(r"error: 'tf\.(\w+)' op is neither", text)
    if not names:
        return f"TFLiteConverter could not convert the model. Received: {text}"
    found = sorted({name.strip() for line in names for name in line.split(",")})
    return (
        "The model uses operations without a TFLite kernel for their type; expected "
        "builtin operations only, as devices have no TensorFlow. Replace the layer "
        f"that uses them. Received: {', '.join(found)}"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the converter's and interpreter's log lines off the terminal.

    They come from C++ and go to file descriptor 2 directly, past `sys.stderr`.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Statistics for quantized inputs")
        logger.setLevel(logging.ERROR)
        stack.callback(logger.setLevel, level)
        try:
            terminal = os.dup(2)
        except OSError:  # There is no such descriptor, hence nothing to silence.
            yield
            return
        stack.callback(os.close, terminal)
        sink = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(sink.fileno(), 2)
        stack.callback(os.dup2, terminal, 2)
        yield
