"""The expected value of a weight as a criterion."""

import numpy as np

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence


class ExpectedValue(Criterion):
    """Minus the posterior mean, of weights that are positive such as noise gates.

    The score of a group is minus the average of E[theta]. With `threshold=-t` groups
    below `t` are pruned. For weights of both signs take "magnitude".

    Example:
        >>> keras_bmr.reduce_model(
        ...     model, criterion="expected_value", granularity="channel", sparsity=0.5
        ... )

    References:
        Wright, Igel and Selvan, BMRS: Bayesian model reduction for structured
        pruning, arXiv 2406.01345, section 5.
    """

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return evidence.posterior.mean()

    def score(self, total: np.ndarray, count: np.ndarray) -> np.ndarray:
        """See `Criterion.score`."""
        return -total / np.maximum(count, 1)
