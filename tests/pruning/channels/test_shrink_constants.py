"""Channels that are the same for every input, and the biases that take them over."""

import keras
import numpy as np
import pytest

from keras_bmr.pruning.channels import widths

layers = keras.layers
Input = keras.Input


def without_inputs(model, name, channels):
    kernel = model.get_layer(name).kernel
    keep = np.ones(kernel.shape[-1])
    keep[channels] = 0
    kernel.assign(kernel * keep)


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "softplus"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_constants_fold_through_all_that_follows(
    activation, use_bias, check_shrunk, random_weights
):
    model = keras.Sequential(
        [
            Input((8, 8, 2)),
            layers.Conv2D(5, 3, name="conv"),
            layers.BatchNormalization(),
            layers.Activation(activation),
            layers.AveragePooling2D(2),
            layers.Conv2D(4, 2, use_bias=use_bias, name="next"),
            layers.MaxPooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(6, use_bias=use_bias, activation="tanh", name="dense"),
            layers.Dense(3, use_bias=use_bias),
        ]
    )
    random_weights(model)
    without_inputs(model, "conv", [0, 3])
    without_inputs(model, "dense", [5])
    small = check_shrunk(model)
    found = widths(small)
    assert found["conv"] == 3 and found["dense"] == 5
    if activation != "relu":
        assert small.get_layer("next").use_bias


def test_a_constant_that_is_padded_with_zeros_stays(check_shrunk, random_weights):
    inputs = Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation="sigmoid", name="conv")(inputs)
    x = layers.Conv2D(3, 3, padding="same")(x)
    model = keras.Model(inputs, x)
    random_weights(model)
    without_inputs(model, "conv", [1])
    assert widths(check_shrunk(model))["conv"] == 4


def test_a_sum_is_constant_if_all_its_parts_are(check_shrunk, random_weights):
    inputs = Input((6,))
    x = layers.Dense(5, name="a")(inputs)
    y = layers.Dense(5, activation="tanh", name="b")(inputs)
    x = layers.Dense(4, name="c")(layers.Add()([x, y]))
    model = keras.Model(inputs, x)
    random_weights(model)
    without_inputs(model, "a", [0, 1])
    without_inputs(model, "b", [1, 2])
    assert widths(check_shrunk(model)) == {"a": 4, "b": 4, "c": 4}


def test_a_shared_layer_takes_no_constant(check_shrunk, random_weights):
    first, second = Input((6,)), Input((6,))
    head = layers.Dense(3, name="head")
    a = layers.Dense(4, activation="sigmoid", name="a")(first)
    b = layers.Dense(4, name="b")(second)
    model = keras.Model([first, second], layers.Add()([head(a), head(b)]))
    random_weights(model)
    without_inputs(model, "a", [1])
    without_inputs(model, "b", [1])
    assert widths(check_shrunk(model))["a"] == 4
