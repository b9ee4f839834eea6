"""Model reduction of independent distributions with several event dimensions."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction.model_reduction import (
    Reduction,
    RegisterModelReduction,
    model_reduction,
)

tfd = tfp.distributions


@RegisterModelReduction(tfd.Independent, tfd.Independent, tfd.Independent)
def reduce_independent(
    posterior: tfd.Independent,
    prior: tfd.Independent,
    reduced_prior: tfd.Independent,
) -> Reduction:
    """Returns the reduction of independent parameters reduced together.

    The log Bayes factor of independent parameters is the sum of theirs, taken
    over the reinterpreted batch dimensions.

    Args:
        posterior: `tfd.Independent` over any family with a rule.
        prior: `tfd.Independent` with the same event shape.
        reduced_prior: `tfd.Independent` with the same event shape.

    Returns:
        A `Reduction`; its posterior is a `tfd.Independent`.

    Raises:
        ValueError: If the wrapped distributions have different event ranks, or
            whatever the rule of the wrapped distributions raises.

    Example:
    >>> def independent(scale):
    ...     return tfd.Independent(tfd.Normal([0.0, 0.0], scale), 1)
    >>> reduction = reduce_independent(
    ...     independent(0.1), independent(2.0), independent(1.0)
    ... )
    >>> print(f"{reduction.delta_f.numpy():.4f}")
    1.3788
    """
    arguments = (posterior, prior, reduced_prior)
    inner = [argument.distribution for argument in arguments]
    ranks = [distribution.event_shape.rank for distribution in inner]
    if len(set(ranks)) > 1:
        raise ValueError(
            "The distributions inside `tfd.Independent` must have event shapes of the "
            "same rank, so that the same dimensions are independent in all three. "
            f"Received ranks: {ranks} for posterior, prior and reduced prior."
        )
    num_dimensions = posterior.event_shape.rank - ranks[0]
    reduction = model_reduction(*inner)
    return Reduction(
        tf.reduce_sum(reduction.delta_f, axis=list(range(-num_dimensions, 0))),
        tfd.Independent(reduction.posterior, reinterpreted_batch_ndims=num_dimensions),
    )
