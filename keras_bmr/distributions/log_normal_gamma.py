"""The KL divergence of a log-normal from a gamma distribution."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


@tfd.RegisterKL(tfd.LogNormal, tfd.Gamma)
def kl_log_normal_gamma(
    posterior: tfd.LogNormal, prior: tfd.Gamma, name: str | None = None
) -> tf.Tensor:
    """Returns KL(LogNormal(m, v^2) || Gamma(alpha, rate beta)), of the batch shape.

    With `x = log u ~ N(m, v^2)` under the posterior, the log densities of `u` are

        log q = -x - 1/2 log(2 pi v^2) - (x - m)^2 / (2 v^2)
        log p = alpha log beta - lgamma(alpha) + (alpha - 1) x - beta exp(x)

    and their means follow from `E[x] = m`, `E[(x - m)^2] = v^2` and
    `E[exp(x)] = exp(m + v^2 / 2)`; the `x` of the change of variables cancels:

        KL = -alpha m - 1/2 log(2 pi e v^2) - alpha log beta + lgamma(alpha)
             + beta exp(m + v^2 / 2)

    Args:
        posterior: `tfd.LogNormal`; `loc` and `scale` of the logarithm.
        prior: `tfd.Gamma`; `concentration` alpha and `rate` beta.
        name: Optional name scope.

    Returns:
        Tensor in nats.

    Example:
    >>> kl = tfd.kl_divergence(tfd.LogNormal(0.0, 0.5), tfd.Gamma(2.0, 2.0))
    >>> print(f"{kl.numpy():.4f}")
    0.1542

    References:
        Louizos, Ullrich, Welling. Bayesian compression for deep learning.
        arXiv:1705.08665, appendix A (for Gamma and inverse Gamma scales).
    """
    with tf.name_scope(name or "kl_log_normal_gamma"):
        loc, scale = tf.convert_to_tensor(posterior.loc), posterior.scale
        concentration, rate = prior.concentration, tf.convert_to_tensor(prior.rate)
        return (
            tf.math.lgamma(concentration)
            - concentration * (loc + tf.math.log(rate))
            - (0.5 * math.log(2 * math.pi * math.e) + tf.math.log(scale))
            + rate * tf.exp(loc + 0.5 * tf.square(scale))
        )
