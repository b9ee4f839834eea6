"""Model reduction of truncated log-normal noise with a log-uniform prior (BMRS)."""

from __future__ import annotations

import tensorflow as tf

from keras_bmr.distributions.log_uniform import LogUniform
from keras_bmr.distributions.numerics import interval_quadrature
from keras_bmr.distributions.truncated_log_normal import TruncatedLogNormal
from keras_bmr.reduction.checks import check_finite, check_positive
from keras_bmr.reduction.model_reduction import Reduction, RegisterModelReduction


@RegisterModelReduction(TruncatedLogNormal, LogUniform, TruncatedLogNormal)
def reduce_to_truncated_log_normal(
    posterior: TruncatedLogNormal,
    prior: LogUniform,
    reduced_prior: TruncatedLogNormal,
) -> Reduction:
    """Returns the reduction of noise to a narrow log-normal prior (BMRS_N).

    On x = log(theta), with a posterior N(mu, s^2) on [a, b], a log-uniform prior
    of length L and a reduced prior N(mt, st^2) on [at, bt], the product of the two
    Gaussians has variance `sc^2 = s^2 st^2 / (s^2 + st^2)` and mean
    `mc = mt + (mu - mt) st^2 / (s^2 + st^2)`. With I(.) the integral over the
    interval of a density scaled to 1 at its mode, and x0, xc, xr the modes,

        delta_f = log(L I(mc, sc) / (I(mu, s) I(mt, st)))
                  + (x0 - xc) (x0 + xc - 2 mu) / (2 s^2)
                  + [(xr - mt)^2 - (xc - mt)^2] / (2 st^2)

    equal to the published form, whose terms are of order 1e14 and cancel. For
    `st -> 0` it tends to `log(L q(mt))`, a Savage-Dickey ratio (one-sided, hence
    doubled, where mt is a bound). The reduced posterior is the truncated
    log-normal of mc and sc.

    Args:
        posterior: `TruncatedLogNormal`, the posterior under `prior`.
        prior: `LogUniform` whose bounds enclose the posterior's.
        reduced_prior: `TruncatedLogNormal` with bounds within the posterior's.

    Returns:
        A `Reduction`; its posterior is a `TruncatedLogNormal`.

    Raises:
        ValueError: If a parameter is not finite, a scale not positive, or the
            supports are not nested. Inside a `tf.function` entries with supports
            that are not nested are NaN.

    Example:
    >>> reduction = reduce_to_truncated_log_normal(
    ...     TruncatedLogNormal(-15.0, 5.0, -20.0, 0.0),
    ...     LogUniform(-20.0, 0.0),
    ...     TruncatedLogNormal(-20.0, 1e-6, -20.0, 0.0),
    ... )
    >>> print(f"{reduction.delta_f.numpy():.4f}")
    0.1417

    References:
        Wright, Igel, Selvan. BMRS: Bayesian model reduction for structured
        pruning. arXiv:2406.01345, section 4.
    """
    nested = _check_parameters(posterior, prior, reduced_prior)
    loc, scale = _double(posterior.loc), _double(posterior.scale)
    reduced_loc = _double(reduced_prior.loc)
    reduced_scale = _double(reduced_prior.scale)
    low, high = _double(reduced_prior.log_low), _double(reduced_prior.log_high)
    check_finite(reduced_prior_loc=reduced_loc)
    check_positive(reduced_prior_scale=reduced_scale)

    total = tf.sqrt(tf.square(scale) + tf.square(reduced_scale))
    product_scale = scale * (reduced_scale / total)
    pull = (loc - reduced_loc) * tf.square(reduced_scale / total)
    # Measured from the reduced location, which a narrow prior may sit on exactly.
    origin = tf.zeros_like(pull)
    product = interval_quadrature(
        pull, product_scale, low - reduced_loc, high - reduced_loc
    )
    reduced = interval_quadrature(
        origin, reduced_scale + origin, low - reduced_loc, high - reduced_loc
    )
    full = interval_quadrature(
        loc, scale, _double(posterior.log_low), _double(posterior.log_high)
    )

    to_product = full.anchor - reduced_loc - product.anchor
    misfit = 0.5 * (to_product / scale)
    misfit *= (to_product + 2 * (reduced_loc - loc + product.anchor)) / scale
    misfit += 0.5 * (
        tf.square(reduced.anchor / reduced_scale)
        - tf.square(product.anchor / reduced_scale)
    )
    prior_length = _double(prior.log_high) - _double(prior.log_low)
    delta_f = (
        tf.math.log(prior_length / full.width)
        - full.log_average()
        + tf.math.log(product.width / reduced.width)
        + product.log_average()
        - reduced.log_average()
        + misfit
    )
    dtype = posterior.dtype
    return Reduction(
        _where_nested(nested, delta_f, dtype),
        TruncatedLogNormal(
            tf.cast(reduced_loc + pull, dtype),
            tf.cast(product_scale, dtype),
            reduced_prior.log_low,
            reduced_prior.log_high,
        ),
    )


@RegisterModelReduction(TruncatedLogNormal, LogUniform, LogUniform)
def reduce_to_log_uniform(
    posterior: TruncatedLogNormal, prior: LogUniform, reduced_prior: LogUniform
) -> Reduction:
    """Returns the reduction of noise to a shorter log-uniform prior (BMRS_U).

    With the posterior's mass before truncation `Z(., .)` on an interval,

        delta_f = log(L / L') + log Z(a', b') - log Z(a, b)

    where [a', b'] are the bounds of the reduced prior, L' their distance and L the
    length of the prior. The reduced posterior is the same Gaussian truncated to
    [a', b'].

    A published choice is `a' = log 2^-23`, above the usual `a = -20`. A unit that
    collapsed onto `a` then lies outside the reduced support and gets a very
    negative `delta_f`. With `a' = a` it counts as reducible.

    Args:
        posterior: `TruncatedLogNormal`, the posterior under `prior`.
        prior: `LogUniform` whose bounds enclose the posterior's.
        reduced_prior: `LogUniform` with bounds within the posterior's.

    Returns:
        A `Reduction`; its posterior is a `TruncatedLogNormal`.

    Raises:
        ValueError: If a parameter is not finite, a scale not positive, or the
            supports are not nested. Inside a `tf.function` entries with supports
            that are not nested are NaN.

    Example:
    >>> reduction = reduce_to_log_uniform(
    ...     TruncatedLogNormal(-19.5, 0.3, -20.0, 0.0),
    ...     LogUniform(-20.0, 0.0),
    ...     LogUniform(-20.0, -5.545177),
    ... )
    >>> print(f"{reduction.delta_f.numpy():.4f}")
    0.3247

    References:
        Wright, Igel, Selvan. BMRS: Bayesian model reduction for structured
        pruning. arXiv:2406.01345, section 4.
    """
    nested = _check_parameters(posterior, prior, reduced_prior)
    loc, scale = _double(posterior.loc), _double(posterior.scale)
    low, high = _double(reduced_prior.log_low), _double(reduced_prior.log_high)
    full = interval_quadrature(
        loc, scale, _double(posterior.log_low), _double(posterior.log_high)
    )
    part = interval_quadrature(loc, scale, low, high)

    drop = 0.5 * ((part.anchor - full.anchor) / scale)
    drop *= (part.anchor + full.anchor - 2 * loc) / scale
    prior_length = _double(prior.log_high) - _double(prior.log_low)
    delta_f = (
        tf.math.log((prior_length / full.width) / ((high - low) / part.width))
        + part.log_average()
        - full.log_average()
        - drop
    )
    return Reduction(
        _where_nested(nested, delta_f, posterior.dtype),
        TruncatedLogNormal(
            posterior.loc,
            posterior.scale,
            reduced_prior.log_low,
            reduced_prior.log_high,
        ),
    )


def _double(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(value, tf.float64)


def _where_nested(nested: tf.Tensor, delta_f: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.cast(tf.where(nested, delta_f, float("nan")), dtype)


def _check_parameters(
    posterior: TruncatedLogNormal,
    prior: LogUniform,
    reduced_prior: TruncatedLogNormal | LogUniform,
) -> tf.Tensor:
    """Checks the values and returns whether the supports are nested."""
    check_finite(posterior_loc=posterior.loc)
    check_positive(posterior_scale=posterior.scale)
    nested = (
        (prior.log_low <= posterior.log_low)
        & (posterior.log_low <= reduced_prior.log_low)
        & (reduced_prior.log_high <= posterior.log_high)
        & (posterior.log_high <= prior.log_high)
    )
    if tf.executing_eagerly() and not bool(tf.reduce_all(nested)):
        bounds = [
            f"[{d.log_low.numpy()}, {d.log_high.numpy()}]"
            for d in (prior, posterior, reduced_prior)
        ]
        raise ValueError(
            "The log bounds must be nested: prior encloses posterior encloses reduced "
            f"prior. Received: prior {bounds[0]}, posterior {bounds[1]}, reduced prior "
            f"{bounds[2]}"
        )
    return nested
