"""Prior precisions from the stationarity conditions of the evidence."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.laplace.evidence import EvidenceTerms

_TINY = 1e-300


def iterate_fixed_point(
    terms: Callable[[list[tf.Tensor]], EvidenceTerms],
    start: Sequence[np.ndarray],
    steps: int,
    hyperprior: tfd.Gamma | None,
    limit: float,
) -> tuple[list[np.ndarray], np.ndarray]:
    """MacKay's fixed point: delta = (well-determined weights) / (sum of squares).

    Of a group of weights -d(log determinant ratio) / d(log delta) are well determined
    by the data.

    Args:
        terms: Maps log precisions to the terms of the log evidence.
        start: Float64 arrays, the log precisions to begin with; each entry belongs to
            one group of weights alone.
        steps: Number of iterations.
        hyperprior: Gamma distribution of each precision, or None.
        limit: Largest magnitude of a log precision.

    Returns:
        The log precisions after the last step, and the log evidence before each.

    References:
        MacKay, Bayesian interpolation, Neural Computation 4, 1992, section 4.
    """
    concentration, rate = _gamma_parameters(hyperprior)

    def step(parameters: list[tf.Tensor]) -> tuple[list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(parameters)
            evidence = terms(parameters)
        scatters = tape.gradient(evidence.scatter, parameters)
        slopes = tape.gradient(evidence.log_det_ratio, parameters)
        updated = []
        for log_precision, scatter, slope in zip(
            parameters, scatters, slopes, strict=True
        ):
            determined = 2 * (concentration - 1) - slope
            squares = scatter / tf.exp(log_precision) + 2 * rate
            log_ratio = _log(determined) - _log(squares)
            updated.append(tf.clip_by_value(log_ratio, -limit, limit))
        return updated, evidence.log_marginal_likelihood

    parameters = [tf.constant(value, tf.float64) for value in start]
    # Concrete, see `maximise`.
    compiled = tf.function(step, autograph=False).get_concrete_function(parameters)
    history = np.empty(steps)
    for number in range(steps):
        parameters, history[number] = compiled(parameters)
    return [parameter.numpy() for parameter in parameters], history


def best_parameterwise(
    weight: tf.Tensor,
    curvature: tf.Tensor,
    hyperprior: tfd.Gamma | None,
    limit: float,
) -> np.ndarray:
    """The best precision of each weight under a diagonal curvature, at once.

    Without a hyperprior delta = 2 / (theta^2 (1 + sqrt(1 + 4 / (h theta^2)))); with a
    Gamma(a, b) it is the positive root of
    (theta^2 + 2b) delta (delta + h) = h + 2 (a - 1) (delta + h).

    Args:
        weight: The weight theta.
        curvature: Its curvature h in the posterior, with the same shape.
        hyperprior: Gamma distribution of each precision, or None.
        limit: Largest magnitude of a log precision; a weight that is 0 has no finite
            optimum.

    Returns:
        Log precisions, a float64 array.

    References:
        arXiv 2402.15978; both are zeros of the derivative of the evidence.
    """
    concentration, rate = _gamma_parameters(hyperprior)
    square = tf.maximum(weight**2 + 2 * rate, _TINY)
    linear = square * curvature - 2 * (concentration - 1)
    constant = curvature * (2 * concentration - 1)
    root = tf.sqrt(linear**2 + 4 * square * constant)
    # Two forms of the same root; each cancels where the other does not.
    precision = tf.where(
        linear > 0,
        2 * constant / tf.maximum(linear + root, _TINY),
        (root - linear) / (2 * square),
    )
    return tf.clip_by_value(_log(precision), -limit, limit).numpy()


def _gamma_parameters(hyperprior: tfd.Gamma | None) -> tuple[float, float]:
    """Concentration and rate; those of a flat density for None."""
    if hyperprior is None:
        return 1.0, 0.0
    return float(hyperprior.concentration), float(hyperprior.rate)


def _log(value: tf.Tensor) -> tf.Tensor:
    return tf.math.log(tf.maximum(value, _TINY))
