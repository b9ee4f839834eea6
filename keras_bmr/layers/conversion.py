"""From an ordinary Keras model to a Bayesian one and back."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_bmr.argument_checks import require_integer
from keras_bmr.layers.checks import check_clonable, check_finite, check_plain_kernels
from keras_bmr.layers.cloning import (
    clone_with,
    convert_wrapper,
    copy_layer,
    is_wrapper,
    within,
)
from keras_bmr.layers.noise_gates import add_noise_gates
from keras_bmr.layers.pruned_weights import prune_weight
from keras_bmr.layers.registry import variational_class
from keras_bmr.layers.traversal import (
    layers_named,
    require_variational_layers,
    tell_num_examples,
    variational_layers,
)
from keras_bmr.layers.variational import Variational

# Their few weights are scales and shifts that the next layer can undo, so that
# uncertainty about them is not identified; they stay as they are.
_LEFT_DETERMINISTIC = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
)


def to_variational(
    model: keras.Model,
    num_examples: int | None = None,
    posterior: Any = "mean_field_normal",
    prior: Any = None,
    bayesian_bias: bool = False,
    structured: bool = False,
    skip: Sequence[str] = (),
) -> keras.Model:
    """Copies a Keras model with Bayesian layers in place of its weight layers.

    The posteriors start at the weights of the model. Normalisation layers, layers
    without weights and frozen layers (`trainable=False`), whose posteriors training
    would never reach, stay as they are. The model passed in is not changed.

    Args:
        model: A built Sequential or Functional model; nested models, shared layers,
            TimeDistributed and Bidirectional are followed.
        num_examples: Number of training examples, see `set_num_examples`. It can be
            set later, but must be before training.
        posterior: Posterior family of every layer.
        prior: Prior of every layer; None stands for the default of the posterior.
        bayesian_bias: Whether biases get a posterior too.
        structured: Whether to add noise gates, so that whole units and channels can be
            pruned, see `keras_bmr.layers.add_noise_gates`. Call that function alone for
            gates on weights without posteriors.
        skip: Names of layers to leave deterministic, with all that is inside of them.

    Returns:
        A new, uncompiled model.

    Raises:
        ValueError: If the model is subclassed or not built, has a layer with weights
            that no Bayesian layer stands for, has NaN or infinite weights, if `skip`
            names an unknown layer, or if `structured` finds no place for a gate.

    Example:
        >>> bayesian = keras_bmr.to_variational(model, num_examples=60000)
    """
    check_clonable(model)
    check_finite(model)
    if num_examples is not None:
        require_integer("num_examples", num_examples, at_least=1)
    skipped = layers_named(model, skip)
    options = {
        "posterior": posterior,
        "prior": prior,
        "bayesian_bias": bayesian_bias,
        "num_examples": num_examples,
    }

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        if id(layer) in skipped or _stays_as_it_is(layer):
            return copy_layer(layer)
        check_plain_kernels([layer])
        if is_wrapper(layer):
            return convert_wrapper(layer, convert)
        target = variational_class(type(layer))
        if target is not None:
            try:
                return target.from_config({**layer.get_config(), **options})
            except TypeError as error:
                # Keras hides what is wrong with an argument behind the whole config.
                raise error.__context__ or error from None
        if layer.weights:
            raise ValueError(
                f"Layer '{layer.name}' of class {type(layer).__name__} has weights, "
                "and there is no Bayesian layer for its class. Leave it as it is with "
                f"`skip=['{layer.name}']`, or register a Bayesian layer with "
                "`keras_bmr.layers.register_variational`."
            )
        return copy_layer(layer)

    converted = clone_with(model, convert)
    layers = variational_layers(converted)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no layer that could become Bayesian. Expected "
            "at least one layer with weights besides normalisation layers, frozen "
            "layers (set `trainable=True` to train their posteriors) and those of "
            f"`skip`. Received: skip={list(skip)}"
        )
    if num_examples is not None:
        # Layers that were Bayesian before have a number of their own.
        tell_num_examples(layers, num_examples)
    if structured:
        return add_noise_gates(converted, num_examples, skip=skip)
    return converted


def to_deterministic(model: keras.Model) -> keras.Model:
    """Copies a Bayesian model as the ordinary network of its posterior means.

    Args:
        model: A built Sequential or Functional model with Bayesian layers.

    Returns:
        A new, uncompiled model of plain Keras layers. Pruned weights are 0 and stay so
        when it is trained, see `keras_bmr.pruning.prune_weight`.

    Raises:
        ValueError: If the model has no Bayesian layer, is subclassed, or has NaN or
            infinite weights.

    Example:
        >>> network = keras_bmr.to_deterministic(bayesian)
    """
    check_clonable(model)
    require_variational_layers(model)
    check_finite(model)

    bayesian = {id(layer) for layer in variational_layers(model)}

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        if is_wrapper(layer) and bayesian & {id(inner) for inner in within(layer)}:
            return convert_wrapper(layer, convert)
        if not isinstance(layer, Variational):
            return copy_layer(layer)
        return layer.deterministic_layer()

    network = clone_with(model, convert)
    for source, target in zip(within(model), within(network), strict=True):
        if isinstance(source, Variational):
            for name in source.location_variables(target):
                kept = source.mask(name).numpy()
                if not kept.all():
                    prune_weight(target, name, kept)
    return network


def copy_model(model: keras.Model) -> keras.Model:
    """Copies a model with all its variables, masks and posteriors included.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        A new, uncompiled model.

    Raises:
        ValueError: If the model is subclassed or not built.

    Example:
        >>> backup = keras_bmr.layers.conversion.copy_model(bayesian)
    """
    check_clonable(model)
    return clone_with(model, copy_layer)


def _stays_as_it_is(layer: keras.Operation) -> bool:
    # A node of a Functional graph may be an operation such as an addition.
    return (
        not isinstance(layer, keras.layers.Layer)
        or not layer.trainable
        or isinstance(layer, (Variational, *_LEFT_DETERMINISTIC))
    )
