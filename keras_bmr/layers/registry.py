"""Which Bayesian layer stands for which Keras layer."""

from collections.abc import Callable

import keras

_VARIATIONAL: dict[type, type] = {}


def register_variational(layer_class: type) -> Callable[[type], type]:
    """Class decorator: makes a Bayesian layer known to `to_variational`.

    The class is also registered for saving, under the package "keras_bmr" for the
    layers of this library and under the name of its own top-level module otherwise.

    Args:
        layer_class: The Keras layer class that the decorated class derives from and
            stands for.

    Returns:
        The decorator.

    Raises:
        ValueError: If `layer_class` already has a Bayesian layer, or the decorated
            class does not derive from it.

    Example:
        >>> @keras_bmr.layers.register_variational(MyDense)
        ... class MyDenseVariational(keras_bmr.layers.LinearVariational, MyDense):
        ...     ...
    """

    def register(variational: type) -> type:
        if layer_class in _VARIATIONAL:
            raise ValueError(
                f"{layer_class.__name__} already has a Bayesian layer, "
                f"{_VARIATIONAL[layer_class].__name__}. Received: "
                f"{variational.__name__}"
            )
        if not issubclass(variational, layer_class):
            raise ValueError(
                f"{variational.__name__} must derive from {layer_class.__name__}, "
                "which it stands for."
            )
        package = variational.__module__.partition(".")[0]
        keras.saving.register_keras_serializable(package=package)(variational)
        _VARIATIONAL[layer_class] = variational
        return variational

    return register


def variational_class(layer_class: type) -> type | None:
    """The Bayesian class that stands for exactly this layer class.

    A subclass may compute something else than its parent, so that only the class
    itself counts.

    Args:
        layer_class: A Keras layer class.

    Returns:
        The Bayesian layer class, or None if none is registered.
    """
    return _VARIATIONAL.get(layer_class)


def deterministic_class(variational: type) -> type:
    """The Keras class that a Bayesian layer class stands for.

    Args:
        variational: A registered Bayesian layer class, or a subclass of one.

    Returns:
        The Keras layer class.

    Raises:
        ValueError: If no base of the class is registered, or the class computes
            something else than the registered one.
    """
    for base in variational.__mro__:
        if base not in _VARIATIONAL:
            continue
        registered = _VARIATIONAL[base]
        changed = [
            name
            for name in ("build", "call", "linear")
            if getattr(variational, name, None) is not getattr(registered, name, None)
        ]
        if changed:
            raise ValueError(
                f"{variational.__name__} overrides {changed} of {registered.__name__}, "
                f"so that {base.__name__} may compute something else. Derive "
                f"{variational.__name__} from a Keras layer that computes the same and "
                "register it with `keras_bmr.layers.register_variational`."
            )
        return base
    raise ValueError(
        f"{variational.__name__} stands for no Keras layer. Register it with "
        "`keras_bmr.layers.register_variational`. Known: "
        f"{sorted(known.__name__ for known in _VARIATIONAL)}"
    )
