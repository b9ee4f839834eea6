import numpy as np
import pytest

from keras_bmr.pruning.groups import BlockGroups, ParameterGroups


def test_blocks_by_hand():
    alive = np.ones((6, 2), bool)
    alive[0, 1] = False
    alive[4:, 0] = False
    groups = BlockGroups(alive)
    values = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(groups.sizes(), [[4, 3], [0, 2]])
    # Rows 0 to 3 of a column, then rows 4 and 5; pruned entries left out.
    np.testing.assert_array_equal(groups.sum(values), [[12, 15], [0, 20]])
    np.testing.assert_array_equal(groups.mean(values), [[3, 5], [0, 10]])
    decisions = np.array([[True, False], [False, True]])
    expected = [[True, False]] * 4 + [[False, True]] * 2
    np.testing.assert_array_equal(groups.expand(decisions), expected)


@pytest.mark.parametrize("groups_class", [ParameterGroups, BlockGroups])
@pytest.mark.parametrize("num_inputs", [1, 3, 4, 5, 8, 17])
def test_expand_is_the_transpose_of_sum(groups_class, num_inputs):
    generator = np.random.default_rng(num_inputs)
    groups = groups_class(np.ones((num_inputs, 3), bool))
    values = generator.normal(size=(num_inputs, 3))
    decisions = generator.normal(size=groups.sizes().shape)
    np.testing.assert_allclose(
        np.sum(groups.sum(values) * decisions),
        np.sum(values * groups.expand(decisions)),
    )


def test_pruned_entries_may_hold_anything():
    alive = np.array([[True], [False]])
    values = np.array([[1.0], [np.nan]])
    assert ParameterGroups(alive).mean(values).tolist() == [[1.0], [0.0]]
    assert BlockGroups(alive).mean(values).tolist() == [[1.0]]
