"""Which weights are pruned together: the granularity of a reduction."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_bmr.layers.traversal import layers_named
from keras_bmr.pruning.posterior_weights import PosteriorWeight, posterior_weights

BLOCK_LENGTH = 4


class ParameterGroups:
    """The groups of one weight tensor; a group is pruned as a whole or not at all.

    This class is the granularity "weight": every weight is a group of its own.
    Subclasses override `supports`, `_reduce` and `expand`.

    Args:
        alive: Boolean array with the shape of the weight, False where pruned.
            Pruned weights enter no sum.
    """

    def __init__(self, alive: np.ndarray) -> None:
        self._alive = alive

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self._alive.shape

    @classmethod
    def supports(cls, weight: PosteriorWeight) -> bool:
        """Whether a weight can be pruned in groups of this kind."""
        del weight
        return True

    def _reduce(self, values: np.ndarray) -> np.ndarray:
        """Sums an array with the shape of the weight over each group."""
        return values

    def expand(self, decisions: np.ndarray) -> np.ndarray:
        """Gives each weight the value of its group.

        Args:
            decisions: Array with one entry per group.

        Returns:
            Array with the shape of the weight.
        """
        return decisions

    def sizes(self) -> np.ndarray:
        """Number of weights left in each group; 0 for a group that is pruned."""
        return self._reduce(self._alive.view(np.uint8))

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sums over the weights that are left in each group.

        Args:
            values: Floating array with the shape of the weight.

        Returns:
            Array with one entry per group.
        """
        if not self._alive.all():
            values = np.where(self._alive, values, 0)
        return self._reduce(values)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Averages over the weights that are left in each group.

        Args:
            values: Floating array with the shape of the weight.

        Returns:
            Array with one entry per group; 0 for a group that is pruned.
        """
        return self.sum(values) / np.maximum(self.sizes(), 1)


class BlockGroups(ParameterGroups):
    """The granularity "block": 1x4 blocks of dense kernels.

    A block holds four consecutive inputs of one output unit, rows 4i to 4i + 3 of
    one column of a Keras kernel of shape (inputs, units). Where the number of
    inputs is no multiple of four, the last block of a column is shorter. TFLite's
    fully connected float kernels skip such blocks. The weights of other layers and
    biases have no such kernel and are left alone.
    """

    @classmethod
    def supports(cls, weight: PosteriorWeight) -> bool:
        """Whether the weight is the kernel of a dense layer."""
        return isinstance(weight.layer, keras.layers.Dense) and weight.name == "kernel"

    def _reduce(self, values: np.ndarray) -> np.ndarray:
        starts = np.arange(0, values.shape[0], BLOCK_LENGTH)
        return np.add.reduceat(values, starts, axis=0, dtype=values.dtype)

    def expand(self, decisions: np.ndarray) -> np.ndarray:
        """See `ParameterGroups.expand`."""
        repeated = np.repeat(decisions, BLOCK_LENGTH, axis=0)
        return repeated[: self.shape[0]]


GRANULARITIES = {"weight": ParameterGroups, "block": BlockGroups}


def get(granularity: str | type[ParameterGroups]) -> type[ParameterGroups]:
    """Resolves a `granularity=` argument.

    Args:
        granularity: A name out of `GRANULARITIES`, or a class.

    Returns:
        The class of the groups.

    Raises:
        ValueError: If nothing of that name is known.

    Example:
        >>> keras_bmr.pruning.groups.get("block")
    """
    if isinstance(granularity, str) and granularity in GRANULARITIES:
        return GRANULARITIES[granularity]
    if isinstance(granularity, type) and issubclass(granularity, ParameterGroups):
        return granularity
    raise ValueError(
        f"Invalid value for `granularity`: expected one of {sorted(GRANULARITIES)} or "
        f"a subclass of `ParameterGroups`. Received: granularity={granularity!r}"
    )


def considered_weights(
    model: keras.Model, granularity: str | type[ParameterGroups], skip: Sequence[str]
) -> dict[int, PosteriorWeight]:
    """The weights that a reduction may prune.

    Args:
        model: A built model with Bayesian layers.
        granularity: As for `get`.
        skip: Names of layers to leave alone.

    Returns:
        At least one weight, by its position among the weights of the model.

    Raises:
        ValueError: If the model has no built Bayesian layer, `skip` names an unknown
            layer, the granularity is unknown, or no weight is left.
    """
    groups_class = get(granularity)
    skipped = layers_named(model, skip)
    weights = posterior_weights(model)
    considered = {
        index: weight
        for index, weight in enumerate(weights)
        if id(weight.layer) not in skipped and groups_class.supports(weight)
    }
    if not considered:
        raise ValueError(
            f"Model '{model.name}' has no weight left to prune with "
            f"granularity={granularity!r} and skip={skip!r}. Its weights with "
            f"posteriors are {[weight.label for weight in weights]}."
        )
    return considered
