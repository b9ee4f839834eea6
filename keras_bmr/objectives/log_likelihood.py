"""The log likelihood of data under a model, as its loss defines it."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.argument_checks import array_of_examples

_BATCH_SIZE = 1024
_CLASSES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.BinaryCrossentropy,
    keras.losses.MeanSquaredError,
)
# What the names of losses resolve to.
_OF_FUNCTION = {
    keras.losses.sparse_categorical_crossentropy: _CLASSES[0],
    keras.losses.categorical_crossentropy: _CLASSES[1],
    keras.losses.binary_crossentropy: _CLASSES[2],
    keras.losses.mean_squared_error: _CLASSES[3],
}


class LogLikelihood:
    """log p(data | weights), summed over the data, for the current weights of a model.

    The model is evaluated outside training. The sum is that of the negative
    cross-entropies of all outputs, or of the log densities of a Gaussian with unit
    variance, without its constant, for the mean squared error. Where the outputs have a
    Keras mask, what stems from padding does not count.

    Args:
        model: A built Keras model with one output.
        data: `(x, y)`: inputs of shape (examples, ...), or a list or dictionary of
            them, and targets of shape (examples, ...); or a batched, finite
            `tf.data.Dataset` of such pairs that gives the same in every pass.
        loss: The Keras loss or its name.

    Raises:
        ValueError: If the loss is no likelihood, or the data are not of this form or
            empty.

    Example:
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> log_likelihood = keras_bmr.objectives.LogLikelihood(model, (x, y), loss)
        >>> log_likelihood()
    """

    def __init__(self, model: keras.Model, data: Any, loss: Any) -> None:
        self.loss = likelihood_loss(loss)
        self._data = data if isinstance(data, tf.data.Dataset) else _checked(data)

        @tf.function(autograph=False, reduce_retracing=True)
        def of_batch(x, y):
            outputs = model(x, training=False)
            mask = getattr(outputs, "_keras_mask", None)
            has_independent_outputs = isinstance(self.loss, _CLASSES[2:])
            if has_independent_outputs and y.shape.rank == outputs.shape.rank - 1:
                # Keras would take the mean over another axis than that of outputs.
                y = y[..., tf.newaxis]
            losses = tf.cast(self.loss.call(y, outputs), tf.float64)
            if mask is not None:
                # Padding is no data, as in Keras' losses.
                losses *= tf.cast(mask, tf.float64)
            total = tf.reduce_sum(losses)
            if has_independent_outputs:
                # Keras takes the mean over independent outputs.
                total *= tf.cast(tf.shape(outputs)[-1], tf.float64)
            if isinstance(self.loss, keras.losses.MeanSquaredError):
                total *= 0.5
            return -total

        self._of_batch = of_batch

    def __call__(self) -> float:
        """The log likelihood in nats."""
        values = [float(self._of_batch(x, y)) for x, y in self._batches()]
        if not values:
            raise ValueError("`data` must hold at least one batch. Received: none")
        return float(np.sum(values))

    def num_examples(self) -> int:
        """The number of examples in the data."""
        return sum(len(y) for _, y in self._batches())

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        if isinstance(self._data, tf.data.Dataset):
            for element in self._data:
                x, y, weight = keras.utils.unpack_x_y_sample_weight(element)
                if y is None or weight is not None:
                    raise ValueError(
                        "`data` must hold pairs of inputs and targets, without sample "
                        f"weights. Received: {self._data.element_spec}"
                    )
                yield x, y
            return
        x, y = self._data
        for start in range(0, len(y), _BATCH_SIZE):
            part = slice(start, start + _BATCH_SIZE)
            yield keras.tree.map_structure(lambda array, i=part: array[i], x), y[part]


def likelihood_loss(loss: Any) -> keras.losses.Loss:
    """The loss object of a cross-entropy or of the mean squared error.

    Args:
        loss: A Keras loss or its name.

    Returns:
        An object whose values, summed, are a negative log likelihood.

    Raises:
        ValueError: If it is another loss.
    """
    resolved = keras.losses.get(loss) if isinstance(loss, str) else loss
    if callable(resolved) and resolved in _OF_FUNCTION:
        resolved = _OF_FUNCTION[resolved]()
    # A subclass may compute something else.
    if type(resolved) not in _CLASSES or getattr(resolved, "label_smoothing", 0):
        raise ValueError(
            "`loss` must be a likelihood: an object of keras.losses, of one of the "
            f"classes {', '.join(c.__name__ for c in _CLASSES)}, without label "
            f"smoothing, or its name. Received: loss={loss!r}"
        )
    return resolved


def _checked(data: Any) -> tuple[Any, np.ndarray]:
    """The pair of inputs and targets as arrays of one length."""
    if not isinstance(data, tuple) or len(data) != 2:
        raise ValueError(
            "`data` must be a pair (x, y) of inputs and targets, or a `tf.data."
            f"Dataset` of such pairs. Received: an object of type "
            f"{type(data).__name__}"
        )
    x, y = keras.tree.map_structure(array_of_examples, data)
    lengths = {len(array) for array in keras.tree.flatten((x, y))}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "`data` must hold as many inputs as targets, at least one. Received: "
            f"arrays with {sorted(lengths)} examples"
        )
    return x, y
