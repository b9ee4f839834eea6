"""String and config arguments resolved to objects, as Keras does for initializers."""

import inspect
from collections.abc import Mapping
from typing import Any

import keras


def resolve(identifier: Any, known: Mapping[str, type], base: type, argument: str):
    """Returns the object that an argument stands for.

    Args:
        identifier: A name out of `known`, a Keras config dictionary, a class of
            `known` or an instance of `base`.
        known: Maps the accepted names to classes, which are called without
            arguments.
        base: The class that the result must be an instance of.
        argument: Name of the argument, for error messages.

    Returns:
        An instance of `base`.

    Raises:
        ValueError: If `identifier` is none of these.
    """
    resolved = identifier
    if isinstance(identifier, str) and identifier in known:
        resolved = known[identifier]()
    elif isinstance(identifier, dict):
        resolved = keras.saving.deserialize_keras_object(identifier)
    elif (
        isinstance(identifier, type)
        and issubclass(identifier, base)
        and not inspect.isabstract(identifier)
    ):
        resolved = _instance(identifier, argument)
    if not isinstance(resolved, base):
        raise ValueError(
            f"Invalid value for `{argument}`: expected one of "
            f"{sorted(known)} or an instance of `{base.__name__}`. "
            f"Received: {argument}={identifier!r}"
        )
    return resolved


def _instance(cls: type, argument: str):
    """An object of a class that needs no arguments."""
    required = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise ValueError(
            f"Invalid value for `{argument}`: {cls.__name__} is made with arguments. "
            f"Expected an instance, `{cls.__name__}({', '.join(required)})`. "
            f"Received: the class"
        )
    return cls()
