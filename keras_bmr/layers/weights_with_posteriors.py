"""What can be asked of, and written into, the random weights of a layer."""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.layers.random_weight import RandomWeight, uncast
from keras_bmr.posteriors import Posterior
from keras_bmr.priors import Prior


class WeightsWithPosteriors:
    """Posteriors, priors, divergences and masks of a layer's weights, by name.

    Distributions are built from the current values on each access.
    """

    _random: dict[str, RandomWeight]
    _posterior_family: Posterior
    _prior_family: Prior

    @property
    def random_weight_names(self) -> tuple[str, ...]:
        """Names of the weights that have a posterior; the layer must be built."""
        return tuple(self._random)

    @property
    def has_inclusion_probabilities(self) -> bool:
        """Whether the posteriors say how probably a weight is in the model."""
        return self._posterior_family.spike is not None

    def _random_weight(self, name: str) -> RandomWeight:
        if name not in self._random:
            known = self.random_weight_names if self.built else "none: not built yet"
            raise ValueError(
                f"Layer '{self.name}' has no random weight of that name. Expected one "
                f"of {known}. Received: name={name!r}"
            )
        return self._random[name]

    def _standardised_posterior(self, weight: RandomWeight) -> tfd.Distribution:
        return self._posterior_family.distribution(
            uncast(weight.location), weight.posterior_state
        )

    def _scaled(
        self, weight: RandomWeight, scale: tf.Tensor | None
    ) -> tfd.Distribution:
        return self._posterior_family.rescale(
            self._standardised_posterior(weight), scale, weight.mask.value
        )

    def posterior(self, name: str) -> tfd.Distribution:
        """The posterior of a weight, built from the current values.

        Args:
            name: One of `random_weight_names`, for example "kernel".

        Returns:
            Distribution with the batch shape of the weight. Pruned entries are 0
            with variance 0. Under a hierarchical prior the random scale stands at
            its posterior mean.

        Raises:
            ValueError: If the layer has no such weight.
        """
        weight = self._random_weight(name)
        scale = self._prior_family.expected_scale(weight.prior_state)
        return self._scaled(weight, scale)

    def unmasked_posterior(self, name: str) -> tfd.Distribution:
        """As `posterior`, with a density where weights are pruned, too.

        Args:
            name: One of `random_weight_names`.

        Returns:
            Distribution with the batch shape of the weight. Pruned entries are what
            the variables of the layer make of them, which says nothing of the model.

        Raises:
            ValueError: If the layer has no such weight.
        """
        weight = self._random_weight(name)
        return self._posterior_family.rescale(
            self._standardised_posterior(weight),
            self._prior_family.expected_scale(weight.prior_state),
            tf.ones(weight.mask.shape, tf.bool),
        )

    def prior(self, name: str) -> tfd.Distribution:
        """The prior of a weight, built from the current values.

        Args:
            name: One of `random_weight_names`, for example "kernel".

        Returns:
            Distribution that broadcasts to the shape of the weight. Under a
            hierarchical prior the random scale stands at its posterior mean.

        Raises:
            ValueError: If the layer has no such weight.
        """
        weight = self._random_weight(name)
        prior = self._prior_family.distribution(
            self._standardised_posterior(weight),
            weight.prior_state,
            weight.mask.value,
        )
        scale = self._prior_family.expected_scale(weight.prior_state)
        if scale is None:
            return prior
        return tfd.Normal(scale * prior.loc, scale * prior.scale)

    def divergence(self, name: str) -> tf.Tensor:
        """KL(posterior || prior) of a weight in nats, pruned entries left out.

        Args:
            name: One of `random_weight_names`.

        Returns:
            Scalar tensor.

        Raises:
            ValueError: If the layer has no such weight.
        """
        weight = self._random_weight(name)
        return self._prior_family.divergence(
            self._standardised_posterior(weight),
            weight.prior_state,
            weight.mask.value,
        )

    def update_closed_forms(self, name: str, location: tf.Tensor) -> None:
        """Sets what posterior and prior of a weight do not learn by the gradient.

        Optimisers call it after every step, see `Posterior.update`.

        Args:
            name: One of `random_weight_names`.
            location: Value that the location variable is about to have.
        """
        weight = self._random[name]
        family, mask = self._posterior_family, weight.mask.value
        posterior = family.distribution(location, weight.posterior_state)
        prior = self._prior_family.distribution(posterior, weight.prior_state, mask)
        family.update(location, weight.posterior_state, prior)
        posterior = family.distribution(location, weight.posterior_state)
        self._prior_family.update(posterior, weight.prior_state, mask)

    # --- Pruning ---

    def mask(self, name: str) -> keras.Variable:
        """The boolean variable that is False where a weight is pruned.

        Args:
            name: One of `random_weight_names`.

        Returns:
            Variable with the shape of the weight.

        Raises:
            ValueError: If the layer has no such weight.
        """
        return self._random_weight(name).mask

    def prune(self, name: str, keep: Any) -> None:
        """Prunes entries of a weight; what was pruned before stays so.

        Args:
            name: One of `random_weight_names`.
            keep: Boolean array with the shape of the weight, False to prune.

        Raises:
            ValueError: If the layer has no such weight, or `keep` another shape.
        """
        weight = self._random_weight(name)
        keep = tf.convert_to_tensor(keep, tf.bool)
        if tuple(keep.shape) != tuple(weight.location.shape):
            raise ValueError(
                f"`keep` must have the shape of weight '{name}' of layer "
                f"'{self.name}', {tuple(weight.location.shape)}. Received: "
                f"keep.shape={tuple(keep.shape)}"
            )
        weight.mask.assign(tf.logical_and(weight.mask.value, keep))
        location, pruned = weight.location, self._posterior_family.pruned_location
        location.assign(tf.where(weight.mask.value, location.value, pruned))

    def assign_posterior(self, name: str, distribution: tfd.Distribution) -> None:
        """Writes a posterior, a reduced one for example, into the variables.

        Args:
            name: One of `random_weight_names`.
            distribution: Distribution of the layer's posterior family, with the
                shape of the weight and in the scale that `posterior` returns.
                Entries of pruned weights are ignored.

        Raises:
            ValueError: If the layer has no such weight.
        """
        weight = self._random_weight(name)
        scale = self._prior_family.expected_scale(weight.prior_state)
        if scale is not None:
            distribution = self._posterior_family.rescale(
                distribution, 1.0 / scale, tf.ones(weight.mask.shape, tf.bool)
            )
        self._posterior_family.assign(
            distribution, weight.location, weight.posterior_state, weight.mask.value
        )

    def assign_means(self, means: Mapping[str, Any]) -> None:
        """Moves posteriors to given means; their spread stays as it is.

        Args:
            means: Tensors with the shapes of the weights, by name.

        Raises:
            ValueError: If the layer has no such weight, or its family of posteriors
                no member of that mean.
        """
        for name, mean in means.items():
            weight = self._random_weight(name)
            mean = tf.cast(tf.convert_to_tensor(mean), weight.location.dtype)
            scale = self._prior_family.expected_scale(weight.prior_state)
            self._posterior_family.assign_mean(
                mean if scale is None else mean / scale,
                weight.location,
                weight.posterior_state,
            )

    def posterior_means(self) -> dict[str, tf.Tensor]:
        """The means of the random weights by name, 0 where pruned."""
        return {
            name: self._posterior_family.moments(self.posterior(name))[0]
            for name in self._random
        }
