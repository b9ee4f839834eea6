"""Which rule says how channels pass through which layer class."""

from collections.abc import Callable
from typing import Any

import keras

from keras_bmr.layers import Variational
from keras_bmr.layers.registry import deterministic_class

_RULES: dict[type, Any] = {}


def register_channel_rule(*classes: type) -> Callable[[type], type]:
    """Class decorator: makes a rule known for layer classes.

    A Bayesian layer uses the rule of the Keras class it stands for. Otherwise only
    the class itself counts, since a subclass may compute something else.

    Args:
        *classes: Layer classes, or classes of operations from `keras.ops`.

    Returns:
        The decorator, for a subclass of `ChannelRule`.

    Raises:
        ValueError: If a class has a rule already.

    Example:
        >>> @keras_bmr.pruning.channels.register_channel_rule(MyActivation)
        ... class MyActivationRule(keras_bmr.pruning.channels.ElementwiseRule):
        ...     pass
    """

    def register(rule: type) -> type:
        for layer_class in classes:
            if layer_class in _RULES:
                raise ValueError(
                    f"{layer_class.__name__} already has a channel rule, "
                    f"{type(_RULES[layer_class]).__name__}. Received: {rule.__name__}"
                )
            _RULES[layer_class] = rule()
        return rule

    return register


def has_rule(operation: keras.Operation) -> bool:
    """Whether the class of a layer or operation has a rule.

    Args:
        operation: The layer or operation.

    Returns:
        True if it has.
    """
    return _known_class(operation) is not None


def _known_class(operation: keras.Operation) -> type | None:
    layer_class = type(operation)
    if layer_class in _RULES or not isinstance(operation, Variational):
        return layer_class if layer_class in _RULES else None
    try:
        layer_class = deterministic_class(layer_class)
    except ValueError:
        # A subclass that computes something else than the registered layer.
        return None
    return layer_class if layer_class in _RULES else None


def rule_for(operation: keras.Operation) -> Any:
    """The rule of a layer or operation.

    Args:
        operation: The layer or operation.

    Returns:
        A `ChannelRule`.

    Raises:
        ValueError: If there is none for its class.
    """
    layer_class = _known_class(operation)
    if layer_class is None:
        raise ValueError(
            f"How channels pass through layer '{operation.name}' of class "
            f"{type(operation).__name__} is not known. Register a rule with "
            "`keras_bmr.pruning.channels.register_channel_rule"
            f"({type(operation).__name__})`: `FixedRule` keeps all channels that go "
            "in and come out, `ElementwiseRule` stands for a function of each number "
            "by itself."
        )
    return _RULES[layer_class]
