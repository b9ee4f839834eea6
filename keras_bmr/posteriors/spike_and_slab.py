"""Spike-and-slab posteriors: every weight is in or out, with a probability."""

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.distributions import ContinuousSpikeAndSlab as ContinuousDistribution
from keras_bmr.distributions import SpikeAndSlab as SpikeAndSlabDistribution
from keras_bmr.posteriors.mean_field_normal import MeanFieldNormal
from keras_bmr.posteriors.sampling import fold_in, standard_normal

# Log odds of a weight that is in for sure: its probability rounds to 1 also after any
# log Bayes factor, and unlike infinity it is a finite weight.
CERTAIN = 1000.0


# The prior's class has the same name, and Keras looks for names alone.
@keras.saving.register_keras_serializable("keras_bmr", "SpikeAndSlabPosterior")
class SpikeAndSlab(MeanFieldNormal):
    """Zero, or a Normal with a given probability: w = z v, z ~ Bernoulli(phi).

    The mean and the scale of `v ~ N(mu, s^2)` follow the gradient. The inclusion
    probability has a closed form, which is evaluated after every step of the
    optimiser. With log odds `zeta` and slab `N(0, v1)` of the prior,

        logit phi = zeta + 1/2 log(s^2 / v1) + mu^2 / (2 s^2)

    that is `zeta - delta_f`, with the log Bayes factor of zero against the slab. It
    holds where mu and s are stationary, hence the warm-up of the prior, during which
    phi = 1. Outside training a weight is phi mu.

    Args:
        initial_scale: See `MeanFieldNormal`.
        gain: See `MeanFieldNormal`.

    Raises:
        ValueError: If an argument is not positive and finite.

    Example:
        >>> keras_bmr.layers.DenseVariational(10, posterior="spike_and_slab")

    References:
        Titsias and Lazaro-Gredilla, Spike and slab variational inference for
        multi-task and multiple kernel learning, NeurIPS 2011, section 3.
        Carbonetto and Stephens, Scalable variational inference for Bayesian variable
        selection in regression, Bayesian Analysis 7 (2012), equation 10.
    """

    spike = "point_mass"
    default_prior = "spike_and_slab"

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """See `Posterior.add_weights`."""
        inclusion = add_weight(
            name="inclusion_logits",
            shape=shape,
            initializer=keras.initializers.Constant(CERTAIN),
            trainable=False,
            aggregation="only_first_replica",
        )
        return {**super().add_weights(add_weight, shape), "inclusion_logits": inclusion}

    def distribution(
        self, location: tf.Tensor, state: Mapping[str, keras.Variable]
    ) -> tfd.Distribution:
        """See `Posterior.distribution`."""
        return SpikeAndSlabDistribution(
            logits=state["inclusion_logits"].value,
            loc=location,
            log_scale=self.gain * state["log_scale"].value,
        )

    def update(
        self,
        location: tf.Tensor,
        state: Mapping[str, keras.Variable],
        prior: tfd.Distribution,
    ) -> None:
        """See `Posterior.update`: the inclusion probabilities."""
        posterior = self.distribution(location, state)
        state["inclusion_logits"].assign(self._inclusion_logits(posterior, prior))

    def _inclusion_logits(
        self, posterior: tfd.Distribution, prior: tfd.Distribution
    ) -> tf.Tensor:
        log_scale = posterior.slab.log_scale
        # exp(-2 log_scale) would overflow where the ratio does not: 0 times infinity.
        signal = 0.5 * tf.square(posterior.loc / posterior.scale)
        return prior.logits - tf.math.log(prior.scale) + log_scale + signal

    def sample(
        self,
        distribution: tfd.Distribution,
        seed: tf.Tensor,
        sample_shape: Sequence[int] | tf.Tensor = (),
    ) -> tf.Tensor:
        """See `Posterior.sample`; the gradient is that of the slab."""
        centre, deviation = self._draw(distribution, seed, sample_shape)
        return centre + deviation

    def centre_and_deviation(
        self, distribution: tfd.Distribution, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Posterior.centre_and_deviation`: given the indicators."""
        return self._draw(distribution, seed)

    def _draw(
        self,
        distribution: tfd.Distribution,
        seed: tf.Tensor,
        sample_shape: Sequence[int] | tf.Tensor = (),
    ) -> tuple[tf.Tensor, tf.Tensor]:
        draws = tf.convert_to_tensor(sample_shape, tf.int32)
        shape = tf.concat([draws, distribution.loc.shape], axis=0)
        dtype, zero = distribution.dtype, tf.zeros((), distribution.dtype)
        uniform = tf.random.stateless_uniform(
            shape, fold_in(seed, 5), dtype=dtype, alg="philox"
        )
        noise = standard_normal(shape, seed, dtype)
        included = uniform < distribution.probs
        return (
            tf.where(included, distribution.loc, zero),
            tf.where(included, distribution.scale * noise, zero),
        )

    def moments(self, distribution: tfd.Distribution) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Posterior.moments`."""
        # As of the distribution, without what makes it broadcast.
        probs, loc = distribution.probs, distribution.loc
        within = tf.square(distribution.scale)
        return probs * loc, probs * (within + (1 - probs) * tf.square(loc))

    def rescale(
        self,
        distribution: tfd.Distribution,
        scale: tf.Tensor | None,
        mask: tf.Tensor,
    ) -> tfd.Distribution:
        """See `Posterior.rescale`; the slab of a pruned weight stays."""
        if scale is not None:
            raise ValueError(
                f"A {type(self).__name__} posterior cannot stand under a prior with a "
                "random scale, since the scale of its slab is compared with the "
                f"prior's. Use the prior '{self.default_prior}'."
            )
        return distribution.copy(
            logits=tf.where(mask, distribution.logits, -float("inf"))
        )

    def assign(
        self,
        distribution: tfd.Distribution,
        location: keras.Variable,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> None:
        """See `Posterior.assign`."""
        expected = type(self.distribution(location.value, state))
        if not isinstance(distribution, expected):
            raise ValueError(
                f"Expected a `{expected.__name__}`, which is all that a "
                f"{type(self).__name__} posterior can hold. Received: {distribution!r}"
            )
        super().assign(distribution.slab, location, state, mask)
        logits = state["inclusion_logits"]
        limited = tf.clip_by_value(distribution.logits, -CERTAIN, CERTAIN)
        logits.assign(tf.where(mask, limited, logits.value))

    def assign_mean(
        self,
        mean: tf.Tensor,
        location: keras.Variable,
        state: Mapping[str, keras.Variable],
    ) -> None:
        """See `Posterior.assign_mean`; the weights are in for sure then."""
        location.assign(mean)
        logits = state["inclusion_logits"]
        logits.assign(tf.fill(logits.shape, tf.cast(CERTAIN, logits.dtype)))


@keras.saving.register_keras_serializable(
    "keras_bmr", "ContinuousSpikeAndSlabPosterior"
)
class ContinuousSpikeAndSlab(SpikeAndSlab):
    """A Normal, and the probability that it stems from the slab of the prior.

    The prior is a mixture of a slab `N(0, v1)` and a narrow spike `N(0, v0)`. Weight
    and indicator are independent under the posterior, w ~ N(mu, s^2). The inclusion
    probability is set to its optimum after every step of the optimiser,

        logit phi = zeta + 1/2 log(v0 / v1) + 1/2 (1/v0 - 1/v1) (mu^2 + s^2)

    which is exact whatever mu and s are. The spike pulls weights towards zero without
    making them zero: outside training a weight is mu.

    Args:
        initial_scale: See `MeanFieldNormal`.
        gain: See `MeanFieldNormal`.

    Raises:
        ValueError: If an argument is not positive and finite.

    Example:
        >>> posterior = "continuous_spike_and_slab"
        >>> keras_bmr.layers.DenseVariational(10, posterior=posterior)

    References:
        Rockova and George, EMVS: the EM approach to Bayesian variable selection,
        Journal of the American Statistical Association 109 (2014), equation 3.8.
    """

    spike = "continuous"
    default_prior = "continuous_spike_and_slab"

    def distribution(
        self, location: tf.Tensor, state: Mapping[str, keras.Variable]
    ) -> tfd.Distribution:
        """See `Posterior.distribution`."""
        return ContinuousDistribution(
            logits=state["inclusion_logits"].value,
            loc=location,
            log_scale=self.gain * state["log_scale"].value,
            spike_loc=location,
        )

    def _inclusion_logits(
        self, posterior: tfd.Distribution, prior: tfd.Distribution
    ) -> tf.Tensor:
        second_moment = tf.square(posterior.loc) + tf.square(posterior.scale)
        spike, slab = prior.spike.scale, prior.scale
        gap = 0.5 * (1 / tf.square(spike) - 1 / tf.square(slab))
        return prior.logits + tf.math.log(spike / slab) + gap * second_moment

    def _draw(
        self,
        distribution: tfd.Distribution,
        seed: tf.Tensor,
        sample_shape: Sequence[int] | tf.Tensor = (),
    ) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = MeanFieldNormal.sample(self, distribution.slab, seed, sample_shape)
        return distribution.loc, drawn - distribution.loc

    def moments(self, distribution: tfd.Distribution) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Posterior.moments`."""
        return MeanFieldNormal.moments(self, distribution.slab)

    def rescale(
        self,
        distribution: tfd.Distribution,
        scale: tf.Tensor | None,
        mask: tf.Tensor,
    ) -> tfd.Distribution:
        """See `Posterior.rescale`."""
        out = super().rescale(distribution, scale, mask)
        slab = MeanFieldNormal.rescale(self, distribution.slab, None, mask)
        return ContinuousDistribution(
            logits=out.logits, loc=slab.loc, scale=slab.scale, spike_loc=slab.loc
        )
