"""The scores of groups of weights, summed up tensor by tensor."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_bmr.pruning.criteria.criterion import Criterion
from keras_bmr.pruning.groups.parameter_groups import ParameterGroups
from keras_bmr.pruning.reduced_priors import ReducedPrior
from keras_bmr.pruning.weight_reduction import WeightReduction


@dataclasses.dataclass(frozen=True)
class ScoredGroups:
    """Groups with their scores.

    Attributes:
        groups: The groups.
        scores: One score per group.
        sizes: Number of weights left in each group.
    """

    groups: ParameterGroups
    scores: np.ndarray
    sizes: np.ndarray


def members_of(groupings: Sequence[ParameterGroups]) -> list[WeightReduction]:
    """The weight tensors that groups take weights of.

    Args:
        groupings: Groups, which may have members in common.

    Returns:
        Every tensor once, those of a layer one after the other.
    """
    members = {id(m): m for groups in groupings for m in groups.members}
    by_layer: dict[int, list[WeightReduction]] = {}
    for member in members.values():
        by_layer.setdefault(id(member.weight.layer), []).append(member)
    return [member for layer in by_layer.values() for member in layer]


def score_groups(
    model: keras.Model,
    groupings: Sequence[ParameterGroups],
    reduced_prior: ReducedPrior,
    criterion: Criterion,
    progress: Callable[[int], None],
) -> list[ScoredGroups]:
    """Computes log Bayes factors and scores.

    Args:
        model: The model.
        groupings: Its groups.
        reduced_prior: The reduced prior.
        criterion: What scores the groups.
        progress: Called with the number of weights of every tensor that is done.

    Returns:
        One entry for each of `groupings`.

    Raises:
        ValueError: As `WeightReduction.analyse`, and if a score is NaN.
        NotImplementedError: If no reduction is known for the distributions.
    """
    members = [m for m in members_of(groupings) if m.has_posterior]
    criterion.prepare(model, [member.weight for member in members])
    totals: dict[int, np.ndarray] = {}
    for member in members:
        statistic = member.analyse(reduced_prior, criterion)
        for index, groups in enumerate(groupings):
            if any(member is known for known in groups.members):
                part = groups.reduce(member, statistic)
                totals[index] = totals[index] + part if index in totals else part
        progress(math.prod(member.shape))
    scored = []
    for index, groups in enumerate(groupings):
        sizes = groups.sizes()
        scores = np.asarray(criterion.score(totals[index], sizes))
        num_bad = np.count_nonzero(np.isnan(scores))
        if num_bad:
            raise ValueError(
                f"{num_bad} of {scores.size} scores of groups of layer "
                f"'{groups.layer.name}' are NaN. Check the method `score` of "
                f"{type(criterion).__name__}."
            )
        scored.append(ScoredGroups(groups, scores, sizes))
    return scored


def by_layer(scored: Sequence[ScoredGroups]) -> list[list[ScoredGroups]]:
    """Puts the groups of each layer together.

    Args:
        scored: Groups, those of one layer one after the other.

    Returns:
        One list per layer.
    """
    layers: list[list[ScoredGroups]] = []
    for groups in scored:
        if not layers or layers[-1][0].groups.layer is not groups.groups.layer:
            layers.append([])
        layers[-1].append(groups)
    return layers
