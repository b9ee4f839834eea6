"""Finding the layers of a model: the Bayesian ones, and those of given names."""

from collections.abc import Sequence

import keras

from keras_bmr.layers.checks import check_model
from keras_bmr.layers.variational import Variational


def variational_layers(model: keras.layers.Layer) -> list[Variational]:
    """The Bayesian layers of a model, nested models and wrappers included.

    Args:
        model: A Keras model or layer.

    Returns:
        Every Bayesian layer once, in the order of the model; a shared layer once.

    Raises:
        ValueError: If `model` is no Keras model or layer.

    Example:
        >>> [layer.name for layer in keras_bmr.layers.variational_layers(model)]
    """
    check_model(model)
    # Keras has no public way into wrappers such as Bidirectional.
    layers = model._flatten_layers(include_self=True, recursive=True)
    found = {id(layer): layer for layer in layers if isinstance(layer, Variational)}
    return list(found.values())


def require_variational_layers(model: keras.layers.Layer) -> list[Variational]:
    """As `variational_layers`, for callers that can do nothing without one.

    Args:
        model: A Keras model or layer.

    Returns:
        At least one Bayesian layer, all of them built.

    Raises:
        ValueError: If the model has no Bayesian layer or one is not built.
    """
    layers = variational_layers(model)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no Bayesian layer. Expected a model made of "
            "`keras_bmr.layers.*Variational` layers; convert an ordinary one with "
            "`keras_bmr.to_variational(model, num_examples=...)`."
        )
    unbuilt = [layer.name for layer in layers if not layer.built]
    if unbuilt:
        raise ValueError(
            f"Model '{model.name}' has layers that are not built yet, so that there "
            f"are no weights to speak of: {unbuilt}. Call the model on data once, or "
            "give it a `keras.Input`."
        )
    return layers


def layers_named(model: keras.layers.Layer, skip: Sequence[str]) -> set[int]:
    """Resolves a `skip=` argument.

    Args:
        model: A Keras model.
        skip: Names of layers of the model; a nested model or a wrapper stands for
            all its layers.

    Returns:
        The ids (as of the built-in `id`) of the layers.

    Raises:
        ValueError: If `model` is no Keras model, or `skip` is a string or names a
            layer that does not exist.
    """
    check_model(model)
    layers = list(model._flatten_layers(include_self=False))
    names = sorted({layer.name for layer in layers})
    if isinstance(skip, str) or not set(skip) <= set(names):
        raise ValueError(
            f"`skip` must be a list of names of layers of model '{model.name}', which "
            f"are {names}. Received: skip={skip!r}"
        )
    named = [layer for layer in layers if layer.name in skip]
    return {id(inner) for layer in named for inner in layer._flatten_layers()}


def tell_num_examples(layers: Sequence[Variational], num_examples: int) -> None:
    """Sets the number of training examples; factors of KL terms stay.

    Args:
        layers: Built Bayesian layers.
        num_examples: Positive integer.
    """
    for layer in layers:
        ratio = (layer.num_examples or 1) / num_examples
        layer.num_examples = int(num_examples)
        layer.kl_weight.assign(layer.kl_weight.value * ratio)
