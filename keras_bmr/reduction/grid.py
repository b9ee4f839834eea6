"""Model reduction to a grid: what it costs to store weights in few bits."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.discrete_normal import DiscreteNormal
from keras_bmr.distributions.grid import Grid
from keras_bmr.reduction.model_reduction import Reduction, RegisterModelReduction
from keras_bmr.reduction.normal import reduce_normal

tfd = tfp.distributions


@RegisterModelReduction(tfd.Normal, tfd.Normal, DiscreteNormal)
def reduce_to_discrete_normal(
    posterior: tfd.Normal, prior: tfd.Normal, reduced_prior: DiscreteNormal
) -> Reduction:
    """Returns the reduction of a Normal posterior to an infinite grid.

    With the masses `w_k = r(t_k) / sum_j r(t_j)` of a Normal density r,

        delta_f = log sum_k w_k q(t_k) / p(t_k)
                = log E_q[r / p] + log h sum_k q~(t_k) - log h sum_k r(t_k)

    where q~ is the posterior under r. With the prior's own masses, r = p, the first
    term is 0 and q~ is q: the price of the grid is what the trapezoidal rule misses of
    q. It vanishes for steps up to about two scales of the posterior, however far the
    posterior is from a point; beyond, it tends to the Savage-Dickey ratio of the
    nearest point and the mass there.

    Args:
        posterior: `tfd.Normal`, the posterior under `prior`.
        prior: `tfd.Normal`; broadcasts against `posterior`.
        reduced_prior: `DiscreteNormal`; broadcasts likewise.

    Returns:
        A `Reduction`; its posterior is a `DiscreteNormal` on the same grid, whose
        mode is the most probable value.

    Raises:
        ValueError: If a parameter is not finite, a scale is not positive, or the
            reduced posterior is improper.

    Example:
    >>> posterior, prior = tfd.Normal(0.3, 0.1), tfd.Normal(0.0, 1.0)
    >>> for step in (0.1, 0.25, 1.0):
    ...     grid = DiscreteNormal(prior.loc, prior.scale, step)
    ...     delta_f = reduce_to_discrete_normal(posterior, prior, grid).delta_f
    ...     print(f"{step}: {delta_f.numpy():.3f}")
    0.1: 0.000
    0.25: 0.026
    1.0: -3.116

    References:
        Friston, Parr, Zeidman. Bayesian model reduction. arXiv:1805.07092,
        equations 3 to 5, for a sum of point masses.
    """
    density = tfd.Normal(reduced_prior.loc, reduced_prior.scale)
    continuous = reduce_normal(posterior, prior, density)
    reduced = DiscreteNormal(
        continuous.posterior.loc,
        continuous.posterior.scale,
        reduced_prior.step,
        reduced_prior.offset,
    )
    delta_f = continuous.delta_f + reduced.log_grid_sum()
    return Reduction(delta_f - reduced_prior.log_grid_sum(), reduced)


@RegisterModelReduction(tfd.Distribution, tfd.Distribution, Grid)
def reduce_to_grid(
    posterior: tfd.Distribution, prior: tfd.Distribution, reduced_prior: Grid
) -> Reduction:
    """Returns the reduction of any scalar posterior to finitely many values.

        delta_f = log sum_k w_k q(t_k) / p(t_k)

    a mean of Savage-Dickey ratios over the values t_k with their masses w_k. With
    equal masses the posterior is in proportion to q / p, the likelihood; with the
    prior's own masses (`Grid.of_density(prior, ...)`) to q.

    Args:
        posterior: Any scalar `tfd` distribution with a density.
        prior: Likewise, with a finite and non-zero density at every value that has
            mass.
        reduced_prior: `Grid`; broadcasts.

    Returns:
        A `Reduction`; its posterior is a `Grid` with the same values. `delta_f` is
        `-inf` where the posterior excludes all of them.

    Raises:
        ValueError: If the posterior or prior is discrete itself, or the prior's
            density at a value is zero or infinite. Inside a `tf.function` such
            entries are NaN.

    Example:
    >>> prior = tfd.StudentT(3.0, 0.0, 1.0)
    >>> grid = Grid.of_density(prior, first=-4.0, step=0.5, num_points=17)
    >>> reduction = reduce_to_grid(tfd.Laplace(0.3, 0.1), prior, grid)
    >>> print(f"{reduction.delta_f.numpy():.3f} {reduction.posterior.mode().numpy()}")
    -0.740 0.5

    References:
        Dickey. The weighted likelihood ratio, linear hypotheses on normal location
        parameters. Annals of Mathematical Statistics 42 (1971).
    """
    discrete = (tfd.Deterministic, DiscreteNormal, Grid)
    if isinstance(posterior, discrete) or isinstance(prior, discrete):
        raise ValueError(
            "The reduction to a grid needs densities: posterior and prior must not be "
            f"discrete. Received: {type(posterior).__name__} and "
            f"{type(prior).__name__}"
        )
    log_masses = tf.nn.log_softmax(reduced_prior.logits, axis=-1)
    log_posterior = reduced_prior.log_density(posterior)
    log_prior = reduced_prior.log_density(prior)
    has_mass = log_masses > float("-inf")
    defined = tf.math.is_finite(log_prior) & (log_posterior < float("inf"))
    if tf.executing_eagerly() and not bool(tf.reduce_all(defined | ~has_mass)):
        raise ValueError(
            "The prior density must be finite and non-zero, and the posterior's "
            "finite, at every value of the grid that has mass. Received: "
            f"{type(prior).__name__} and {type(posterior).__name__} with values from "
            f"{float(tf.reduce_min(reduced_prior.points()))} to "
            f"{float(tf.reduce_max(reduced_prior.points()))}"
        )
    log_ratio = tf.where(defined, log_posterior - log_prior, float("nan"))
    logits = tf.where(has_mass, log_masses + log_ratio, float("-inf"))
    delta_f = tf.reduce_logsumexp(logits, axis=-1)
    return Reduction(delta_f, Grid(reduced_prior.first, reduced_prior.step, logits))
