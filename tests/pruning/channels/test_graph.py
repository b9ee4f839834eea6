import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.pruning.channels import (
    ChannelGraph,
    ElementwiseRule,
    FixedRule,
    prune_channels,
    register_channel_rule,
    widths,
)

layers = keras.layers


def groups_of(graph):
    return {(a.layer.name, a.name, a.axis): a.groups.tolist() for a in graph.axes}


def test_groups_of_a_residual_model():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 1, name="stem")(inputs)
    y = layers.BatchNormalization(name="norm", scale=False)(x)
    y = layers.Conv2D(2, 3, padding="same", use_bias=False, name="inner")(y)
    y = layers.Conv2D(3, 1, name="outer")(y)
    x = layers.Flatten()(layers.Add()([x, y]))
    graph = ChannelGraph(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    assert graph.num_groups == 5
    # The channels of the sum are made by two layers.
    np.testing.assert_array_equal(graph.num_channels, [2, 2, 2, 1, 1])
    assert groups_of(graph) == {
        ("stem", "kernel", 2): [-1, -1],
        ("stem", "kernel", 3): [0, 1, 2],
        ("stem", "bias", 0): [0, 1, 2],
        ("norm", "beta", 0): [0, 1, 2],
        ("norm", "moving_mean", 0): [0, 1, 2],
        ("norm", "moving_variance", 0): [0, 1, 2],
        ("inner", "kernel", 2): [0, 1, 2],
        ("inner", "kernel", 3): [3, 4],
        ("outer", "kernel", 2): [3, 4],
        ("outer", "kernel", 3): [0, 1, 2],
        ("outer", "bias", 0): [0, 1, 2],
        ("head", "kernel", 0): [0, 1, 2] * 16,
        ("head", "kernel", 1): [-1, -1],
        ("head", "bias", 0): [-1, -1],
    }
    roles = {(a.layer.name, a.name, a.axis): a.role for a in graph.axes}
    outgoing = {key for key, role in roles.items() if role == "outgoing"}
    assert outgoing == {
        ("stem", "kernel", 2),
        ("inner", "kernel", 2),
        ("outer", "kernel", 2),
        ("head", "kernel", 0),
    }


@pytest.mark.parametrize(
    "mixing",
    [
        lambda: layers.Softmax(),
        lambda: layers.Activation("softmax"),
        lambda: layers.LayerNormalization(),
        lambda: layers.Activation(lambda x: x / keras.ops.sum(x)),
        lambda: layers.Dense(4, activation="softmax"),
    ],
)
def test_channels_that_are_mixed_must_stay(mixing):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), mixing(), layers.Dense(2)]
    )
    graph = ChannelGraph(model)
    made = [a.groups for a in graph.axes if a.layer is model.layers[-1]][0]
    np.testing.assert_array_equal(made, [-1] * 4)


class Twice(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


class Wavy(layers.Layer):
    def call(self, inputs):
        return 1 + keras.ops.sin(inputs)


class Sorted(layers.Layer):
    def call(self, inputs):
        return keras.ops.sort(inputs)


register_channel_rule(Wavy)(ElementwiseRule)
register_channel_rule(Sorted)(FixedRule)


def with_layer(layer):
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="a"), layer, layers.Dense(2)]
    )


def test_an_unknown_layer_is_named():
    for call in (ChannelGraph, keras_bmr.shrink):
        with pytest.raises(ValueError, match=r"'odd' of class Twice.*register"):
            call(with_layer(Twice(name="odd")))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.cumsum(inputs, axis=1))
    with pytest.raises(ValueError, match=r"class Cumsum.*register_channel_rule"):
        ChannelGraph(model)


def test_rules_that_are_registered(check_shrunk, random_weights):
    with pytest.raises(ValueError, match="Wavy already has a channel rule"):
        register_channel_rule(Wavy)(FixedRule)
    assert ChannelGraph(with_layer(Sorted())).num_groups == 0
    model = with_layer(Wavy())
    random_weights(model)
    # The constant goes through the layer: 1 + sin(bias).
    kernel = model.get_layer("a").kernel
    kernel.assign(kernel * [1, 0, 1, 1])
    assert widths(check_shrunk(model))["a"] == 3


def test_models_without_a_graph_are_refused():
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    for model in (Subclassed(), keras.Sequential([layers.Dense(2)])):
        with pytest.raises(ValueError, match="built Sequential or Functional"):
            keras_bmr.shrink(model)
    with pytest.raises(ValueError, match=r"expected|Expected a `keras.Model`"):
        keras_bmr.shrink("model")
    wrapped = layers.TimeDistributed(
        keras.Sequential([keras.Input((3,)), layers.Dense(2)], name="inside")
    )
    model = keras.Sequential([keras.Input((4, 3)), wrapped])
    with pytest.raises(ValueError, match="wraps a model, 'inside'"):
        keras_bmr.shrink(model)


def test_weights_that_are_not_finite_are_refused():
    model = with_layer(layers.ReLU())
    model.get_layer("a").bias.assign([0, np.nan, 0, 0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        keras_bmr.shrink(model)


def test_groups_that_do_not_exist_are_refused():
    model = with_layer(layers.ReLU())
    before = model.get_weights()
    for groups in ([4], [-1, 0]):
        with pytest.raises(ValueError, match="indices of the 4 groups"):
            prune_channels(model, groups)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_pruned_channels_have_no_weights():
    model = with_layer(layers.BatchNormalization(name="norm"))
    prune_channels(model, [2])
    norm = model.get_layer("norm")
    for weight in (model.get_layer("a").bias, norm.gamma, norm.beta):
        assert weight.numpy()[2] == 0
    assert not model.get_layer("a").kernel.numpy()[:, 2].any()
    assert not model.layers[-1].kernel.numpy()[2].any()
    np.testing.assert_array_equal(norm.moving_variance, np.ones(4))
