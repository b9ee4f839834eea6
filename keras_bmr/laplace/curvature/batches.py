"""Pairs of inputs and targets, batch by batch, whatever they come as."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.argument_checks import array_of_examples, require_integer

_DEFAULT_BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches of (x, y) that can be gone through again and again.

    Attributes:
        source: Arrays (x, y), or the data set.
        num_batches: None where a data set does not know it.
        batch_size: Examples per batch of arrays, None for a data set.
    """

    source: Any
    num_batches: int | None
    batch_size: int | None

    def __iter__(self) -> Iterator[tuple[Any, tf.Tensor]]:
        """Yields (x, y) tensors; x keeps its structure.

        Raises:
            ValueError: If a batch of a data set holds NaN; arrays were checked before.
        """
        if self.batch_size is None:
            for batch in self.source:
                # Not left to the log likelihood: a ReLU may turn NaN into zero.
                keras.tree.map_structure(array_of_examples, batch)
                yield batch
            return
        num_examples = len(self.source[1])
        for start in range(0, num_examples, self.batch_size):
            end = start + self.batch_size
            yield keras.tree.map_structure(
                lambda array, start=start, end=end: tf.convert_to_tensor(
                    array[start:end]
                ),
                self.source,
            )

    @property
    def spec(self) -> Any:
        """The `tf.TypeSpec`s of (x, y), with an unknown number of examples."""
        if self.batch_size is None:
            spec = self.source.element_spec
        else:
            spec = keras.tree.map_structure(
                lambda array: tf.TensorSpec(array.shape, array.dtype), self.source
            )
        return tuple(
            keras.tree.map_structure(
                lambda leaf: tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype), part
            )
            for part in spec
        )


def checksum(inputs: Any) -> np.ndarray:
    """Numbers that tell sets of examples apart, whatever their order.

    Args:
        inputs: Inputs of a batch.

    Returns:
        Sums and sums of squares of each input, to be added over the batches.
    """
    sums = []
    for leaf in keras.tree.flatten(inputs):
        if leaf.dtype != tf.string:
            values = tf.cast(leaf, tf.float64)
            sums += [tf.reduce_sum(values), tf.reduce_sum(tf.square(values))]
    return np.array([float(value) for value in sums])


def check_repeatable(batches: Batches, first: np.ndarray) -> None:
    """Reads a data set once more and compares.

    Args:
        batches: The batches; arrays are not read again.
        first: The sum of the checksums of the first reading.

    Raises:
        ValueError: If the data set yields other examples.
    """
    if batches.batch_size is not None:
        return
    second = sum(checksum(x) for x, _ in batches)
    if not np.allclose(first, second, rtol=1e-6):
        raise ValueError(
            "The dataset yields other examples when it is read again: random "
            "augmentation, or `drop_remainder` after shuffling. A posterior is that of "
            "one set of data. Leave out what is random; the order may vary. Received: "
            f"sums {first} and {second}"
        )


def batches_of(data: Any, batch_size: int | None) -> Batches:
    """Makes batches of arrays or of a data set.

    Args:
        data: Pair (x, y): arrays of shape (examples, ...), x may be a dict or list of
            them; or a batched, finite `tf.data.Dataset` of such pairs.
        batch_size: Examples per batch of arrays; None stands for 256.

    Returns:
        The batches.

    Raises:
        ValueError: If the data are nothing of the kind or empty, or arrays hold NaN.
    """
    if isinstance(data, tf.data.Dataset):
        return _of_dataset(data, batch_size)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ValueError(
            "`data` must be a pair (x, y) of arrays or a tf.data.Dataset of such "
            "pairs; weights of examples are not supported. Received: "
            f"data of type {type(data).__name__}"
        )
    batch_size = _DEFAULT_BATCH_SIZE if batch_size is None else batch_size
    require_integer("batch_size", batch_size, at_least=1)
    arrays = tuple(keras.tree.map_structure(array_of_examples, part) for part in data)
    dtypes = [array.dtype for array in keras.tree.flatten(arrays)]
    if any(dtype.kind == "O" for dtype in dtypes):
        raise ValueError(
            "`data` must hold arrays of numbers. Received: arrays of dtypes "
            f"{', '.join(map(str, dtypes))}"
        )
    lengths = {len(array) for array in keras.tree.flatten(arrays)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "`data` must hold at least one example, and the same number in x and in y. "
            f"Received: arrays with {sorted(lengths)} examples"
        )
    num_batches = -(-lengths.pop() // batch_size)
    return Batches(arrays, num_batches, batch_size)


def _of_dataset(dataset: tf.data.Dataset, batch_size: int | None) -> Batches:
    if batch_size is not None:
        raise ValueError(
            "`batch_size` is for arrays; a dataset has batches of its own: "
            f"`dataset.rebatch({batch_size})`. Received: batch_size={batch_size}"
        )
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(
            "`data` must yield pairs (x, y); weights of examples are not supported. "
            f"Received: a dataset of {spec}"
        )
    num_batches = int(dataset.cardinality())
    if num_batches == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`data` must be finite: `dataset.take(...)`. Received: an infinite dataset"
        )
    return Batches(dataset, num_batches if num_batches >= 0 else None, None)
