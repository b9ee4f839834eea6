"""The granularity "block"."""

import keras
import numpy as np

from keras_bmr.pruning.groups.parameter_groups import ParameterGroups
from keras_bmr.pruning.prunable_weight import PrunableWeight
from keras_bmr.pruning.weight_reduction import WeightReduction

BLOCK_LENGTH = 4


class BlockGroups(ParameterGroups):
    """The granularity "block": 1x4 blocks of dense kernels.

    A block holds four consecutive inputs of one output unit, rows 4i to 4i + 3 of
    one column of a Keras kernel of shape (inputs, units). Where the number of
    inputs is no multiple of four, the last block of a column is shorter. TFLite's
    fully connected float kernels skip such blocks. The weights of other layers and
    biases have no such kernel and are left alone.
    """

    @classmethod
    def supports(cls, weight: PrunableWeight) -> bool:
        """Whether the weight is the kernel of a dense layer."""
        return isinstance(weight.layer, keras.layers.Dense) and weight.name == "kernel"

    def reduce(self, member: WeightReduction, values: np.ndarray) -> np.ndarray:
        """See `ParameterGroups.reduce`."""
        starts = np.arange(0, values.shape[0], BLOCK_LENGTH)
        return np.add.reduceat(values, starts, axis=0, dtype=values.dtype)

    def expand(self, member: WeightReduction, values: np.ndarray) -> np.ndarray:
        """See `ParameterGroups.expand`."""
        return np.repeat(values, BLOCK_LENGTH, axis=0)[: member.shape[0]]
