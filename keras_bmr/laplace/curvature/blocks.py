"""The curvature of one weight tensor: its diagonal, or a Kronecker product."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class DiagonalBlock:
    """The diagonal of the curvature of one weight tensor, summed over the data.

    Attributes:
        layer: The layer that the weight belongs to.
        name: Path of the variable within the layer, for example "kernel".
        diagonal: Float64 tensor with the shape of the weight.
    """

    layer: keras.layers.Layer
    name: str
    diagonal: tf.Tensor


@dataclasses.dataclass(frozen=True)
class KroneckerBlock:
    """The curvature of one weight tensor as a Kronecker product of two factors.

    The weight is laid out as a (p, q) matrix by `to_matrix`, its curvature is
    input_factor (x) output_factor for that matrix in row-major order, summed over the
    data: entry ((i, j), (k, l)) is input_factor[i, k] * output_factor[j, l].

    Attributes:
        layer: The layer that the weight belongs to.
        name: Path of the variable within the layer, for example "kernel".
        input_factor: Float64 tensor, the mean second moment of the inputs: (p, p); a
            vector (p,) where it is diagonal, as for an embedding; None where p is 1,
            as for a bias.
        output_factor: Float64 tensor (q, q), the sum of second moments of gradients.
        shape: Shape of the weight.
        axes: Order of the weight's axes in which it is flattened to (p, q).

    References:
        Martens and Grosse, arXiv 1503.05671; for convolutions and shared weights the
        "expand" form of Eschenhagen et al., arXiv 2311.00636.
    """

    layer: keras.layers.Layer
    name: str
    input_factor: tf.Tensor | None
    output_factor: tf.Tensor
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def to_matrix(self, weight: tf.Tensor) -> tf.Tensor:
        """Lays a tensor with the shape of the weight out as a (p, q) matrix."""
        num_outputs = self.output_factor.shape[0]
        return tf.reshape(tf.transpose(weight, self.axes), (-1, num_outputs))

    def from_matrix(self, matrix: tf.Tensor) -> tf.Tensor:
        """Inverse of `to_matrix`."""
        transposed = [self.shape[axis] for axis in self.axes]
        return tf.transpose(tf.reshape(matrix, transposed), _inverse(self.axes))


def _inverse(axes: Sequence[int]) -> list[int]:
    return [list(axes).index(axis) for axis in range(len(axes))]
