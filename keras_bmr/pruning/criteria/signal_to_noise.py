"""The signal-to-noise ratio of a weight as a criterion."""

import numpy as np

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence


class SignalToNoise(Criterion):
    """Minus the ratio of posterior mean to posterior standard deviation.

    The score of a group is `-sqrt(mean(mu^2 / sigma^2))`, of a single weight
    `-|mu| / sigma`. With `threshold=-t` groups below a ratio of `t` are pruned.

    Example:
        >>> keras_bmr.reduce_model(model, criterion="signal_to_noise", sparsity=0.9)

    References:
        Graves, Practical variational inference for neural networks, NeurIPS 2011,
        section 5.
    """

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return np.square(evidence.posterior.mean() / evidence.posterior.stddev())

    def score(self, total: np.ndarray, count: np.ndarray) -> np.ndarray:
        """See `Criterion.score`."""
        return -np.sqrt(total / np.maximum(count, 1))
