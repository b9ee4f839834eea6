"""Optimal posterior damage as a criterion."""

import numpy as np

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence


class OPD(Criterion):
    """Minus the optimal posterior damage, P_kk theta_k^2, summed over a group.

    P_kk is the posterior precision of a weight, theta_k its posterior mean. It is
    the part of delta_f of a point mass at zero that depends on the mean,

        delta_f = 1/2 log(P_kk / prior precision) - 1/2 P_kk theta_k^2,

    without the Occam term, which criterion "delta_f" has as well.

    Example:
        >>> keras_bmr.reduce_model(laplace, criterion="opd", sparsity=0.9)

    References:
        Dhahri, Immer, Charpentier, Günnemann and Fortuin, Shaving weights with
        Occam's razor, arXiv 2402.15978, section 3.4.
    """

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return -np.square(evidence.posterior.mean() / evidence.posterior.stddev())
