"""Which constants of a TFLite file hold which kernels of a Keras model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_bmr.export.tflite_file import WeightConstant

# Converters fold factors into weights in float32.
_FOLDING_TOLERANCE = 1e-5


class ConstantMatch(NamedTuple):
    """A constant that is a kernel times a factor for each channel.

    Attributes:
        constant: The constant.
        shape: Its shape.
        factor: What the channels are multiplied by; broadcasts to the shape.
    """

    constant: WeightConstant
    shape: tuple[int, ...]
    factor: np.ndarray


def match_constants(
    kernels: Sequence[np.ndarray],
    num_calls: Sequence[int],
    others: Sequence[np.ndarray],
    constants: Sequence[tuple[WeightConstant, np.ndarray]],
) -> list[list[ConstantMatch]]:
    """Finds kernels among the constants of a file, each constant for one of them.

    A kernel with one weight per channel is any constant of its size, up to factors.
    So constants that are equal to a kernel belong to it first. A kernel without any is
    looked for with folded factors among those that are equal to no other weight, once
    for each call, and kernels that fit in few places have the first choice.

    Args:
        kernels: Weights, float32, in the shapes and the order that Keras has.
        num_calls: How often the layer of each kernel is called.
        others: All other weights of the model.
        constants: The constants and their values, in the order of execution.

    Returns:
        For each kernel its constants, with equal factors; none if the converter has
        split or merged it.
    """
    found: list[list[ConstantMatch]] = []
    taken: set[WeightConstant] = set()
    for kernel in kernels:
        equal = [
            match for match in _matches(kernel, constants, taken) if _is_equal(match)
        ]
        taken |= {match.constant for match in equal}
        found.append(equal)
    taken |= {
        match.constant
        for other in others
        for match in _matches(other, constants, taken)
        if _is_equal(match)
    }
    folded = {
        index: _matches(kernels[index], constants, taken)
        for index, equal in enumerate(found)
        if not equal
    }
    for index in sorted(folded, key=lambda index: len(folded[index])):
        free = [match for match in folded[index] if match.constant not in taken]
        alike = [
            match for match in free if np.array_equal(match.factor, free[0].factor)
        ]
        found[index] = alike[: num_calls[index]]
        taken |= {match.constant for match in found[index]}
    return found


def _matches(
    kernel: np.ndarray,
    constants: Sequence[tuple[WeightConstant, np.ndarray]],
    taken: set[WeightConstant],
) -> list[ConstantMatch]:
    return [
        ConstantMatch(constant, values.shape, factor)
        for constant, values in constants
        if constant not in taken
        and (factor := _folded_factor(constant, values, kernel)) is not None
    ]


def _is_equal(match: ConstantMatch) -> bool:
    return bool(np.all(match.factor == 1))


def _folded_factor(
    constant: WeightConstant, values: np.ndarray, kernel: np.ndarray
) -> np.ndarray | None:
    """The factors of the channels if a constant is a kernel times them, else None."""
    if values.size != kernel.size:
        return None
    kernel = to_file_layout(constant.operator, kernel, values.shape).astype(np.float64)
    axes = tuple(axis for axis in range(values.ndim) if axis != constant.channel_axis)
    energy = np.sum(kernel * kernel, axis=axes, keepdims=True)
    factor = np.sum(kernel * values, axis=axes, keepdims=True)
    # A channel of zeros may have been multiplied by anything.
    factor = np.where(energy > 0, factor / np.where(energy > 0, energy, 1.0), 1.0)
    # Nothing is folded in most cases; rounding shall not make it look so.
    factor = np.where(np.abs(factor - 1) < _FOLDING_TOLERANCE, 1.0, factor)
    allowed = _FOLDING_TOLERANCE * np.max(np.abs(values), axis=axes, keepdims=True)
    return factor if np.all(np.abs(values - factor * kernel) <= allowed) else None


def to_file_layout(
    operator: str, kernel: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Gives a Keras kernel the axes of the constant of an operator.

    Args:
        operator: TFLite's name of the operator.
        kernel: Array in the shape that Keras has.
        shape: Shape of the constant.

    Returns:
        Array of that shape.
    """
    if operator == "FULLY_CONNECTED":
        return kernel.reshape(-1, shape[0]).T
    if operator == "CONV_2D":
        return kernel.reshape(*shape[1:], shape[0]).transpose(3, 0, 1, 2)
    if operator == "TRANSPOSE_CONV":
        kernel = kernel.reshape(shape[1], shape[2], shape[0], shape[3])
        return kernel.transpose(2, 0, 1, 3)
    return kernel.reshape(shape)


def to_keras_layout(
    operator: str, values: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Inverts `to_file_layout`.

    Args:
        operator: TFLite's name of the operator.
        values: Array in the shape of the constant.
        shape: Shape of the weight in Keras.

    Returns:
        Array of that shape.
    """
    if operator == "FULLY_CONNECTED":
        values = values.T
    elif operator == "CONV_2D":
        values = values.transpose(1, 2, 3, 0)
    elif operator == "TRANSPOSE_CONV":
        values = values.transpose(1, 2, 0, 3)
    return values.reshape(shape)
