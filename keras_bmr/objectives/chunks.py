"""Inputs of a model cut into chunks, whatever they come as."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.argument_checks import require_integer

# Drawing the weights costs the same for any number of examples, so chunks are large.
_DEFAULT_BATCH_SIZE = 1024


def input_chunks(
    x: Any, batch_size: int | None
) -> tuple[Any, Iterable[Any], int | None]:
    """Cuts the inputs of a model into chunks along the axis of examples.

    Args:
        x: Array of shape (examples, ...), a dict, list or tuple of such arrays, or a
            batched, finite `tf.data.Dataset` of inputs or (inputs, targets).
        batch_size: Examples per chunk of arrays; None stands for 1024. The chunks of
            a dataset are its batches.

    Returns:
        The `tf.TypeSpec`s of a chunk, with an unknown number of examples; an iterable
        over the chunks; their number, None where a dataset does not know it.

    Raises:
        ValueError: If `x` is nothing of the kind or empty, or `batch_size` is
            invalid or given with a dataset.

    Example:
        >>> spec, chunks, num_chunks = input_chunks(np.zeros((10, 3)), batch_size=4)
        >>> [len(chunk) for chunk in chunks]
        [4, 4, 2]
    """
    if isinstance(x, tf.data.Dataset):
        return _chunks_of_dataset(x, batch_size)
    batch_size = _DEFAULT_BATCH_SIZE if batch_size is None else batch_size
    require_integer("batch_size", batch_size, at_least=1)
    arrays = keras.tree.map_structure(_as_array, x)
    lengths = {len(array) for array in keras.tree.flatten(arrays)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "`x` must hold at least one example, and the same number in each of its "
            f"arrays. Received: arrays with {sorted(lengths)} examples"
        )
    (length,) = lengths
    spec = keras.tree.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), arrays
    )
    starts = range(0, length, batch_size)
    chunks = (
        keras.tree.map_structure(
            lambda array, i=start: tf.convert_to_tensor(array[i : i + batch_size]),
            arrays,
        )
        for start in starts
    )
    return spec, chunks, len(starts)


def _chunks_of_dataset(
    dataset: tf.data.Dataset, batch_size: int | None
) -> tuple[Any, Iterable[Any], int | None]:
    """As `input_chunks`; targets and sample weights are left out."""
    if batch_size is not None:
        raise ValueError(
            "`batch_size` is for arrays; a dataset has batches of its own: "
            f"`dataset.rebatch({batch_size})`. Received: batch_size={batch_size}"
        )
    num_chunks = int(dataset.cardinality())
    if num_chunks == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`x` must be finite: `dataset.take(...)`. Received: an infinite dataset"
        )
    spec = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]
    chunks = (keras.utils.unpack_x_y_sample_weight(element)[0] for element in dataset)
    return spec, chunks, num_chunks if num_chunks >= 0 else None


def _as_array(leaf: Any) -> Any:
    """An input with an axis of examples: tensors as they are, the rest in NumPy."""
    array = leaf if tf.is_tensor(leaf) else np.asarray(leaf)
    if len(array.shape) == 0 or array.dtype == object:
        raise ValueError(
            "`x` must be an array with an axis of examples, a dict, list or tuple of "
            "arrays, or a tf.data.Dataset; make an array of a nested list with "
            f"`np.array(x)`. Received: an entry of type {type(leaf).__name__}"
        )
    return array
