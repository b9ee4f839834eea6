"""Where the reduction of a model gets its posteriors and priors from."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.layers.traversal import require_variational_layers
from keras_bmr.layers.variational import Variational


@dataclasses.dataclass(frozen=True)
class PosteriorWeight:
    """One weight tensor of a model that has a posterior and a prior.

    Everything in this package that needs a posterior asks an object of this kind,
    so that another source of posteriors needs another class with these members.

    Attributes:
        layer: The layer that the weight belongs to.
        name: Name of the weight in its layer, for example "kernel".
    """

    layer: Variational
    name: str

    @property
    def label(self) -> str:
        """How messages speak of the weight."""
        return f"weight '{self.name}' of layer '{self.layer.name}'"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.layer.mask(self.name).shape)

    def alive(self) -> np.ndarray:
        """Boolean array with the shape of the weight, False where pruned."""
        return self.layer.mask(self.name).numpy()

    def posterior(self) -> tfd.Distribution:
        """The posterior; that of pruned entries is their prior."""
        posterior = self.layer.posterior(self.name)
        if not isinstance(posterior, tfd.Normal) or self.alive().all():
            return posterior
        # Pruned entries are point masses, which have no density to compare. A
        # posterior that equals the prior is proper under every reduced prior.
        prior = self.prior()
        mask = self.layer.mask(self.name).value
        scale = tf.where(mask, posterior.scale, prior.stddev())
        return tfd.Normal(posterior.loc, scale)

    def prior(self) -> tfd.Distribution:
        """The prior; broadcasts to the shape of the weight."""
        return self.layer.prior(self.name)

    def prune(self, keep: np.ndarray) -> None:
        """Prunes the weight where the boolean array `keep` is False."""
        self.layer.prune(self.name, keep)

    def assign_posterior(self, posterior: tfd.Distribution) -> None:
        """Gives the weight another posterior of the same family."""
        self.layer.assign_posterior(self.name, posterior)


def posterior_weights(model: keras.Model) -> list[PosteriorWeight]:
    """The weights of a model that have posteriors, in the order of the model.

    Args:
        model: A built model with Bayesian layers.

    Returns:
        At least one weight.

    Raises:
        ValueError: If the model has no built Bayesian layer.
    """
    return [
        PosteriorWeight(layer, name)
        for layer in require_variational_layers(model)
        for name in layer.random_weight_names
    ]
