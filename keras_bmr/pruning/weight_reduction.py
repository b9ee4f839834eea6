"""The reduction of one weight tensor."""

import functools

import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence
from keras_bmr.pruning.posterior_weights import PosteriorWeight
from keras_bmr.pruning.prunable_weight import PrunableWeight
from keras_bmr.pruning.reduced_priors import ReducedPrior
from keras_bmr.reduction import Reduction, model_reduction


class WeightReduction:
    """What is known of one weight tensor.

    Args:
        weight: The weight.

    Attributes:
        weight: The weight.
        delta_f: Log Bayes factor of each entry in nats, 0 where it was pruned before
            or the weight has no posterior.
        keep: Boolean array with the shape of the weight, the decision.
    """

    def __init__(self, weight: PrunableWeight) -> None:
        self.weight = weight
        self.delta_f = np.broadcast_to(np.float32(0), weight.shape)

    @property
    def has_posterior(self) -> bool:
        """Whether the weight brings evidence."""
        return isinstance(self.weight, PosteriorWeight)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.delta_f.shape

    @functools.cached_property
    def alive(self) -> np.ndarray:
        """Boolean array with the shape of the weight, False where pruned before."""
        return self.weight.alive()

    @functools.cached_property
    def keep(self) -> np.ndarray:
        """Boolean array with the shape of the weight, the decision."""
        return self.alive

    def analyse(self, reduced_prior: ReducedPrior, criterion: Criterion) -> np.ndarray:
        """Computes the log Bayes factors.

        Args:
            reduced_prior: The reduced prior.
            criterion: What scores the groups.

        Returns:
            The statistic of the criterion, with the shape of the weight; 0 where
            pruned before.

        Raises:
            ValueError: If a parameter of the posterior is NaN or infinite, the
                reduced posterior is improper, or a log Bayes factor or statistic is
                NaN.
            NotImplementedError: If no reduction is known for the distributions.
        """
        posterior, prior = self.weight.posterior(), self.weight.prior()
        reduction = _reduce(self.weight, posterior, prior, reduced_prior)
        delta_f = reduction.delta_f.numpy()
        # Only the log Bayes factors are needed: a large layer's memory is precious.
        del reduction
        self.delta_f = self._checked("log Bayes factor", delta_f)
        evidence = WeightEvidence(self.weight, posterior, prior, self.delta_f)
        statistic = criterion.statistic(evidence)
        if statistic is self.delta_f:
            return statistic
        return self._checked("score", np.asarray(statistic))

    def _checked(self, name: str, values: np.ndarray) -> np.ndarray:
        values = np.broadcast_to(values, self.alive.shape)
        if not self.alive.all():
            values = np.where(self.alive, values, 0)
        num_bad = np.count_nonzero(np.isnan(values))
        if num_bad:
            raise ValueError(
                f"The {name} of {self.weight.label} is NaN in {num_bad} of "
                f"{values.size} entries. Check that its posterior and prior have a "
                "density at the reduced prior."
            )
        return values

    def log_bayes_factor(self) -> float:
        """Log Bayes factor in nats of the entries that are to be pruned."""
        # In float64: millions of float32 terms lose digits, and no copy is needed.
        return float(np.sum(self.delta_f, where=~self.keep, dtype=np.float64))


def reduce_weight(weight: PosteriorWeight, reduced_prior: ReducedPrior) -> Reduction:
    """Compares the prior of a weight with a reduced one.

    Args:
        weight: The weight.
        reduced_prior: The reduced prior.

    Returns:
        Log Bayes factors and the posterior under the reduced prior.

    Raises:
        ValueError: If a parameter of the posterior is NaN or infinite, or the
            reduced posterior is improper.
        NotImplementedError: If no reduction is known for the distributions.
    """
    return _reduce(weight, weight.posterior(), weight.prior(), reduced_prior)


def _reduce(
    weight: PosteriorWeight,
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    reduced_prior: ReducedPrior,
) -> Reduction:
    try:
        return model_reduction(
            posterior, prior, reduced_prior.distribution_for(posterior)
        )
    except ValueError as error:
        raise ValueError(f"Cannot reduce {weight.label}. {error}") from error
