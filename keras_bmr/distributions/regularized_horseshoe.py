"""The regularised horseshoe: zero or a slab, by way of a heavy-tailed scale."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.log_uniform import common_dtype

tfd = tfp.distributions

# Nodes of the trapezoidal rule. The integrand is analytic in a strip of half-width
# pi/4, so that a step of 1/7, as for float32's smallest numbers, leaves 1e-14.
_NUM_NODES = 1024


def regularized_log_scale(log_scale: tf.Tensor, log_slab_scale: tf.Tensor) -> tf.Tensor:
    """Returns log sqrt(c^2 s^2 / (c^2 + s^2)) for log s and log c.

    Stays below both and is finite, with its gradient, wherever they are: nothing is
    squared or divided outside of the logarithm.

    Args:
        log_scale: Tensor, logarithm of the scale of a horseshoe, tau * lambda.
        log_slab_scale: Tensor, logarithm of the scale of the slab; broadcasts.

    Returns:
        Tensor of the broadcast shape.

    Example:
    >>> print(f"{regularized_log_scale(tf.constant(-60.0), 1.0).numpy():.1f}")
    -60.0

    References:
        Piironen, Vehtari. Sparsity information and regularization in the horseshoe
        and other shrinkage priors. arXiv:1707.01694, equation 2.8.
    """
    return -0.5 * tfp.math.log_add_exp(-2 * log_scale, -2 * log_slab_scale)


class RegularizedHorseshoe(tfd.Distribution):
    """A weight that is near zero or comes from a Normal slab.

        w | lambda ~ N(0, s^2),  s^2 = c^2 t^2 lambda^2 / (c^2 + t^2 lambda^2)
        lambda ~ half-Cauchy(0, 1)

    with `scale` t and `slab_scale` c. An infinitely wide slab leaves `tfd.Horseshoe`.
    The density is infinite at zero; elsewhere it is integrated over log(lambda) in
    float64. The variance is t c^2 / (t + c).

    Args:
        scale: Tensor, the global scale t, positive.
        slab_scale: Tensor, the standard deviation c of the slab, positive. Both
            broadcast.
        validate_args: Whether to check the arguments of methods.
        allow_nan_stats: Whether statistics may be NaN rather than raise.
        name: Name of the distribution.

    Example:
    >>> prior = RegularizedHorseshoe(scale=0.1, slab_scale=2.0)
    >>> print(f"{prior.stddev().numpy():.4f} {prior.log_prob(1.0).numpy():.4f}")
    0.4364 -3.5915

    References:
        Piironen, Vehtari. arXiv:1707.01694, section 2.3.
    """

    def __init__(
        self,
        scale: tf.Tensor | float,
        slab_scale: tf.Tensor | float,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "RegularizedHorseshoe",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = common_dtype(scale, slab_scale)
            self._scale = tf.convert_to_tensor(scale, dtype)
            self._slab_scale = tf.convert_to_tensor(slab_scale, dtype)
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
        return {"scale": properties(), "slab_scale": properties()}

    @property
    def scale(self) -> tf.Tensor:
        """The global scale."""
        return self._scale

    @property
    def slab_scale(self) -> tf.Tensor:
        """Standard deviation of the slab."""
        return self._slab_scale

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor = None) -> tf.Tensor:
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        local_seed, noise_seed = tfp.random.split_seed(seed, salt=self.name)
        # Philox: the default algorithm is far slower under XLA.
        uniform = tf.random.stateless_uniform(
            shape, local_seed, dtype=tf.float64, alg="philox"
        )
        # The smallest argument of a tangent that has a logarithm.
        log_local = tf.math.log(tf.tan(0.5 * math.pi * tf.maximum(uniform, 2.0**-60)))
        log_scale = regularized_log_scale(log_local + self._log_scale(), self._slab())
        noise = tf.random.stateless_normal(
            shape, noise_seed, dtype=self.dtype, alg="philox"
        )
        return tf.cast(tf.exp(log_scale), self.dtype) * noise

    def _log_scale(self) -> tf.Tensor:
        return tf.math.log(tf.cast(self._scale, tf.float64))

    def _slab(self) -> tf.Tensor:
        """Returns the logarithm of the slab's scale in float64."""
        return tf.math.log(tf.cast(self._slab_scale, tf.float64))

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        log_size = tf.math.log(tf.abs(tf.cast(value, tf.float64)))
        at_zero = tf.math.is_inf(log_size) & (log_size < 0)
        log_size = tf.where(at_zero, tf.zeros_like(log_size), log_size)
        # log(lambda) has the density 1 / (pi cosh). A Normal narrower than |w| by
        # exp(4) has no density there; 40 above, the tail of lambda is exp(-40).
        offset = log_size - self._log_scale()
        low = tf.minimum(offset, 0.0) - 4.0
        high = tf.maximum(offset, 0.0) + 40.0
        step = (high - low) / (_NUM_NODES - 1)
        nodes = tf.range(_NUM_NODES, dtype=tf.float64)
        log_local = low[..., tf.newaxis] + step[..., tf.newaxis] * nodes
        log_scale = regularized_log_scale(
            log_local + self._log_scale()[..., tf.newaxis],
            self._slab()[..., tf.newaxis],
        )
        distance = tf.exp(2 * (log_size[..., tf.newaxis] - log_scale))
        log_cosh = tf.abs(log_local) + tf.math.log1p(tf.exp(-2 * tf.abs(log_local)))
        exponent = -0.5 * distance - log_scale - log_cosh
        # log cosh lacks log 2 above.
        constant = math.log(2.0) - math.log(math.pi) - 0.5 * math.log(2 * math.pi)
        log_prob = tf.reduce_logsumexp(exponent, axis=-1) + tf.math.log(step) + constant
        return tf.cast(tf.where(at_zero, math.inf, log_prob), self.dtype)

    def _mean(self) -> tf.Tensor:
        return tf.zeros(self.batch_shape_tensor(), self.dtype)

    def _variance(self) -> tf.Tensor:
        share = self._scale / (self._scale + self._slab_scale)
        return tf.square(self._slab_scale) * share

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())

    def _default_event_space_bijector(self) -> tfp.bijectors.Bijector:
        return tfp.bijectors.Identity()
