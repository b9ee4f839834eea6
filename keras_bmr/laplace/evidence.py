"""The Laplace approximation of the log evidence, term by term."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class EvidenceTerms(NamedTuple):
    """What the log marginal likelihood is made of. All are float64 scalars, in nats.

    Attributes:
        log_likelihood: log p(data | weights), divided by the temperature.
        scatter: theta' D theta, for weights theta and prior precisions D.
        log_det_ratio: log det(P) - log det(D), for the posterior precision P.
    """

    log_likelihood: tf.Tensor
    scatter: tf.Tensor
    log_det_ratio: tf.Tensor

    @property
    def log_marginal_likelihood(self) -> tf.Tensor:
        """log_likelihood - (scatter + log_det_ratio) / 2."""
        return self.log_likelihood - 0.5 * (self.scatter + self.log_det_ratio)


def evidence_terms(
    log_likelihood: tf.Tensor,
    weights: Sequence[tf.Tensor],
    posterior_precisions: Sequence,
    prior_precisions: Sequence[tf.Tensor],
    curvature_scale: tf.Tensor,
) -> EvidenceTerms:
    """The terms of the log evidence under given prior precisions.

    Args:
        log_likelihood: Scalar, already divided by the temperature.
        weights: One float64 tensor per weight, the mode of the posterior.
        posterior_precisions: One `DiagonalPrecision` or `KroneckerPrecision` each.
        prior_precisions: One float64 tensor each, which broadcasts to its shape.
        curvature_scale: Scalar factor of the curvature.

    Returns:
        `EvidenceTerms`; gradients pass to all arguments that are tensors.

    References:
        MacKay, Bayesian interpolation, Neural Computation 4, 1992, section 3;
        arXiv 2402.15978, equation 4.
    """
    scatter = tf.zeros((), tf.float64)
    log_det_ratio = tf.zeros((), tf.float64)
    for weight, posterior, prior in zip(
        weights, posterior_precisions, prior_precisions, strict=True
    ):
        # A precision that n entries share counts n times.
        repeats = weight.shape.num_elements() / prior.shape.num_elements()
        scatter += tf.reduce_sum(prior * weight**2)
        log_det_ratio += posterior.log_det(prior, curvature_scale)
        log_det_ratio -= repeats * tf.reduce_sum(tf.math.log(prior))
    return EvidenceTerms(log_likelihood, scatter, log_det_ratio)


def gaussian_log_likelihood(
    unit_noise_log_likelihood: tf.Tensor, num_targets: int, noise: tf.Tensor
) -> tf.Tensor:
    """The log likelihood of targets under Gaussian noise of any scale.

    Args:
        unit_noise_log_likelihood: Scalar, the log likelihood with standard
            deviation 1 and its constant.
        num_targets: Number of scalar targets, examples times outputs.
        noise: Scalar, the standard deviation in units of the targets.

    Returns:
        Float64 scalar.
    """
    constant = -0.5 * num_targets * math.log(2 * math.pi)
    half_squares = constant - unit_noise_log_likelihood
    return constant - num_targets * tf.math.log(noise) - half_squares / noise**2
