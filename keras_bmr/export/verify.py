"""A TFLite file run by the LiteRT interpreter and compared with Keras."""

import dataclasses
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.export import latency
from keras_bmr.export.network import call_flat

# Largest absolute difference over max(1, largest output), for unquantised kernels.
_TOLERANCE = {None: 1e-4, "float16": 1e-2}
# For quantised kernels: relative difference that is always or never accepted; in
# between, the predictions decide.
_CLOSE, _FAR, _MIN_AGREEMENT = 0.05, 0.2, 0.95
_SLOW_SECONDS = 5.0
_KERAS_BATCH_SIZE = 128


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How a file's outputs differ from Keras; see `ExportReport` for the terms."""

    max_difference: float
    scaled_difference: float
    relative_difference: float
    top1_agreement: float | None


def run_keras(
    network: keras.Model, examples: list[np.ndarray], batch_size: int
) -> list[np.ndarray]:
    """Returns the flat outputs of Keras, one array per output.

    Args:
        network: The model, called in inference mode.
        examples: One array per input.
        batch_size: Number of examples per call, for a model that fixes it; others are
            called with larger batches, which is faster.
    """
    if network.inputs[0].shape[0] is None:
        batch_size = max(batch_size, _KERAS_BATCH_SIZE)
    return run_function(
        lambda *tensors: call_flat(network, tensors), examples, batch_size
    )


def run_function(
    infer: Callable, examples: list[np.ndarray], batch_size: int
) -> list[np.ndarray]:
    """Returns the outputs of a function of tensors, one array per output.

    Args:
        infer: Takes one tensor per input and returns a list of tensors.
        examples: One array per input.
        batch_size: Number of examples per call.
    """
    compiled = tf.function(infer, autograph=False)

    def call(batch):
        tensors = [tf.convert_to_tensor(array) for array in batch]
        # TensorFlow takes the functions of several exports for one, and warns when it
        # traces "it" again and again; not so if the trace is asked for.
        outputs = compiled.get_concrete_function(*tensors)(*tensors)
        return [np.asarray(output) for output in outputs]

    return _in_batches(call, examples, batch_size)


def run_file(
    path: str, examples: list[np.ndarray], batch_size: int
) -> tuple[list[np.ndarray], float]:
    """Returns the outputs of a file and the median latency of a call.

    Args:
        path: The TFLite file.
        examples: One array per input; their length is a multiple of `batch_size`.
        batch_size: Number of examples per call.

    Returns:
        One array per output, and milliseconds on one thread: the median of at least
        50 calls after the first ones.

    Raises:
        RuntimeError: If the interpreter refuses the file.
    """
    interpreter = latency.load(path)
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def call(batch):
        for index, array in zip(inputs, batch, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    values = _in_batches(call, examples, batch_size)
    (seconds,) = latency.median_seconds([interpreter.invoke])
    return values, 1e3 * seconds


def compare(
    keras_outputs: list, file_outputs: list, are_moments: bool = False
) -> Comparison:
    """Compares the outputs of a file with those of Keras.

    Args:
        keras_outputs: Arrays of shape `(num_examples, ...)`.
        file_outputs: The same outputs by the file.
        are_moments: Whether the outputs are a mean and its variance. The root of the
            variance is compared, since it has the units of the mean; predictions are
            those of the mean.

    Raises:
        RuntimeError: If Keras' outputs are not finite, or number or shapes differ.
    """
    shapes = [output.shape for output in keras_outputs]
    if shapes != [output.shape for output in file_outputs]:
        raise RuntimeError(
            f"The file's outputs should have the shapes {shapes}. Received: "
            f"{[output.shape for output in file_outputs]}"
        )
    if are_moments:
        keras_outputs, file_outputs = map(
            _with_deviation, (keras_outputs, file_outputs)
        )
    largest, scaled, relative, agreement = [], [], [], []
    for expected, output in zip(keras_outputs, file_outputs, strict=True):
        expected, output = expected.astype("float64"), output.astype("float64")
        if not np.all(np.isfinite(expected)):
            raise RuntimeError(
                "Keras' own outputs are not finite on the inputs of the comparison, "
                "so the file cannot be verified. Check the weights and the inputs."
            )
        difference = np.abs(output - expected)
        scale = np.max(np.abs(expected))
        largest.append(np.max(difference))
        scaled.append(np.max(difference) / max(1.0, scale))
        # A constant output has no spread; its size stands in then.
        spread = max(np.std(expected), 0.01 * scale) or 1.0
        relative.append(np.sqrt(np.mean(difference**2)) / spread)
        predicts = not (are_moments and largest[1:])
        if predicts and expected.ndim > 1 and expected.shape[-1] > 1:
            # Exact ties in Keras' output: either choice agrees.
            chosen = np.argmax(output, axis=-1)[..., None]
            chosen = np.take_along_axis(expected, chosen, axis=-1)[..., 0]
            agreement.append(np.mean(chosen == np.max(expected, axis=-1)))
    return Comparison(
        max_difference=float(np.max(largest)),
        scaled_difference=float(np.max(scaled)),
        relative_difference=float(np.max(relative)),
        top1_agreement=float(min(agreement)) if agreement else None,
    )


def check(comparison: Comparison, quantize: str | None, real_inputs: bool) -> None:
    """Refuses a file that disagrees with Keras.

    Args:
        comparison: Result of `compare`.
        quantize: The mode, which decides the tolerance.
        real_inputs: False for random stand-ins, whose predictions say little: then
            agreement of predictions is not asked for.

    Raises:
        RuntimeError: If the difference is too large for the mode.
    """
    relative, agreement = comparison.relative_difference, comparison.top1_agreement
    if quantize in _TOLERANCE:
        # Written so that nan, which compares as False, is refused.
        accepted = comparison.scaled_difference <= _TOLERANCE[quantize]
        expected = f"at most {_TOLERANCE[quantize]} times max(1, largest output)"
    else:
        predicts = not real_inputs or agreement is None or agreement >= _MIN_AGREEMENT
        accepted = relative <= (_FAR if predicts else _CLOSE)
        expected = (
            f"a relative difference of at most {_FAR}, and of at most {_CLOSE} where "
            f"top-1 agreement is below {_MIN_AGREEMENT:.0%}. More representative_data "
            "or quantize='float16' may mend it"
        )
    if not accepted:
        raise RuntimeError(
            f"The converted model disagrees with Keras and was not written. Expected "
            f"{expected}. Received: largest difference {comparison.max_difference:.3g},"
            f" relative difference {relative:.3g}, top-1 agreement {agreement}"
        )


def _with_deviation(outputs: list) -> list[np.ndarray]:
    """Returns the mean and the standard deviation of a mean and a variance."""
    mean, variance = outputs
    # Of a negative variance the root is nan, which no tolerance accepts.
    with np.errstate(invalid="ignore"):
        return [mean, np.sqrt(variance)]


def _in_batches(call, examples: list, batch_size: int) -> list[np.ndarray]:
    """Returns the outputs of calls on consecutive batches, concatenated."""
    num_batches = -(-len(examples[0]) // batch_size)
    results, bar, start = [], None, time.perf_counter()
    for step in range(num_batches):
        batch = slice(step * batch_size, (step + 1) * batch_size)
        results.append(call([array[batch] for array in examples]))
        if bar is None and time.perf_counter() - start > _SLOW_SECONDS:
            bar = keras.utils.Progbar(num_batches, unit_name="batch", interval=1)
        if bar is not None:
            bar.update(step + 1)
    return [np.concatenate(output) for output in zip(*results, strict=True)]
