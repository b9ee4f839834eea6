"""Groups of weights that are pruned as a whole or not at all."""

from collections.abc import Collection, Sequence

import keras
import numpy as np

from keras_bmr.layers.multiplicative_noise import MultiplicativeNoise
from keras_bmr.pruning.prunable_weight import PrunableWeight
from keras_bmr.pruning.weight_reduction import WeightReduction


class ParameterGroups:
    """Some groups of weights; they may take weights of several tensors.

    This class is the granularity "weight": every weight is a group of its own.
    A subclass whose groups lie within one tensor overrides `supports`, `reduce` and
    `expand`; one whose groups span tensors overrides `partition` as well.

    Args:
        members: The weight tensors that the groups take weights of.

    Attributes:
        OVERLAPPING: Whether a weight can belong to several groups.
        members: The weight tensors.
    """

    OVERLAPPING = False

    def __init__(self, members: Sequence[WeightReduction]) -> None:
        self.members = list(members)

    @property
    def layer(self) -> keras.layers.Layer:
        """The layer that the groups belong to, for rules that go layer by layer."""
        return self.members[0].weight.layer

    @classmethod
    def supports(cls, weight: PrunableWeight) -> bool:
        """Whether a weight can be pruned in groups of this kind."""
        return not is_gate(weight)

    @classmethod
    def partition(
        cls,
        model: keras.Model,
        weights: Sequence[WeightReduction],
        skipped: Collection[int],
    ) -> list["ParameterGroups"]:
        """All groups of a model.

        Args:
            model: The model.
            weights: Its weights with posteriors, in the order of the model.
            skipped: The ids (as of the built-in `id`) of layers to leave alone.

        Returns:
            The groups, those of one layer one after the other.
        """
        del model
        return [
            cls([weight])
            for weight in weights
            if id(weight.weight.layer) not in skipped and cls.supports(weight.weight)
        ]

    def reduce(self, member: WeightReduction, values: np.ndarray) -> np.ndarray:
        """Sums the values of one tensor over each group.

        Args:
            member: One of the members.
            values: Array with its shape.

        Returns:
            Array with one entry per group.
        """
        del member
        return values

    def expand(self, member: WeightReduction, values: np.ndarray) -> np.ndarray:
        """Gives each weight of one tensor the value of its group.

        Args:
            member: One of the members.
            values: Array with one entry per group.

        Returns:
            Array with the shape of the tensor. Where a weight has several groups it
            is the smallest value; where it has none, the greatest of the dtype.
        """
        del member
        return values

    def shape(self) -> tuple[int, ...]:
        """Shape of an array with one entry per group."""
        return self.sizes().shape

    def sizes(self) -> np.ndarray:
        """Number of weights left in each group; 0 for a group that is pruned."""
        parts = [
            self.reduce(member, member.alive.view(np.uint8))
            for member in self.evident()
        ]
        # A copy of 25 million values is not made for nothing.
        return parts[0] if len(parts) == 1 else np.sum(parts, axis=0)

    def evident(self) -> list[WeightReduction]:
        """The members that have posteriors; others are pruned along with them."""
        return [member for member in self.members if member.has_posterior]


def is_gate(weight: PrunableWeight) -> bool:
    """Whether a weight is the multiplicative noise of whole channels.

    Args:
        weight: A weight.

    Returns:
        True for the weight of a `MultiplicativeNoise` layer.
    """
    return isinstance(weight.layer, MultiplicativeNoise)
