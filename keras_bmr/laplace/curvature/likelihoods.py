"""The likelihoods that Keras losses stand for, in terms of logits or predictions."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.objectives.log_likelihood import likelihood_loss

# Keras' losses clip probabilities by this much, too.
_EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """A log likelihood and the curvature of its negative, per position.

    Predictors are logits or predicted values of shape (n, d): one row per example and
    position. Targets of a categorical likelihood come as (n, d) distributions.

    Attributes:
        to_predictors: Maps outputs of the model to predictors.
        log_likelihood: Maps (targets, predictors) to values of shape (n,).
        residual: The gradient of the log likelihood in the predictors, of
            (targets, predictors), shape (n, d).
        num_root_columns: Maps d to the number of columns of the Hessian's root.
        root_column: Column k of a matrix S with S S' = the Hessian of the negative
            log likelihood, of (predictors, k), shape (n, d).
        sample_residual: Residual of targets drawn from the model, of predictors and
            noise from the uniform distribution on (0, 1), of shape (n, 1) where
            categorical and (n, d) elsewhere.
        is_categorical: Whether a position has one label out of d.
        is_binary: Whether targets are probabilities of independent labels.
        is_sparse: Whether targets are integer labels.
        from_logits: Whether outputs of the model are logits; None where they are no
            probabilities either, which is so of a Gaussian likelihood.
    """

    to_predictors: Callable[[tf.Tensor], tf.Tensor]
    log_likelihood: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    residual: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    num_root_columns: Callable[[int], int]
    root_column: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    sample_residual: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    is_categorical: bool = False
    is_binary: bool = False
    is_sparse: bool = False
    from_logits: bool | None = None


def likelihood_of(loss: Any) -> Likelihood:
    """The likelihood that a Keras loss is the negative logarithm of.

    Keras averages over outputs; the likelihood takes their sum: the outputs of a
    binary cross-entropy or of a squared error are independent.

    Args:
        loss: A `keras.losses` cross-entropy (categorical, sparse or binary), or
            `keras.losses.MeanSquaredError` for Gaussian noise with unit variance, or
            the name of one.

    Returns:
        The likelihood.

    Raises:
        ValueError: If the loss is another one, smooths labels, ignores a class or
            has its classes elsewhere than on the last axis.

    Example:
        >>> likelihood_of(keras.losses.MeanSquaredError()).num_root_columns(3)
        3
    """
    loss = likelihood_loss(loss)
    if isinstance(loss, keras.losses.MeanSquaredError):
        return _GAUSSIAN
    config = loss.get_config()
    for option, plain in (("axis", -1), ("ignore_class", None)):
        if config.get(option, plain) != plain:
            raise ValueError(
                f"A loss with `{option}` is not the likelihood of the labels. Expected "
                f"{option}={plain!r}. Received: {option}={config[option]!r}"
            )
    is_binary = isinstance(loss, keras.losses.BinaryCrossentropy)
    likelihood = _BERNOULLI if is_binary else _CATEGORICAL
    from_probabilities = _log_odds if is_binary else _log
    return dataclasses.replace(
        likelihood,
        to_predictors=tf.identity if loss.from_logits else from_probabilities,
        is_sparse=isinstance(loss, keras.losses.SparseCategoricalCrossentropy),
        from_logits=bool(loss.from_logits),
    )


def _log(probabilities: tf.Tensor) -> tf.Tensor:
    """Logits up to a shift, which neither softmax nor its curvature sees."""
    return tf.math.log(tf.maximum(probabilities, _EPSILON))


def _log_odds(probabilities: tf.Tensor) -> tf.Tensor:
    clipped = tf.clip_by_value(probabilities, _EPSILON, 1 - _EPSILON)
    return tf.math.log(clipped) - tf.math.log1p(-clipped)


def _categorical_log_likelihood(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return -tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _categorical_root(logits: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    """Column of the Cholesky root of diag(p) - pp', which has d - 1 columns.

    With the tail sums t_k = p_k + ... + p_d, entry k of column k is
    sqrt(p_k t_{k+1} / t_k), and entry j > k is -p_j sqrt(p_k / (t_k t_{k+1})).
    """
    p = tf.nn.softmax(logits)
    own = tf.gather(p, column, axis=-1)[..., None]
    after = tf.cast(tf.range(tf.shape(p)[-1]) > column, p.dtype)
    tail_after = tf.reduce_sum(p * after, -1, keepdims=True)
    root = tf.sqrt(tf.math.divide_no_nan(own * tail_after, own + tail_after))
    rest = tf.math.divide_no_nan(p * after, tail_after)
    return root * (tf.one_hot(column, tf.shape(p)[-1], dtype=p.dtype) - rest)


def _sample_categorical(logits: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    p = tf.nn.softmax(logits)
    below = tf.cast(tf.cumsum(p, -1)[:, :-1] < noise, tf.int32)
    labels = tf.reduce_sum(below, -1)
    return tf.one_hot(labels, tf.shape(p)[-1], dtype=p.dtype) - p


def _sample_bernoulli(logits: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    p = tf.sigmoid(logits)
    return tf.cast(noise < p, p.dtype) - p


def _bernoulli_log_likelihood(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    losses = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    return -tf.reduce_sum(losses, -1)


def _bernoulli_root(logits: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
    p = tf.sigmoid(logits)
    unit = tf.one_hot(column, tf.shape(p)[-1], dtype=p.dtype)
    return unit * tf.sqrt(p * (1 - p))


def _gaussian_log_likelihood(targets: tf.Tensor, means: tf.Tensor) -> tf.Tensor:
    constant = math.log(2 * math.pi)
    return -0.5 * tf.reduce_sum(tf.square(targets - means) + constant, -1)


_CATEGORICAL = Likelihood(
    to_predictors=tf.identity,
    log_likelihood=_categorical_log_likelihood,
    residual=lambda targets, logits: targets - tf.nn.softmax(logits),
    num_root_columns=lambda num_classes: num_classes - 1,
    root_column=_categorical_root,
    sample_residual=_sample_categorical,
    is_categorical=True,
)
_BERNOULLI = Likelihood(
    to_predictors=tf.identity,
    log_likelihood=_bernoulli_log_likelihood,
    residual=lambda targets, logits: targets - tf.sigmoid(logits),
    num_root_columns=lambda num_outputs: num_outputs,
    root_column=_bernoulli_root,
    sample_residual=_sample_bernoulli,
    is_binary=True,
)
_GAUSSIAN = Likelihood(
    to_predictors=tf.identity,
    log_likelihood=_gaussian_log_likelihood,
    residual=lambda targets, means: targets - means,
    num_root_columns=lambda num_outputs: num_outputs,
    root_column=lambda means, column: tf.one_hot(
        tf.fill(tf.shape(means)[:1], column), tf.shape(means)[-1], dtype=means.dtype
    ),
    sample_residual=lambda means, noise: tf.math.ndtri(noise),
)
