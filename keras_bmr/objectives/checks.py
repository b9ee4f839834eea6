"""Checks of arguments."""

from typing import Any

import numpy as np


def require_integer(name: str, value: Any, at_least: int) -> None:
    """Refuses what is not an integer of at least `at_least`.

    Args:
        name: Name of the argument, for the message.
        value: What was given.
        at_least: The smallest valid integer.

    Raises:
        ValueError: If `value` is not such an integer; booleans are not.
    """
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < at_least:
        raise ValueError(
            f"`{name}` must be an integer of at least {at_least}. "
            f"Received: {name}={value!r}"
        )
