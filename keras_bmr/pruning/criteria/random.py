"""Chance as a criterion."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_bmr.argument_checks import require_integer
from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence
from keras_bmr.pruning.prunable_weight import PrunableWeight


class Random(Criterion):
    """Uniform random scores in [0, 1), the baseline that knows nothing.

    Args:
        seed: Non-negative integer; every reduction draws the same scores.

    Raises:
        ValueError: If the seed is none.

    Example:
        >>> keras_bmr.reduce_model(model, criterion="random", sparsity=0.9)
    """

    def __init__(self, seed: int = 0) -> None:
        require_integer("seed", seed, at_least=0)
        self.seed = seed
        self._generator = np.random.default_rng(seed)

    def prepare(self, model: keras.Model, weights: Sequence[PrunableWeight]) -> None:
        """See `Criterion.prepare`."""
        self._generator = np.random.default_rng(self.seed)

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return np.broadcast_to(np.float32(0), evidence.delta_f.shape)

    def score(self, total: np.ndarray, count: np.ndarray) -> np.ndarray:
        """See `Criterion.score`."""
        return self._generator.random(np.shape(count), np.float32)
