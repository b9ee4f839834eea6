"""Labels of channels, and which of them come and go together."""

import numpy as np

FIXED = 0


class ChannelLabels:
    """Hands out a label for each channel and couples labels.

    The labels of a tensor are an integer array that broadcasts to its shape, with
    size 1 on all axes but that of the channels. The label `FIXED` stands for
    channels that must stay.
    """

    def __init__(self) -> None:
        self._count = FIXED + 1
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []

    def new(self, count: int) -> np.ndarray:
        """Labels for the channels that a layer makes.

        Args:
            count: Number of channels.

        Returns:
            Integer array of shape (count,).
        """
        self._count += count
        return np.arange(self._count - count, self._count)

    def couple(self, first: np.ndarray, second: np.ndarray) -> None:
        """Makes channels come and go together.

        Args:
            first: Labels.
            second: Labels that broadcast with the first ones.
        """
        first, second = np.broadcast_arrays(first, second)
        self._pairs.append((first.reshape(-1), second.reshape(-1)))

    def fix(self, labels: np.ndarray) -> None:
        """Makes channels stay.

        Args:
            labels: Their labels.
        """
        self.couple(labels, np.array(FIXED))

    def groups(self) -> np.ndarray:
        """The coupled group of each label.

        Returns:
            Integer array with an entry per label: the group, counted from 0, or -1
            where the channel must stay.
        """
        root = np.arange(self._count)
        first, second = (
            np.concatenate([np.zeros(0, int), *side])
            for side in zip(*self._pairs or [((), ())], strict=True)
        )
        # Each component ends up with its smallest label, `FIXED` where that is one.
        while True:
            roots = root[first], root[second]
            apart = roots[0] != roots[1]
            if not apart.any():
                break
            low, high = np.minimum(*roots)[apart], np.maximum(*roots)[apart]
            np.minimum.at(root, high, low)
            while (root[root] != root).any():
                root = root[root]
        _, groups = np.unique(root, return_inverse=True)
        return groups - 1


def channel_axis(labels: np.ndarray) -> int | None:
    """The axis along which labels differ.

    Args:
        labels: Labels of a tensor.

    Returns:
        The axis counted from 0; None if all channels share a label.
    """
    axes = [axis for axis, size in enumerate(labels.shape) if size > 1]
    return axes[0] if axes else None


def along(array: np.ndarray, axis: int, size: int) -> np.ndarray | None:
    """An array with an entry per position of one axis.

    Args:
        array: Labels, or something else with their layout.
        axis: Axis, counted from 0 or from the end.
        size: Size of the axis.

    Returns:
        Array of shape (size,); None if there are differences along another axis.
    """
    if array.size != array.shape[axis]:
        return None
    return np.broadcast_to(array.reshape(-1), (size,))


def spread(array: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """An array with an entry per channel in the layout of labels.

    Args:
        array: Array of shape (channels,).
        axis: Axis of the channels, counted from 0 or from the end.
        rank: Number of axes of the tensor.

    Returns:
        Array with `rank` axes.
    """
    shape = [1] * rank
    shape[axis] = array.size
    return array.reshape(shape)


def compress(array: np.ndarray) -> np.ndarray:
    """Drops the repetitions along axes that make no difference.

    Args:
        array: An array with as many axes as a tensor.

    Returns:
        The array with size 1 on these axes.
    """
    for axis in range(array.ndim):
        first = np.take(array, [0], axis=axis)
        same = array == first
        if array.dtype.kind == "f":
            same |= np.isnan(array) & np.isnan(first)
        if same.all():
            array = first
    return array
