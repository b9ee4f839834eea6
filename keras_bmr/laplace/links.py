"""From outputs of a model to linear predictors, and on to predictions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bmr.laplace.curvature.likelihoods import likelihood_of


@dataclasses.dataclass(frozen=True)
class Link:
    """How outputs, linear predictors and predictions hang together.

    Attributes:
        to_predictors: Maps outputs of the model to logits or predicted values.
        to_predictions: Maps those to probabilities or predicted values.
        is_gaussian: Whether the likelihood is Gaussian.
    """

    to_predictors: Callable[[tf.Tensor], tf.Tensor]
    to_predictions: Callable[[tf.Tensor], tf.Tensor]
    is_gaussian: bool


def link_of(loss: Any) -> Link:
    """The link that belongs to a Keras loss.

    Args:
        loss: As for `fit_curvature`.

    Returns:
        The link.

    Raises:
        ValueError: If the loss is no likelihood.
    """
    likelihood = likelihood_of(loss)
    is_gaussian = likelihood.from_logits is None
    to_probabilities = tf.nn.softmax if likelihood.is_categorical else tf.sigmoid
    return Link(
        to_predictors=likelihood.to_predictors,
        to_predictions=tf.identity if is_gaussian else to_probabilities,
        is_gaussian=is_gaussian,
    )
