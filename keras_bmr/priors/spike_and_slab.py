"""Spike-and-slab priors with an inferred inclusion rate and a learned slab."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.distributions import ContinuousSpikeAndSlab as ContinuousDistribution
from keras_bmr.distributions import SpikeAndSlab as SpikeAndSlabDistribution
from keras_bmr.posteriors.spike_and_slab import CERTAIN
from keras_bmr.priors.prior import Prior, masked_sum


@keras.saving.register_keras_serializable("keras_bmr", "SpikeAndSlabPrior")
class SpikeAndSlab(Prior):
    """The prior w = z v, z ~ Bernoulli(lambda), v ~ N(0, v1).

    The inclusion rate `lambda` of a weight tensor has a Beta(a, b) hyperprior, whose
    posterior Beta(a + sum phi, b + sum (1 - phi)) enters by

        zeta = digamma(a + sum phi) - digamma(b + sum (1 - phi))

    or is fixed. The variance of the slab is learned for the tensor, by the value
    that maximises the evidence lower bound, v1 = sum phi (mu^2 + s^2) / sum phi, or
    is fixed. A variance per weight has no place here: fitted to a single weight the
    slab explains it better than a spike whatever its size, and none would be pruned.

    Both are set after every step of the optimiser. During the first `warmup_steps`
    of them the inclusion rate is 1, that is, the slab is all of the prior: before
    the scales of the weights have grown from their small start, how well a weight is
    determined cannot be told.

    Args:
        inclusion_rate: Float in (0, 1); None infers it.
        concentration1: Positive float `a`, counts as so many weights that are in.
        concentration0: Positive float `b`, counts as so many weights that are out.
        slab_scale: Positive float, the standard deviation of the slab; None learns
            it.
        warmup_steps: Non-negative integer, in steps of the optimiser.

    Raises:
        ValueError: If an argument is out of its range or not finite.

    Example:
        >>> prior = keras_bmr.priors.SpikeAndSlab(inclusion_rate=0.05)
        >>> keras_bmr.layers.DenseVariational(
        ...     10, posterior="spike_and_slab", prior=prior
        ... )

    References:
        Carbonetto and Stephens, Scalable variational inference for Bayesian variable
        selection in regression, Bayesian Analysis 7 (2012), section 3.
    """

    spike = "point_mass"

    def __init__(
        self,
        inclusion_rate: float | None = None,
        concentration1: float = 1.0,
        concentration0: float = 1.0,
        slab_scale: float | None = None,
        warmup_steps: int = 1000,
    ) -> None:
        if inclusion_rate is not None:
            require_positive("inclusion_rate", inclusion_rate)
            if inclusion_rate >= 1:
                raise ValueError(
                    "`inclusion_rate` must lie between 0 and 1, or be None to be "
                    f"inferred. Received: inclusion_rate={inclusion_rate!r}"
                )
        require_positive("concentration1", concentration1)
        require_positive("concentration0", concentration0)
        if slab_scale is not None:
            require_positive("slab_scale", slab_scale)
        require_integer("warmup_steps", warmup_steps, at_least=0)
        self.inclusion_rate = inclusion_rate
        self.concentration1 = float(concentration1)
        self.concentration0 = float(concentration0)
        self.slab_scale = slab_scale
        self.warmup_steps = int(warmup_steps)

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """See `Prior.add_weights`."""
        del shape
        starts: dict[str, float] = {}
        if self.inclusion_rate is None:
            starts["inclusion_concentration1"] = self.concentration1
            starts["inclusion_concentration0"] = self.concentration0
        if self.slab_scale is None:
            starts["slab_scale"] = 1.0
        options = {
            "shape": (),
            "trainable": False,
            "aggregation": "only_first_replica",
        }
        state = {
            name: add_weight(
                name=name, initializer=keras.initializers.Constant(start), **options
            )
            for name, start in starts.items()
        }
        state["step"] = add_weight(
            name="prior_step", initializer="zeros", dtype="int32", **options
        )
        return state

    def is_warm(self, state: Mapping[str, keras.Variable]) -> tf.Tensor:
        """Whether the warm-up is over.

        Args:
            state: The variables of `add_weights`.

        Returns:
            Boolean scalar tensor.
        """
        return state["step"].value >= self.warmup_steps

    def _log_odds(self, state: Mapping[str, keras.Variable], dtype: Any) -> tf.Tensor:
        """Expected log odds of the inclusion rate."""
        if self.inclusion_rate is None:
            log_odds = tf.math.digamma(
                state["inclusion_concentration1"].value
            ) - tf.math.digamma(state["inclusion_concentration0"].value)
        else:
            rate = tf.constant(self.inclusion_rate, dtype)
            log_odds = tf.math.log(rate) - tf.math.log1p(-rate)
        return tf.where(self.is_warm(state), log_odds, tf.cast(CERTAIN, dtype))

    def _slab_scale(self, state: Mapping[str, keras.Variable], dtype: Any) -> tf.Tensor:
        if self.slab_scale is None:
            return tf.convert_to_tensor(state["slab_scale"].value)
        return tf.constant(self.slab_scale, dtype)

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tfd.Distribution:
        """See `Prior.distribution`."""
        del mask
        return SpikeAndSlabDistribution(
            logits=self._log_odds(state, posterior.dtype),
            scale=self._slab_scale(state, posterior.dtype),
        )

    def divergence(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tf.Tensor:
        """See `Prior.divergence`; that of an inferred inclusion rate is included."""
        divergence = super().divergence(posterior, state, mask)
        if self.inclusion_rate is not None:
            return divergence
        concentration1 = state["inclusion_concentration1"].value
        concentration0 = state["inclusion_concentration0"].value
        rate = tfd.Beta(concentration1, concentration0)
        hyperprior = tfd.Beta(
            tf.constant(self.concentration1, divergence.dtype),
            tf.constant(self.concentration0, divergence.dtype),
        )
        # E[log lambda] and E[log(1 - lambda)] have the log odds zeta and do not add
        # up to a probability of 1: what is missing is the same for every weight.
        expected_log = tf.math.digamma(concentration1) - tf.math.digamma(
            concentration1 + concentration0
        )
        missing = tf.math.log_sigmoid(self._log_odds(state, divergence.dtype))
        num_kept = _count(mask, divergence.dtype)
        hyper_divergence = num_kept * (missing - expected_log)
        hyper_divergence += tfd.kl_divergence(rate, hyperprior)
        return divergence + tf.where(
            self.is_warm(state), hyper_divergence, tf.zeros_like(divergence)
        )

    def update(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> None:
        """See `Prior.update`: inclusion rate, slab and the count of steps."""
        probs = posterior.probs
        num_included = masked_sum(probs, mask)
        if self.slab_scale is None:
            second_moment = tf.square(posterior.loc) + tf.square(posterior.scale)
            scale = tf.sqrt(masked_sum(probs * second_moment, mask) / num_included)
            # With nothing included there is no slab to speak of.
            state["slab_scale"].assign(
                tf.where(num_included > 0, scale, state["slab_scale"].value)
            )
        if self.inclusion_rate is None:
            num_excluded = tf.maximum(_count(mask, probs.dtype) - num_included, 0)
            is_warm = self.is_warm(state)
            for name, start, count in (
                ("inclusion_concentration1", self.concentration1, num_included),
                ("inclusion_concentration0", self.concentration0, num_excluded),
            ):
                state[name].assign(tf.where(is_warm, start + count, start))
        step = state["step"].value
        state["step"].assign(tf.minimum(step + 1, self.warmup_steps))

    def get_config(self) -> dict[str, Any]:
        """See `Prior.get_config`."""
        return {
            "inclusion_rate": self.inclusion_rate,
            "concentration1": self.concentration1,
            "concentration0": self.concentration0,
            "slab_scale": self.slab_scale,
            "warmup_steps": self.warmup_steps,
        }


def _count(mask: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Number of weights that are left."""
    # Mostly all are, and sums are slow.
    return tf.cond(
        tf.reduce_all(mask),
        lambda: tf.cast(tf.size(mask), dtype),
        lambda: masked_sum(tf.ones(mask.shape, dtype), mask),
    )


@keras.saving.register_keras_serializable("keras_bmr", "ContinuousSpikeAndSlabPrior")
class ContinuousSpikeAndSlab(SpikeAndSlab):
    """The prior w ~ N(0, v1) with probability lambda, and N(0, v0) otherwise.

    As `SpikeAndSlab`, with a narrow Normal for a spike.

    Args:
        spike_scale: Positive float, the standard deviation of the spike: of weights
            that the network could do without.
        inclusion_rate: See `SpikeAndSlab`.
        concentration1: See `SpikeAndSlab`.
        concentration0: See `SpikeAndSlab`.
        slab_scale: See `SpikeAndSlab`. A fixed one must exceed `spike_scale`.
        warmup_steps: See `SpikeAndSlab`.

    Raises:
        ValueError: If an argument is out of its range or not finite.

    Example:
        >>> prior = keras_bmr.priors.ContinuousSpikeAndSlab(spike_scale=0.02)
        >>> keras_bmr.layers.DenseVariational(
        ...     10, posterior="continuous_spike_and_slab", prior=prior
        ... )

    References:
        George and McCulloch, Variable selection via Gibbs sampling, Journal of the
        American Statistical Association 88 (1993), equation 3.
    """

    spike = "continuous"

    def __init__(
        self,
        spike_scale: float = 0.01,
        inclusion_rate: float | None = None,
        concentration1: float = 1.0,
        concentration0: float = 1.0,
        slab_scale: float | None = None,
        warmup_steps: int = 1000,
    ) -> None:
        super().__init__(
            inclusion_rate, concentration1, concentration0, slab_scale, warmup_steps
        )
        require_positive("spike_scale", spike_scale)
        if slab_scale is not None and slab_scale <= spike_scale:
            raise ValueError(
                "`slab_scale` must exceed `spike_scale`. Received: "
                f"slab_scale={slab_scale!r}, spike_scale={spike_scale!r}"
            )
        self.spike_scale = float(spike_scale)

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tfd.Distribution:
        """See `Prior.distribution`."""
        del mask
        return ContinuousDistribution(
            logits=self._log_odds(state, posterior.dtype),
            scale=self._slab_scale(state, posterior.dtype),
            spike_scale=tf.constant(self.spike_scale, posterior.dtype),
        )

    def get_config(self) -> dict[str, Any]:
        """See `Prior.get_config`."""
        return {**super().get_config(), "spike_scale": self.spike_scale}
