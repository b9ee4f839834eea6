"""Model reduction to a point mass: the Savage-Dickey density ratio."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction.checks import check_finite, check_positive
from keras_bmr.reduction.model_reduction import Reduction, RegisterModelReduction

tfd = tfp.distributions


@RegisterModelReduction(tfd.Distribution, tfd.Distribution, tfd.VectorDeterministic)
@RegisterModelReduction(tfd.Distribution, tfd.Distribution, tfd.Deterministic)
def reduce_to_point(
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    reduced_prior: tfd.Deterministic | tfd.VectorDeterministic,
) -> Reduction:
    """Returns the reduction of any posterior to a fixed value `t0`.

        delta_f = log q(t0) - log p(t0)

    Args:
        posterior: Any `tfd` distribution with a `log_prob`.
        prior: Any `tfd` distribution with a finite, non-zero density at `t0`.
        reduced_prior: `tfd.Deterministic`, or `tfd.VectorDeterministic` for a
            vector; its `loc` is `t0`.

    Returns:
        A `Reduction`; its posterior is the point mass. `delta_f` is `-inf`
        where the posterior excludes `t0`.

    Raises:
        ValueError: If the posterior or prior is a point mass itself, if the prior
            density at `t0` is zero or infinite, or the posterior's infinite or
            NaN. Inside a `tf.function` such entries are NaN.

    Example:
    >>> reduction = reduce_to_point(
    ...     tfd.Laplace(0.0, 0.1), tfd.StudentT(3.0, 0.0, 1.0), tfd.Deterministic(0.0)
    ... )
    >>> print(f"{reduction.delta_f.numpy():.4f}")
    2.6103

    References:
        Dickey. The weighted likelihood ratio, linear hypotheses on normal
        location parameters. Annals of Mathematical Statistics 42 (1971).
    """
    points = (tfd.Deterministic, tfd.VectorDeterministic)
    if isinstance(posterior, points) or isinstance(prior, points):
        raise ValueError(
            "The Savage-Dickey ratio needs densities: posterior and prior must not be "
            f"point masses. Received: {type(posterior).__name__} and "
            f"{type(prior).__name__}"
        )
    point = tf.convert_to_tensor(reduced_prior.loc)
    check_finite(reduced_prior_loc=point)
    log_prior = prior.log_prob(point)
    log_posterior = posterior.log_prob(point)
    if tf.executing_eagerly():
        if not bool(tf.reduce_all(tf.math.is_finite(log_prior))):
            raise ValueError(
                "The prior density must be finite and non-zero at the point mass, or "
                "the Savage-Dickey ratio does not exist. Received: log density "
                f"{_first_bad(log_prior)} of {type(prior).__name__}. Move the point "
                "into the prior's support, or use a narrow reduced prior instead."
            )
        if not bool(tf.reduce_all(log_posterior < float("inf"))):
            raise ValueError(
                "The posterior density must be finite at the point mass. Received: "
                f"log density {_first_bad(log_posterior)} of "
                f"{type(posterior).__name__}"
            )
    defined = tf.math.is_finite(log_prior) & (log_posterior < float("inf"))
    delta_f = tf.where(defined, log_posterior - log_prior, float("nan"))
    return Reduction(delta_f, _point_mass(reduced_prior, point, delta_f))


@RegisterModelReduction(tfd.Normal, tfd.Normal, tfd.Deterministic)
def reduce_normal_to_point(
    posterior: tfd.Normal, prior: tfd.Normal, reduced_prior: tfd.Deterministic
) -> Reduction:
    """Returns the reduction of a Normal posterior to a fixed value `t0`.

    For a posterior `N(mu, s^2)` and prior `N(m0, s0^2)`, written so that a
    posterior close to the prior gives a small number without cancellation:

        x = (t0 - mu) / s,  x0 = (t0 - m0) / s0
        delta_f = log(s0 / s) + (x0 - x) (x0 + x) / 2

    Args:
        posterior: `tfd.Normal`, the posterior under `prior`.
        prior: `tfd.Normal`; broadcasts against `posterior`.
        reduced_prior: `tfd.Deterministic`; broadcasts likewise.

    Returns:
        A `Reduction`; its posterior is the point mass.

    Raises:
        ValueError: If a parameter is not finite or a scale not positive.

    Example:
    >>> reduction = reduce_normal_to_point(
    ...     tfd.Normal(0.3, 0.2), tfd.Normal(0.0, 1.0), tfd.Deterministic(0.0)
    ... )
    >>> print(f"{reduction.delta_f.numpy():.4f}")
    0.4844

    References:
        Dickey. The weighted likelihood ratio, linear hypotheses on normal
        location parameters. Annals of Mathematical Statistics 42 (1971).
    """
    mean, scale = map(tf.convert_to_tensor, (posterior.loc, posterior.scale))
    prior_mean, prior_scale = map(tf.convert_to_tensor, (prior.loc, prior.scale))
    point = tf.convert_to_tensor(reduced_prior.loc)
    check_finite(posterior_loc=mean, prior_loc=prior_mean, reduced_prior_loc=point)
    check_positive(posterior_scale=scale, prior_scale=prior_scale)

    offset = (point - mean) / scale
    prior_offset = (point - prior_mean) / prior_scale
    growth = (prior_scale - scale) / scale
    close = tf.abs(growth) < 0.5
    log_ratio = tf.where(
        close,
        tf.math.log1p(tf.where(close, growth, 0.0)),
        tf.math.log(prior_scale) - tf.math.log(scale),
    )
    difference = tf.where(
        close,
        (mean - prior_mean) / scale - growth * prior_offset,
        prior_offset - offset,
    )
    delta_f = log_ratio + 0.5 * difference * (prior_offset + offset)
    return Reduction(delta_f, _point_mass(reduced_prior, point, delta_f))


def _point_mass(
    reduced_prior: tfd.Deterministic | tfd.VectorDeterministic,
    point: tf.Tensor,
    delta_f: tf.Tensor,
) -> tfd.Deterministic | tfd.VectorDeterministic:
    """Returns the point mass with the batch shape of `delta_f`."""
    event_rank = reduced_prior.event_shape.rank
    event = tf.shape(point)[tf.rank(point) - event_rank :]
    shape = tf.concat([tf.shape(delta_f), event], axis=0)
    family = tfd.VectorDeterministic if event_rank else tfd.Deterministic
    return family(tf.broadcast_to(point, shape))


def _first_bad(log_density: tf.Tensor) -> float:
    bad = ~tf.math.is_finite(log_density) | tf.math.is_nan(log_density)
    return float(
        tf.boolean_mask(log_density, bad)[0] if bad.shape.rank else log_density
    )
