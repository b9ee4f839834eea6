"""The log-normal distribution truncated to an interval."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.log_uniform import (
    bound_rounding,
    check_log_bounds,
    common_dtype,
)
from keras_bmr.distributions.numerics import (
    IntervalQuadrature,
    interval_quadrature,
    log_normal_mass,
)
from keras_bmr.distributions.truncated_normal_draw import truncated_normal_draw
from keras_bmr.distributions.truncated_normal_quantile import (
    truncated_normal_quantile,
)

tfd = tfp.distributions


class TruncatedLogNormal(tfd.Distribution):
    """A positive variable whose logarithm is a truncated normal.

    `x = log(theta)` follows N(loc, scale^2) truncated to [log_low, log_high].
    All but samples is computed in float64 and cast to the dtype of the parameters:
    the moments of a truncated normal are differences that float32 cannot hold,
    and there is one such variable per unit or channel, not per weight.

    Samples are reparameterised; gradients in `loc` and `scale` are finite also
    where the bulk of the Gaussian lies far outside the interval.

    Args:
        loc: Tensor, mean of `log(theta)` before truncation; may lie anywhere.
        scale: Tensor, its standard deviation before truncation, positive.
        log_low: Tensor, logarithm of the lower bound of `theta`.
        log_high: Tensor, logarithm of the upper bound. All four broadcast.
        validate_args: Whether to check the arguments of methods.
        allow_nan_stats: Whether statistics may be NaN rather than raise.
        name: Name of the distribution.

    Raises:
        ValueError: If `log_low` is not below `log_high`.

    Example:
    >>> noise = TruncatedLogNormal([0.0, -4.0], [0.1, 2.0], -20.0, 0.0)
    >>> noise.snr().numpy().round(3)
    array([17.079,  0.509], dtype=float32)

    References:
        Neklyudov, Molchanov, Ashukha, Vetrov. Structured Bayesian pruning via
        log-normal multiplicative noise. arXiv:1705.07283, section 3 and appendix.
    """

    def __init__(
        self,
        loc: tf.Tensor | float,
        scale: tf.Tensor | float,
        log_low: tf.Tensor | float,
        log_high: tf.Tensor | float,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "TruncatedLogNormal",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = common_dtype(loc, scale, log_low, log_high)
            self._loc = tf.convert_to_tensor(loc, dtype)
            self._scale = tf.convert_to_tensor(scale, dtype)
            self._log_low = tf.convert_to_tensor(log_low, dtype)
            self._log_high = tf.convert_to_tensor(log_high, dtype)
            check_log_bounds(self._log_low, self._log_high)
            super().__init__(
                dtype=dtype,
                reparameterization_type=tfd.FULLY_REPARAMETERIZED,
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: None = None) -> dict:
        properties = tfp.util.ParameterProperties
        return {
            "loc": properties(),
            "scale": properties(),
            "log_low": properties(),
            "log_high": properties(),
        }

    @property
    def loc(self) -> tf.Tensor:
        """Mean of the logarithm before truncation."""
        return self._loc

    @property
    def scale(self) -> tf.Tensor:
        """Standard deviation of the logarithm before truncation."""
        return self._scale

    @property
    def log_low(self) -> tf.Tensor:
        """Logarithm of the lower bound."""
        return self._log_low

    @property
    def log_high(self) -> tf.Tensor:
        """Logarithm of the upper bound."""
        return self._log_high

    def snr(self) -> tf.Tensor:
        """Returns mean / standard deviation, of the batch shape."""
        return tf.cast(tf.math.rsqrt(self._squared_variation()), self.dtype, name="snr")

    def log_moment(self, order: int) -> tf.Tensor:
        """Returns `log E[theta^order]`, of the batch shape.

        With the mode `x_k` of the log density tilted by `exp(order x)`, a Gaussian
        around `loc + order scale^2`, this is

            order x_k + log density(x_k) - log density(x_0) + log integral ratio

        Args:
            order: Order of the moment.

        Returns:
            Tensor of the batch shape and the distribution's dtype.
        """
        return tf.cast(self._log_moment(order), self.dtype)

    def _double(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the parameters in float64."""
        return tuple(
            tf.cast(value, tf.float64)
            for value in (self._loc, self._scale, self._log_low, self._log_high)
        )

    def _quadrature(
        self, tilt: int = 0, margin: tf.Tensor | float = 0.0
    ) -> IntervalQuadrature:
        """Returns the rule for the log density plus `tilt * x`."""
        loc, scale, low, high = self._double()
        return interval_quadrature(
            loc + tilt * tf.square(scale), scale, low, high, margin
        )

    def _log_moment(self, order: int) -> tf.Tensor:
        rise, mode = self._log_moment_above_mode(order)
        return order * mode + rise

    def _log_moment_above_mode(self, order: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `log E[exp(order (x - mode))]` and the mode of x."""
        loc, scale, _, _ = self._double()
        plain, tilted = self._quadrature(), self._quadrature(tilt=order)
        mode, tilted_mode = plain.anchor, tilted.anchor
        shift = tilted_mode - mode
        drop = 0.5 * (shift / scale) * ((tilted_mode + mode - 2 * loc) / scale)
        ratio = tilted.log_integral() - plain.log_integral()
        return order * shift - drop + ratio, mode

    def _squared_variation(self) -> tf.Tensor:
        """Returns variance / mean^2 in float64, exact also when tiny."""
        _, scale, _, _ = self._double()
        rule = self._quadrature(margin=2 * tf.square(scale))
        rise, _ = self._log_moment_above_mode(1)
        deviation = tf.math.expm1(rule.offset - rise[..., tf.newaxis])
        return rule.expectation(tf.square(deviation))

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor = None) -> tf.Tensor:
        batch_shape = self.batch_shape_tensor()
        # Philox: the default algorithm is far slower under XLA.
        uniform = tf.random.stateless_uniform(
            tf.concat([[n], batch_shape], axis=0),
            tfp.random.sanitize_seed(seed),
            dtype=self.dtype,
            alg="philox",
        )
        if self.dtype == tf.float64:
            return self._quantile(uniform)
        # Draws are made for every example of a batch, and need no double precision.
        parameters = (
            tf.broadcast_to(value, batch_shape)
            for value in (self._loc, self._scale, self._log_low, self._log_high)
        )
        # The midpoints of the intervals that the noise stands for are never 0 or 1.
        uniform += 2.0**-24
        return tf.exp(truncated_normal_draw(uniform, *parameters))

    def _quantile(self, value: tf.Tensor) -> tf.Tensor:
        # 0 and 1 have finite quantiles but infinite standard ones.
        value = tf.clip_by_value(tf.cast(value, tf.float64), 2.0**-60, 1 - 2.0**-53)
        log_theta = truncated_normal_quantile(value, *self._double())
        return tf.exp(tf.cast(log_theta, self.dtype))

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        loc, scale, low, high = self._double()
        log_theta = tf.math.log(tf.cast(value, tf.float64))
        # `tf.clip_by_value` does not broadcast the value to the bounds.
        bounded = tf.minimum(tf.maximum(log_theta, low), high)
        rule = self._quadrature()
        # Relative to the mode: the normaliser alone may be exp(-1e9) and less.
        drop = 0.5 * ((bounded - rule.anchor) / scale)
        drop *= (bounded + rule.anchor - 2 * loc) / scale
        density = -drop - rule.log_integral() - bounded
        # Rounded to the dtype of theta, the bounds themselves are inside.
        inside = tf.abs(log_theta - bounded) <= bound_rounding(bounded, self.dtype)
        return tf.cast(tf.where(inside, density, -math.inf), self.dtype)

    def _log_cdf(self, value: tf.Tensor) -> tf.Tensor:
        loc, scale, low, high = self._double()
        log_theta = tf.math.log(tf.cast(value, tf.float64))
        start, end = (low - loc) / scale, (high - loc) / scale
        interior = (log_theta > low) & (log_theta < high)
        stop = tf.where(interior, (log_theta - loc) / scale, end)
        log_cdf = log_normal_mass(start, stop) - log_normal_mass(start, end)
        log_cdf = tf.where(log_theta > low, tf.minimum(log_cdf, 0.0), -math.inf)
        return tf.cast(tf.where(log_theta < high, log_cdf, 0.0), self.dtype)

    def _cdf(self, value: tf.Tensor) -> tf.Tensor:
        return tf.exp(self._log_cdf(value))

    def _mean(self) -> tf.Tensor:
        return tf.cast(tf.exp(self._log_moment(1)), self.dtype)

    def _variance(self) -> tf.Tensor:
        variance = self._squared_variation() * tf.exp(2 * self._log_moment(1))
        return tf.cast(variance, self.dtype)

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())

    def _default_event_space_bijector(self) -> tfp.bijectors.Bijector:
        return tfp.bijectors.Sigmoid(
            low=tf.exp(self._log_low), high=tf.exp(self._log_high)
        )
