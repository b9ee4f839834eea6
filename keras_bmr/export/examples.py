"""Inputs to calibrate and to verify a file with, checked before anything is done."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_bmr.export.network import InputSpecification

# Fewer leave the range of an activation to chance; TensorFlow's guide says 100-500.
MIN_REPRESENTATIVE = 20
_NUM_RANDOM = 64


def check_examples(
    data: Any,
    network: keras.Model,
    specifications: list[InputSpecification],
    argument: str,
    minimum: int,
) -> list[np.ndarray]:
    """Returns data as one array per input.

    Args:
        data: Array of shape `(num_examples, ...)`, a list of them, or a dictionary by
            input name; no targets.
        network: The model that takes the data.
        specifications: Its inputs.
        argument: What the user calls the data, for error messages.
        minimum: Least number of examples.

    Returns:
        Arrays in the dtypes of the inputs, all of one length.

    Raises:
        TypeError: If `data` is no array, or of another kind of dtype.
        ValueError: If number, shape, length or values do not fit.
    """
    arrays = _flatten(data, network, specifications, argument)
    if len(arrays) != len(specifications):
        raise ValueError(
            f"Expected `{argument}` to hold one array for each input of the model "
            f"(inputs only, no targets): {[s.name for s in specifications]}. "
            f"Received: {len(arrays)} arrays"
        )
    checked = [
        _check_array(array, specification, argument)
        for array, specification in zip(arrays, specifications, strict=True)
    ]
    lengths = {len(array) for array in checked}
    if len(lengths) > 1:
        raise ValueError(
            f"Expected arrays of one length in `{argument}`. Received: lengths "
            f"{[len(array) for array in checked]}"
        )
    if min(lengths) < minimum:
        raise ValueError(
            f"Expected at least {minimum} examples in `{argument}`. Received: "
            f"{min(lengths)} examples"
        )
    return checked


def random_examples(
    specifications: list[InputSpecification], batch_size: int
) -> list[np.ndarray]:
    """Returns seeded stand-ins for data: normal floats, zeros and ones for integers.

    Args:
        specifications: The model's inputs.
        batch_size: The number of examples is a multiple of it.
    """
    rng = np.random.default_rng(0)
    num_examples = -(-_NUM_RANDOM // batch_size) * batch_size
    examples = []
    for specification in specifications:
        shape = (num_examples, *specification.shape)
        if specification.dtype == "float32":
            values = rng.normal(size=shape)
        else:
            # Zero and one are valid whatever the size of an embedding.
            values = rng.integers(0, 2, size=shape)
        examples.append(values.astype(specification.dtype))
    return examples


def _flatten(data, network, specifications, argument) -> list:
    """Returns the arrays of a list or dictionary in the order of the inputs."""
    if isinstance(data, Mapping):
        # A model built from a dictionary of inputs is fed by its keys.
        keys = [specification.name for specification in specifications]
        structure = None if isinstance(network, keras.Sequential) else network.input
        if isinstance(structure, Mapping):
            keys = sorted(structure)
        if set(data) != set(keys):
            raise ValueError(
                f"Expected the keys {keys} in `{argument}`. Received: {sorted(data)}"
            )
        return [data[key] for key in keys]
    if hasattr(data, "element_spec") or callable(data) or isinstance(data, Iterator):
        raise TypeError(
            f"Expected `{argument}` to be an array of shape (num_examples, ...), a "
            "list of arrays or a dictionary of them. Collect the batches of a dataset "
            "or generator with `numpy.concatenate`. Received: "
            f"{argument}={data!r}"
        )
    if isinstance(data, (list, tuple)) and (
        len(specifications) > 1 or all(hasattr(item, "shape") for item in data)
    ):
        return list(data)
    return [data]


def _check_array(data, specification: InputSpecification, argument: str) -> np.ndarray:
    """Returns one input's data as a finite array of the right shape and dtype."""
    array = np.asarray(data)
    name, dtype = specification.name, np.dtype(specification.dtype)
    if array.dtype.kind not in "fiub" or (
        array.dtype.kind == "f" and dtype.kind != "f"
    ):
        raise TypeError(
            f"Expected values of dtype {dtype} for input `{name}` in `{argument}`. "
            f"Received: dtype {array.dtype}"
        )
    if array.ndim == 0 or array.shape[1:] != specification.shape:
        expected = ", ".join(map(str, ("num_examples", *specification.shape)))
        raise ValueError(
            f"Expected shape ({expected}) for input `{name}` in `{argument}`. "
            f"Received: shape {array.shape}"
        )
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind == "f" and not np.all(np.isfinite(converted)):
        raise ValueError(
            f"Expected finite values for input `{name}` in `{argument}`. Received: "
            f"{int(np.sum(~np.isfinite(converted)))} values that are nan, infinite or "
            "beyond float32"
        )
    if dtype.kind in "iu" and np.any(converted != array):
        raise ValueError(
            f"Expected values within {dtype} for input `{name}` in `{argument}`. "
            f"Received: values from {array.min()} to {array.max()}"
        )
    return converted
