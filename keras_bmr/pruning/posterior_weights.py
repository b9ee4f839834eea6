"""Where the reduction of a model gets its posteriors and priors from."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.layers.cloning import within
from keras_bmr.layers.traversal import require_variational_layers
from keras_bmr.layers.variational import Variational
from keras_bmr.pruning.prunable_weight import PrunableWeight


@runtime_checkable
class PosteriorSource(Protocol):
    """What has posteriors for weights of a model: anything with these members.

    The layers may be ordinary Keras layers. `keras_bmr.laplace.Laplace` is one;
    Bayesian models need none, since their layers know their posteriors.

    Attributes:
        model: The built Keras model.
    """

    model: keras.Model

    def weights(self) -> list[tuple[keras.layers.Layer, str]]:
        """The weights that have posteriors, as (layer, name), in the model's order."""
        ...

    def posterior(self, layer: keras.layers.Layer, name: str) -> tfd.Distribution:
        """The posterior, with the batch shape of the weight."""
        ...

    def prior(self, layer: keras.layers.Layer, name: str) -> tfd.Distribution:
        """The prior, which broadcasts to the shape of the weight."""
        ...


class VariationalPosteriors:
    """The posteriors that the layers of a Bayesian model have themselves.

    Args:
        model: A built model with Bayesian layers.

    Raises:
        ValueError: If the model has no built Bayesian layer.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self._layers = require_variational_layers(model)

    def weights(self) -> list[tuple[keras.layers.Layer, str]]:
        """See `PosteriorSource.weights`."""
        return [
            (layer, name)
            for layer in self._layers
            for name in layer.random_weight_names
        ]

    def posterior(self, layer: Variational, name: str) -> tfd.Distribution:
        """See `PosteriorSource.posterior`."""
        posterior = layer.posterior(name)
        if isinstance(posterior, tfd.Normal):
            return posterior
        # Pruned entries of other families may lie outside of every prior.
        return layer.unmasked_posterior(name)

    def prior(self, layer: Variational, name: str) -> tfd.Distribution:
        """See `PosteriorSource.prior`."""
        return layer.prior(name)


def posterior_source(source: Any) -> PosteriorSource:
    """Resolves the first argument of `ModelReduction`.

    Args:
        source: A Bayesian model, or a `PosteriorSource`.

    Returns:
        The source.

    Raises:
        ValueError: If it is neither, or the model has no built Bayesian layer.
    """
    # A Keras model has `weights` as well.
    if not isinstance(source, keras.layers.Layer) and isinstance(
        source, PosteriorSource
    ):
        return source
    return VariationalPosteriors(source)


@dataclasses.dataclass(frozen=True)
class PosteriorWeight(PrunableWeight):
    """A weight tensor that has a posterior and a prior.

    Attributes:
        source: What has them.
    """

    source: PosteriorSource

    def posterior(self) -> tfd.Distribution:
        """The posterior; that of pruned entries is their prior.

        Raises:
            ValueError: If it has not the shape of the weight.
        """
        posterior = self.source.posterior(self.layer, self.name)
        if tuple(posterior.batch_shape) != self.shape:
            raise ValueError(
                f"The posterior of {self.label} must have the shape of the weight, "
                f"{self.shape}. Received: batch_shape={tuple(posterior.batch_shape)}"
            )
        mask = self.alive()
        if not isinstance(posterior, tfd.Normal) or mask.all():
            return posterior
        # Pruned entries are point masses, which have no density to compare. A
        # posterior that equals the prior is proper under every reduced prior.
        scale = tf.where(mask, posterior.scale, self.prior().stddev())
        return tfd.Normal(posterior.loc, scale)

    def prior(self) -> tfd.Distribution:
        """The prior; broadcasts to the shape of the weight."""
        return self.source.prior(self.layer, self.name)

    def can_be_assigned(self) -> bool:
        """Whether the layer itself stores the posterior."""
        return isinstance(self.source, VariationalPosteriors)


def posterior_weights(source: Any) -> list[PosteriorWeight]:
    """The weights that have posteriors, in the order of the model.

    Args:
        source: As for `posterior_source`.

    Returns:
        At least one weight.

    Raises:
        ValueError: As `posterior_source`, and if the source knows no weight, or one
            of another model.
    """
    source = posterior_source(source)
    weights = [PosteriorWeight(layer, name, source) for layer, name in source.weights()]
    if not weights:
        raise ValueError(
            f"Expected posteriors of some weights of model '{source.model.name}'. "
            f"Received: a {type(source).__name__} whose `weights()` is empty"
        )
    layers = {id(layer) for layer in within(source.model)}
    strange = [weight.label for weight in weights if id(weight.layer) not in layers]
    if strange:
        raise ValueError(
            f"Expected posteriors of weights of model '{source.model.name}'. Received: "
            f"a {type(source).__name__} that knows {strange} of other layers"
        )
    return weights
