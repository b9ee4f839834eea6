"""Counts of parameters and multiply-accumulates, against hand and TensorFlow."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bmr
from keras_bmr.export import converter, model_cost, network, register_cost_rule


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def lenet():
    return sequential(
        (28, 28, 1),
        layers.Conv2D(20, 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(50, 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(500, activation="relu"),
        layers.Dense(10),
    )


def counted_by_tensorflow(model):
    """Half the floating point operations of TensorFlow's profiler, products only."""
    function = converter.trace(model, network.input_specifications(model, 1), 1)
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    node = tf.compat.v1.profiler.profile(function.graph, cmd="op", options=options)
    products = {"Conv2D", "Conv2DBackpropInput", "Conv3D", "DepthwiseConv2dNative"}
    total, nodes = 0, [node]
    while nodes:
        node = nodes.pop()
        nodes.extend(node.children)
        if node.name in products | {"MatMul", "BatchMatMulV2"}:
            total += node.float_ops
    return total / 2


def test_lenet_by_hand():
    model = lenet()
    cost = model_cost(model)
    by_layer = [layer.num_multiply_accumulates for layer in cost.layers]
    assert by_layer == [
        24 * 24 * 20 * 25,
        8 * 8 * 50 * 25 * 20,
        4 * 4 * 50 * 500,
        500 * 10,
    ]
    assert cost.num_multiply_accumulates == sum(by_layer) == 2_293_000
    assert [layer.width for layer in cost.layers] == [20, 50, 500, 10]
    assert cost.num_parameters == model.count_params() == 431_080
    assert cost.num_bytes == 4 * 431_080
    # Biases start at zero.
    assert cost.num_nonzero_parameters == 431_080 - 580
    assert "2,293,000" in str(cost).splitlines()[-1]


@pytest.mark.parametrize(
    "model",
    [
        lambda: sequential(
            (12, 12, 4),
            layers.Conv2D(8, 3, strides=2, padding="same"),
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            layers.SeparableConv2D(6, 3, strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.Conv2DTranspose(5, 3, strides=2, padding="same"),
            layers.Flatten(),
            layers.Dense(4),
        ),
        lambda: sequential(
            (12, 4),
            layers.Conv1D(6, 3, dilation_rate=2),
            layers.DepthwiseConv1D(3, padding="same"),
            layers.SeparableConv1D(4, 3),
            layers.EinsumDense("abc,cd->abd", output_shape=(None, 5)),
        ),
        lambda: sequential((5, 6, 7, 2), layers.Conv3D(3, 2)),
        lambda: sequential((3, 6, 6, 2), layers.TimeDistributed(layers.Conv2D(4, 3))),
        lambda: keras.applications.MobileNet((32, 32, 3), 0.25, weights=None),
    ],
)
def test_agrees_with_tensorflows_profiler(model):
    model = model()
    expected = counted_by_tensorflow(model)
    assert expected > 0
    assert model_cost(model).num_multiply_accumulates == expected


def attention(layer, value_features=8):
    query, value = keras.Input((6, 8)), keras.Input((5, value_features))
    return keras.Model([query, value], layer(query, value))


def product(pair):
    return keras.ops.matmul(pair[0], keras.ops.swapaxes(pair[1], 1, 2))


def pair(layer):
    first, second = keras.Input((6, 8)), keras.Input((5, 8))
    return keras.Model([first, second], layer([first, second]))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        # 2 groups of 2 input and 4 output channels each.
        (
            lambda: sequential((6, 6, 4), layers.Conv2D(8, 3, groups=2)),
            4 * 4 * 2 * (9 * 2 * 4),
        ),
        # Every input is multiplied with the whole kernel.
        (lambda: sequential((10, 6), layers.Conv1DTranspose(5, 3)), 10 * 6 * 3 * 5),
        (
            lambda: sequential((4, 5, 6, 3), layers.Conv3DTranspose(2, 2)),
            (4 * 5 * 6) * (8 * 3 * 2),
        ),
        (
            lambda: sequential((6, 4), layers.EinsumDense("...x,xhd->...hd", (2, 3))),
            6 * 4 * 2 * 3,
        ),
        (
            lambda: sequential((6, 4), layers.EinsumDense("abc,bcd->ad", 5)),
            6 * 4 * 5,
        ),
        # Four gates of an LSTM in each direction, three of a GRU.
        (
            lambda: sequential((7, 4), layers.Bidirectional(layers.LSTM(5))),
            2 * 7 * 4 * (4 * 5 + 5 * 5),
        ),
        (lambda: sequential((7, 4), layers.GRU(3)), 7 * 3 * (4 * 3 + 3 * 3)),
        (lambda: sequential((7, 4), layers.SimpleRNN(3)), 7 * (4 * 3 + 3 * 3)),
        (
            lambda: sequential((4, 6, 6, 2), layers.ConvLSTM2D(3, 3, padding="same")),
            4 * 4 * 36 * 9 * (2 * 3 + 3 * 3),
        ),
        # Queries, keys, values, output; scores and their weighted sum.
        (
            lambda: attention(layers.MultiHeadAttention(2, 3, value_dim=4), 7),
            6 * 8 * 2 * 3
            + 5 * 7 * 2 * 3
            + 5 * 7 * 2 * 4
            + 6 * 2 * 4 * 8
            + 6 * 5 * 2 * (3 + 4),
        ),
        (
            lambda: attention(layers.GroupQueryAttention(3, 4, 2)),
            2 * 6 * 8 * 4 * 3 + 2 * 5 * 8 * 3 * 2 + 2 * 6 * 5 * 4 * 3,
        ),
        (lambda: pair(layers.Attention()), 6 * 5 * 8 * 2),
        (lambda: pair(layers.Dot(axes=2)), 6 * 5 * 8),
        (lambda: pair(product), 6 * 5 * 8),
        (lambda: sequential((9,), layers.Embedding(5, 3)), 0),
    ],
)
def test_by_hand(model, expected):
    assert model_cost(model()).num_multiply_accumulates == expected


def test_a_shared_nested_model_counts_for_each_call():
    inner = sequential((6,), layers.Dense(6, name="shared"))
    inputs = keras.Input((6,))
    model = keras.Model(inputs, inner(inner(inputs)))
    cost = model_cost(model)
    (layer,) = cost.layers
    assert (layer.name, layer.num_calls) == ("shared", 2)
    assert layer.num_multiply_accumulates == 2 * 36
    assert cost.num_parameters == layer.num_parameters == 42


def test_a_bayesian_model_costs_what_its_means_cost_and_still_trains():
    network = sequential((6,), layers.Dense(4), layers.Dense(3))
    bayesian = keras_bmr.to_variational(network, num_examples=8)
    assert model_cost(bayesian).layers == model_cost(network).layers
    # Nothing of the count stays behind in the layers.
    assert all("call" not in vars(layer) for layer in network.layers)
    assert network.predict(np.ones((2, 6)), verbose=0).shape == (2, 3)


class Scaled(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1], 3))

    def call(self, inputs):
        return inputs @ self.factor


class Correlation(layers.Layer):
    def call(self, inputs):
        return keras.ops.conv(inputs, keras.ops.ones((2, 4, 3)))


def test_unknown_layers_are_named_until_a_rule_is_registered():
    model = sequential((5,), Scaled(name="scaled"))
    with pytest.raises(ValueError, match="'scaled' of class Scaled.*register_cost"):
        model_cost(model)

    @register_cost_rule(Scaled)
    def scaled(layer, call):
        return call.input[-1] * call.output[-1]

    assert model_cost(model).num_multiply_accumulates == 15
    with pytest.raises(ValueError, match="Scaled already has a cost rule"):
        register_cost_rule(Scaled)(scaled)


def test_products_outside_of_known_layers_are_no_zeros():
    with pytest.raises(ValueError, match="multiplies outside of the layers"):
        model_cost(sequential((6, 4), Correlation()))


def test_invalid_models():
    with pytest.raises(TypeError, match="expected a `keras.Model`"):
        model_cost("model")
    with pytest.raises(ValueError, match="fixed shapes"):
        model_cost(sequential((None, 3), layers.Conv1D(2, 3)))
