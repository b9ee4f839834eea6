"""A look at the first batch: is the model what the rules take it for?"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.laplace.curvature.batch_sums import outputs_of, predictors_of
from keras_bmr.laplace.curvature.likelihoods import Likelihood
from keras_bmr.laplace.curvature.recording import recorded_calls
from keras_bmr.laplace.curvature.weights import RuledLayer
from keras_bmr.objectives.logits import probability_layer

_NUM_EXAMPLES = 2
_TOLERANCE = 1e-2
# Of gradients in half precision, where sums over positions lose digits.
_HALF_TOLERANCE = 0.1


def probe(
    model: keras.Model, likelihood: Likelihood, layers: Sequence[RuledLayer], x: Any
) -> tuple[int, ...]:
    """Checks the outputs of a batch, and gradients of two of its examples.

    Those by the rules are compared with ordinary automatic differentiation.

    Args:
        model: A built Keras model.
        likelihood: The likelihood of its outputs.
        layers: The layers that shall have a curvature.
        x: Inputs of a batch.

    Returns:
        Shape of the predictors of an example.

    Raises:
        ValueError: If there are several outputs, or values that are certainly no
            probabilities, or certainly some where the loss expects logits of classes;
            if outputs of a regression have a mask, two calls differ, a layer is not
            called or mixes examples, or the gradient by its rule is not the gradient.
    """
    if likelihood.from_logits is not None:
        _check_outputs(model, likelihood, outputs_of(model, x)[0].numpy())
    few = keras.tree.map_structure(lambda leaf: leaf[:_NUM_EXAMPLES], x)
    variables = [v.value for ruled in layers for v in ruled.variables.values()]
    tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
    with tape, recorded_calls([r.layer for r in layers], tape) as records:
        tape.watch(variables)
        predictors, mask = predictors_of(model, likelihood, few)
    if mask is not None and likelihood.from_logits is None:
        raise ValueError(
            "The noise of regression needs the same number of targets in every "
            f"example, but the outputs of model '{model.name}' have a mask. Leave the "
            "padding out of the data, or the mask out of the model (`mask_zero=False`)."
        )
    again, _ = predictors_of(model, likelihood, few)
    if not np.allclose(predictors, again, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError(
            f"Model '{model.name}' gives different outputs for the same inputs, by up "
            f"to {float(tf.reduce_max(tf.abs(predictors - again))):.3g}: it is random "
            "outside of training. Remove what is random, or convert a Bayesian model "
            "with `keras_bmr.to_deterministic`."
        )
    num_examples = predictors.shape[0]
    for ruled, calls in zip(layers, records, strict=True):
        sizes = {tensor.shape[0] for tensor in (*calls.inputs, *calls.outputs)}
        if sizes != {num_examples}:
            raise ValueError(
                f"Layer '{ruled.layer.name}' must be called with one row per example, "
                f"{num_examples} here. Received: {sorted(sizes) or 'no call'}. Leave "
                f"it out with skip=['{ruled.owner.name}'], or do not fold other axes "
                "into that of the examples."
            )
    _check_gradients(layers, records, tape, predictors, variables)
    return tuple(predictors.shape[1:])


def _check_outputs(
    model: keras.Model, likelihood: Likelihood, outputs: np.ndarray
) -> None:
    """Refuses outputs that cannot be what the loss takes them for.

    As in Keras, probabilities of classes may have any positive sum. Logits of
    independent labels may lie between 0 and 1, too.
    """
    if not outputs.size:
        return
    lowest, highest = float(outputs.min()), float(outputs.max())
    if not likelihood.from_logits:
        is_too_high = likelihood.is_binary and highest > 1 + _TOLERANCE
        if lowest < -_TOLERANCE or is_too_high:
            last = "sigmoid" if likelihood.is_binary else "softmax"
            raise ValueError(
                "A loss with from_logits=False expects probabilities from the model. "
                f"Received: outputs between {lowest:.3g} and {highest:.3g}. Let the "
                f"model end with a {last}, or pass a loss with from_logits=True."
            )
        return
    received, last = None, "softmax"
    found = probability_layer(model)
    if found:
        last = found[0]
        received = f"the {last} of layer '{found[1]}'"
    elif likelihood.is_categorical and outputs.shape[-1] > 1:
        if lowest >= 0 and np.allclose(outputs.sum(-1), 1, atol=_TOLERANCE):
            received = "positive outputs that add up to 1"
    if received:
        raise ValueError(
            "A loss with from_logits=True expects logits from the model. Received: "
            f"{received}. Take the {last} out of the model, or pass a loss with "
            "from_logits=False."
        )


def _check_gradients(
    layers: Sequence[RuledLayer],
    records: Sequence[Any],
    tape: tf.GradientTape,
    predictors: tf.Tensor,
    variables: Sequence[tf.Tensor],
) -> None:
    """Compares the rules' gradients with those of the tape."""
    direction = tf.random.stateless_normal(
        predictors.shape, (1, 2), dtype=predictors.dtype
    )
    zero = tf.UnconnectedGradients.ZERO
    outputs = [calls.outputs for calls in records]
    exact = iter(
        tape.gradient(predictors, variables, direction, unconnected_gradients=zero)
    )
    cotangents = tape.gradient(
        predictors, outputs, direction, unconnected_gradients=zero
    )
    for ruled, calls, cotangent in zip(layers, records, cotangents, strict=True):
        rule, layer = ruled.rule, ruled.layer
        is_half = layer.compute_dtype in ("float16", "bfloat16")
        tolerance = _HALF_TOLERANCE if is_half else _TOLERANCE
        found = rule.gradients(layer, rule.features(layer, calls.inputs), cotangent)
        for name in ruled.variables:
            expected = tf.convert_to_tensor(next(exact))
            error = tf.norm(tf.reduce_sum(found[name], 0) - expected)
            if float(error) > tolerance * float(tf.norm(expected)) + 1e-6:
                raise ValueError(
                    f"The curvature rule {type(rule).__name__} of layer "
                    f"'{layer.name}' gives another gradient of '{name}' than "
                    "automatic differentiation. The weight may be used outside of the "
                    "layer's own call, as tied embeddings are, or the layer computes "
                    "something else. Register a rule for its class, or leave it out "
                    f"with skip=['{ruled.owner.name}']."
                )
