"""Which rule says how moments pass through which layer class."""

from collections.abc import Callable

import keras

from keras_bmr.layers import LinearVariational
from keras_bmr.layers.registry import variational_class

_RULES: dict[type, Callable] = {}


def register_moment_rule(*classes: type) -> Callable[[Callable], Callable]:
    """Decorator: makes known how mean and variance pass through layer classes.

    A Bayesian layer uses the rule of the Keras class it stands for. Otherwise only the
    class itself counts, since a subclass may compute something else. A class whose
    Bayesian layer is a `keras_bmr.layers.LinearVariational` needs no rule.

    Args:
        *classes: Layer classes, or classes of operations from `keras.ops`.

    Returns:
        The decorator of a function `rule(layer, weights, *inputs)`. It takes the layer,
        its weights (`weights.moments("kernel")` is a pair of mean and variance, the
        latter None if the weight is certain) and `Moments` of the inputs in the order
        of the call, constants among them, and returns the `Moments` of the output. It
        is not called where inputs and weights are all certain: the layer itself is.

    Raises:
        ValueError: If a class has a rule already.

    Example:
        >>> @keras_bmr.export.register_moment_rule(MyScale)
        ... def my_scale(layer, weights, x):
        ...     factor = layer.factor
        ...     return Moments(factor * x.mean, factor**2 * x.variance)
    """

    def register(rule: Callable) -> Callable:
        for layer_class in classes:
            if layer_class in _RULES:
                raise ValueError(
                    f"{layer_class.__name__} already has a moment rule, "
                    f"`{_RULES[layer_class].__name__}`. Received: `{rule.__name__}`"
                )
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def rule_for(operation: keras.Operation) -> Callable:
    """The rule of a layer or operation.

    Args:
        operation: A plain Keras layer, or an operation of a Functional graph.

    Returns:
        A function as `register_moment_rule` takes it.

    Raises:
        ValueError: If there is none for its class.
    """
    layer_class = type(operation)
    if layer_class in _RULES:
        return _RULES[layer_class]
    variational = variational_class(layer_class)
    if variational is not None and issubclass(variational, LinearVariational):
        return _RULES[LinearVariational]
    known = sorted(known.__name__ for known in _RULES)
    raise ValueError(
        f"How mean and variance pass through layer '{operation.name}' of class "
        f"{layer_class.__name__} is not known. Register a rule with "
        f"`keras_bmr.export.register_moment_rule({layer_class.__name__})`, or use "
        'uncertainty="ensemble", which takes every layer. Known besides layers that '
        f"are linear in one kernel: {', '.join(known)}"
    )
