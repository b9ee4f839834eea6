"""Connection sensitivity as a criterion."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_bmr.pruning.criteria.gradients import GradientCriterion


class SNIP(GradientCriterion):
    """Minus the connection sensitivity |theta dL/dtheta|, summed over a group.

    Args:
        loss: A Keras loss object that averages over examples, or its name.
        x: Inputs, array of shape (examples, ...).
        y: Targets, array of shape (examples, ...).
        batch_size: Positive integer; it has no influence on the result.

    Raises:
        ValueError: If there are no examples, or not as many targets.

    Example:
        >>> criterion = keras_bmr.pruning.criteria.SNIP(loss, x_train, y_train)
        >>> keras_bmr.reduce_model(model, criterion=criterion, sparsity=0.9)

    References:
        Lee, Ajanthan and Torr, SNIP: single-shot network pruning based on connection
        sensitivity, arXiv 1810.02340, equation 6; not normalised, since only the
        order counts.
    """

    def from_gradients(
        self,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        gradients: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """See `GradientCriterion.from_gradients`."""
        return [
            -tf.abs(variable.value * gradient)
            for variable, gradient in zip(variables, gradients, strict=True)
        ]
