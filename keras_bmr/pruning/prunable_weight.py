"""A weight tensor that can be pruned."""

import dataclasses

import keras
import numpy as np

from keras_bmr.layers.pruned_weights import prune_weight, weight_mask, weight_variable


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
