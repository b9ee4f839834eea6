"""What of real architectures gets smaller, with outputs that stay."""

import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.pruning.channels import ChannelGraph, prune_channels, widths

layers = keras.layers
Input = keras.Input


def sequential_cnn():
    return keras.Sequential(
        [
            Input((8, 8, 3)),
            layers.Conv2D(6, 3, padding="same", name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="tanh", name="dense"),
            layers.Dense(3, name="head"),
        ]
    )


def resnet_8():
    inputs = Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(inputs)
    for filters, strides in ((6, 1), (8, 2), (10, 2)):
        y = layers.BatchNormalization()(x)
        y = layers.Activation("relu")(y)
        y = layers.Conv2D(
            filters, 3, strides=strides, padding="same", name=f"inner_{filters}"
        )(y)
        y = layers.BatchNormalization()(y)
        y = layers.ReLU()(y)
        y = layers.Conv2D(filters, 3, padding="same", name=f"outer_{filters}")(y)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides=strides, name=f"skip_{filters}")(x)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def grouped(num_groups):
    inputs = Input((6, 6, 4))
    x = layers.Conv2D(12, 3, activation="relu", name="before")(inputs)
    x = layers.Conv2D(24, 3, groups=num_groups, activation="elu", name="grouped")(x)
    return keras.Model(inputs, layers.Conv2D(5, 1, name="head")(x))


def mobile_block():
    inputs = Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="expand")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    x = layers.Conv2D(8, 1, use_bias=False, name="project")(x)
    y = layers.SeparableConv2D(
        8, 3, padding="same", depth_multiplier=2, name="separable"
    )(x)
    x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def dense_net():
    inputs = Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="stem")(inputs)
    for index in range(2):
        y = layers.BatchNormalization()(x)
        y = layers.ReLU()(y)
        y = layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"grow_{index}")(y)
        x = layers.Concatenate()([x, y])
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x))


def squeeze_and_excite():
    inputs = Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="swish", name="conv")(inputs)
    s = layers.GlobalAveragePooling2D()(x)
    s = layers.Reshape((1, 1, 8))(s)
    s = layers.Conv2D(4, 1, activation="relu", name="squeeze")(s)
    s = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(s)
    x = layers.Multiply()([x, s])
    where = layers.Conv2D(1, 1, activation="sigmoid", name="where")(x)
    x = layers.Multiply()([x, where])
    x = layers.Cropping2D(1)(layers.UpSampling2D()(x))
    return keras.Model(inputs, layers.Dense(4, name="head")(layers.Flatten()(x)))


def vision_transformer():
    inputs = Input((8, 8, 3))
    x = layers.Conv2D(16, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((4, 16))(x)
    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(4, 3, name="attention")(y, y)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(12, activation="gelu", name="mlp")(y)
    y = layers.Dense(16, name="out")(layers.Dropout(0.1)(y))
    x = layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(4, name="head")(x[:, 0]))


def cross_attention():
    query, value = Input((5, 6)), Input((4, 3))
    x = layers.Dense(8, activation="relu", name="query")(query)
    z = layers.Dense(7, name="value")(value)
    y = layers.MultiHeadAttention(3, 4, value_dim=5, output_shape=9, name="attention")(
        x, value=z
    )
    return keras.Model([query, value], layers.Dense(4, name="head")(y))


def recurrent():
    inputs = Input((5, 6))
    x = layers.LSTM(7, return_sequences=True, name="lstm")(inputs)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True, name="gru"))(x)
    dense = layers.Dense(6, activation="tanh", name="steps")
    x = layers.TimeDistributed(dense)(x)
    x = layers.SimpleRNN(6, name="rnn")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def encoder_and_decoder():
    source, target = Input((5, 6)), Input((4, 6))
    _, h, c = layers.LSTM(7, return_state=True, name="encoder")(source)
    y = layers.LSTM(7, return_sequences=True, name="decoder")(
        target, initial_state=[h, c]
    )
    return keras.Model([source, target], layers.Dense(3, name="head")(y))


def embedding():
    inputs = Input((5,), dtype="int32")
    x = layers.Embedding(10, 8, name="words")(inputs)
    x = layers.Conv1D(6, 3, padding="causal", activation="relu", name="conv")(x)
    x = layers.GlobalMaxPooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def generator():
    inputs = Input((4,))
    x = layers.Dense(4 * 4 * 6, activation="relu", name="dense")(inputs)
    x = layers.Reshape((4, 4, 6))(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="up")(x)
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones")(x)
    x = layers.PReLU(alpha_initializer="ones")(x)
    return keras.Model(inputs, layers.Conv2DTranspose(3, 1, name="head")(x))


def einsum():
    inputs = Input((5, 6))
    x = layers.EinsumDense(
        "abc,cde->abde", output_shape=(None, 3, 4), bias_axes="de", name="split"
    )(inputs)
    x = layers.Activation("relu")(x)
    x = layers.EinsumDense(
        "abde,def->abf", output_shape=(None, 7), bias_axes="f", name="join"
    )(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def operations():
    inputs = Input((6,))
    x = layers.Dense(8, name="one")(inputs)
    y = layers.Dense(8, name="two")(inputs)
    z = keras.ops.relu(x) * 2.0 + keras.ops.sigmoid(y)
    z = keras.ops.reshape(z, (-1, 2, 4))
    z = keras.ops.concatenate([z, z], axis=-1)
    z = keras.ops.mean(z, axis=1)
    return keras.Model(inputs, layers.Dense(3, name="head")(z))


def nested():
    inner = keras.Sequential(
        [Input((6,)), layers.Dense(8, activation="sigmoid", name="a"), layers.Dense(5)],
        name="inner",
    )
    first, second = Input((6,)), Input((6,))
    x = layers.Concatenate()([inner(first), inner(second)])
    return keras.Model([first, second], layers.Dense(3, name="head")(x))


def shared():
    inputs = Input((6,))
    twice = layers.Dense(6, activation="tanh", name="twice")
    x = twice(twice(layers.Dense(6, name="dense")(inputs)))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def channel_shuffle():
    inputs = Input((4, 4, 4))
    x = layers.Conv2D(12, 1, name="before")(inputs)
    x = layers.Reshape((4, 4, 2, 6))(x)
    x = layers.Reshape((4, 4, 12))(layers.Permute((1, 2, 4, 3))(x))
    return keras.Model(inputs, layers.Conv2D(3, 1, name="head")(x))


# Which channels go, and how wide the layers are then.
CASES = {
    "sequential": (
        sequential_cnn,
        {"conv": [1, 4], "dense": [0, 2, 3]},
        {"conv": 4, "dense": 7, "head": 3},
    ),
    "residual": (
        resnet_8,
        {"stem": [0, 5], "inner_8": [2], "skip_10": [1, 2, 3], "inner_10": range(9)},
        {"stem": 4, "inner_6": 6, "outer_6": 4, "inner_8": 7, "outer_8": 8}
        | {"skip_8": 8, "inner_10": 1, "outer_10": 7, "skip_10": 7, "head": 4},
    ),
    "few groups": (
        lambda: grouped(2),
        {"before": [1], "grouped": [0]},
        {"before": 10, "grouped": 22, "head": 5},
    ),
    "many groups": (
        lambda: grouped(6),
        {"before": [2]},
        {"before": 10, "grouped": 20, "head": 5},
    ),
    "depthwise": (
        mobile_block,
        {"expand": [3], "project": [0, 1]},
        {"expand": 7, "project": 6, "separable": 6, "head": 4},
    ),
    "concatenation": (
        dense_net,
        {"stem": [0], "grow_0": [1, 2], "grow_1": [3]},
        {"stem": 5, "grow_0": 2, "grow_1": 3, "head": 4},
    ),
    "squeeze and excite": (
        squeeze_and_excite,
        {"conv": [1, 2, 3], "squeeze": [0]},
        {"conv": 5, "squeeze": 3, "excite": 5, "where": 1, "head": 4},
    ),
    "vision transformer": (
        vision_transformer,
        {"attention": [1], "mlp": [0, 1, 2, 3, 4]},
        {"patches": 16, "attention": 3, "mlp": 7, "out": 16, "head": 4},
    ),
    "recurrent": (
        recurrent,
        {"lstm": [0, 3], "forward_gru": [4], "steps": [1], "rnn": [0, 5]},
        {"lstm": 5, "forward_gru": 4, "backward_gru": 4, "steps": 5}
        | {"rnn": 4, "head": 3},
    ),
    "encoder and decoder": (
        encoder_and_decoder,
        {"decoder": [1, 2]},
        {"encoder": 5, "decoder": 5, "head": 3},
    ),
    "embedding": (
        embedding,
        {"words": [0, 7], "conv": [2]},
        {"words": 6, "conv": 5, "head": 3},
    ),
    "generator": (
        generator,
        {"dense": [2], "up": [0, 1]},
        {"dense": 80, "up": 6, "head": 3},
    ),
    "einsum": (
        einsum,
        {"split": [1], "join": [0, 1, 2]},
        {"split": 2, "join": 4, "head": 3},
    ),
    "operations": (
        operations,
        {"one": [3]},
        {"one": 6, "two": 6, "head": 3},
    ),
    "nested": (nested, {"a": [0, 1]}, {"a": 6, "dense": 5, "head": 3}),
    "shared": (shared, {"twice": [4]}, {"dense": 5, "twice": 5, "head": 3}),
    "channel shuffle": (channel_shuffle, {"before": [7]}, {"before": 10, "head": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_output_stays_and_widths_shrink(case, prune, check_shrunk, random_weights):
    build, channels, expected = CASES[case]
    keras.utils.set_random_seed(0)
    model = build()
    random_weights(model)
    prune(model, channels)
    small = check_shrunk(model)
    found = widths(small)
    assert {name: found.get(name, 5) for name in expected} == expected
    parameters = sum(np.prod(weight.shape) for weight in small.weights)
    assert parameters < model.count_params()


def test_cross_attention(check_shrunk, random_weights):
    model = cross_attention()
    random_weights(model)
    graph = ChannelGraph(model)
    # Heads, and what the layer returns, have groups of their own.
    kernels = {
        (axis.name, axis.axis): axis.groups
        for axis in graph.axes
        if axis.layer.name == "attention"
    }
    heads = kernels["_output_dense.kernel", 0]
    outputs = kernels["_output_dense.kernel", 2]
    np.testing.assert_array_equal(kernels["_query_dense.kernel", 1], heads)
    read = kernels["_value_dense.kernel", 0], kernels["_query_dense.kernel", 0]
    prune_channels(model, [heads[0], *outputs[:2], read[0][3], read[1][0]], graph)
    small = check_shrunk(model)
    assert small.get_layer("attention").num_heads == 2
    assert widths(small) | {"attention": 2} == {
        "query": 7,
        "value": 6,
        "attention": 2,
        "head": 4,
    }
    assert small.get_layer("attention").output.shape[-1] == 7


def test_channels_first(prune, random_weights):
    model = keras.Sequential(
        [
            Input((3, 6, 6)),
            layers.Conv2D(6, 3, data_format="channels_first", name="conv"),
            layers.BatchNormalization(axis=1, name="norm"),
            layers.ReLU(),
            layers.AveragePooling2D(2, data_format="channels_first"),
            layers.Flatten(data_format="channels_first"),
            layers.Dense(4, name="head"),
        ]
    )
    random_weights(model)
    prune(model, {"conv": [0, 4]})
    small = keras_bmr.shrink(model)
    # Whether TensorFlow convolves channels first rightly depends on the processor, so
    # that the weights are compared. Flatten puts the channels last.
    keep = [1, 2, 3, 5]
    for name, cut in {
        "conv": lambda kernel: kernel[..., keep],
        "norm": lambda gamma: gamma[keep],
        "head": lambda kernel: kernel.reshape(4, 6, 4)[:, keep].reshape(16, 4),
    }.items():
        old, new = (network.get_layer(name).weights[0] for network in (model, small))
        np.testing.assert_array_equal(new, cut(old.numpy()))
    assert small.output_shape == (None, 4)


def test_nothing_to_remove(check_shrunk, random_weights):
    model = dense_net()
    random_weights(model)
    assert check_shrunk(model).count_params() == model.count_params()


def test_one_channel_of_each_layer_stays():
    model = sequential_cnn()
    graph = ChannelGraph(model)
    prune_channels(model, range(graph.num_groups), graph)
    model.get_layer("head").bias.assign([1.0, 2.0, 3.0])
    small = keras_bmr.shrink(model)
    assert widths(small) == {"conv": 1, "dense": 1, "head": 3}
    x = np.ones((2, 8, 8, 3), "float32")
    np.testing.assert_array_equal(small(x), [[1.0, 2.0, 3.0]] * 2)


def test_zeros_of_ordinary_weights_count(check_shrunk, random_weights):
    model = sequential_cnn()
    random_weights(model)
    kernel = model.get_layer("head").kernel
    kernel.assign(kernel * (np.arange(10) > 3)[:, np.newaxis])
    assert widths(check_shrunk(model)) == {"conv": 6, "dense": 6, "head": 3}
