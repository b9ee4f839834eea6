"""Which weights of a model have a curvature, and by which rule."""

import dataclasses
from collections.abc import Sequence

import keras

from keras_bmr.laplace.curvature.registry import curvature_rule, known_layer_classes
from keras_bmr.laplace.curvature.rule import CurvatureRule
from keras_bmr.layers.checks import check_finite, check_model, check_plain_kernels
from keras_bmr.layers.traversal import layers_named

# Layers made of layers, whose weights go by the path from the outer one.
_COMPOUND = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


@dataclasses.dataclass(frozen=True)
class RuledLayer:
    """A layer whose weights have a curvature.

    Attributes:
        layer: The layer that is called with the weights.
        rule: Its rule.
        owner: The layer that the weights go by: the compound layer around `layer`, or
            `layer` itself.
        prefix: Path from the owner to the layer, "" or for example "_query_dense.".
        variables: The trainable variables by their name in the rule.
    """

    layer: keras.layers.Layer
    rule: CurvatureRule
    owner: keras.layers.Layer
    prefix: str
    variables: dict[str, keras.Variable]


def curvature_weights(
    model: keras.Model, skip: Sequence[str] = ()
) -> list[tuple[keras.layers.Layer, str, keras.Variable]]:
    """The weights that `fit_curvature` returns a block for, in the same order.

    Args:
        model: A built Keras model.
        skip: Names of layers to leave out.

    Returns:
        (layer, name, variable) of each weight, as in the blocks.

    Raises:
        ValueError: If the model is not built, or a trainable weight that is not
            skipped belongs to a layer without a curvature rule.

    Example:
        >>> [(layer.name, name) for layer, name, _ in curvature_weights(model)]
        [('dense', 'kernel'), ('dense', 'bias')]
    """
    return [
        (ruled.owner, ruled.prefix + name, variable)
        for ruled in ruled_layers(model, skip)
        for name, variable in ruled.variables.items()
    ]


def ruled_layers(model: keras.Model, skip: Sequence[str]) -> list[RuledLayer]:
    """The layers of a model with weights that shall have a curvature.

    Args:
        model: A built Keras model.
        skip: Names of layers to leave out.

    Returns:
        The layers in the order of the model, a shared one once.

    Raises:
        ValueError: As for `curvature_weights`.
    """
    skipped = layers_named(model, skip)
    _check_built(model)
    layers = list({id(x): x for x in model._flatten_layers()}.values())
    check_plain_kernels(layer for layer in layers if id(layer) not in skipped)
    owners = {
        id(part): (layer, f"{path}.")
        for layer in layers
        if isinstance(layer, _COMPOUND)
        for path, part in vars(layer).items()
        if isinstance(part, keras.layers.Layer)
    }
    wanted = {id(variable) for variable in model.trainable_variables}
    for layer in layers:
        if id(layer) in skipped:
            wanted -= {id(variable) for variable in layer.variables}
    found = []
    for layer in layers:
        rule = curvature_rule(layer)
        if rule is None:
            continue
        variables = {n: v for n, v in rule.weights(layer).items() if id(v) in wanted}
        if variables:
            owner, prefix = owners.get(id(layer), (layer, ""))
            found.append(RuledLayer(layer, rule, owner, prefix, variables))
            wanted -= {id(variable) for variable in variables.values()}
    _check_covered(model, layers, wanted)
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no trainable weight outside of `skip`, so that "
            "there is no curvature to compute. Set `layer.trainable = True` or skip "
            f"fewer layers. Received: skip={list(skip)}"
        )
    check_finite(model)
    return found


def _check_built(model: keras.Model) -> None:
    check_model(model)
    if not model.built or not model.weights:
        raise ValueError(
            f"Model '{model.name}' is not built yet, so that there are no weights to "
            "speak of. Call it on data once, or give it a `keras.Input`."
        )


def _check_covered(
    model: keras.Model, layers: Sequence[keras.layers.Layer], unknown: set[int]
) -> None:
    """Refuses trainable weights that no rule covers."""
    for layer in reversed(layers):
        # From the innermost layers outwards, so that the one to blame is named.
        paths = [v.path for v in layer.trainable_variables if id(v) in unknown]
        if not paths:
            continue
        raise ValueError(
            f"Layer '{layer.name}' of class {type(layer).__name__} has trainable "
            f"weights without a curvature rule: {paths}. Skip it with "
            f"skip=['{layer.name}'], freeze it, or register a rule for its class with "
            "`keras_bmr.laplace.register_curvature_rule`; convert Bayesian layers with "
            "`keras_bmr.to_deterministic`. A subclass that overrides `call` needs a "
            f"rule of its own. Known: {known_layer_classes()}"
        )
