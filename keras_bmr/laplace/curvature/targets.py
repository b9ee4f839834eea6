"""Targets of a likelihood: checked, and in one shape."""

import tensorflow as tf

from keras_bmr.laplace.curvature.likelihoods import Likelihood

# Of probabilities in single precision, added up.
_TOLERANCE = 1e-3


def prepare_targets(
    likelihood: Likelihood, targets: tf.Tensor, predictors_shape: tf.TensorShape
) -> tf.Tensor:
    """Brings targets to the shape (batch * positions, d) of the predictors' rows.

    Args:
        likelihood: The likelihood.
        targets: Integer labels of shape (batch, ...) or (batch, ..., 1) where it is
            sparse; distributions over classes, labels in [0, 1] or values of the shape
            of the outputs elsewhere.
        predictors_shape: Shape of the outputs of the model, (batch, ..., d).

    Returns:
        Tensor of the shape of the rows; its dtype is float32 or float64.

    Raises:
        ValueError: If the targets do not fit.
    """
    shape, num_outputs = predictors_shape.as_list(), predictors_shape[-1]
    expected = shape[:-1] if likelihood.is_sparse else shape
    given = targets.shape.as_list()
    if given not in (expected, [*expected, 1]) and expected != [*given, 1]:
        raise ValueError(
            f"Targets must have the shape {tuple(expected)} for outputs of shape "
            f"{tuple(shape)}. Received: targets.shape={tuple(given)}. Integer labels "
            "go with SparseCategoricalCrossentropy, one-hot ones with "
            "CategoricalCrossentropy."
        )
    if likelihood.is_sparse:
        return _one_hot(tf.reshape(targets, [-1]), num_outputs)
    if not targets.dtype.is_floating or targets.dtype.size < 4:
        targets = tf.cast(targets, tf.float32)
    rows = tf.reshape(targets, (-1, num_outputs))
    if not bool(tf.reduce_all(tf.math.is_finite(rows))):
        raise ValueError("Targets must be finite. Received: NaN or infinite values")
    if likelihood.is_categorical:
        _check_range(rows)
        sums = tf.reduce_sum(rows, -1)
        if float(tf.reduce_max(tf.abs(sums - 1))) > _TOLERANCE:
            raise ValueError(
                "Targets of CategoricalCrossentropy must sum to 1 over the classes. "
                f"Received: sums from {float(tf.reduce_min(sums)):g} to "
                f"{float(tf.reduce_max(sums)):g}"
            )
    elif likelihood.is_binary:
        _check_range(rows)
    return rows


def _one_hot(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    low, high = tf.reduce_min(labels), tf.reduce_max(labels)
    whole = tf.cast(tf.cast(labels, tf.int64), labels.dtype)
    if not bool(tf.reduce_all(whole == labels)) or low < 0 or high >= num_classes:
        raise ValueError(
            f"Targets must be integer labels from 0 to {num_classes - 1}. Received: "
            f"values from {low.numpy():g} to {high.numpy():g}"
        )
    return tf.one_hot(tf.cast(labels, tf.int64), num_classes)


def _check_range(rows: tf.Tensor) -> None:
    low, high = float(tf.reduce_min(rows)), float(tf.reduce_max(rows))
    if low < 0 or high > 1:
        raise ValueError(
            "Targets of a cross-entropy must lie in [0, 1]. Received: values from "
            f"{low:g} to {high:g}"
        )
