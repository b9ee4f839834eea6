"""The signal-to-noise ratio of a weight as a criterion."""

import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning.criteria.criterion import Criterion
from keras_bmr.pruning.groups import ParameterGroups


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

    def scores(
        self,
        posterior: tfd.Distribution,
        prior: tfd.Distribution,
        delta_f: np.ndarray,
        groups: ParameterGroups,
    ) -> np.ndarray:
        """See `Criterion.scores`."""
        del prior, delta_f
        ratio = posterior.mean() / posterior.stddev()
        return -np.sqrt(groups.mean(np.square(ratio)))
