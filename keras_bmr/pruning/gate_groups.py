"""Noise gates as what is pruned."""

from keras_bmr.layers.multiplicative_noise import MultiplicativeNoise
from keras_bmr.pruning.groups import ParameterGroups
from keras_bmr.pruning.prunable_weight import PrunableWeight


class GateGroups(ParameterGroups):
    """Every noise gate is a group of its own; all other weights are left alone.

    Unlike the granularity "channel" it asks nothing of the layers around the gates.

    Example:
        >>> keras_bmr.ModelReduction(
        ...     model, reduced_prior="bmrs_n", granularity=keras_bmr.pruning.GateGroups
        ... )
    """

    @classmethod
    def supports(cls, weight: PrunableWeight) -> bool:
        """Whether the weight is the noise of gates."""
        return isinstance(weight.layer, MultiplicativeNoise)
