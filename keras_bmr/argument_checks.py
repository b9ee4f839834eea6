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


def array_of_examples(leaf: Any, name: str = "data") -> np.ndarray:
    """An entry of `data` as an array.

    Args:
        leaf: What was given, of shape (examples, ...). A list is a list of inputs to
            Keras, so that its numbers come here one by one.
        name: Name of the argument, for the message.

    Returns:
        The array.

    Raises:
        ValueError: If it has no axis of examples, or is not finite.
    """
    array = np.asarray(leaf)
    if array.ndim == 0:
        raise ValueError(
            f"`{name}` must hold arrays with an axis of examples; a list stands for "
            "several inputs, `numpy.asarray` makes an array of it. Received: an "
            f"entry of type {type(leaf).__name__}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"`{name}` must be finite; leave out or fill in other values. Received: "
            f"an array of shape {array.shape} with NaN or infinite values"
        )
    return array
