"""Integrals of a Gaussian over an interval, exact in the tails and at any width.

Evidence and KL divergence of truncated families are differences of such
integrals; callers that need all digits pass float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

_SQRT_HALF = math.sqrt(0.5)
# Log density below its maximum beyond which nothing counts: exp(-40) = 4e-18.
_REACH = 40.0
_NODES = 80


def log_normal_mass(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """Returns `log(Phi(high) - Phi(low))`, the log mass of N(0, 1) in an interval.

    Accurate where both bounds lie far out in one tail, where the difference of
    two distribution functions is 0 or rounding error. Intervals that do not
    contain 0 are measured from the bound nearer to 0, `c`:

        exp(c^2 / 2) (Phi(high) - Phi(low))

    through scaled complementary error functions.

    Args:
        low: Tensor, lower bounds in standard deviations; float32 or float64.
        high: Tensor of the same dtype, upper bounds above `low`; broadcasts.

    Returns:
        Tensor of the broadcast shape, in nats.

    Example:
    >>> print(f"{log_normal_mass(tf.constant(40.0), tf.constant(41.0)).numpy():.3f}")
    -804.608

    References:
        Abramowitz and Stegun. Handbook of Mathematical Functions, 7.1.2 and
        26.2.29.
    """
    # Mirrored where needed, the interval lies left of 0 or contains it.
    mirrored = low > 0
    low, high = tf.where(mirrored, -high, low), tf.where(mirrored, -low, high)
    one_sided = high <= 0

    # Each branch sees harmless values where the other one is taken, so that
    # gradients stay finite.
    near = tf.where(one_sided, high, -1.0)
    far = tf.where(one_sided, low, -2.0)
    # Infinite bounds have no mass beyond them, yet inf * 0 in the gradient.
    far = tf.maximum(far, near - 1e4)
    gap = 0.5 * (far - near) * (far + near)
    near_scaled = tfp.math.erfcx(-_SQRT_HALF * near)
    far_scaled = tfp.math.erfcx(-_SQRT_HALF * far)
    scaled = 0.5 * (near_scaled - tf.exp(-gap) * far_scaled)
    # A small gap cancels; the density then hardly varies and a few nodes do.
    narrow = gap < 1
    scaled = tf.where(narrow, _narrow_mass(near, tf.where(narrow, far, near)), scaled)
    tail = tf.math.log(scaled) - 0.5 * tf.square(near)

    straddling = tf.logical_not(one_sided)
    # erf(inf) is NaN in float64; beyond 100 nothing changes.
    low = tf.where(straddling, tf.maximum(low, -100.0), -1.0)
    high = tf.where(straddling, tf.minimum(high, 100.0), 1.0)
    outside = 0.5 * (tf.math.erfc(-_SQRT_HALF * low) + tf.math.erfc(_SQRT_HALF * high))
    inside = 0.5 * (tf.math.erf(_SQRT_HALF * high) + tf.math.erf(-_SQRT_HALF * low))
    mostly = outside < 0.5
    center = tf.where(
        mostly,
        tf.math.log1p(-tf.where(mostly, outside, 0.0)),
        tf.math.log(inside),
    )
    return tf.where(one_sided, tail, center)


def _narrow_mass(near: tf.Tensor, far: tf.Tensor) -> tf.Tensor:
    """Returns the mass of N(0, 1) between the bounds, times exp(near^2 / 2)."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    width = tf.abs(near - far)[..., tf.newaxis]
    offset = width * tf.constant((nodes + 1) / 2, near.dtype)
    exponent = -0.5 * offset * (offset + 2 * tf.abs(near)[..., tf.newaxis])
    density = tf.constant(weights / 2, near.dtype) * tf.exp(exponent)
    return tf.reduce_sum(width * density, axis=-1) / math.sqrt(2 * math.pi)


class IntervalQuadrature(NamedTuple):
    """Gauss-Legendre rule for a Gaussian density truncated to an interval.

    The density is `exp(exponent)` up to a factor, at most 1 and equal to 1 at
    `anchor`, its mode. Nodes cover the part of the interval that counts.

    Attributes:
        anchor: Tensor of the batch shape, the mode of the truncated density.
        width: Tensor of the batch shape, length of the part covered.
        offset: Tensor, batch shape plus the axis of nodes: node less anchor.
        exponent: Tensor like `offset`.
        weights: Tensor with the axis of nodes alone; sums to 1.
    """

    anchor: tf.Tensor
    width: tf.Tensor
    offset: tf.Tensor
    exponent: tf.Tensor
    weights: tf.Tensor

    def log_integral(self) -> tf.Tensor:
        """Returns the log of the integral of `exp(exponent)`, batch shape."""
        return tf.math.log(self.width) + self.log_average()

    def log_average(self) -> tf.Tensor:
        """Returns `log_integral` less the log width, exact also when tiny."""
        return tf.math.log1p(
            tf.reduce_sum(self.weights * tf.math.expm1(self.exponent), axis=-1)
        )

    def expectation(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the mean of `values`, given at the nodes, under the density."""
        density = self.weights * tf.exp(self.exponent)
        return tf.reduce_sum(density * values, axis=-1) / tf.reduce_sum(
            density, axis=-1
        )


def interval_quadrature(
    loc: tf.Tensor,
    scale: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
    margin: tf.Tensor | float = 0.0,
) -> IntervalQuadrature:
    """Returns a quadrature rule for N(loc, scale^2) truncated to [low, high].

    Exact to about 1e-15 for smooth factors, whatever the scale: the nodes cover
    the interval, or the part of it where the density exceeds exp(-40) of its
    maximum. Distances are taken from the mode, so that a scale far below the
    rounding error of `loc` does no harm.

    Args:
        loc: Tensor, location of the Gaussian; float64 for the accuracy named.
        scale: Tensor, its standard deviation before truncation, positive.
        low: Tensor, lower bound.
        high: Tensor, upper bound, above `low`. All four broadcast.
        margin: Length added above the part covered, for factors that grow.

    Returns:
        An `IntervalQuadrature`.

    Example:
    >>> double = lambda value: tf.constant(value, tf.float64)
    >>> rule = interval_quadrature(double(0), double(1), double(-50), double(50))
    >>> print(f"{rule.expectation(rule.offset**2).numpy():.12f}")
    1.000000000000
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    nodes = tf.constant((nodes + 1) / 2, scale.dtype)
    weights = tf.constant(weights / 2, scale.dtype)

    anchor = tf.clip_by_value(loc, low, high)
    distance = anchor - loc
    reach = (2 * _REACH) * tf.square(scale)
    reach /= tf.abs(distance) + tf.sqrt(tf.square(distance) + reach)
    left = tf.minimum(reach, anchor - low)
    right = tf.minimum(reach + margin, high - anchor)
    width = left + right
    offset = width[..., tf.newaxis] * nodes - left[..., tf.newaxis]
    exponent = -0.5 * (
        (offset / scale[..., tf.newaxis])
        * ((offset + 2 * distance[..., tf.newaxis]) / scale[..., tf.newaxis])
    )
    return IntervalQuadrature(anchor, width, offset, exponent, weights)


def expm1_minus(value: tf.Tensor) -> tf.Tensor:
    """Returns `exp(value) - 1 - value`, accurate for small values."""
    small = tf.abs(value) < 0.05
    inner = tf.where(small, value, 0.0)
    series = tf.ones_like(inner)
    for order in range(8, 2, -1):
        series = 1 + inner / order * series
    return tf.where(
        small,
        0.5 * tf.square(inner) * series,
        tf.math.expm1(value) - value,
    )
