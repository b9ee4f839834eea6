"""Prior precisions that maximise the evidence."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.laplace.adam import maximise
from keras_bmr.laplace.evidence import EvidenceTerms
from keras_bmr.laplace.fixed_point import best_parameterwise, iterate_fixed_point
from keras_bmr.laplace.laplace_fit import LaplaceFit
from keras_bmr.laplace.posterior_precision import DiagonalPrecision
from keras_bmr.laplace.prior_structures import (
    ParameterwisePrior,
    PriorStructure,
)

# The precision of weights that are 0, or that the data leave free, has no optimum.
_LOG_LIMIT = 18.0


def check_optimization(
    steps: int,
    learning_rate: float,
    hyperprior: tfd.Distribution | None,
    method: str,
) -> None:
    """Checks the arguments of an optimisation of prior precisions.

    Args:
        steps: Number of steps.
        learning_rate: Of the logarithms.
        hyperprior: Scalar distribution of each precision, or None.
        method: "gradient" or "fixed_point".

    Raises:
        ValueError: If one is invalid.
    """
    require_integer("steps", steps, at_least=1)
    require_positive("learning_rate", learning_rate)
    if method not in ("gradient", "fixed_point"):
        raise ValueError(
            f"`method` must be 'gradient' or 'fixed_point'. Received: method={method!r}"
        )
    if hyperprior is not None and (
        not isinstance(hyperprior, tfd.Distribution)
        or hyperprior.batch_shape.rank != 0
        or hyperprior.event_shape.rank != 0
    ):
        raise ValueError(
            "`hyperprior` must be a scalar `tfd` distribution of positive numbers, "
            f"such as `tfd.Gamma(2.0, 1.0)`. Received: hyperprior={hyperprior!r}"
        )
    if method == "fixed_point" and not isinstance(hyperprior, tfd.Gamma | None):
        raise ValueError(
            "`method='fixed_point'` needs a Gamma hyperprior or none. Use "
            f"`method='gradient'`. Received: hyperprior={hyperprior!r}"
        )


def optimize(
    fit: LaplaceFit,
    structure: PriorStructure,
    parameters: Sequence[np.ndarray],
    log_noise: float,
    learn_noise: bool,
    steps: int,
    learning_rate: float,
    hyperprior: tfd.Distribution | None,
) -> tuple[list[np.ndarray], float, np.ndarray]:
    """Adam on the logarithms of precisions, and of the noise.

    Args:
        fit: The posterior.
        structure: What shares a precision.
        parameters: Parameters of the structure to begin with.
        log_noise: Logarithm of the standard deviation of the noise to begin with.
        learn_noise: Whether it is learned.
        steps: Number of steps.
        learning_rate: Step size.
        hyperprior: Scalar distribution of each precision, or None.

    Returns:
        The parameters, the logarithm of the noise, and what was maximised before each
        step.
    """

    def objective(values: list[tf.Tensor]) -> tf.Tensor:
        *values, log_noise = values
        if not learn_noise:
            log_noise = tf.stop_gradient(log_noise)
        terms = fit.evidence_terms(structure.precisions(values), tf.exp(log_noise))
        return terms.log_marginal_likelihood + _log_density(hyperprior, values)

    start = [*parameters, np.float64(log_noise)]
    found, history = maximise(objective, start, steps, learning_rate, _LOG_LIMIT)
    return found[:-1], float(found[-1]), history


def solve(
    fit: LaplaceFit,
    structure: PriorStructure,
    parameters: Sequence[np.ndarray],
    noise: tf.Tensor,
    steps: int,
    hyperprior: tfd.Gamma | None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """The fixed point: in closed form where it is known, by iteration elsewhere.

    Args:
        fit: The posterior.
        structure: What shares a precision.
        parameters: Log precisions to begin with.
        noise: Float64 scalar, the standard deviation of Gaussian noise.
        steps: Number of iterations.
        hyperprior: Gamma distribution of each precision, or None.

    Returns:
        The log precisions, and the log evidence before each iteration.
    """

    def terms(values: list[tf.Tensor]) -> EvidenceTerms:
        return fit.evidence_terms(structure.precisions(values), noise)

    if isinstance(structure, ParameterwisePrior) and all(
        isinstance(posterior, DiagonalPrecision) for posterior in fit.posteriors
    ):
        scale = fit.curvature_scale(noise)
        before = terms([tf.constant(value) for value in parameters])
        best = [
            best_parameterwise(
                weight, scale * posterior.curvature, hyperprior, _LOG_LIMIT
            )
            for weight, posterior in zip(fit.weights, fit.posteriors, strict=True)
        ]
        return best, np.array([before.log_marginal_likelihood])
    return iterate_fixed_point(terms, parameters, steps, hyperprior, _LOG_LIMIT)


def _log_density(
    hyperprior: tfd.Distribution | None, log_precisions: Sequence[tf.Tensor]
) -> tf.Tensor:
    if hyperprior is None:
        return tf.zeros((), tf.float64)
    densities = [
        hyperprior.log_prob(tf.cast(tf.exp(value), hyperprior.dtype))
        for value in log_precisions
    ]
    return tf.add_n([tf.cast(tf.reduce_sum(d), tf.float64) for d in densities])
