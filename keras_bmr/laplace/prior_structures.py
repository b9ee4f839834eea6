"""Which prior precisions are shared, and the variables they are made of."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class PriorStructure:
    """The prior precisions of all weights, as functions of few parameters.

    The parameters are logarithms, so that every value of theirs is valid. A subclass
    says how they become one log precision per weight, and back.

    Args:
        shapes: Shapes of the weights.
        unit_axes: For each weight the axes that count units or channels.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], unit_axes: Sequence[tuple[int, ...]]
    ) -> None:
        self.shapes = list(shapes)
        self.unit_axes = list(unit_axes)

    def expand(self, parameters: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Log precisions, one tensor per weight that broadcasts to its shape."""
        raise NotImplementedError

    def project(self, log_precisions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The parameters nearest to log precisions with the shapes of the weights."""
        raise NotImplementedError

    def precisions(self, parameters: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Precisions, one tensor per weight that broadcasts to its shape."""
        return [tf.exp(log_precision) for log_precision in self.expand(parameters)]

    def has_fixed_point(self, is_diagonal: bool) -> bool:
        """Whether each precision follows from the weights it belongs to alone."""
        return True

    def value(self, parameters: Sequence[tf.Tensor]) -> Any:
        """The precisions in the shape in which they are shown."""
        return self.precisions(parameters)

    def parameters_of(self, prior_precision: Any) -> list[np.ndarray]:
        """The parameters that give certain precisions.

        Args:
            prior_precision: As for `precisions_of`.

        Returns:
            Float64 arrays.

        Raises:
            ValueError: As for `precisions_of`, and if precisions differ where the
                structure shares them.
        """
        precisions = [
            np.asarray(precision, np.float64)
            for precision in precisions_of(prior_precision, self.shapes)
        ]
        log_precisions = [
            np.broadcast_to(np.log(precision), shape)
            for precision, shape in zip(precisions, self.shapes, strict=True)
        ]
        parameters = [np.asarray(p, np.float64) for p in self.project(log_precisions)]
        expanded = self.expand([tf.constant(parameter) for parameter in parameters])
        for given, kept in zip(log_precisions, expanded, strict=True):
            if not np.allclose(given, kept, atol=1e-6):
                raise ValueError(
                    f"These prior precisions differ where {type(self).__name__} "
                    "shares them. Give one per group, or choose another "
                    f"`prior_structure`. Received: prior_precision={prior_precision!r}"
                )
        return parameters


class ScalarPrior(PriorStructure):
    """One precision for all weights."""

    def expand(self, parameters: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """As in the base class."""
        return [parameters[0]] * len(self.shapes)

    def project(self, log_precisions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As in the base class."""
        size = sum(log_precision.size for log_precision in log_precisions)
        return [np.sum([np.sum(p) for p in log_precisions]) / size]

    def value(self, parameters: Sequence[tf.Tensor]) -> tf.Tensor:
        """A scalar."""
        return tf.exp(parameters[0])


class LayerwisePrior(PriorStructure):
    """One precision per weight tensor: a kernel and its bias have two."""

    def expand(self, parameters: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """As in the base class."""
        return tf.unstack(parameters[0], num=len(self.shapes))

    def project(self, log_precisions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As in the base class."""
        return [np.stack([np.mean(p) for p in log_precisions])]

    def value(self, parameters: Sequence[tf.Tensor]) -> tf.Tensor:
        """A vector with one entry per weight tensor."""
        return tf.exp(parameters[0])


class UnitwisePrior(PriorStructure):
    """A product of one factor per input unit and one per output unit.

    log delta_ij = u_i + v_j. Positions of a convolution's window share theirs.
    """

    def has_fixed_point(self, is_diagonal: bool) -> bool:
        """As in the base class."""
        return False

    def expand(self, parameters: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """As in the base class."""
        remaining = iter(parameters)
        expanded = []
        for shape, axes in zip(self.shapes, self.unit_axes, strict=True):
            total = tf.zeros([1] * len(shape), tf.float64)
            for axis in axes:
                width = [1] * len(shape)
                width[axis] = shape[axis]
                total += tf.reshape(next(remaining), width)
            expanded.append(total)
        return expanded

    def project(self, log_precisions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As in the base class; the mean is shared out evenly over the factors."""
        parameters = []
        for log_precision, axes in zip(log_precisions, self.unit_axes, strict=True):
            shared = np.mean(log_precision) * (1 - 1 / max(len(axes), 1))
            for axis in axes:
                others = tuple(i for i in range(log_precision.ndim) if i != axis)
                parameters.append(np.mean(log_precision, axis=others) - shared)
        return parameters


class ParameterwisePrior(PriorStructure):
    """One precision for every single weight."""

    def has_fixed_point(self, is_diagonal: bool) -> bool:
        """As in the base class; Kronecker factors mix the precisions of weights."""
        return is_diagonal

    def expand(self, parameters: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """As in the base class."""
        return list(parameters)

    def project(self, log_precisions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As in the base class."""
        return list(log_precisions)


PRIOR_STRUCTURES = {
    "scalar": ScalarPrior,
    "layerwise": LayerwisePrior,
    "unitwise": UnitwisePrior,
    "parameterwise": ParameterwisePrior,
}


def unit_axes(layer: keras.layers.Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a weight that count units or channels.

    Args:
        layer: The layer that the weight belongs to.
        shape: Shape of the weight.

    Returns:
        All axes but those of a convolution's window.
    """
    rank = len(shape)
    is_convolution = hasattr(layer, "kernel_size")
    return tuple(range(rank)[-2:] if is_convolution else range(rank))


def precisions_of(
    prior_precision: Any, shapes: Sequence[tuple[int, ...]]
) -> list[tf.Tensor]:
    """Prior precisions by weight, whatever they are given as.

    Args:
        prior_precision: A scalar; a vector with one entry per weight tensor; or a
            list with one array per weight tensor that broadcasts to its shape.
        shapes: Shapes of the weights.

    Returns:
        One float64 tensor per weight. Gradients pass.

    Raises:
        ValueError: If the shapes do not fit, or precisions are no numbers, or not
            positive and finite.
    """
    if isinstance(prior_precision, list | tuple):
        entries = [_as_float64(entry) for entry in prior_precision]
    else:
        value = _as_float64(prior_precision)
        if value.shape.rank == 0:
            entries = [value] * len(shapes)
        else:
            entries = tf.unstack(value) if value.shape.rank == 1 else []
    if len(entries) != len(shapes) or not all(
        _broadcasts(tuple(entry.shape), shape)
        for entry, shape in zip(entries, shapes, strict=False)
    ):
        raise ValueError(
            "`prior_precision` must be a scalar, a vector with one entry per weight "
            "tensor, or a list with one array per weight tensor that broadcasts to its "
            f"shape. Expected shapes: {list(shapes)}. Received: "
            f"{[tuple(entry.shape) for entry in entries] or prior_precision!r}"
        )
    # Within a `tf.function` there are no values to look at.
    known = [tf.get_static_value(entry) for entry in entries]
    if not all(np.all((p > 0) & np.isfinite(p)) for p in known if p is not None):
        raise ValueError(
            "Prior precisions must be positive and finite. Received: "
            f"prior_precision={prior_precision!r}"
        )
    return entries


def _as_float64(value: Any) -> tf.Tensor:
    if tf.is_tensor(value) or isinstance(value, tf.Variable):
        return tf.cast(value, tf.float64)
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        array = None
    # NumPy reads numbers from text, too.
    if array is None or np.asarray(value).dtype.kind in "bSU":
        raise ValueError(
            "`prior_precision` must hold positive numbers: a scalar, a vector or a "
            f"list of arrays. Received: an entry {value!r}"
        )
    return tf.constant(array)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to `target` without enlarging it."""
    try:
        return np.broadcast_shapes(shape, target) == tuple(target)
    except ValueError:
        return False
