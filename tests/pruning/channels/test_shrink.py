"""Channels of networks in which more than channels is pruned."""

import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.layers.pruned_weights import weight_variable
from keras_bmr.pruning import prune_weight, weight_mask
from keras_bmr.pruning.channels import ChannelGraph, prune_channels, widths

layers = keras.layers
Input = keras.Input


def test_channels_stay_pruned_in_a_training_step_of_before():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5), keras.layers.Dense(2)]
    )
    x, y = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")
    model.compile("adam", "mse")
    model.fit(x, y, verbose=0)
    prune_channels(model, [0, 3])
    zeros = [w == 0 for w in model.get_weights()]
    assert sum(z.sum() for z in zeros) >= 12
    model.fit(x, y, epochs=2, verbose=0)
    for zero, weight in zip(zeros, model.get_weights(), strict=True):
        if weight.ndim == 2:
            assert not weight[zero].any()


def test_unread_channels_take_what_only_they_read_along(check_shrunk, random_weights):
    model = keras.Sequential(
        [
            Input((4,)),
            layers.Dense(5, activation="relu", name="a"),
            layers.Dense(6, activation="relu", name="b"),
            layers.Dense(3, name="c"),
        ]
    )
    random_weights(model)
    b, c = model.get_layer("b").kernel, model.get_layer("c").kernel
    c.assign(c * (np.arange(6) != 2)[:, np.newaxis])
    b.assign(np.where((np.arange(5) == 1)[:, np.newaxis], np.arange(6) == 2, b))
    assert widths(check_shrunk(model)) == {"a": 4, "b": 5, "c": 3}


def test_what_lost_all_pruned_weights_is_loaded_by_keras_alone(check_shrunk):
    inputs = Input((8, 6))
    x = layers.Dense(6, kernel_constraint="max_norm", name="before")(inputs)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(5, activation="relu", name="wide")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    prune_weight(model.get_layer("before"), "kernel", np.ones((6, 6), bool))
    for name in ("query_kernel", "value_kernel"):
        shape = (6, 2, 3)
        prune_weight(model.get_layer("attention"), name, np.ones(shape, bool))
    keep = np.ones((6, 5), bool)
    keep[:, 2] = False
    prune_weight(model.get_layer("wide"), "kernel", keep)
    assert "keras_bmr" in model.to_json()
    small = check_shrunk(model)
    assert widths(small)["wide"] == 4
    assert "keras_bmr" not in small.to_json()
    assert isinstance(
        small.get_layer("before").kernel.constraint, keras.constraints.MaxNorm
    )
    # The model itself keeps what was asked of it, and a copy what is still pruned.
    assert "keras_bmr" in model.to_json()
    keep = np.arange(18).reshape(6, 3) % 2 == 0
    prune_weight(model.get_layer("attention"), "value_kernel", np.stack([keep] * 2, 1))
    some = keras_bmr.shrink(model)
    config = some.get_layer("attention").get_config()
    assert config["kernel_constraint"]["registered_name"].startswith("keras_bmr")
    mask = weight_mask(some.get_layer("attention"), "value_kernel")
    np.testing.assert_array_equal(mask, np.stack([keep] * 2, 1))
    some.compile("adam", "mse")
    some.fit(np.ones((4, 8, 6)), np.ones((4, 3)), verbose=0)
    trained = weight_variable(some.get_layer("attention"), "value_kernel").numpy()
    np.testing.assert_array_equal(trained != 0, mask)
    assert some.get_layer("wide").kernel.constraint is None


def random_graph(seed):
    generator = np.random.default_rng(seed)
    inputs = Input((6, 6, 2))
    tensors = [layers.Conv2D(4, 3, padding="same")(inputs)]

    def pick():
        return tensors[generator.integers(len(tensors))]

    for _ in range(9):
        x = pick()
        kind = generator.integers(6)
        if kind == 0:
            filters = int(generator.choice([2, 4, 6]))
            x = layers.Conv2D(
                filters,
                int(generator.choice([1, 3])),
                padding="same",
                use_bias=bool(generator.integers(2)),
                activation=str(generator.choice(["linear", "relu", "sigmoid"])),
            )(x)
        elif kind == 1:
            same = [y for y in tensors if y.shape == x.shape]
            merge = [layers.Add, layers.Multiply, layers.Maximum][generator.integers(3)]
            x = merge()([x, same[generator.integers(len(same))]])
        elif kind == 2:
            x = layers.Concatenate()([x, pick()])
        elif kind == 3:
            x = layers.BatchNormalization()(x)
        elif kind == 4:
            x = layers.DepthwiseConv2D(3, padding="same")(x)
        else:
            x = layers.Conv2D(4, 1, groups=2)(x) if x.shape[-1] % 2 == 0 else x
        tensors.append(x)
    outputs = layers.GlobalAveragePooling2D()(layers.Concatenate()(tensors[-4:]))
    return keras.Model(inputs, layers.Dense(3)(outputs))


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs(seed, check_shrunk, random_weights):
    model = random_graph(seed)
    random_weights(model, seed)
    graph = ChannelGraph(model)
    generator = np.random.default_rng(seed)
    pruned = np.flatnonzero(generator.random(graph.num_groups) < 0.4)
    prune_channels(model, pruned, graph)
    # Other zeros make constants.
    for layer in model.layers:
        if type(layer) is layers.Conv2D:
            keep = generator.random(layer.filters) > 0.2
            layer.kernel.assign(layer.kernel * keep)
    small = check_shrunk(model)
    if pruned.size:
        assert small.count_params() < model.count_params()
    assert ChannelGraph(small).num_groups <= graph.num_groups - min(
        pruned.size, graph.num_groups // 2
    ) + len(model.layers)
