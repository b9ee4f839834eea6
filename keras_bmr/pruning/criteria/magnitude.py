"""The magnitude of a weight as a criterion."""

import numpy as np

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence


class Magnitude(Criterion):
    """Minus the size of the posterior mean, which knows nothing of uncertainty.

    The score of a group is `-sqrt(mean(mu^2))`, of a single weight `-|mu|`. With
    `threshold=-t` groups smaller than `t` are pruned.

    Example:
        >>> keras_bmr.reduce_model(model, criterion="magnitude", sparsity=0.9)

    References:
        Han, Pool, Tran and Dally, Learning both weights and connections for
        efficient neural networks, NeurIPS 2015.
    """

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return np.square(evidence.posterior.mean())

    def score(self, total: np.ndarray, count: np.ndarray) -> np.ndarray:
        """See `Criterion.score`."""
        return -np.sqrt(total / np.maximum(count, 1))
