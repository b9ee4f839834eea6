"""String and config arguments resolved to objects, as Keras does for initializers."""

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
    elif isinstance(identifier, type) and issubclass(identifier, base):
        resolved = identifier()
    if not isinstance(resolved, base):
        raise ValueError(
            f"Invalid value for `{argument}`: expected one of "
            f"{sorted(known)} or an instance of `{base.__name__}`. "
            f"Received: {argument}={identifier!r}"
        )
    return resolved
