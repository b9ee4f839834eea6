"""Mean and variance of a network's output in one pass."""

import collections
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.export import verify
from keras_bmr.export.examples import check_examples
from keras_bmr.export.inference import Inference
from keras_bmr.export.network import deterministic_network, input_specifications
from keras_bmr.export.uncertainty import (  # noqa: F401 (they register their rules)
    activation_layers,
    arithmetic,
    convolution,
    linear,
    moving,
    normalization,
    pooling,
)
from keras_bmr.export.uncertainty.moments import Moments
from keras_bmr.export.uncertainty.network_calls import NetworkCalls, call_operation
from keras_bmr.export.uncertainty.operands import call_operands
from keras_bmr.export.uncertainty.probabilities import MAX_SUMS, softmax_moments
from keras_bmr.export.uncertainty.registry import rule_for
from keras_bmr.export.uncertainty.weight_moments import WeightMoments
from keras_bmr.layers.traversal import require_variational_layers
from keras_bmr.objectives.logits import check_logits
from keras_bmr.objectives.predictive import PredictiveMoments
from keras_bmr.pruning.channels.calls import Call

_BATCH_SIZE = 256


class MomentPropagation:
    """The function that maps inputs to mean and variance of the output.

    Args:
        model: The Bayesian model.
        network: Result of `deterministic_network`.
        from_logits: Whether a softmax follows the output.

    Raises:
        ValueError: If a layer or activation is not known, a Bayesian layer is called
            more than once, the model has more than one output, or what should be logits
            are those of a single class or probabilities.
    """

    def __init__(
        self, model: keras.Model, network: keras.Model, from_logits: bool = False
    ) -> None:
        require_variational_layers(model)
        self._calls = NetworkCalls(model, network)
        self._refuse_shared_layers()
        if from_logits:
            check_logits(model, network.outputs[0].shape)
        self._from_logits = from_logits
        self._weights = {
            id(operation): WeightMoments(operation, self._calls.original(operation))
            for operation in self._calls.operations
        }

    def __call__(self, *tensors: tf.Tensor) -> list[tf.Tensor]:
        """Returns mean and variance.

        Args:
            *tensors: One tensor per input, of known shape.
        """
        moments = self._calls.evaluate([Moments(x) for x in tensors], self._apply)
        if self._from_logits:
            moments = softmax_moments(moments)
        mean, variance = moments.mean, moments.variance
        if moments.correlated is not None and mean.shape[-1] <= MAX_SUMS:
            variance = moments.variance_of_sums(np.eye(mean.shape[-1], dtype="float32"))
        return [mean, tf.maximum(variance, 0.0)]

    def _refuse_shared_layers(self) -> None:
        """Two calls with one draw of the weights are far from independent."""
        counts = collections.Counter(map(id, self._calls.operations))
        for operation in self._calls.operations:
            num_calls = counts[id(operation)]
            if num_calls > 1 and self._calls.random_layers(operation):
                raise ValueError(
                    "Moments take the outputs of different calls for independent, "
                    "which those of one Bayesian layer are not. Expected Bayesian "
                    'layers that are called once; use uncertainty="ensemble", which '
                    "draws the weights of a shared layer once for all of its calls. "
                    f"Received: layer '{operation.name}', called {num_calls} times"
                )

    def _apply(self, call: Call, inputs: list[Moments]) -> list[Moments]:
        operation = call.operation
        is_random = bool(self._calls.random_layers(operation))
        if not is_random and all(x.is_certain for x in inputs):
            outputs = call_operation(call, [x.mean for x in inputs])
            return [Moments(output) for output in outputs]
        rule = rule_for(operation)
        operands = call_operands(call, inputs)
        return [rule(operation, self._weights[id(operation)], *operands)]


def inference_by_moments(
    model: keras.Model, network: keras.Model, from_logits: bool
) -> Inference:
    """Mean and variance by propagation, compared with the same function in TensorFlow.

    Args:
        model: The Bayesian model.
        network: Result of `deterministic_network`.
        from_logits: Whether a softmax follows the output.
    """
    propagation = MomentPropagation(model, network, from_logits)
    return Inference(
        infer=propagation,
        expected=lambda inputs, batch_size: verify.run_function(
            propagation, inputs, batch_size
        ),
        uncertainty="moments",
    )


def propagate_moments(
    model: keras.Model, x: Any, from_logits: bool = False
) -> PredictiveMoments:
    """Mean and variance of a model's outputs over its posterior, without samples.

    What `export_tflite(..., uncertainty="moments")` writes into a file, in Keras. See
    `keras_bmr.objectives.predictive_moments` for the same by samples.

    Args:
        model: A built Sequential or Functional model with Bayesian layers and one
            output. It stays as it is.
        x: Array of shape (examples, ...), a list or dictionary of them.
        from_logits: Whether the model's outputs are logits. If so mean and variance
            are those of the class probabilities.

    Returns:
        `PredictiveMoments(mean, variance)`, arrays of shape (examples, ...).

    Raises:
        TypeError: If `model` is no Keras model, or `x` has a wrong type.
        ValueError: If the model or `x` is invalid, or a layer has no rule.

    Example:
        >>> mean, variance = keras_bmr.export.propagate_moments(
        ...     model, x_test, from_logits=True
        ... )
    """
    network = deterministic_network(model)
    propagation = MomentPropagation(model, network, from_logits)
    batch_size = network.inputs[0].shape[0] or 1
    specifications = input_specifications(network, batch_size)
    inputs = check_examples(x, network, specifications, "x", 1)
    if network.inputs[0].shape[0] is None:
        batch_size = _BATCH_SIZE
    return PredictiveMoments(*verify.run_function(propagation, inputs, batch_size))
