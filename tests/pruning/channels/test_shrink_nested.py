"""Nested models whose inputs lose channels."""

import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.pruning.channels import ChannelGraph, prune_channels, widths

layers = keras.layers
Input = keras.Input


class OwnSequential(keras.Sequential):
    pass


class OwnFunctional(keras.Model):
    pass


def sequential():
    return keras.Sequential([Input((8,)), layers.Dense(4, name="in")], name="head")


def sequential_subclass():
    return OwnSequential([Input((8,)), layers.Dense(4, name="in")], name="head")


def functional():
    inputs = Input((8,), name="signal")
    x = layers.Dense(4, activation="relu", name="in")(inputs)
    return keras.Model(inputs, x, name="head")


def functional_subclass():
    inputs = Input((8,))
    return OwnFunctional(inputs, layers.Dense(4, name="in")(inputs), name="head")


def two_outputs():
    inputs = Input((8,))
    outputs = [layers.Dense(4, name="in")(inputs), layers.ReLU()(inputs)]
    return keras.Model(inputs, outputs, name="head")


def list_of_one():
    inputs = Input((8,))
    return keras.Model([inputs], layers.Dense(4, name="in")(inputs), name="head")


def nested_twice():
    inner = keras.Sequential([Input((8,)), layers.Dense(6, name="in")], name="inner")
    middle = keras.Sequential([Input((8,)), layers.ReLU(), inner], name="middle")
    inputs = Input((8,))
    return keras.Model(inputs, layers.Dense(4)(middle(inputs)), name="head")


def without_weights():
    inputs = Input((8,))
    return keras.Model(inputs, keras.ops.tanh(inputs), name="head")


def behind_first(head):
    inputs = Input((6,))
    x = head(layers.Dense(8, activation="relu", name="first")(inputs))
    if isinstance(x, (list, tuple)):
        x = layers.Concatenate()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def inner_layers(model):
    """The layers inside of the nested model that have weights."""
    layers_inside = model.get_layer("head")._flatten_layers(include_self=False)
    return [layer for layer in layers_inside if isinstance(layer, layers.Dense)]


def check_saved(small, path):
    inputs = [np.ones((2, *tensor.shape[1:]), "float32") for tensor in small.inputs]
    inputs = inputs[0] if len(inputs) == 1 else inputs
    small.save(path / "small.keras")
    loaded = keras.models.load_model(path / "small.keras")
    np.testing.assert_array_equal(loaded(inputs), small(inputs))


@pytest.mark.parametrize(
    "build",
    [
        sequential,
        sequential_subclass,
        functional,
        functional_subclass,
        two_outputs,
        list_of_one,
        nested_twice,
        without_weights,
    ],
)
def test_inputs_of_a_nested_model_shrink(
    build, prune, check_shrunk, random_weights, tmp_path
):
    model = behind_first(build())
    random_weights(model)
    prune(model, {"first": [0, 1, 2]})
    small = check_shrunk(model)
    assert widths(small)["first"] == 5
    head, new = model.get_layer("head"), small.get_layer("head")
    assert type(new) is type(head)
    assert [tuple(tensor.shape) for tensor in new.inputs] == [(None, 5)]
    old_names, new_names = (
        [tensor._keras_history.operation.name for tensor in nested.inputs]
        for nested in (head, new)
    )
    assert new_names == old_names
    if "subclass" not in build.__name__:
        check_saved(small, tmp_path)


def test_several_inputs_of_a_nested_model_shrink(
    prune, check_shrunk, random_weights, tmp_path
):
    one, two = Input((5, 8), name="one"), Input((7,), name="two")
    x = layers.GlobalMaxPooling1D()(layers.Conv1D(4, 3, name="conv")(one))
    x = layers.Concatenate()([x, two])
    head = keras.Model(
        {"one": one, "two": two}, layers.Dense(4, name="in")(x), name="head"
    )
    first, second = Input((5, 3)), Input((6,))
    x = head(
        {
            "two": layers.Dense(7, name="b")(second),
            "one": layers.Dense(8, name="a")(first),
        }
    )
    model = keras.Model([first, second], layers.Dense(3, name="logits")(x))
    random_weights(model)
    prune(model, {"a": [0, 1], "b": [4], "conv": [3]})
    small = check_shrunk(model)
    shapes = keras.tree.map_structure(
        lambda tensor: list(tensor.shape), small.get_layer("head").input
    )
    assert shapes == {"one": [None, 5, 6], "two": [None, 6]}
    check_saved(small, tmp_path)


def test_channels_of_a_map_of_any_size(prune, check_shrunk, random_weights, tmp_path):
    block = keras.Sequential(
        [Input((None, None, 6)), layers.Conv2D(4, 3, name="in")], name="block"
    )
    inputs = Input((8, 8, 2))
    x = block(layers.Conv2D(6, 3, activation="relu", name="first")(inputs))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    random_weights(model)
    prune(model, {"first": [1], "in": [0, 2]})
    small = check_shrunk(model)
    assert small.get_layer("block").inputs[0].shape == (None, None, None, 5)
    check_saved(small, tmp_path)


@pytest.mark.parametrize("build", [sequential, functional, nested_twice])
def test_a_nested_model_that_is_called_twice(
    build, prune, check_shrunk, random_weights, tmp_path
):
    head = build()
    first, second = Input((6,)), Input((6,))
    a = head(layers.Dense(8, activation="relu", name="a")(first))
    b = head(layers.Dense(8, activation="relu", name="b")(second))
    x = layers.Dense(3, name="logits")(layers.Concatenate()([a, b]))
    model = keras.Model([first, second], x)
    random_weights(model)
    prune(model, {"a": [0, 1, 2]})
    small = check_shrunk(model)
    # The inputs are those of one layer.
    assert widths(small)["a"] == widths(small)["b"] == 5
    assert small.get_layer("head").inputs[0].shape == (None, 5)
    calls = ChannelGraph(small).num_calls
    assert calls[id(small.get_layer("logits"))] == 1
    assert all(calls[id(layer)] == 2 for layer in inner_layers(small))
    check_saved(small, tmp_path)


def test_a_shared_model_without_weights_has_one_width(
    prune, check_shrunk, random_weights
):
    head = without_weights()
    inputs = Input((6,))
    a = head(layers.Dense(8, name="a")(inputs))
    b = head(layers.Dense(8, name="b")(inputs))
    x = layers.Dense(3, name="logits")(layers.Concatenate()([a, b]))
    model = keras.Model(inputs, x)
    random_weights(model)
    prune(model, {"a": [0, 1, 2]})
    assert widths(check_shrunk(model)) == {"a": 5, "b": 5, "logits": 3}
    # Here the widths differ, so that none of the channels can go.
    wide = keras.Model(inputs, head(layers.Concatenate()([a, b])[:, 4:12]))
    outputs = layers.Concatenate()([wide.output, head(layers.Dense(8)(inputs))])
    assert ChannelGraph(keras.Model(inputs, outputs)).num_groups == 0


def test_a_nested_bayesian_model_shrinks(prune, check_shrunk, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras_bmr.to_variational(behind_first(nested_twice()), num_examples=20)
    prune(model, {"first": [0, 1, 2], "in": [5]})
    small = check_shrunk(model)
    assert widths(small)["first"] == 5 and widths(small)["in"] == 5
    inner = small.get_layer("head").get_layer("middle").get_layer("inner")
    assert inner.get_layer("in").mask("kernel").shape == (5, 5)
    check_saved(small, tmp_path)


def test_constants_that_a_nested_model_reads_are_taken_over(
    check_shrunk, random_weights
):
    model = behind_first(sequential())
    random_weights(model)
    first = model.get_layer("first")
    first.kernel.assign(first.kernel * (np.arange(8) != 3))
    first.bias.assign(np.full(8, 0.5))
    assert widths(check_shrunk(model))["first"] == 7


def test_gates_before_a_nested_model_are_folded(check_shrunk, random_weights):
    model = keras_bmr.layers.add_noise_gates(behind_first(functional()), 20)
    random_weights(model)
    graph = ChannelGraph(model)
    prune_channels(model, [0, 5], graph)
    small = check_shrunk(model)
    assert widths(small)["first"] == 6
    assert not any("gate" in layer.name for layer in small._flatten_layers())
