"""The log-uniform distribution on an interval."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class LogUniform(tfd.Distribution):
    """A positive variable whose logarithm is uniform.

    The density of theta is `1 / (theta (log_high - log_low))`: scale-free, the
    usual prior of multiplicative noise.

    Args:
        log_low: Tensor, logarithm of the lower bound of `theta`.
        log_high: Tensor, logarithm of the upper bound; broadcasts with `log_low`.
        validate_args: Whether to check the arguments of methods.
        allow_nan_stats: Whether statistics may be NaN rather than raise.
        name: Name of the distribution.

    Raises:
        ValueError: If `log_low` is not below `log_high`.

    Example:
    >>> print(f"{LogUniform(-20.0, 0.0).mean().numpy():.4f}")
    0.0500

    References:
        Hamming. On the distribution of numbers. Bell System Technical Journal 49
        (1970), equation 1 ("reciprocal distribution").
    """

    def __init__(
        self,
        log_low: tf.Tensor | float,
        log_high: tf.Tensor | float,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "LogUniform",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = common_dtype(log_low, log_high)
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
        return {"log_low": properties(), "log_high": properties()}

    @property
    def log_low(self) -> tf.Tensor:
        """Logarithm of the lower bound."""
        return self._log_low

    @property
    def log_high(self) -> tf.Tensor:
        """Logarithm of the upper bound."""
        return self._log_high

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor = None) -> tf.Tensor:
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        # Philox: the default algorithm is far slower under XLA.
        uniform = tf.random.stateless_uniform(
            shape, tfp.random.sanitize_seed(seed), dtype=self.dtype, alg="philox"
        )
        return self._quantile(uniform)

    def _quantile(self, value: tf.Tensor) -> tf.Tensor:
        return tf.exp(self._log_low * (1 - value) + self._log_high * value)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        log_theta = tf.math.log(value)
        # `tf.clip_by_value` does not broadcast the value to the bounds.
        bounded = tf.minimum(tf.maximum(log_theta, self._log_low), self._log_high)
        inside = tf.abs(log_theta - bounded) <= bound_rounding(bounded)
        density = -bounded - tf.math.log(self._log_high - self._log_low)
        return tf.where(inside, density, -math.inf)

    def _cdf(self, value: tf.Tensor) -> tf.Tensor:
        share = (tf.math.log(value) - self._log_low) / (self._log_high - self._log_low)
        return tf.minimum(tf.maximum(share, 0.0), 1.0)

    def _moment(self, order: int) -> tf.Tensor:
        """Returns E[theta^order]."""
        length = order * (self._log_high - self._log_low)
        return tf.exp(order * self._log_high) * -tf.math.expm1(-length) / length

    def _mean(self) -> tf.Tensor:
        return self._moment(1)

    def _variance(self) -> tf.Tensor:
        return self._moment(2) - tf.square(self._moment(1))

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())

    def _entropy(self) -> tf.Tensor:
        center = 0.5 * (self._log_high + self._log_low)
        return center + tf.math.log(self._log_high - self._log_low)

    def _default_event_space_bijector(self) -> tfp.bijectors.Bijector:
        return tfp.bijectors.Sigmoid(
            low=tf.exp(self._log_low), high=tf.exp(self._log_high)
        )


def common_dtype(*values: tf.Tensor | float) -> tf.DType:
    """Returns the one dtype of the arrays among the values, else float32."""
    dtypes = {tf.as_dtype(v.dtype) for v in values if hasattr(v, "dtype")}
    if len(dtypes) > 1:
        raise ValueError(
            "The parameters of a distribution must have one dtype. Received: "
            + ", ".join(sorted(dtype.name for dtype in dtypes))
        )
    return dtypes.pop() if dtypes else tf.float32


def check_log_bounds(log_low: tf.Tensor, log_high: tf.Tensor) -> None:
    """Raises unless the bounds, where known, are in order."""
    if tf.executing_eagerly() and not bool(tf.reduce_all(log_low < log_high)):
        raise ValueError(
            "`log_low` must be below `log_high`; both are bounds of the logarithm. "
            f"Received: log_low={log_low.numpy()}, log_high={log_high.numpy()}"
        )


def bound_rounding(log_theta: tf.Tensor, dtype: tf.DType | None = None) -> tf.Tensor:
    """Returns what rounding theta to `dtype` may add to its logarithm."""
    epsilon = np.finfo((dtype or log_theta.dtype).as_numpy_dtype).eps
    return 4 * tf.cast(epsilon, log_theta.dtype) * (1 + tf.abs(log_theta))
