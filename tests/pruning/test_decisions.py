import numpy as np
import pytest

from keras_bmr.pruning.decisions import highest_ranked


@pytest.mark.parametrize("num_weights", [0, 1, 4, 7, 8])
def test_single_weights_by_sorting(num_weights):
    # Ties, and entries that are pruned already.
    scores = np.array([3.0, 1.0, 3.0, 3.0, 9.0, 0.0, 1.0, 7.0, -2.0, 3.0])
    sizes = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 1], np.uint8)
    chosen = highest_ranked(scores, sizes, num_weights)
    candidates = [i for i in range(10) if sizes[i]]
    expected = sorted(candidates, key=lambda i: (-scores[i], i))[:num_weights]
    assert sorted(expected) == np.flatnonzero(chosen).tolist()


@pytest.mark.parametrize(
    "num_weights, expected",
    [(0, []), (3, []), (4, [1]), (7, [1]), (8, [1, 3]), (10, [0, 1, 3])],
)
def test_groups_meet_the_total_from_below(num_weights, expected):
    scores = np.array([1.0, 5.0, 9.0, 2.0])
    sizes = np.array([2, 4, 0, 4], np.uint8)
    chosen = highest_ranked(scores, sizes, num_weights)
    assert np.flatnonzero(chosen).tolist() == expected
