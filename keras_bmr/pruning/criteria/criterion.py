"""The interface of a pruning criterion."""

import abc
import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning.prunable_weight import PrunableWeight


@dataclasses.dataclass(frozen=True)
class WeightEvidence:
    """What a criterion sees of one weight tensor.

    Entries that are pruned already hold arbitrary values.

    Attributes:
        weight: The weight, with its `layer`, `name`, `variable` and `shape`.
        posterior: Posterior whose batch shape is that of the weight.
        prior: Prior; broadcasts to the shape of the weight.
        delta_f: Floating array with the shape of the weight, the log Bayes factor of
            the reduced prior in nats.
    """

    weight: PrunableWeight
    posterior: tfd.Distribution
    prior: tfd.Distribution
    delta_f: np.ndarray


class Criterion(abc.ABC):
    """Says how well a group of weights can be spared.

    A subclass overrides `statistic`, which is summed over each group, and `score`
    where the sum is not the score. A group may have weights of several tensors.

    If the scores are log Bayes factors a subclass also sets `is_log_bayes_factor`,
    upon which the reduced prior has a threshold for them; any other criterion needs
    a `threshold`, a target `sparsity`, or a `natural_threshold` of its own.
    """

    is_log_bayes_factor = False
    natural_threshold: float | None = None

    def prepare(self, model: keras.Model, weights: Sequence[PrunableWeight]) -> None:
        """Called once before anything is scored, for what needs the whole model.

        Args:
            model: The model that is analysed.
            weights: The weights that will be scored.
        """
        del model, weights

    @abc.abstractmethod
    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """What a group adds up over its weights that are left.

        Args:
            evidence: The posterior of one weight tensor and what goes with it.

        Returns:
            Floating array or tensor with the shape of the weight.
        """

    def score(self, total: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Scores groups; the highest are pruned first.

        Scores of different layers are compared with each other.

        Args:
            total: Floating array with one entry per group, the sum of the statistic.
            count: Array of the same shape, the number of weights that are left in
                each group; 0 for a group that is pruned.

        Returns:
            Floating array with one entry per group.
        """
        del count
        return total
