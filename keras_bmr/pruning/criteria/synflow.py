"""Synaptic flow as a criterion."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence
from keras_bmr.pruning.prunable_weight import PrunableWeight


class SynFlow(Criterion):
    """Minus the synaptic flow |theta| dR/d|theta|, summed over a group.

    R is the sum of the outputs for an input of ones, with the absolute values of all
    weights that are considered. It needs no data. The published method takes it anew
    in about a hundred rounds; `keras_bmr.callbacks.ModelReductionCallback` has rounds.

    Example:
        >>> keras_bmr.reduce_model(model, criterion="synflow", sparsity=0.9)

    References:
        Tanaka, Kunin, Yamins and Ganguli, Pruning neural networks without any data by
        iteratively conserving synaptic flow, arXiv 2006.05467, section 5.
    """

    def __init__(self) -> None:
        self._statistics: dict[int, np.ndarray] = {}

    def prepare(self, model: keras.Model, weights: Sequence[PrunableWeight]) -> None:
        """See `Criterion.prepare`.

        Raises:
            ValueError: If the model does not tell the shape of its inputs, or the
                flow is too large for its dtype.
        """
        if not getattr(model, "inputs", None):
            raise ValueError(
                "Criterion SynFlow needs a model that knows its inputs, a Sequential "
                f"or Functional one. Received: model '{model.name}' of class "
                f"{type(model).__name__}"
            )
        inputs = [
            tf.ones([size or 1 for size in tensor.shape], tensor.dtype)
            for tensor in model.inputs
        ]
        variables = [weight.variable for weight in weights]
        sizes = [tf.abs(variable.value) for variable in variables]
        with tf.GradientTape() as tape:
            tape.watch(sizes)
            mapping = list(zip(variables, sizes, strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                outputs = model(inputs if len(inputs) > 1 else inputs[0])
            flow = tf.add_n([tf.reduce_sum(o) for o in tf.nest.flatten(outputs)])
        gradients = tape.gradient(
            flow, sizes, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        if not np.isfinite(flow):
            raise ValueError(
                "The synaptic flow of model "
                f"'{model.name}' is too large for its dtype: {flow:.3g}. Take another "
                "criterion."
            )
        self._statistics = {
            id(variable): -np.asarray(size * gradient)
            for variable, size, gradient in zip(
                variables, sizes, gradients, strict=True
            )
        }

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return self._statistics[id(evidence.weight.variable)]
