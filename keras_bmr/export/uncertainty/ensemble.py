"""Draws from the posterior side by side in one network."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.export import verify
from keras_bmr.export.inference import Inference
from keras_bmr.export.network import reference
from keras_bmr.export.uncertainty.network_calls import NetworkCalls, call_operation
from keras_bmr.layers import MultiplicativeNoise, Variational
from keras_bmr.layers.traversal import require_variational_layers
from keras_bmr.objectives.logits import check_logits
from keras_bmr.objectives.predictive import predictive_moments, sample_seeds
from keras_bmr.posteriors.sampling import sampling
from keras_bmr.pruning.channels.calls import Call

# A value of the network: one tensor for all draws, or one for each of them.
Branches = list[tf.Tensor]


class Ensemble:
    """The function that maps inputs to mean and variance over draws of the weights.

    Every layer runs once for each draw from where the first random weights come in;
    what stands before them runs once, and weights without a posterior are there once.

    Args:
        model: The Bayesian model.
        network: Result of `deterministic_network`.
        num_samples: Number of draws.
        seed: Of the draws, which are those of `predictive` with this seed.
        from_logits: Whether a softmax follows the output.

    Raises:
        ValueError: If the model has more than one output, or no graph, or what
            should be logits are those of a single class or probabilities.
    """

    def __init__(
        self,
        model: keras.Model,
        network: keras.Model,
        num_samples: int,
        seed: int,
        from_logits: bool,
    ) -> None:
        layers = require_variational_layers(model)
        self._calls = NetworkCalls(model, network)
        if from_logits:
            check_logits(model, network.outputs[0].shape)
        self._num_samples = num_samples
        self._from_logits = from_logits
        self._draws = [
            _drawn_weights(layers, draw_seed)
            for draw_seed in sample_seeds(seed, num_samples)
        ]

    def __call__(self, *tensors: tf.Tensor) -> list[tf.Tensor]:
        """Returns mean and unbiased variance.

        Args:
            *tensors: One tensor per input.
        """
        outputs = self._calls.evaluate([[x] for x in tensors], self._apply)
        if self._from_logits:
            outputs = [tf.nn.softmax(output, axis=-1) for output in outputs]
        stacked = tf.stack(outputs)
        mean = tf.reduce_mean(stacked, axis=0)
        squares = tf.math.squared_difference(stacked, mean)
        factor = self._num_samples / (self._num_samples - 1)
        return [mean, tf.reduce_mean(squares, axis=0) * factor]

    def _apply(self, call: Call, inputs: list[Branches]) -> list[Branches]:
        random_layers = self._calls.random_layers(call.operation)
        if not random_layers and all(len(x) == 1 for x in inputs):
            return [[y] for y in call_operation(call, [x[0] for x in inputs])]
        outputs = []
        for number, draw in enumerate(self._draws):
            tensors = [x[number] if len(x) > 1 else x[0] for x in inputs]
            outputs.append(_call_with_draw(call, tensors, random_layers, draw))
        return [list(branches) for branches in zip(*outputs, strict=True)]


def _drawn_weights(
    layers: Sequence[Variational], seed: int
) -> dict[int, dict[str, np.ndarray]]:
    """One draw of all weights, by the id of the Bayesian layer and by name."""
    with sampling(seed=tf.constant(seed)):
        return {
            id(layer): {
                name: np.asarray(value, "float32")
                for name, value in layer.drawn_weights().items()
            }
            for layer in layers
        }


def _call_with_draw(
    call: Call,
    tensors: Sequence[tf.Tensor],
    random_layers: Sequence[tuple[keras.layers.Layer, Variational]],
    draw: dict[int, dict[str, np.ndarray]],
) -> list[tf.Tensor]:
    """Calls a plain layer with drawn values of its weights."""
    if not random_layers:
        return call_operation(call, tensors)
    values = []
    for layer, original in random_layers:
        drawn = draw[id(original)]
        if isinstance(original, MultiplicativeNoise):
            # The layer of the means multiplies by numbers that are no variables.
            factor = np.reshape(drawn["noise"], np.shape(layer.scale))
            return [tensors[0] * factor]
        for name, variable in original.location_variables(layer).items():
            values.append((variable, tf.constant(drawn[name])))
    with keras.StatelessScope(state_mapping=values):
        return call_operation(call, tensors)


def inference_by_ensemble(
    model: keras.Model,
    network: keras.Model,
    num_samples: int,
    seed: int,
    from_logits: bool,
) -> Inference:
    """Mean and variance of an ensemble, compared with `predictive_moments`.

    Args:
        model: The Bayesian model.
        network: Result of `deterministic_network`.
        num_samples: Number of draws.
        seed: Of the draws.
        from_logits: Whether a softmax follows the output.
    """
    ensemble = Ensemble(model, network, num_samples, seed, from_logits)

    def expected(inputs: list[np.ndarray], batch_size: int) -> list[np.ndarray]:
        if reference(model, network) is not model:
            # The model rounds to half precision, the file does not.
            return verify.run_function(ensemble, inputs, batch_size)
        x = inputs[0]
        if not isinstance(model, keras.Sequential):
            x = keras.tree.pack_sequence_as(model.input, inputs)
        return list(
            predictive_moments(
                model,
                x,
                num_samples=num_samples,
                batch_size=model.inputs[0].shape[0],
                seed=seed,
                from_logits=from_logits,
                verbose=0,
            )
        )

    return Inference(infer=ensemble, expected=expected, uncertainty="ensemble")
