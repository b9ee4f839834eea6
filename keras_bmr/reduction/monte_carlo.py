"""Monte Carlo estimate of the log Bayes factor, where no closed form is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction.checks import check_alike

tfd = tfp.distributions


class MonteCarloEstimate(NamedTuple):
    """A Monte Carlo estimate of delta_f.

    Attributes:
        delta_f: Tensor of the batch shape, in nats.
        standard_error: Tensor of the batch shape, the standard error of
            `delta_f` to first order. It is itself unreliable when it is not
            small: then few samples carry the whole weight.
    """

    delta_f: tf.Tensor
    standard_error: tf.Tensor


def monte_carlo_delta_f(
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    reduced_prior: tfd.Distribution,
    num_samples: int = 1000,
    seed: int | Sequence[int] | tf.Tensor | None = None,
) -> MonteCarloEstimate:
    """Estimates the log Bayes factor of a reduced prior by sampling.

        delta_f = log E_q[reduced_prior(theta) / prior(theta)]

    with the mean over samples of the posterior `q`, on the logarithmic scale.
    Same sign as `model_reduction`: positive favours the reduced model. The
    variance explodes as the reduced prior gets narrow against the posterior;
    watch the standard error.

    Args:
        posterior: `tfd` distribution that can be sampled.
        prior: `tfd` distribution; batch shape broadcasts with the posterior's.
        reduced_prior: `tfd` distribution with a density; broadcasts likewise.
        num_samples: Number of samples, at least 2.
        seed: Seed of `posterior.sample`, an integer or a pair of integers; the
            same seed gives the same estimate.

    Returns:
        A `MonteCarloEstimate` of `delta_f` and its standard error.

    Raises:
        TypeError: If an argument is not a distribution.
        ValueError: If `num_samples` is below 2, data types or event shapes
            differ, an argument is a point mass, or the ratio of the priors is NaN
            or infinite at a sample (not checked inside a `tf.function`).

    Example:
    >>> tfd = tfp.distributions
    >>> estimate = monte_carlo_delta_f(
    ...     tfd.Gamma(9.0, 3.0), tfd.Gamma(2.0, 2.0), tfd.Gamma(3.0, 3.0), 500, seed=1
    ... )
    >>> bool(estimate.standard_error < 0.1)
    True
    """
    if not isinstance(num_samples, int) or num_samples < 2:
        raise ValueError(
            "`num_samples` must be an integer of at least 2, one sample has no "
            f"standard error. Received: num_samples={num_samples}"
        )
    check_alike(posterior, prior, reduced_prior)
    for name, argument in (
        ("posterior", posterior),
        ("prior", prior),
        ("reduced_prior", reduced_prior),
    ):
        if isinstance(argument, tfd.Deterministic | tfd.VectorDeterministic):
            raise ValueError(
                f"`{name}` is a point mass, which has no density to average. "
                f"Received: {type(argument).__name__}. Use `model_reduction`: it has "
                "the exact Savage-Dickey ratio for a reduced prior of this type."
            )

    if isinstance(seed, int):
        seed = tfp.random.sanitize_seed([seed, 0])
    samples = posterior.sample(num_samples, seed=seed)
    # Keep the sample axis in front of every broadcast batch dimension.
    rank = max(d.batch_shape.rank for d in (posterior, prior, reduced_prior))
    for _ in range(rank - posterior.batch_shape.rank):
        samples = tf.expand_dims(samples, axis=1)
    log_ratio = reduced_prior.log_prob(samples) - prior.log_prob(samples)
    if tf.executing_eagerly() and not bool(tf.reduce_all(log_ratio < float("inf"))):
        count = int(tf.math.count_nonzero(~(log_ratio < float("inf"))))
        raise ValueError(
            "The ratio of reduced prior and prior must be finite at samples of the "
            f"posterior. Received: NaN or infinity for {count} of "
            f"{log_ratio.shape.num_elements()} samples. Check the parameters for NaN, "
            "and that the prior has a density wherever the posterior has one."
        )

    log_count = tf.math.log(tf.cast(num_samples, log_ratio.dtype))
    delta_f = tf.reduce_logsumexp(log_ratio, axis=0) - log_count
    relative = tf.exp(log_ratio - delta_f)
    variance = tf.reduce_sum(tf.square(relative - 1), axis=0) / (num_samples - 1)
    return MonteCarloEstimate(delta_f, tf.sqrt(variance / num_samples))
