"""From the scores of all groups to the choice of those that are pruned."""

import math
from collections.abc import Sequence

import numpy as np

from keras_bmr.pruning.criteria import Criterion
from keras_bmr.pruning.groups import ParameterGroups
from keras_bmr.pruning.reduced_prior import ReducedPrior
from keras_bmr.pruning.scored_groups import ScoredGroups, by_layer


def choose(
    scored: Sequence[ScoredGroups],
    reduced_prior: ReducedPrior,
    criterion: Criterion,
    threshold: float | None,
    sparsity: float | None,
    ranking: str,
) -> list[np.ndarray]:
    """Chooses the groups to prune by the rule that was asked for.

    Args:
        scored: The groups of a model, those of one layer one after the other.
        reduced_prior: Has the rule if neither a threshold nor a target is given.
        criterion: What scored them; its natural threshold comes before that rule.
        threshold: Groups with a higher score are pruned.
        sparsity: Share in [0, 1) of all weights, instead.
        ranking: "global" meets the share by one ranking of all groups, "layer" in
            each layer.

    Returns:
        For each of `scored` a boolean array with one entry per group, True to prune.
    """
    if sparsity is not None:
        scopes = [scored] if ranking == "global" else by_layer(scored)
        return [
            groups_to_prune
            for scope in scopes
            for groups_to_prune in target_sparsity(scope, sparsity)
        ]
    if threshold is None:
        threshold = criterion.natural_threshold
    if threshold is not None:
        return above_thresholds(scored, [threshold] * len(scored))
    thresholds: list[float] = []
    for layer in by_layer(scored):
        thresholds += [reduced_prior.threshold(scores_left(layer))] * len(layer)
    return above_thresholds(scored, thresholds)


def scores_left(scope: Sequence[ScoredGroups]) -> np.ndarray:
    """The scores of all groups that have weights left.

    Args:
        scope: The groups of one layer, say.

    Returns:
        Array of shape (groups,).
    """
    left = [_compress(scored.scores, scored.sizes > 0) for scored in scope]
    return left[0] if len(left) == 1 else np.concatenate(left)


def _compress(values: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """Selects entries, without a copy if all are."""
    return values.ravel() if condition.all() else values[condition]


def above_thresholds(
    scope: Sequence[ScoredGroups], thresholds: Sequence[float]
) -> list[np.ndarray]:
    """Chooses the groups whose score exceeds a threshold.

    Args:
        scope: The groups of a model.
        thresholds: One for each of them, in the units of the scores.

    Returns:
        For each a boolean array with one entry per group, True to prune.
    """
    return [
        scored.scores > threshold
        for scored, threshold in zip(scope, thresholds, strict=True)
    ]


def target_sparsity(scope: Sequence[ScoredGroups], sparsity: float) -> list[np.ndarray]:
    """Chooses the groups with the highest scores up to a share of their weights.

    Weights that were pruned before count towards the share.

    Args:
        scope: The groups of a model or layer; they are ranked together.
        sparsity: Share in [0, 1) of all weights with posteriors that belong to a
            group. Where groups have several weights it is met from below, by less
            than the size of a group.

    Returns:
        For each a boolean array with one entry per group, True to prune.
    """
    scores = np.concatenate([scored.scores.ravel() for scored in scope])
    sizes = np.concatenate([scored.sizes.ravel() for scored in scope])
    if any(scored.groups.OVERLAPPING for scored in scope):
        chosen = _highest_of_overlapping(scope, scores, sizes, sparsity)
    else:
        members = [member for scored in scope for member in scored.groups.evident()]
        num_weights = sum(member.alive.size for member in members)
        num_gone = num_weights - int(sizes.sum(dtype=np.int64))
        num_wanted = max(round(sparsity * num_weights) - num_gone, 0)
        chosen = highest_ranked(scores, sizes, num_wanted)
    ends = np.cumsum([scored.scores.size for scored in scope])[:-1]
    return [
        part.reshape(scored.scores.shape)
        for part, scored in zip(np.split(chosen, ends), scope, strict=True)
    ]


def highest_ranked(
    scores: np.ndarray, sizes: np.ndarray, num_weights: int
) -> np.ndarray:
    """Chooses the groups with the highest scores up to a number of weights.

    Args:
        scores: Array of shape (groups,). Among equal ones the first come first.
        sizes: Number of weights left in each group, same shape.
        num_weights: Number of weights to prune, at most the sum of the sizes.

    Returns:
        Boolean array of shape (groups,).
    """
    candidates = sizes > 0
    if not candidates.all():
        scores = np.where(candidates, scores, -np.inf)
    if sizes.max(initial=0) > 1:
        order = np.argsort(-scores, kind="stable")
        totals = np.cumsum(sizes[order], dtype=np.int64)
        chosen = np.zeros(scores.shape, bool)
        chosen[order[: np.searchsorted(totals, num_weights, side="right")]] = True
        return chosen & candidates
    if num_weights == 0:
        return np.zeros(scores.shape, bool)
    # A partition takes a sixth of the time of sorting, which counts at 25 million.
    position = scores.size - num_weights
    cut = np.partition(scores, position)[position]
    chosen = scores > cut
    ties = np.flatnonzero((scores == cut) & candidates)
    chosen[ties[: num_weights - np.count_nonzero(chosen)]] = True
    return chosen


def _highest_of_overlapping(
    scope: Sequence[ScoredGroups],
    scores: np.ndarray,
    sizes: np.ndarray,
    sparsity: float,
) -> np.ndarray:
    """As `highest_ranked`, where a weight goes with the first of its groups."""
    candidates = sizes > 0
    order = np.argsort(-np.where(candidates, scores, -np.inf), kind="stable")
    ranks = np.empty(order.size, np.int32)
    ranks[order] = np.arange(order.size)
    num_weights, num_gone, num_by_rank = count_by_rank(
        [scored.groups for scored in scope], ranks
    )
    num_wanted = round(sparsity * num_weights) - num_gone
    num_groups = np.searchsorted(np.cumsum(num_by_rank), num_wanted, side="right")
    return (ranks < num_groups) & candidates


def count_by_rank(
    groupings: Sequence[ParameterGroups], ranks: np.ndarray
) -> tuple[int, int, np.ndarray]:
    """Counts weights by the first of their groups.

    Args:
        groupings: Groups, which may overlap.
        ranks: Integer array with the rank of each of the groups, from 0.

    Returns:
        Number of weights with posteriors that belong to a group; how many of these
        were pruned before; and for each rank how many of the others go with it.
    """
    never = np.iinfo(np.int32).max
    first: dict[int, np.ndarray] = {}
    members = {}
    start = 0
    for groups in groupings:
        shape = groups.shape()
        stop = start + math.prod(shape)
        part = ranks[start:stop].reshape(shape).astype(np.int32)
        start = stop
        for member in groups.evident():
            expanded = groups.expand(member, part)
            known = first.get(id(member), expanded)
            first[id(member)] = np.minimum(known, expanded)
            members[id(member)] = member
    num_weights = num_gone = 0
    num_by_rank = np.zeros(ranks.size, np.int64)
    for key, member in members.items():
        belongs = first[key] != never
        num_weights += np.count_nonzero(belongs)
        num_gone += np.count_nonzero(belongs & ~member.alive)
        left = first[key][belongs & member.alive]
        num_by_rank += np.bincount(left, minlength=ranks.size)
    return num_weights, num_gone, num_by_rank


def share_pruned(groupings: Sequence[ParameterGroups]) -> float:
    """The share that is pruned of the weights that belong to a group.

    Args:
        groupings: The groups of a model.

    Returns:
        Share in [0, 1] of the weights with posteriors.
    """
    if any(groups.OVERLAPPING for groups in groupings):
        num_groups = sum(math.prod(groups.shape()) for groups in groupings)
        num_weights, num_gone, _ = count_by_rank(groupings, np.zeros(num_groups, int))
        return num_gone / num_weights
    masks = [member.alive for groups in groupings for member in groups.evident()]
    num_left = sum(np.count_nonzero(mask) for mask in masks)
    return 1 - num_left / sum(mask.size for mask in masks)
