"""The posterior precision of one weight tensor, under any prior precision."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_bmr.laplace.curvature import DiagonalBlock, KroneckerBlock


@dataclasses.dataclass(frozen=True)
class DiagonalPrecision:
    """P = scale * diag(curvature) + diag(prior precision).

    Prior precisions are float64 tensors that broadcast to the shape of the weight;
    `scale` is a scalar.

    Attributes:
        curvature: Float64 tensor with the shape of the weight.
    """

    curvature: tf.Tensor

    def log_det(self, prior_precision: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Log determinant of P, a scalar."""
        return tf.reduce_sum(tf.math.log(self.diagonal(prior_precision, scale)))

    def diagonal(self, prior_precision: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """The diagonal of P, with the shape of the weight."""
        return scale * self.curvature + prior_precision

    def draw(
        self, noise: tf.Tensor, prior_precision: tf.Tensor, scale: tf.Tensor
    ) -> tf.Tensor:
        """A draw from N(0, P^-1), made of standard normal noise of the same shape."""
        return noise / tf.sqrt(self.diagonal(prior_precision, scale))

    def whiten(
        self, gradients: tf.Tensor, prior_precision: tf.Tensor, scale: tf.Tensor
    ) -> tf.Tensor:
        """Vectors of shape (n, size) with inner products g P^-1 h of n gradients."""
        whitened = gradients / tf.sqrt(self.diagonal(prior_precision, scale))
        return tf.reshape(whitened, (tf.shape(gradients)[0], -1))


@dataclasses.dataclass(frozen=True)
class KroneckerPrecision:
    """P = scale * (A kron B) + diag(prior precision), in the eigenbasis of A kron B.

    With eigenvectors Q1 of A and Q2 of B the prior precision enters as its diagonal
    in that basis, d = (Q1^2)' D (Q2^2). That is exact where all entries share one
    precision; otherwise the log determinant is bounded from above, and the evidence
    from below.

    Attributes:
        input_values: Eigenvalues of A, shape (p,).
        input_vectors: Eigenvectors of A in columns, shape (p, p); None if A is
            diagonal.
        output_values: Eigenvalues of B, shape (q,).
        output_vectors: Eigenvectors of B in columns, shape (q, q).
        to_matrix: Lays a weight out as a (p, q) matrix.
        from_matrix: The inverse of `to_matrix`.
        shape: Shape of the weight.
    """

    input_values: tf.Tensor
    input_vectors: tf.Tensor | None
    output_values: tf.Tensor
    output_vectors: tf.Tensor
    to_matrix: Callable[[tf.Tensor], tf.Tensor]
    from_matrix: Callable[[tf.Tensor], tf.Tensor]
    shape: tuple[int, ...]

    def eigenvalues(self, prior_precision: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Eigenvalues of P, shape (p, q)."""
        curvature = self.input_values[:, None] * self.output_values
        return scale * curvature + self._in_eigenbasis(prior_precision)

    def log_det(self, prior_precision: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """Log determinant of P, a scalar."""
        return tf.reduce_sum(tf.math.log(self.eigenvalues(prior_precision, scale)))

    def diagonal(self, prior_precision: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        """The diagonal of P, with the shape of the weight."""
        eigenvalues = self.eigenvalues(prior_precision, scale)
        squares = None if self.input_vectors is None else self.input_vectors**2
        return self.from_matrix(
            _rotate(squares, eigenvalues, tf.transpose(self.output_vectors**2))
        )

    def draw(
        self, noise: tf.Tensor, prior_precision: tf.Tensor, scale: tf.Tensor
    ) -> tf.Tensor:
        """A draw from N(0, P^-1), made of standard normal noise of the same shape."""
        roots = tf.sqrt(self.eigenvalues(prior_precision, scale))
        standard = self.to_matrix(noise) / roots
        return self.from_matrix(
            _rotate(self.input_vectors, standard, tf.transpose(self.output_vectors))
        )

    def whiten(
        self, gradients: tf.Tensor, prior_precision: tf.Tensor, scale: tf.Tensor
    ) -> tf.Tensor:
        """Vectors of shape (n, size) with inner products g P^-1 h of n gradients."""
        matrices = tf.vectorized_map(self.to_matrix, gradients)
        rotated = _rotate(_transpose(self.input_vectors), matrices, self.output_vectors)
        whitened = rotated / tf.sqrt(self.eigenvalues(prior_precision, scale))
        return tf.reshape(whitened, (tf.shape(gradients)[0], -1))

    def _in_eigenbasis(self, prior_precision: tf.Tensor) -> tf.Tensor:
        if prior_precision.shape.num_elements() == 1:
            return tf.reshape(prior_precision, ())
        full = self.to_matrix(tf.broadcast_to(prior_precision, self.shape))
        squares = None if self.input_vectors is None else self.input_vectors**2
        return _rotate(_transpose(squares), full, self.output_vectors**2)


def posterior_precision(
    block: DiagonalBlock | KroneckerBlock, mask: np.ndarray
) -> DiagonalPrecision | KroneckerPrecision:
    """The posterior precision that a block of curvature belongs to.

    Args:
        block: The curvature; Kronecker factors are eigendecomposed here.
        mask: Array with the shape of the weight, 0 where it is pruned: entries that
            are certain have no curvature. Kronecker factors cannot tell them apart.

    Returns:
        The precision, in float64.
    """
    if isinstance(block, DiagonalBlock):
        return DiagonalPrecision(tf.cast(block.diagonal, tf.float64) * mask)
    return KroneckerPrecision(
        *_eigen(block.input_factor),
        *_eigen(block.output_factor),
        to_matrix=block.to_matrix,
        from_matrix=block.from_matrix,
        shape=tuple(block.shape),
    )


def _eigen(factor: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Eigenvalues and eigenvectors; None as vectors stands for the identity."""
    if factor is None:
        return tf.ones((1,), tf.float64), None
    if factor.shape.rank == 1:
        return tf.cast(factor, tf.float64), None
    # LAPACK's driver is several times faster than TensorFlow's on a CPU.
    values, vectors = np.linalg.eigh(np.asarray(factor, np.float64))
    # Rounding makes eigenvalues of a singular factor negative.
    return tf.constant(np.maximum(values, 0.0)), tf.constant(vectors)


def _transpose(matrix: tf.Tensor | None) -> tf.Tensor | None:
    return None if matrix is None else tf.transpose(matrix)


def _rotate(left: tf.Tensor | None, matrix: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """`left @ matrix @ right`, where None stands for the identity."""
    product = matrix @ right
    return product if left is None else left @ product
