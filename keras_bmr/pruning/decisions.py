"""From the scores of all groups to the choice of those that are pruned."""

from collections.abc import Sequence

import numpy as np


def above_threshold(
    scores: np.ndarray, sizes: np.ndarray, threshold: float
) -> np.ndarray:
    """Chooses the groups of one weight tensor whose score exceeds a threshold.

    Args:
        scores: Array with one entry per group.
        sizes: Number of weights left in each group, same shape.
        threshold: Number in the units of the scores.

    Returns:
        Boolean array, True for a group to prune; never for one without weights.
    """
    return (scores > threshold) & (sizes > 0)


def highest_ranked(
    scores: Sequence[np.ndarray], sizes: Sequence[np.ndarray], num_weights: int
) -> list[np.ndarray]:
    """Chooses the groups of all tensors with the highest scores up to a total size.

    Among equal scores the first come first. Where groups have several weights the
    total is met from below, by less than the size of one group.

    Args:
        scores: One array per weight tensor, with one entry per group.
        sizes: Number of weights left in each group, same shapes.
        num_weights: Number of weights to prune.

    Returns:
        One boolean array per weight tensor, True for a group to prune.
    """
    flat_scores = np.concatenate([score.ravel() for score in scores])
    flat_sizes = np.concatenate([size.ravel() for size in sizes])
    chosen = np.zeros(flat_scores.shape, bool)
    candidates = flat_sizes > 0
    if not candidates.all():
        flat_scores = np.where(candidates, flat_scores, -np.inf)
    if flat_sizes.max(initial=0) <= 1:
        # A partition takes a tenth of the time of a sort, which counts at 25 million.
        if num_weights > 0:
            cut = -np.partition(-flat_scores, num_weights - 1)[num_weights - 1]
            chosen = flat_scores > cut
            ties = np.flatnonzero((flat_scores == cut) & candidates)
            chosen[ties[: num_weights - np.count_nonzero(chosen)]] = True
    else:
        order = np.argsort(-flat_scores, kind="stable")
        totals = np.cumsum(flat_sizes[order], dtype=np.int64)
        chosen[order[: np.searchsorted(totals, num_weights, side="right")]] = True
        chosen &= candidates
    ends = np.cumsum([score.size for score in scores])[:-1]
    return [
        part.reshape(score.shape)
        for part, score in zip(np.split(chosen, ends), scores, strict=True)
    ]
