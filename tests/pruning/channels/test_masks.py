"""Masks of padding: no channels, and the same outputs in the smaller model."""

import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.pruning.channels import ChannelGraph, prune_channels, widths

layers = keras.layers
Input = keras.Input


def words(**kwargs):
    return layers.Embedding(10, 8, mask_zero=True, name="words", **kwargs)


def in_sequence(*following):
    return keras.Sequential(
        [
            Input((7,), dtype="int32"),
            words(),
            *following,
            layers.Dense(3, name="logits"),
        ]
    )


def lstm():
    return in_sequence(layers.LSTM(4, name="rnn"))


def bidirectional():
    inner = layers.LSTM(4, return_sequences=True, name="rnn")
    return in_sequence(layers.Bidirectional(inner), layers.GRU(3))


def pooling():
    return in_sequence(layers.GlobalAveragePooling1D())


def as_wide_as_long():
    # The mask has the shape of a state of the layer.
    return in_sequence(layers.LSTM(7, name="rnn"))


def steps():
    dense = layers.Dense(6, activation="tanh", name="steps")
    return in_sequence(
        layers.TimeDistributed(dense), layers.BatchNormalization(), layers.SimpleRNN(4)
    )


def functional():
    inputs = Input((7,), dtype="int32")
    x = words()(inputs)
    y = layers.LSTM(5, return_sequences=True, name="rnn")(x)
    x = layers.Concatenate()([x, y])
    x = layers.Dropout(0.1)(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def concatenation_with_what_has_no_mask():
    inputs, others = Input((7,), dtype="int32"), Input((7, 2))
    x = words()(inputs)
    y = layers.Dense(5, name="dense")(others)
    x = layers.LSTM(4, name="rnn")(layers.Concatenate()([x, y]))
    return keras.Model([inputs, others], layers.Dense(3, name="logits")(x))


def attention():
    inputs = Input((7,), dtype="int32")
    x = words()(inputs)
    x = layers.MultiHeadAttention(3, 4, name="attention")(x, x)
    x = layers.Add()([x, layers.Dense(8, name="residual")(x)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def attention_with_a_mask_of_its_own():
    inputs = Input((7,), dtype="int32")
    x = layers.Embedding(10, 8, name="words")(inputs)
    mask = keras.ops.expand_dims(keras.ops.not_equal(inputs, 0), 1)
    x = layers.MultiHeadAttention(3, 4, name="attention")(x, x, attention_mask=mask)
    x = layers.GlobalMaxPooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


BUILDERS = [
    lstm,
    bidirectional,
    pooling,
    as_wide_as_long,
    steps,
    functional,
    concatenation_with_what_has_no_mask,
    attention,
    attention_with_a_mask_of_its_own,
]


def padded_inputs(model):
    """Words with padding behind them, and what else the model reads."""
    generator = np.random.default_rng(3)
    found = []
    for tensor in model.inputs:
        shape = (4, *(size or 7 for size in tensor.shape[1:]))
        if "int" in tensor.dtype:
            found.append(generator.integers(1, 10, shape))
            for row, length in enumerate((7, 4, 2, 1)):
                found[-1][row, length:] = 0
        else:
            found.append(generator.normal(size=shape).astype("float32"))
    return found[0] if len(found) == 1 else found


def check_padded(model, small):
    inputs = padded_inputs(model)
    expected = model(inputs, training=False)
    np.testing.assert_allclose(small(inputs, training=False), expected, atol=1e-5)
    assert np.std(expected) > 1e-2


def prune_some(model):
    graph = ChannelGraph(model)
    assert widths(model)["words"] == 8
    generator = np.random.default_rng(1)
    groups = generator.permutation(graph.num_groups)[: graph.num_groups // 3]
    prune_channels(model, groups, graph)
    return graph


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("bayesian", [False, True])
def test_masks_go_on_working(build, bayesian, check_shrunk, random_weights, tmp_path):
    keras.utils.set_random_seed(0)
    model = build()
    random_weights(model)
    if bayesian:
        model = keras_bmr.to_variational(model, num_examples=20)
    prune_some(model)
    small = check_shrunk(model)
    check_padded(model, small)
    assert sum(widths(small).values()) < sum(widths(model).values())
    small.save(tmp_path / "small.keras")
    check_padded(small, keras.models.load_model(tmp_path / "small.keras"))


def test_padding_has_no_part_in_the_output(random_weights):
    inputs = Input((None,), dtype="int32")
    model = keras.Model(inputs, layers.LSTM(4, name="rnn")(words()(inputs)))
    random_weights(model)
    prune_some(model)
    small = keras_bmr.shrink(model)
    padded = padded_inputs(model)
    expected = [small(row[row > 0][np.newaxis])[0] for row in padded]
    np.testing.assert_allclose(small(padded), expected, atol=1e-6)


def test_units_that_are_silent_go_in_spite_of_a_mask(check_shrunk, random_weights):
    model = lstm()
    random_weights(model)
    rnn = model.get_layer("rnn").cell
    gone = np.tile(np.arange(4) == 1, 4)
    for weight in (rnn.kernel, rnn.recurrent_kernel, rnn.bias):
        weight.assign(np.where(gone, 0, weight))
    rnn.recurrent_kernel.assign(
        np.where((np.arange(4) == 1)[:, np.newaxis], 0, rnn.recurrent_kernel)
    )
    small = check_shrunk(model)
    assert widths(small)["rnn"] == 3
    check_padded(model, small)


def test_channels_that_a_mask_is_computed_from_must_stay(
    prune, check_shrunk, random_weights
):
    inputs = Input((7, 3))
    x = layers.Dense(6, activation="relu", name="dense")(inputs)
    masked = layers.Masking()(x)
    x = layers.LSTM(4, name="rnn")(masked)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    compared = keras.ops.any(keras.ops.greater(masked, 0.5), axis=-1)
    x = layers.Dense(5, name="free")(inputs)
    x = layers.LSTM(4, name="rnn")(x, mask=compared)
    explicit = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    for network, kept in ((model, {"dense": 6}), (explicit, {"dense": 6, "free": 4})):
        random_weights(network)
        prune(network, {"dense": [0], "free": [2], "rnn": [1]})
        small = check_shrunk(network)
        assert widths(small) == {**kept, "rnn": 3, "logits": 3}


def test_layers_that_a_mask_is_learned_with_lose_channels(
    prune, check_shrunk, random_weights
):
    inputs = Input((7, 3))
    gate = layers.Dense(6, activation="relu", name="hidden")(inputs)
    gate = layers.Dense(1, name="gate")(gate)
    mask = keras.ops.greater(gate[:, :, 0], 0.0)
    x = layers.LSTM(4, name="rnn")(inputs, mask=mask)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    random_weights(model)
    prune(model, {"hidden": [2, 3]})
    small = check_shrunk(model)
    assert widths(small) == {"hidden": 4, "gate": 1, "rnn": 4, "logits": 3}


def test_a_mask_that_is_an_input(prune, check_shrunk, random_weights):
    inputs, mask = Input((7, 3)), Input((7,), dtype="bool")
    x = layers.Dense(6, name="dense")(inputs)
    x = layers.LSTM(4, name="rnn")(x, None, mask)
    model = keras.Model([inputs, mask], layers.Dense(3, name="logits")(x))
    random_weights(model)
    prune(model, {"dense": [2], "rnn": [0]})
    small = keras_bmr.shrink(model)
    generator = np.random.default_rng(0)
    x = [generator.normal(size=(5, 7, 3)), generator.random((5, 7)) < 0.5]
    np.testing.assert_allclose(small(x), model(x), atol=1e-5)
    assert widths(small) == {"dense": 5, "rnn": 3, "logits": 3}


# Keras warns that what a nested model returns has no mask.
@pytest.mark.filterwarnings("ignore:Layer 'head':UserWarning")
@pytest.mark.parametrize("kind", ["sequential", "functional", "given as an input"])
def test_masks_reach_nested_models(kind, prune, check_shrunk, random_weights, tmp_path):
    signal, mask = Input((7, 8)), Input((7,), dtype="bool")
    rnn = layers.LSTM(4, name="rnn")
    if kind == "sequential":
        head = keras.Sequential([signal, rnn], name="head")
    elif kind == "functional":
        head = keras.Model(signal, rnn(signal), name="head")
    else:
        head = keras.Model([signal, mask], rnn(signal, mask=mask), name="head")
    inputs = Input((7,), dtype="int32")
    x = words()(inputs)
    x = head([x, keras.ops.not_equal(inputs, 0)] if "given" in kind else x)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    random_weights(model)
    prune(model, {"words": [0, 3], "rnn": [1]})
    small = check_shrunk(model)
    check_padded(model, small)
    assert widths(small) == {"words": 6, "rnn": 3, "logits": 3}
    assert small.get_layer("head").inputs[0].shape == (None, 7, 6)
    small.save(tmp_path / "small.keras")
    check_padded(small, keras.models.load_model(tmp_path / "small.keras"))


def test_gates_of_masked_words_are_folded(check_shrunk, random_weights):
    gate = keras_bmr.layers.MultiplicativeNoise(num_examples=20, name="gate")
    model = in_sequence(gate, layers.LSTM(4, name="rnn"))
    random_weights(model)
    gate.noise.assign(np.linspace(-2, 1, 8))
    small = check_shrunk(model)
    check_padded(model, small)
    assert [layer.name for layer in small.layers] == ["words", "rnn", "logits"]


def test_a_gate_stays_where_a_mask_is_computed_behind_it(check_shrunk, random_weights):
    inputs = Input((7, 3))
    gate = keras_bmr.layers.MultiplicativeNoise(num_examples=20, name="gate")
    x = gate(layers.Dense(6, activation="tanh", name="dense")(inputs))
    mask = keras.ops.any(keras.ops.greater(x, 0.4), axis=-1)
    x = layers.LSTM(4, name="rnn")(x, mask=mask)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    random_weights(model)
    gate.noise.assign(np.linspace(-2, 1, 6))
    # It does not commute with the tanh before it, either.
    assert "gate" in [layer.name for layer in check_shrunk(model).layers]


def test_channel_granularity_of_a_masked_model():
    model = keras_bmr.to_variational(lstm(), num_examples=20)
    reduced = keras_bmr.reduce_model(
        model, criterion="opd", granularity="channel", sparsity=0.4, ranking="layer"
    )
    small = keras_bmr.shrink(reduced)
    assert small.count_params() < model.count_params()
    inputs = padded_inputs(model)
    np.testing.assert_allclose(
        small(inputs, training=False), reduced(inputs, training=False), atol=1e-5
    )
