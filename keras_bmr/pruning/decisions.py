"""From the scores of all groups to the choice of those that are pruned."""

from collections.abc import Sequence

import numpy as np

from keras_bmr.pruning.weight_reduction import WeightReduction


def scores_left(weights: Sequence[WeightReduction]) -> np.ndarray:
    """The scores of all groups that have weights left.

    Args:
        weights: The weights of one layer, say.

    Returns:
        Array of shape (groups,).
    """
    left = [_compress(w.scores, w.groups.sizes() > 0) for w in weights]
    return left[0] if len(left) == 1 else np.concatenate(left)


def _compress(values: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """Selects entries, without a copy if all are."""
    return values.ravel() if condition.all() else values[condition]


def above_thresholds(
    weights: Sequence[WeightReduction], thresholds: Sequence[float]
) -> list[np.ndarray]:
    """Chooses the groups whose score exceeds a threshold.

    Args:
        weights: The weights of a model.
        thresholds: One for each of them, in the units of the scores.

    Returns:
        For each weight a boolean array with one entry per group, True to prune.
    """
    return [w.scores > t for w, t in zip(weights, thresholds, strict=True)]


def target_sparsity(
    weights: Sequence[WeightReduction], sparsity: float
) -> list[np.ndarray]:
    """Chooses the groups with the highest scores up to a share of all weights.

    Weights that were pruned before count towards the share.

    Args:
        weights: The weights of a model; they are ranked together.
        sparsity: Share in [0, 1) of all weights. Where groups have several weights
            it is met from below, by less than the size of a group.

    Returns:
        For each weight a boolean array with one entry per group, True to prune.
    """
    num_weights = sum(weight.alive.size for weight in weights)
    num_left = sum(int(np.count_nonzero(weight.alive)) for weight in weights)
    num_wanted = max(round(sparsity * num_weights) - (num_weights - num_left), 0)
    chosen = highest_ranked(
        np.concatenate([weight.scores.ravel() for weight in weights]),
        np.concatenate([weight.groups.sizes().ravel() for weight in weights]),
        num_wanted,
    )
    ends = np.cumsum([weight.scores.size for weight in weights])[:-1]
    return [
        part.reshape(weight.scores.shape)
        for part, weight in zip(np.split(chosen, ends), weights, strict=True)
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
