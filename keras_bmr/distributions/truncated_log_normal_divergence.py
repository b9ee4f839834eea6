"""KL divergence of a truncated log-normal from a log-uniform distribution."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.log_uniform import LogUniform
from keras_bmr.distributions.numerics import expm1_minus, interval_quadrature
from keras_bmr.distributions.truncated_log_normal import TruncatedLogNormal

tfd = tfp.distributions


@tfd.RegisterKL(TruncatedLogNormal, LogUniform)
def kl_truncated_log_normal_log_uniform(
    posterior: TruncatedLogNormal, prior: LogUniform, name: str | None = None
) -> tf.Tensor:
    """Returns KL(truncated log-normal || log-uniform), of the batch shape.

    With L the length of the prior's log interval, `al`, `be` the bounds of the
    posterior in standard units and Z its mass before truncation,

        KL = log L - log scale - log Z - 1/2 log(2 pi e)
             - (al phi(al) - be phi(be)) / (2 Z)

    which cancels for wide and for far-off posteriors. It is evaluated as

        KL = log(L / w) + E_u[expm1(g) g] / (1 + c) - log1p(c),  c = E_u[exp(g)-1-g]

    with E_u the uniform average over the part of the interval, of length w, that
    carries the mass, and g the log density less its average there. Derivatives are
    taken through the score,

        dKL/dloc = Cov_q(g, x) / scale^2,   dKL/dscale = -2 Var_q(g) / scale

    and there are none with respect to the bounds.

    Args:
        posterior: `TruncatedLogNormal`.
        prior: `LogUniform`; the KL is infinite where it is the narrower one.
        name: Optional name scope.

    Returns:
        Tensor in nats, of the posterior's dtype.

    References:
        Neklyudov et al. arXiv:1705.07283, section 3.2.
    """
    with tf.name_scope(name or "kl_truncated_log_normal_log_uniform"):
        loc, scale, low, high = posterior._double()
        shape = posterior.batch_shape_tensor()
        divergence = _divergence(
            tf.broadcast_to(loc, shape), tf.broadcast_to(scale, shape), low, high
        )
        prior_low = tf.cast(prior.log_low, tf.float64)
        prior_high = tf.cast(prior.log_high, tf.float64)
        divergence += tf.math.log((prior_high - prior_low) / (high - low))
        covered = (prior_low <= low) & (high <= prior_high)
        return tf.cast(tf.where(covered, divergence, math.inf), posterior.dtype)


def _divergence(
    loc: tf.Tensor, scale: tf.Tensor, low: tf.Tensor, high: tf.Tensor
) -> tf.Tensor:
    """The divergence from the log-uniform on the posterior's own interval."""

    @tf.custom_gradient
    def compute(loc: tf.Tensor, scale: tf.Tensor) -> tuple:
        rule = interval_quadrature(loc, scale, low, high)
        centered = rule.exponent - tf.reduce_sum(
            rule.weights * rule.exponent, axis=-1, keepdims=True
        )
        change = tf.math.expm1(centered)
        growth = tf.reduce_sum(rule.weights * expm1_minus(centered), axis=-1)
        rise = tf.reduce_sum(rule.weights * change * centered, axis=-1)
        divergence = tf.math.log((high - low) / rule.width)
        divergence += rise / (1 + growth) - tf.math.log1p(growth)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            density = rule.weights * (1 + change)
            density /= tf.reduce_sum(density, axis=-1, keepdims=True)
            mean = tf.reduce_sum(density * centered, axis=-1, keepdims=True)
            deviation = density * (centered - mean)
            covariance = tf.reduce_sum(deviation * rule.offset, axis=-1)
            variance = tf.reduce_sum(deviation * (centered - mean), axis=-1)
            return (
                upstream * covariance / scale / scale,
                -2 * upstream * variance / scale,
            )

        return divergence, gradient

    return compute(loc, scale)
