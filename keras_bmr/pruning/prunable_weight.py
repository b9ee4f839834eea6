"""A weight tensor that can be pruned."""

import dataclasses

import keras
import numpy as np

from keras_bmr.layers.pruned_weights import prune_weight, weight_mask, weight_variable
from keras_bmr.layers.registry import variational_class


@dataclasses.dataclass(frozen=True)
class PrunableWeight:
    """One weight tensor of a model, with or without a posterior.

    Attributes:
        layer: The layer that the weight belongs to.
        name: Name of the weight in its layer, for example "kernel".
    """

    layer: keras.layers.Layer
    name: str

    @property
    def label(self) -> str:
        """How messages speak of the weight."""
        return f"weight '{self.name}' of layer '{self.layer.name}'"

    @property
    def variable(self) -> keras.Variable:
        """The variable that holds the weight, or the location of its posterior."""
        return weight_variable(self.layer, self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.variable.shape)

    def alive(self) -> np.ndarray:
        """Boolean array with the shape of the weight, False where pruned."""
        return weight_mask(self.layer, self.name)

    def prune(self, keep: np.ndarray) -> None:
        """Prunes the weight where the boolean array `keep` is False."""
        prune_weight(self.layer, self.name, keep)


def ordinary_kernels(model: keras.Model) -> list[PrunableWeight]:
    """The kernels of an ordinary Keras model that can be pruned.

    Args:
        model: A built Keras model.

    Returns:
        Every kernel once that would get a posterior in `to_variational`, frozen ones
        included.
    """
    kernels: dict[int, PrunableWeight] = {}
    for layer in model._flatten_layers(include_self=True, recursive=True):
        target = variational_class(type(layer))
        if target is None or not layer.built:
            continue
        for name, variable in target.random_weights(layer).items():
            # Vectors are scales of normalisations. The weights of a sublayer may be
            # named by the layer around it, too.
            if len(variable.shape) > 1:
                kernels.setdefault(id(variable), PrunableWeight(layer, name))
    return list(kernels.values())
