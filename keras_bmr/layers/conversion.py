"""From an ordinary Keras model to a Bayesian one and back."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_bmr.layers.registry import deterministic_class, variational_class
from keras_bmr.layers.traversal import (
    require_variational_layers,
    variational_layers,
)
from keras_bmr.layers.variational import Variational, checked_num_examples

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
    prior: Any = "empirical_bayes_normal",
    bayesian_bias: bool = False,
    skip: Sequence[str] = (),
) -> keras.Model:
    """Copies a Keras model with Bayesian layers in place of its weight layers.

    The posteriors start at the weights of the model. Normalisation layers and layers
    without weights stay as they are. The model passed in is not changed.

    Args:
        model: A built Sequential or Functional model; nested models, shared layers,
            TimeDistributed and Bidirectional are followed.
        num_examples: Number of training examples, see `set_num_examples`. It can be
            set later, but must be before training.
        posterior: Posterior family of every layer.
        prior: Prior of every layer.
        bayesian_bias: Whether biases get a posterior too.
        skip: Names of layers to leave deterministic, with all that is inside of them.

    Returns:
        A new, uncompiled model.

    Raises:
        ValueError: If the model is subclassed or not built, has a layer with weights
            that no Bayesian layer stands for, has NaN or infinite weights, or if
            `skip` names an unknown layer.

    Example:
        >>> bayesian = keras_bmr.to_variational(model, num_examples=60000)
    """
    _check_clonable(model)
    _check_finite(model)
    checked_num_examples(num_examples)
    skipped = _within_named(model, skip)
    options = {
        "posterior": posterior,
        "prior": prior,
        "bayesian_bias": bayesian_bias,
        "num_examples": num_examples,
    }

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        if id(layer) in skipped or _stays_as_it_is(layer):
            return _copy(layer)
        if _is_wrapper(layer):
            return _convert_wrapper(layer, convert)
        target = variational_class(type(layer))
        if target is not None:
            return target.from_config({**layer.get_config(), **options})
        if layer.weights:
            raise ValueError(
                f"Layer '{layer.name}' of class {type(layer).__name__} has weights, "
                "and there is no Bayesian layer for its class. Leave it as it is with "
                f"`skip=['{layer.name}']`, or register a Bayesian layer with "
                "`keras_bmr.layers.register_variational`."
            )
        return _copy(layer)

    converted = _clone(model, convert)
    layers = variational_layers(converted)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no layer that could become Bayesian. Expected "
            "at least one layer with weights besides normalisation layers and those "
            f"of `skip`. Received: skip={list(skip)}"
        )
    if num_examples is not None:
        # Layers that were Bayesian before have a number of their own.
        for layer in layers:
            layer.num_examples = num_examples
            layer.kl_weight.assign(1.0 / num_examples)
    return converted


def to_deterministic(model: keras.Model) -> keras.Model:
    """Copies a Bayesian model as the ordinary network of its posterior means.

    Args:
        model: A built Sequential or Functional model with Bayesian layers.

    Returns:
        A new, uncompiled model of plain Keras layers. Pruned weights are 0.

    Raises:
        ValueError: If the model has no Bayesian layer, or is subclassed.

    Example:
        >>> network = keras_bmr.to_deterministic(bayesian)
    """
    _check_clonable(model)
    require_variational_layers(model)

    bayesian = {id(layer) for layer in variational_layers(model)}

    def convert(layer: keras.layers.Layer) -> keras.layers.Layer:
        if _is_wrapper(layer) and bayesian & {id(inner) for inner in _within(layer)}:
            return _convert_wrapper(layer, convert)
        if not isinstance(layer, Variational):
            return _copy(layer)
        return deterministic_class(type(layer)).from_config(layer.parent_config())

    return _clone(model, convert)


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
    _check_clonable(model)
    return _clone(model, _copy)


def _copy(layer: keras.Operation) -> keras.Operation:
    return type(layer).from_config(layer.get_config())


def _stays_as_it_is(layer: keras.Operation) -> bool:
    # A node of a Functional graph may be an operation such as an addition.
    return not isinstance(layer, keras.layers.Layer) or isinstance(
        layer, (Variational, *_LEFT_DETERMINISTIC)
    )


def _is_wrapper(layer: keras.layers.Layer) -> bool:
    # Keras does not count Bidirectional among its wrappers.
    return isinstance(layer, (keras.layers.Wrapper, keras.layers.Bidirectional))


def _convert_wrapper(
    wrapper: keras.layers.Layer,
    convert: Callable[[keras.layers.Layer], keras.layers.Layer],
) -> keras.layers.Layer:
    if isinstance(wrapper, keras.layers.Bidirectional):
        inner = {
            "layer": wrapper.forward_layer,
            "backward_layer": wrapper.backward_layer,
        }
    elif isinstance(wrapper, keras.layers.TimeDistributed):
        inner = {"layer": wrapper.layer}
    else:
        raise ValueError(
            f"Layer '{wrapper.name}' is a wrapper of class {type(wrapper).__name__}, "
            "whose inner layer cannot be exchanged. Only TimeDistributed and "
            f"Bidirectional can. Leave it as it is with `skip=['{wrapper.name}']`."
        )
    config = wrapper.get_config()
    for key, layer in inner.items():
        if isinstance(layer, keras.Model):
            raise ValueError(
                f"Layer '{wrapper.name}' ({type(wrapper).__name__}) wraps a model, "
                f"'{layer.name}', which is not supported. Wrap its layers one by one, "
                f"or leave it as it is with `skip=['{wrapper.name}']`."
            )
        config[key] = keras.saving.serialize_keras_object(convert(layer))
    return type(wrapper).from_config(config)


def _clone(
    model: keras.Model, convert: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    with _uncompiled(model):
        clone = keras.models.clone_model(model, clone_function=convert, recursive=True)
    pairs = list(zip(_within(model), _within(clone), strict=True))
    for original, copied in pairs:
        _copy_variables(original, copied)
    # Afterwards, since the random weights may belong to sublayers.
    for original, copied in pairs:
        if isinstance(original, Variational) and not isinstance(copied, Variational):
            means = original.posterior_means()
            for name, variable in original.location_variables(copied).items():
                variable.assign(means[name])
        elif isinstance(copied, Variational) and not isinstance(original, Variational):
            copied.assign_means(copied.location_variables(original))
    return clone


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Keeps Keras from compiling a clone, for which the loss must be serialisable."""
    models = [m for m in _within(model) if getattr(m, "compiled", False)]
    for compiled in models:
        compiled.compiled = False
    try:
        yield
    finally:
        for compiled in models:
            compiled.compiled = True


def _within(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layer and all layers inside of it."""
    return layer._flatten_layers(include_self=True, recursive=True)


def _within_named(model: keras.Model, names: Sequence[str]) -> set[int]:
    """The ids of the layers of these names and of all layers inside of them."""
    layers = list(_within(model))[1:]
    known = {layer.name for layer in layers}
    if unknown := sorted(set(names) - known):
        raise ValueError(
            f"`skip` names layers that model '{model.name}' does not have: {unknown}. "
            f"Its layers are {sorted(known)}."
        )
    named = [layer for layer in layers if layer.name in names]
    return {id(inner) for layer in named for inner in _within(layer)}


def _own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    return layer._trainable_variables + layer._non_trainable_variables


def _copy_variables(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copies the variables that both layers have."""
    sources, targets = _own_variables(source), _own_variables(target)
    if type(source) is not type(target):
        by_name = {variable.name: variable for variable in targets}
        sources = [variable for variable in sources if variable.name in by_name]
        targets = [by_name[variable.name] for variable in sources]
    for old, new in zip(sources, targets, strict=True):
        new.assign(old)


def _check_clonable(model: keras.Model) -> None:
    functional = hasattr(model, "get_config") and hasattr(model, "_functional")
    if not isinstance(model, keras.Model) or not (
        functional or type(model).__name__ == "Functional"
    ):
        raise ValueError(
            "Expected a Sequential or Functional Keras model, whose layers can be "
            f"exchanged. Received: {model!r} of class {type(model).__name__}. Build a "
            "subclassed model from `keras_bmr.layers.*Variational` layers directly."
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so that it has no weights yet. Call "
            "it on data once, or give it an `keras.Input`."
        )


def _check_finite(model: keras.Model) -> None:
    for variable in model.weights:
        value = variable.numpy()
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise ValueError(
                f"Weight '{variable.path}' of model '{model.name}' has "
                f"{int((~np.isfinite(value)).sum())} NaN or infinite values. Train or "
                "load the model anew before converting it."
            )
