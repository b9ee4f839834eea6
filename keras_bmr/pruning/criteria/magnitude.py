"""The magnitude of a weight as a criterion."""

import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning.criteria.criterion import Criterion
from keras_bmr.pruning.groups import ParameterGroups


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

    def scores(
        self,
        posterior: tfd.Distribution,
        prior: tfd.Distribution,
        delta_f: np.ndarray,
        groups: ParameterGroups,
    ) -> np.ndarray:
        """See `Criterion.scores`."""
        del prior, delta_f
        return -np.sqrt(groups.mean(np.square(posterior.mean())))
