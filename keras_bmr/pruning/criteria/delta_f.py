"""The log Bayes factor as a criterion."""

import numpy as np

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence


class DeltaF(Criterion):
    """Log Bayes factor of the reduced prior against the full one, in nats.

    The weights have independent posteriors and priors, so that the log Bayes
    factor of a group is the sum over its weights.

    Example:
        >>> keras_bmr.reduce_model(model, criterion="delta_f")

    References:
        Friston, Parr and Zeidman, Bayesian model reduction, arXiv 1805.07092,
        equations 3 to 5.
    """

    is_log_bayes_factor = True

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return evidence.delta_f
