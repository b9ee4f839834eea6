"""A point mass at zero, or a Normal: the spike-and-slab distribution."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.log_scale_normal import LogScaleNormal
from keras_bmr.distributions.log_uniform import common_dtype

tfd = tfp.distributions


class SpikeAndSlabIndicator(tfd.Distribution):
    """What spike-and-slab distributions share: a Bernoulli indicator and the slab.

    Not for use by itself, see `SpikeAndSlab` and `ContinuousSpikeAndSlab`.
    """

    def _set_slab(
        self,
        probs: tf.Tensor | None,
        loc: tf.Tensor | float,
        scale: tf.Tensor | None,
        logits: tf.Tensor | None,
        log_scale: tf.Tensor | None,
        *others: tf.Tensor | float,
    ) -> tf.DType:
        """Keeps the parameters of indicator and slab, and returns their dtype."""
        if (probs is None) == (logits is None):
            raise ValueError(
                "Give either `probs` or `logits`, the inclusion probability or its "
                f"log odds. Received: probs={probs}, logits={logits}"
            )
        if (scale is None) == (log_scale is None):
            raise ValueError(
                "Give either `scale` or `log_scale` of the slab. Received: "
                f"scale={scale}, log_scale={log_scale}"
            )
        given = [v for v in (probs, logits, loc, scale, log_scale) if v is not None]
        dtype = common_dtype(*given, *others)
        if logits is None:
            probs = tf.convert_to_tensor(probs, dtype)
            logits = tf.math.log(probs) - tf.math.log1p(-probs)
        self._logits = tf.convert_to_tensor(logits, dtype)
        self._loc = tf.convert_to_tensor(loc, dtype)
        if log_scale is None:
            self._slab = tfd.Normal(self._loc, tf.convert_to_tensor(scale, dtype))
        else:
            self._slab = LogScaleNormal(
                self._loc, tf.convert_to_tensor(log_scale, dtype)
            )
        return dtype

    @staticmethod
    def _indicator_and_slab_properties() -> dict:
        properties = tfp.util.ParameterProperties
        return {
            "probs": properties(is_preferred=False),
            "loc": properties(),
            "scale": properties(is_preferred=False),
            "logits": properties(),
            "log_scale": properties(is_preferred=False),
        }

    @property
    def probs(self) -> tf.Tensor:
        """Inclusion probability: that of the slab."""
        return tf.sigmoid(self._logits)

    @property
    def logits(self) -> tf.Tensor:
        """Log odds of the slab against the spike."""
        return self._logits

    @property
    def loc(self) -> tf.Tensor:
        """Mean of the slab."""
        return self._loc

    @property
    def scale(self) -> tf.Tensor:
        """Standard deviation of the slab."""
        return self._slab.scale

    @property
    def slab(self) -> tfd.Normal:
        """The distribution of an entry that is included."""
        return self._slab

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _draw(
        self, n: tf.Tensor, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws the indicators, and standard normal noise."""
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        # Philox: the default algorithm is far slower under XLA.
        seeds = tfp.random.split_seed(tfp.random.sanitize_seed(seed), 2)
        uniform = tf.random.stateless_uniform(
            shape, seeds[0], dtype=self.dtype, alg="philox"
        )
        noise = tf.random.stateless_normal(
            shape, seeds[1], dtype=self.dtype, alg="philox"
        )
        return uniform < self.probs, noise


class SpikeAndSlab(SpikeAndSlabIndicator):
    """Zero with probability 1 - probs, and N(loc, scale^2) otherwise.

        w = z v,  z ~ Bernoulli(probs),  v ~ N(loc, scale^2)
        E[w] = probs loc
        Var[w] = probs scale^2 + probs (1 - probs) loc^2

    `log_prob` and `prob` are densities with respect to the Lebesgue measure plus a
    unit mass at zero: at zero they give the probability of the spike.

    Args:
        probs: Tensor in [0, 1], the inclusion probability; or give `logits`.
        loc: Tensor, mean of the slab.
        scale: Tensor, standard deviation of the slab; or give `log_scale`.
        logits: Tensor, the log odds of inclusion.
        log_scale: Tensor, natural logarithm of the standard deviation.
        validate_args: Whether to check the arguments of methods.
        allow_nan_stats: Whether statistics may be NaN rather than raise.
        name: Name of the distribution.

    Raises:
        ValueError: If both or neither of `probs` and `logits`, or of `scale` and
            `log_scale`, are given, or the dtypes differ.

    Example:
    >>> weight = SpikeAndSlab(probs=0.25, loc=2.0, scale=1.0)
    >>> print(f"{weight.mean().numpy():.2f} {weight.variance().numpy():.2f}")
    0.50 1.00

    References:
        Mitchell and Beauchamp. Bayesian variable selection in linear regression.
        Journal of the American Statistical Association 83 (1988).
    """

    def __init__(
        self,
        probs: tf.Tensor | float | None = None,
        loc: tf.Tensor | float = 0.0,
        scale: tf.Tensor | float | None = None,
        logits: tf.Tensor | float | None = None,
        log_scale: tf.Tensor | float | None = None,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "SpikeAndSlab",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = self._set_slab(probs, loc, scale, logits, log_scale)
            super().__init__(
                dtype=dtype,
                reparameterization_type=tfd.NOT_REPARAMETERIZED,
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: None = None) -> dict:
        return cls._indicator_and_slab_properties()

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor = None) -> tf.Tensor:
        included, noise = self._draw(n, seed)
        return tf.where(included, self.loc + self.scale * noise, 0)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        is_zero = tf.equal(value, 0)
        log_spike = tf.math.log_sigmoid(-self.logits)
        log_slab = tf.math.log_sigmoid(self.logits) + self._slab.log_prob(value)
        return tf.where(is_zero, log_spike, log_slab)

    def _mean(self) -> tf.Tensor:
        return self.probs * self.loc + tf.zeros_like(self.scale)

    def _variance(self) -> tf.Tensor:
        probs = self.probs
        return probs * (tf.square(self.scale) + (1 - probs) * tf.square(self.loc))

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())


def bernoulli_divergence(logits: tf.Tensor, prior_logits: tf.Tensor) -> tf.Tensor:
    """KL(Bernoulli || Bernoulli) from log odds.

        KL = -H(phi) - phi log pi - (1 - phi) log(1 - pi)
        H(phi) = log(1 + e) + |a| e / (1 + e),  e = exp(-|a|)

    with the log odds `a` of phi. The entropy H needs a single exponential that way,
    and nothing cancels in it near 0 and 1.

    Args:
        logits: Tensor, log odds under the posterior; may be infinite.
        prior_logits: Tensor, log odds under the prior; broadcasts.

    Returns:
        Tensor in nats.
    """
    # A probability is 0 or 1 long before; infinity times zero would be NaN.
    size = tf.minimum(tf.abs(logits), 1e4)
    decay = tf.exp(-size)
    entropy = tf.math.log1p(decay) + size * decay / (1 + decay)
    log_odds = tf.clip_by_value(prior_logits, -1e4, 1e4)
    cross_entropy = tf.math.softplus(log_odds) - log_odds * tf.sigmoid(logits)
    return cross_entropy - entropy


@tfd.RegisterKL(SpikeAndSlab, SpikeAndSlab)
def kl_spike_and_slab(
    posterior: SpikeAndSlab, prior: SpikeAndSlab, name: str | None = None
) -> tf.Tensor:
    """Returns the divergence of two distributions with a spike at zero.

        KL = phi KL(N(mu, s^2) || N(m0, v1)) + KL(Bernoulli(phi) || Bernoulli(pi))

    A draw says whether it is from the spike, so that this is the divergence of the
    weights, and of weights and indicators as well.

    Args:
        posterior: `SpikeAndSlab` with inclusion probability phi.
        prior: `SpikeAndSlab` with inclusion probability pi; broadcasts.
        name: Optional name scope.

    Returns:
        Tensor in nats.

    References:
        Titsias, Lazaro-Gredilla. Spike and slab variational inference for
        multi-task and multiple kernel learning. NeurIPS 2011, section 3.
    """
    with tf.name_scope(name or "kl_spike_and_slab"):
        slab = tfd.kl_divergence(posterior.slab, prior.slab)
        return posterior.probs * slab + bernoulli_divergence(
            posterior.logits, prior.logits
        )
