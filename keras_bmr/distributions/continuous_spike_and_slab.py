"""The spike-and-slab distribution whose spike is a narrow Normal."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.spike_and_slab import (
    SpikeAndSlabIndicator,
    bernoulli_divergence,
)

tfd = tfp.distributions


class ContinuousSpikeAndSlab(SpikeAndSlabIndicator):
    """N(loc, scale^2) with probability probs, and N(spike_loc, spike_scale^2) else.

    Samples, moments and `log_prob` are those of the mixture. Its KL divergence is
    that of the weight together with the indicator, which is what the evidence lower
    bound has where the indicator is a variable of the posterior; the divergence of
    the mixtures alone is less and has no closed form.

    Args:
        probs: Tensor in [0, 1], the probability of the slab; or give `logits`.
        loc: Tensor, mean of the slab.
        scale: Tensor, standard deviation of the slab; or give `log_scale`.
        spike_loc: Tensor, mean of the spike.
        spike_scale: Tensor, standard deviation of the spike; None stands for that
            of the slab.
        logits: Tensor, the log odds of the slab.
        log_scale: Tensor, natural logarithm of the slab's standard deviation.
        validate_args: Whether to check the arguments of methods.
        allow_nan_stats: Whether statistics may be NaN rather than raise.
        name: Name of the distribution.

    Raises:
        ValueError: If both or neither of `probs` and `logits`, or of `scale` and
            `log_scale`, are given, or the dtypes differ.

    Example:
    >>> prior = ContinuousSpikeAndSlab(probs=0.5, scale=1.0, spike_scale=0.1)
    >>> print(f"{prior.stddev().numpy():.4f}")
    0.7106

    References:
        George, McCulloch. Variable selection via Gibbs sampling. Journal of the
        American Statistical Association 88 (1993), equation 3.
    """

    def __init__(
        self,
        probs: tf.Tensor | float | None = None,
        loc: tf.Tensor | float = 0.0,
        scale: tf.Tensor | float | None = None,
        spike_loc: tf.Tensor | float = 0.0,
        spike_scale: tf.Tensor | float | None = None,
        logits: tf.Tensor | float | None = None,
        log_scale: tf.Tensor | float | None = None,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "ContinuousSpikeAndSlab",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            others = [v for v in (spike_loc, spike_scale) if v is not None]
            dtype = self._set_slab(probs, loc, scale, logits, log_scale, *others)
            self._spike_loc = tf.convert_to_tensor(spike_loc, dtype)
            if spike_scale is not None:
                self._spike_scale = tf.convert_to_tensor(spike_scale, dtype)
                self._spike = tfd.Normal(self._spike_loc, self._spike_scale)
            elif log_scale is not None:
                self._spike = type(self._slab)(self._spike_loc, self._slab.log_scale)
            else:
                self._spike = tfd.Normal(self._spike_loc, self._slab.scale)
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
        properties = tfp.util.ParameterProperties
        return {
            **cls._indicator_and_slab_properties(),
            "spike_loc": properties(),
            "spike_scale": properties(),
        }

    @property
    def spike(self) -> tfd.Normal:
        """The distribution of an entry that is not included."""
        return self._spike

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor = None) -> tf.Tensor:
        included, noise = self._draw(n, seed)
        return tf.where(
            included,
            self.loc + self.scale * noise,
            self._spike.loc + self._spike.scale * noise,
        )

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return tf.math.reduce_logsumexp(
            tf.stack(
                [
                    tf.math.log_sigmoid(self.logits) + self._slab.log_prob(value),
                    tf.math.log_sigmoid(-self.logits) + self._spike.log_prob(value),
                ]
            ),
            axis=0,
        )

    def _mean(self) -> tf.Tensor:
        probs = self.probs
        spread = tf.zeros_like(self.scale) + tf.zeros_like(self._spike.scale)
        return probs * self.loc + (1 - probs) * self._spike.loc + spread

    def _variance(self) -> tf.Tensor:
        probs = self.probs
        between = probs * (1 - probs) * tf.square(self.loc - self._spike.loc)
        within = probs * tf.square(self.scale)
        return within + (1 - probs) * tf.square(self._spike.scale) + between

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())


@tfd.RegisterKL(ContinuousSpikeAndSlab, ContinuousSpikeAndSlab)
def kl_continuous_spike_and_slab(
    posterior: ContinuousSpikeAndSlab,
    prior: ContinuousSpikeAndSlab,
    name: str | None = None,
) -> tf.Tensor:
    """Returns the divergence of weight and indicator together.

        KL = phi KL(slab || prior slab) + (1 - phi) KL(spike || prior spike)
             + KL(Bernoulli(phi) || Bernoulli(pi))

    Args:
        posterior: `ContinuousSpikeAndSlab` with inclusion probability phi.
        prior: `ContinuousSpikeAndSlab` with inclusion probability pi; broadcasts.
        name: Optional name scope.

    Returns:
        Tensor in nats.

    References:
        Cover, Thomas. Elements of information theory. Wiley 2006, theorem 2.5.3
        (chain rule for relative entropy).
    """
    with tf.name_scope(name or "kl_continuous_spike_and_slab"):
        slab = tfd.kl_divergence(posterior.slab, prior.slab)
        spike = tfd.kl_divergence(posterior.spike, prior.spike)
        probs = posterior.probs
        return (
            probs * slab
            + (1 - probs) * spike
            + bernoulli_divergence(posterior.logits, prior.logits)
        )
