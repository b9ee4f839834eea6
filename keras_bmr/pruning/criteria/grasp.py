"""Preservation of the gradient flow as a criterion."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_bmr.pruning.criteria.gradients import GradientCriterion


class GraSP(GradientCriterion):
    """What removing a weight adds to the gradient flow, -theta (H g), over a group.

    g and H are gradient and Hessian of the loss. Unlike the published method it takes
    the loss at its own temperature and the data as they are.

    Args:
        loss: A Keras loss object that averages over examples, or its name.
        x: Inputs, array of shape (examples, ...).
        y: Targets, array of shape (examples, ...).
        batch_size: Positive integer; it has no influence on the result.

    Raises:
        ValueError: If there are no examples, or not as many targets.

    Example:
        >>> criterion = keras_bmr.pruning.criteria.GraSP(loss, x_train, y_train)
        >>> keras_bmr.reduce_model(model, criterion=criterion, sparsity=0.9)

    References:
        Wang, Zhang and Grosse, Picking winning tickets before training by preserving
        gradient flow, arXiv 2002.07376, equation 8.
    """

    def from_gradients(
        self,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        gradients: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """See `GradientCriterion.from_gradients`."""
        products = self.loss_gradients(model, variables, along=gradients)
        return [
            -variable.value * product
            for variable, product in zip(variables, products, strict=True)
        ]
