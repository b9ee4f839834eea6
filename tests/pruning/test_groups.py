import keras
import numpy as np
import pytest

from keras_bmr.layers import DenseVariational
from keras_bmr.pruning.groups import BlockGroups, ParameterGroups
from keras_bmr.pruning.posterior_weights import posterior_weights
from keras_bmr.pruning.weight_reduction import WeightReduction


def member_of(alive):
    layer = DenseVariational(alive.shape[1], use_bias=False, num_examples=1)
    model = keras.Sequential([keras.Input((alive.shape[0],)), layer])
    layer.prune("kernel", alive)
    return WeightReduction(posterior_weights(model)[0])


def test_blocks_by_hand():
    alive = np.ones((6, 2), bool)
    alive[0, 1] = False
    alive[4:, 0] = False
    member = member_of(alive)
    groups = BlockGroups([member])
    values = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(groups.sizes(), [[4, 3], [0, 2]])
    # Rows 0 to 3 of a column, then rows 4 and 5.
    np.testing.assert_array_equal(groups.reduce(member, values), [[12, 16], [18, 20]])
    decisions = np.array([[True, False], [False, True]])
    expected = [[True, False]] * 4 + [[False, True]] * 2
    np.testing.assert_array_equal(groups.expand(member, decisions), expected)


@pytest.mark.parametrize("groups_class", [ParameterGroups, BlockGroups])
@pytest.mark.parametrize("num_inputs", [1, 3, 5, 8])
def test_expand_is_the_transpose_of_reduce(groups_class, num_inputs):
    generator = np.random.default_rng(num_inputs)
    member = member_of(np.ones((num_inputs, 3), bool))
    groups = groups_class([member])
    values = generator.normal(size=(num_inputs, 3))
    decisions = generator.normal(size=groups.shape())
    np.testing.assert_allclose(
        np.sum(groups.reduce(member, values) * decisions),
        np.sum(values * groups.expand(member, decisions)),
    )
