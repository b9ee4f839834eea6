"""The normal distribution parameterised by the logarithm of its scale."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.log_uniform import common_dtype

tfd = tfp.distributions


class LogScaleNormal(tfd.Normal):
    """A `tfd.Normal` that remembers the logarithm of its scale.

    KL divergence and entropy then need no logarithm of the scale, which saves a
    pass over the weights in every training step. Otherwise it is a `tfd.Normal`,
    and dispatches as one.

    Args:
        loc: Tensor, the mean.
        log_scale: Tensor, natural logarithm of the standard deviation.
        validate_args: Whether to check the arguments of methods.
        allow_nan_stats: Whether statistics may be NaN rather than raise.
        name: Name of the distribution.

    Example:
    >>> posterior = LogScaleNormal(0.5, -2.0)
    >>> kl = tfd.kl_divergence(posterior, tfd.Normal(0.0, 1.0))
    >>> print(f"{posterior.scale.numpy():.4f} {kl.numpy():.4f}")
    0.1353 1.6342
    """

    def __init__(
        self,
        loc: tf.Tensor | float,
        log_scale: tf.Tensor | float,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "LogScaleNormal",
    ) -> None:
        parameters = dict(
            loc=loc,
            log_scale=log_scale,
            validate_args=validate_args,
            allow_nan_stats=allow_nan_stats,
            name=name,
        )
        with tf.name_scope(name) as name:
            dtype = common_dtype(loc, log_scale)
            self._log_scale = tf.convert_to_tensor(log_scale, dtype)
            super().__init__(
                loc=loc,
                scale=tf.exp(self._log_scale),
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                name=name,
            )
            # Not the parent's: `copy` and `batch_shape` go by these names.
            self._parameters = parameters

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: None = None) -> dict:
        properties = tfp.util.ParameterProperties
        return {"loc": properties(), "log_scale": properties()}

    @property
    def log_scale(self) -> tf.Tensor:
        """Natural logarithm of the standard deviation."""
        return self._log_scale

    def _entropy(self) -> tf.Tensor:
        unit_entropy = tfd.Normal(tf.zeros([], self.dtype), 1.0).entropy()
        return unit_entropy + self._log_scale + tf.zeros_like(self.loc)


@tfd.RegisterKL(LogScaleNormal, tfd.Normal)
def kl_log_scale_normal_normal(
    posterior: LogScaleNormal, prior: tfd.Normal, name: str | None = None
) -> tf.Tensor:
    """Returns KL(N(mu, exp(2 rho)) || N(m0, s0^2)), of the batch shape.

        KL = ((mu - m0)^2 + exp(2 rho)) / (2 s0^2) - rho + log s0 - 1/2

    Args:
        posterior: `LogScaleNormal` with mean mu and log scale rho.
        prior: `tfd.Normal`; a `LogScaleNormal` needs no logarithm either.
        name: Optional name scope.

    Returns:
        Tensor in nats.

    References:
        Kingma, Welling. Auto-encoding variational Bayes. arXiv:1312.6114,
        appendix B.
    """
    with tf.name_scope(name or "kl_log_scale_normal_normal"):
        scale = tf.convert_to_tensor(prior.scale)
        if isinstance(prior, LogScaleNormal):
            log_scale = prior.log_scale
        else:
            log_scale = tf.math.log(scale)
        second_moment = tf.square(posterior.loc - prior.loc)
        second_moment += tf.square(posterior.scale)
        ratio = 0.5 * second_moment / tf.square(scale)
        return ratio - posterior.log_scale + (log_scale - 0.5)
