"""What belongs to the channels along the axis where a layer looks for them."""

import numpy as np

from keras_bmr.pruning.channels.labels import FIXED, along, channel_axis
from keras_bmr.pruning.channels.rule import Recorder


def labels_along(
    labels: np.ndarray, axis: int, size: int, recorder: Recorder
) -> np.ndarray:
    """The labels of the channels along the axis where a layer looks for them.

    Channels along another axis must stay.

    Args:
        labels: Labels of a tensor.
        axis: Axis, counted from 0 or from the end.
        size: Size of the axis.
        recorder: Takes what must stay.

    Returns:
        Integer array of shape (size,).
    """
    found = along(labels, axis, size)
    if found is None:
        recorder.fix(labels)
        return np.full(size, FIXED)
    return found


def constants_along(constants: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Constants of the channels along an axis.

    Args:
        constants: Constants of a tensor.
        axis: Axis, counted from 0 or from the end.
        size: Size of the axis.

    Returns:
        Array of shape (size,), NaN where there is none.
    """
    found = along(constants, axis, size)
    return np.full(size, np.nan) if found is None else found


def num_along(kept: np.ndarray, axis: int, size: int | None) -> int | None:
    """The size that an axis shrinks to.

    Args:
        kept: Which channels of a tensor stay, boolean.
        axis: Axis, counted from 0 or from the end.
        size: Size of the axis before.

    Returns:
        The size after.
    """
    varying = channel_axis(kept)
    if varying is None or varying != axis % kept.ndim:
        return size
    return int(np.count_nonzero(kept))
