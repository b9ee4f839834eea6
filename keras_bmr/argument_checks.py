"""Checks of plain arguments, alike for all public functions."""

import math
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


def require_positive(name: str, value: Any, or_zero: bool = False) -> None:
    """Refuses what is not a positive finite number.

    Args:
        name: Name of the argument, for the message.
        value: What was given.
        or_zero: Whether zero is valid, too.

    Raises:
        ValueError: If `value` is not such a number; booleans are not.
    """
    numbers = int | float | np.integer | np.floating
    is_number = isinstance(value, numbers) and not isinstance(value, bool)
    if (
        not is_number
        or not (value > 0 or (or_zero and value == 0))
        or value == math.inf
    ):
        wanted = "non-negative" if or_zero else "positive"
        raise ValueError(
            f"`{name}` must be a {wanted} finite number. Received: {name}={value!r}"
        )
