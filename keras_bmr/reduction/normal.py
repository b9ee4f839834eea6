"""Model reduction of Normal posteriors with Normal priors."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction.checks import check_finite, check_positive, check_proper
from keras_bmr.reduction.model_reduction import Reduction, RegisterModelReduction

tfd = tfp.distributions


@RegisterModelReduction(tfd.Normal, tfd.Normal, tfd.Normal)
def reduce_normal(
    posterior: tfd.Normal, prior: tfd.Normal, reduced_prior: tfd.Normal
) -> Reduction:
    """Returns the reduction of a Normal posterior to another Normal prior.

    For a posterior `N(mu, s2)`, prior `N(m0, v0)` and reduced prior `N(m1, v1)`
    let `a = s2 / v0` and `r = v1 / v0`. With

        T = a + r - a r = 1 - (1 - a) (1 - r)
        delta_f = -log(T) / 2 - [(mu-m1)^2 - r (mu-m0)^2 - a (m1-m0)^2] / (2 v0 T)
        reduced variance = r s2 / T
        reduced mean = m1 + r [(mu - m1) + a (m1 - m0)] / T

    This is the textbook form with `T = M s2 / v0`, `M = 1 + v1/s2 - v1/v0`,
    written in ratios to the prior: nothing large cancels, so float32 suffices,
    and `r = 1`, `m1 = m0` gives exactly 0. The reduced posterior is improper
    unless `M > 0`.

    Args:
        posterior: `tfd.Normal`, the posterior under `prior`.
        prior: `tfd.Normal`, the full prior; broadcasts against `posterior`.
        reduced_prior: `tfd.Normal`, the reduced prior; broadcasts likewise.

    Returns:
        A `Reduction`; its posterior is a `tfd.Normal`.

    Raises:
        ValueError: If a parameter is not finite, a scale not positive, or the
            reduced posterior improper. Inside a `tf.function` the entries
            concerned are NaN instead.

    Example:
    >>> reduction = reduce_normal(
    ...     tfd.Normal(0.2, 0.05**0.5), tfd.Normal(0.0, 2.0), tfd.Normal(0.0, 0.3**0.5)
    ... )
    >>> print(f"{reduction.delta_f.numpy():.4f}")
    1.1700

    References:
        Friston, Parr, Zeidman. Bayesian model reduction. arXiv:1805.07092,
        section 2.2.
    """
    mean, scale = tf.convert_to_tensor(posterior.loc), _scale(posterior)
    prior_mean, prior_scale = tf.convert_to_tensor(prior.loc), _scale(prior)
    reduced_mean = tf.convert_to_tensor(reduced_prior.loc)
    reduced_scale = _scale(reduced_prior)
    check_finite(
        posterior_loc=mean, prior_loc=prior_mean, reduced_prior_loc=reduced_mean
    )
    check_positive(
        posterior_scale=scale,
        prior_scale=prior_scale,
        reduced_prior_scale=reduced_scale,
    )

    posterior_ratio = tf.square(scale / prior_scale)
    reduced_ratio = tf.square(reduced_scale / prior_scale)
    # Products of sums rather than 1 - ratio: exact where the scales are close.
    posterior_gap = _gap(scale, prior_scale)
    reduced_gap = _gap(reduced_scale, prior_scale)
    product = posterior_gap * reduced_gap
    # Of the two forms of T take the one that does not cancel.
    close = tf.abs(product) < 0.5
    total = tf.where(
        close, 1 - product, posterior_ratio + reduced_ratio * posterior_gap
    )
    check_proper(
        total / posterior_ratio,
        "1 + (reduced prior variance) / (posterior variance) "
        "- (reduced prior variance) / (prior variance)",
    )
    # The inner where keeps the gradient of the branch not taken finite.
    log_total = tf.where(
        close, tf.math.log1p(-tf.where(close, product, 0.0)), tf.math.log(total)
    )

    offset = (mean - prior_mean) / prior_scale
    reduced_offset = (mean - reduced_mean) / prior_scale
    shift = (reduced_mean - prior_mean) / prior_scale
    # Two equal forms of (offset - shift)^2 - reduced_ratio * offset^2: the first
    # cancels where the reduced prior is nearly the prior, the second elsewhere.
    misfit = tf.where(
        reduced_ratio < 0.5,
        tf.square(reduced_offset) - reduced_ratio * tf.square(offset),
        reduced_gap * tf.square(offset) - shift * (offset + reduced_offset),
    )
    misfit -= posterior_ratio * tf.square(shift)
    delta_f = -0.5 * (log_total + misfit / total)

    weight = reduced_ratio / total
    return Reduction(
        delta_f,
        tfd.Normal(
            loc=reduced_mean
            + weight * prior_scale * (reduced_offset + posterior_ratio * shift),
            scale=scale * tf.sqrt(weight),
        ),
    )


def _scale(distribution: tfd.Normal) -> tf.Tensor:
    return tf.convert_to_tensor(distribution.scale)


def _gap(scale: tf.Tensor, prior_scale: tf.Tensor) -> tf.Tensor:
    """Returns 1 - (scale / prior_scale)^2 without cancellation."""
    return (prior_scale - scale) / prior_scale * ((prior_scale + scale) / prior_scale)
