"""The criterion that prunes where the prior is narrow."""

import numpy as np

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence


class PriorScale(Criterion):
    """Scores a group by -log of its prior scale: what has shrunk goes first.

    For priors that learn the scale of every unit, such as the regularised horseshoe
    of a tiered model or of a `HierarchicalReduction`. All weights of a unit share
    its scale, so that they are pruned together. A `threshold` of log(1000) prunes
    the units whose scale is below 0.001.

    Example:
        >>> keras_bmr.reduce_model(
        ...     model, criterion="prior_scale", threshold=math.log(1000)
        ... )

    References:
        Markovic, Friston and Kiebel, Bayesian sparsification for deep neural
        networks with Bayesian model reduction, arXiv 2309.12095, which prunes
        scales below a threshold.
    """

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        log_scale = np.log(evidence.prior.stddev())
        return np.broadcast_to(-log_scale, evidence.weight.shape)

    def score(self, total: np.ndarray, count: np.ndarray) -> np.ndarray:
        """See `Criterion.score`."""
        return total / np.maximum(count, 1)
