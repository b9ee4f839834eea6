"""Model reduction of multivariate normal posteriors with such priors."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction.checks import check_finite, check_proper
from keras_bmr.reduction.model_reduction import Reduction, RegisterModelReduction

tfd = tfp.distributions

_TRIANGULAR = (
    tf.linalg.LinearOperatorLowerTriangular,
    tf.linalg.LinearOperatorDiag,
    tf.linalg.LinearOperatorIdentity,
    tf.linalg.LinearOperatorScaledIdentity,
)


@RegisterModelReduction(
    tfd.MultivariateNormalLinearOperator,
    tfd.MultivariateNormalLinearOperator,
    tfd.MultivariateNormalLinearOperator,
)
def reduce_multivariate_normal(
    posterior: tfd.MultivariateNormalLinearOperator,
    prior: tfd.MultivariateNormalLinearOperator,
    reduced_prior: tfd.MultivariateNormalLinearOperator,
) -> Reduction:
    """Returns the reduction of a multivariate normal posterior to another prior.

    With covariances `S`, `V0`, `V1`, the Cholesky factors `Lq`, `L0`, `L1` and,
    in coordinates that whiten the prior,

        A = L0^-1 S L0^-T,  R = L0^-1 V1 L0^-T,  T = A + R - A R
        e = L0^-1 (mu - m0),  d = L0^-1 (m1 - m0)
        delta_f = -1/2 log|T| - 1/2 [e' T^-T ((I - R) e - 2 d) + d' T^-1 (I - A) d]

    the matrix form of the rule for `tfd.Normal`. `T` is not symmetric; solves
    and determinant go through the Cholesky factor of

        M = L1' (S^-1 + V1^-1 - V0^-1) L1 = I + L1' S^-1 L1 - L1' V0^-1 L1

    which inverts no reduced prior, so that a very narrow one is harmless. It
    must be positive definite, else the reduced posterior is improper. The
    reduced posterior has covariance `L1 M^-1 L1'`. All is computed in float64
    and cast back.

    Args:
        posterior: Multivariate normal with batch shape `B` and event shape `[n]`.
        prior: Multivariate normal, batch shape broadcastable with `B`.
        reduced_prior: Multivariate normal, batch shape broadcastable with `B`.

    Returns:
        A `Reduction`; its posterior is a `tfd.MultivariateNormalTriL`.

    Raises:
        ValueError: If a parameter is not finite or the reduced posterior improper.
            Inside a `tf.function` the Cholesky factorisation fails when run, or
            gives NaN under XLA.

    Example:
    >>> import numpy as np
    >>> reduction = reduce_multivariate_normal(
    ...     tfd.MultivariateNormalTriL(np.ones(2), 0.1 * np.eye(2)),
    ...     tfd.MultivariateNormalDiag(np.zeros(2), 2 * np.ones(2)),
    ...     tfd.MultivariateNormalDiag(np.zeros(2), np.ones(2)),
    ... )
    >>> print(f"{reduction.delta_f.numpy():.4f}")
    0.6344

    References:
        Friston, Parr, Zeidman. Bayesian model reduction. arXiv:1805.07092,
        section 2.2.
    """
    batch_shape = tf.broadcast_dynamic_shape(
        tf.broadcast_dynamic_shape(
            posterior.batch_shape_tensor(), prior.batch_shape_tensor()
        ),
        reduced_prior.batch_shape_tensor(),
    )
    mean, factor = _parameters(posterior, batch_shape)
    prior_mean, prior_factor = _parameters(prior, batch_shape)
    reduced_mean, reduced_factor = _parameters(reduced_prior, batch_shape)
    check_finite(
        posterior_loc=mean,
        posterior_scale=factor,
        prior_loc=prior_mean,
        prior_scale=prior_factor,
        reduced_prior_loc=reduced_mean,
        reduced_prior_scale=reduced_factor,
    )

    identity = tf.eye(tf.shape(mean)[-2], dtype=mean.dtype)
    to_posterior = _solve(factor, reduced_factor)
    to_prior = _solve(prior_factor, reduced_factor)
    precision = (
        identity
        + tf.matmul(to_posterior, to_posterior, transpose_a=True)
        - tf.matmul(to_prior, to_prior, transpose_a=True)
    )
    if tf.executing_eagerly():
        check_proper(
            tf.linalg.eigvalsh(precision)[..., 0],
            "the smallest eigenvalue of L' (posterior precision + reduced prior "
            "precision - prior precision) L, L the reduced prior's Cholesky factor,",
        )
    precision_factor = tf.linalg.cholesky(precision)

    def solve_total(whitened_by_posterior: tf.Tensor) -> tf.Tensor:
        """Returns T^-1 x, given Lq^-1 L0 x."""
        inner = tf.linalg.cholesky_solve(
            precision_factor,
            tf.matmul(to_posterior, whitened_by_posterior, transpose_a=True),
        )
        return _solve(to_prior, inner, adjoint=True)

    offset = _solve(prior_factor, mean - prior_mean)
    shift = _solve(prior_factor, reduced_mean - prior_mean)
    shift_by_posterior = _solve(factor, reduced_mean - prior_mean)
    posterior_to_prior = _solve(prior_factor, factor)
    solved_offset = solve_total(_solve(factor, mean - prior_mean))
    solved_shift = solve_total(
        shift_by_posterior - tf.matmul(posterior_to_prior, shift, transpose_a=True)
    )
    shrunk_offset = offset - tf.matmul(
        to_prior, tf.matmul(to_prior, offset, transpose_a=True)
    )
    misfit = tf.reduce_sum(
        solved_offset * (shrunk_offset - 2 * shift) + shift * solved_shift,
        axis=[-2, -1],
    )
    log_total = 2 * (
        _log_determinant(factor)
        - _log_determinant(prior_factor)
        + _log_determinant(precision_factor)
    )

    correction = tf.linalg.cholesky_solve(
        precision_factor,
        tf.matmul(to_posterior, _solve(factor, mean - reduced_mean), transpose_a=True)
        + tf.matmul(to_prior, shift, transpose_a=True),
    )
    root = _solve(precision_factor, tf.linalg.matrix_transpose(reduced_factor))
    dtype = posterior.dtype
    return Reduction(
        tf.cast(-0.5 * (log_total + misfit), dtype),
        tfd.MultivariateNormalTriL(
            loc=tf.cast(
                (reduced_mean + tf.matmul(reduced_factor, correction))[..., 0], dtype
            ),
            scale_tril=tf.cast(
                tf.linalg.cholesky(tf.matmul(root, root, transpose_a=True)), dtype
            ),
        ),
    )


def _parameters(
    distribution: tfd.MultivariateNormalLinearOperator, batch_shape: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean `[..., n, 1]` and lower triangular factor in float64."""
    mean = tf.cast(distribution.mean(), tf.float64)[..., tf.newaxis]
    factor = tf.cast(distribution.scale.to_dense(), tf.float64)
    if not isinstance(distribution.scale, _TRIANGULAR):
        factor = tf.linalg.cholesky(tf.matmul(factor, factor, transpose_b=True))
    return tuple(
        tf.broadcast_to(value, tf.concat([batch_shape, tf.shape(value)[-2:]], 0))
        for value in (mean, factor)
    )


def _solve(
    factor: tf.Tensor, right_side: tf.Tensor, adjoint: bool = False
) -> tf.Tensor:
    return tf.linalg.triangular_solve(factor, right_side, adjoint=adjoint)


def _log_determinant(factor: tf.Tensor) -> tf.Tensor:
    diagonal = tf.linalg.diag_part(factor)
    return tf.reduce_sum(tf.math.log(tf.abs(diagonal)), axis=-1)
