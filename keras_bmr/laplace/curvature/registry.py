"""Which curvature rule belongs to which layer class."""

from collections.abc import Callable

import keras

from keras_bmr.laplace.curvature.rule import CurvatureRule

_RULES: dict[type, CurvatureRule] = {}


def register_curvature_rule(*layer_classes: type) -> Callable[[type], type]:
    """Class decorator: makes a curvature rule known for layer classes.

    Args:
        *layer_classes: Classes of Keras layers. Subclasses that do not override
            `call` follow the same rule.

    Returns:
        The decorator, for a subclass of `CurvatureRule` without constructor arguments.

    Raises:
        ValueError: If a class already has a rule.

    Example:
        >>> @keras_bmr.laplace.register_curvature_rule(MyDense)
        ... class MyDenseRule(keras_bmr.laplace.CurvatureRule):
        ...     ...
    """

    def register(rule_class: type) -> type:
        for layer_class in layer_classes:
            if layer_class in _RULES:
                raise ValueError(
                    f"{layer_class.__name__} already has a curvature rule, "
                    f"{type(_RULES[layer_class]).__name__}. Received: "
                    f"{rule_class.__name__}"
                )
        for layer_class in layer_classes:
            _RULES[layer_class] = rule_class()
        return rule_class

    return register


def curvature_rule(layer: keras.layers.Layer) -> CurvatureRule | None:
    """The rule of a layer's class, or of the parent class that it computes like.

    Args:
        layer: A Keras layer.

    Returns:
        The rule; None if there is none, or the class overrides the `call` of the
        class that has one.
    """
    for base in type(layer).__mro__:
        if base in _RULES:
            return _RULES[base] if type(layer).call is base.call else None
    return None


def known_layer_classes() -> list[str]:
    """Names of the layer classes that have a rule."""
    return sorted(layer_class.__name__ for layer_class in _RULES)
