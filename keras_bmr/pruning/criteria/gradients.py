"""Gradients of a loss with respect to weights, summed over data batch by batch."""

import abc
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.argument_checks import require_integer
from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence
from keras_bmr.pruning.prunable_weight import PrunableWeight


class GradientCriterion(Criterion):
    """A criterion whose statistic needs the gradient of a loss on data.

    The loss is that of the model outside training; a Bayesian model stands at its
    posterior means. A subclass overrides `from_gradients`.

    Args:
        loss: A Keras loss object that averages over examples, or its name.
        x: Inputs, array of shape (examples, ...).
        y: Targets, array of shape (examples, ...).
        batch_size: Positive integer; it has no influence on the result.

    Raises:
        ValueError: If there are no examples, or not as many targets.
    """

    def __init__(
        self,
        loss: str | keras.losses.Loss,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int = 256,
    ) -> None:
        self.loss = keras.losses.get(loss)
        self.x, self.y = np.asarray(x), np.asarray(y)
        require_integer("batch_size", batch_size, at_least=1)
        self.batch_size = batch_size
        if self.x.ndim == 0 or len(self.x) == 0 or self.y.shape[:1] != self.x.shape[:1]:
            raise ValueError(
                "`x` and `y` must be arrays with the same number of examples, at least "
                f"one. Received: x.shape={self.x.shape}, y.shape={self.y.shape}"
            )
        self._statistics: dict[int, np.ndarray] = {}

    def prepare(self, model: keras.Model, weights: Sequence[PrunableWeight]) -> None:
        """See `Criterion.prepare`."""
        variables = [weight.variable for weight in weights]
        gradients = self.loss_gradients(model, variables)
        statistics = self.from_gradients(model, variables, gradients)
        self._statistics = {
            id(variable): statistic.numpy()
            for variable, statistic in zip(variables, statistics, strict=True)
        }

    @abc.abstractmethod
    def from_gradients(
        self,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        gradients: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        """The statistics of all weights.

        Args:
            model: The model.
            variables: The weights, or the locations of their posteriors.
            gradients: The gradients of the mean loss with respect to them.

        Returns:
            For each weight a tensor of its shape.
        """

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return self._statistics[id(evidence.weight.variable)]

    def loss_gradients(
        self,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        along: Sequence[tf.Tensor] | None = None,
    ) -> list[tf.Tensor]:
        """The gradients of the mean loss, or products of its Hessian.

        Args:
            model: The model.
            variables: The weights.
            along: Tensors of their shapes; the Hessian is multiplied by these.

        Returns:
            For each weight a tensor of its shape.
        """
        values = [variable.value for variable in variables]
        totals = [tf.zeros_like(value) for value in values]
        for start in range(0, len(self.x), self.batch_size):
            x = self.x[start : start + self.batch_size]
            y = self.y[start : start + self.batch_size]

            def mean_loss(x: np.ndarray = x, y: np.ndarray = y) -> tf.Tensor:
                return self.loss(y, model(x, training=False))

            parts = _derivatives(mean_loss, values, along)
            share = len(x) / len(self.x)
            totals = [
                total + share * part for total, part in zip(totals, parts, strict=True)
            ]
        return totals


def _derivatives(
    function: Callable[[], tf.Tensor],
    values: Sequence[tf.Variable],
    along: Sequence[tf.Tensor] | None,
) -> list[tf.Tensor]:
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(values)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(values)
            result = function()
        gradients = _dense(inner.gradient(result, values), values)
        if along is None:
            return gradients
        product = tf.add_n(
            [tf.reduce_sum(g * a) for g, a in zip(gradients, along, strict=True)]
        )
    return _dense(outer.gradient(product, values), values)


def _dense(
    gradients: Sequence[tf.Tensor | tf.IndexedSlices | None],
    values: Sequence[tf.Variable],
) -> list[tf.Tensor]:
    return [
        tf.zeros_like(value) if gradient is None else tf.convert_to_tensor(gradient)
        for gradient, value in zip(gradients, values, strict=True)
    ]
