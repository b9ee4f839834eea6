"""The reduction of one weight tensor."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning.criteria import Criterion
from keras_bmr.pruning.groups import ParameterGroups
from keras_bmr.pruning.posterior_weights import PosteriorWeight
from keras_bmr.pruning.reduced_priors import ReducedPrior
from keras_bmr.reduction import Reduction, model_reduction


@dataclasses.dataclass
class WeightReduction:
    """What is known of one weight tensor.

    Attributes:
        source: The weight.
        alive: Boolean array with the shape of the weight, False where it was pruned
            before.
        delta_f: Log Bayes factor of each entry in nats, 0 where not alive.
        groups: The groups of its entries.
        scores: One score per group.
        keep: Boolean array with the shape of the weight, the decision.
    """

    source: PosteriorWeight
    alive: np.ndarray
    delta_f: np.ndarray
    groups: ParameterGroups
    scores: np.ndarray
    keep: np.ndarray

    def prune_groups(self, chosen: np.ndarray) -> None:
        """Decides which groups to prune.

        Args:
            chosen: Boolean array with one entry per group, True to prune.
        """
        self.keep = self.alive & ~self.groups.expand(chosen)

    def log_bayes_factor(self) -> float:
        """Log Bayes factor in nats of the entries that are to be pruned."""
        # In float64: millions of float32 terms lose digits, and no copy is needed.
        return float(np.sum(self.delta_f, where=~self.keep, dtype=np.float64))


def reduce_weight(source: PosteriorWeight, reduced_prior: ReducedPrior) -> Reduction:
    """Compares the prior of a weight with a reduced one.

    Args:
        source: The weight.
        reduced_prior: The reduced prior.

    Returns:
        Log Bayes factors and the posterior under the reduced prior.

    Raises:
        ValueError: If a parameter of the posterior is NaN or infinite, or the
            reduced posterior is improper.
        NotImplementedError: If no reduction is known for the distributions.
    """
    return _reduce(source, source.posterior(), source.prior(), reduced_prior)


def _reduce(
    source: PosteriorWeight,
    posterior: tfd.Distribution,
    prior: tfd.Distribution,
    reduced_prior: ReducedPrior,
) -> Reduction:
    try:
        return model_reduction(
            posterior, prior, reduced_prior.distribution(posterior.dtype)
        )
    except ValueError as error:
        raise ValueError(f"Cannot reduce {source.label}. {error}") from error


def analyse_weight(
    source: PosteriorWeight,
    reduced_prior: ReducedPrior,
    criterion: Criterion,
    groups_class: type[ParameterGroups],
) -> WeightReduction:
    """Computes log Bayes factors and scores; all is kept so far.

    Args:
        source: The weight.
        reduced_prior: The reduced prior.
        criterion: What scores the groups.
        groups_class: What forms them.

    Returns:
        The analysis.

    Raises:
        ValueError: As `reduce_weight`, and if a log Bayes factor or score is NaN.
        NotImplementedError: As `reduce_weight`.
    """
    alive = source.alive()
    posterior, prior = source.posterior(), source.prior()
    reduction = _reduce(source, posterior, prior, reduced_prior)
    delta_f = reduction.delta_f.numpy()
    # Only the log Bayes factors are needed: a large layer's memory is precious.
    del reduction
    delta_f = np.broadcast_to(delta_f, alive.shape)
    if not alive.all():
        delta_f = np.where(alive, delta_f, 0)
    groups = groups_class(alive)
    scores = np.asarray(criterion.scores(posterior, prior, delta_f, groups))
    for name, values in (("log Bayes factor", delta_f), ("score", scores)):
        if np.isnan(values).any():
            raise ValueError(
                f"The {name} of {source.label} is NaN in "
                f"{np.count_nonzero(np.isnan(values))} of {values.size} entries. Check "
                "that its posterior and prior have a density at the reduced prior."
            )
    return WeightReduction(source, alive, delta_f, groups, scores, alive)


def by_layer(weights: Sequence[WeightReduction]) -> list[list[WeightReduction]]:
    """Puts the weights of each layer together.

    Args:
        weights: In the order of the model, so that those of a layer are neighbours.

    Returns:
        One list per layer.
    """
    layers: list[list[WeightReduction]] = []
    for weight in weights:
        if not layers or layers[-1][0].source.layer is not weight.source.layer:
            layers.append([])
        layers[-1].append(weight)
    return layers
