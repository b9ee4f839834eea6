"""The interface of a pruning criterion."""

import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning.groups import ParameterGroups


class Criterion:
    """Says how well a group of weights can be spared.

    A subclass overrides `scores`. If its scores are log Bayes factors it also sets
    `is_log_bayes_factor`, upon which they have a natural threshold; any other
    criterion needs a `threshold` or a target `sparsity`.
    """

    is_log_bayes_factor = False

    def scores(
        self,
        posterior: tfd.Distribution,
        prior: tfd.Distribution,
        delta_f: np.ndarray,
        groups: ParameterGroups,
    ) -> np.ndarray:
        """Scores the groups of one weight tensor; the highest are pruned first.

        Scores of different tensors are compared with each other. Entries that are
        pruned already hold arbitrary values in the first three arguments;
        `groups.sum` and `groups.mean` leave them out.

        Args:
            posterior: Posterior whose batch shape is that of the weight.
            prior: Prior; broadcasts to the shape of the weight.
            delta_f: Floating array with the shape of the weight, the log Bayes
                factor of the reduced prior in nats.
            groups: The groups of the weight.

        Returns:
            Floating array with one entry per group.
        """
        raise NotImplementedError
