"""Properties of fits that need no reference, Kronecker layouts, and what is refused."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.laplace.curvature import (
    CurvatureRule,
    curvature_weights,
    fit_curvature,
    register_curvature_rule,
)

L = keras.layers
BINARY_CROSS_ENTROPY = keras.losses.BinaryCrossentropy(from_logits=True)
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp(*layers, shape=(4,)):
    return keras.Sequential(
        [keras.Input(shape), *layers, L.Flatten(), L.Dense(3)], name="mlp"
    )


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(24, 4)).astype("float32")
    return x, generator.integers(0, 3, 24)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return mlp(L.Dense(5, activation="tanh"), L.LayerNormalization())


def numbers(result):
    parts = []
    for block in result.blocks:
        for name in ("diagonal", "input_factor", "output_factor"):
            if getattr(block, name, None) is not None:
                parts.append(np.ravel(getattr(block, name)))
    return np.concatenate(parts)


# --- Batches ---


@pytest.mark.parametrize("structure", ["diagonal", "kronecker"])
def test_batches_and_their_order_do_not_matter(model, data, structure):
    options = {"curvature": "ggn_mc", "structure": structure, "seed": 3}
    whole = fit_curvature(model, CROSS_ENTROPY, data, batch_size=24, **options)
    parts = fit_curvature(model, CROSS_ENTROPY, data, batch_size=7, **options)
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(5)
    streamed = fit_curvature(model, CROSS_ENTROPY, dataset, **options)
    for other in (parts, streamed):
        np.testing.assert_allclose(numbers(whole), numbers(other), rtol=1e-5, atol=1e-7)
        assert other.num_examples == 24
        np.testing.assert_allclose(
            whole.log_likelihood, other.log_likelihood, rtol=1e-6
        )


def test_monte_carlo_mean_is_the_exact_curvature(model, data):
    # One label per example, but many examples: the same ones again and again.
    repeats = 400
    x, y = np.repeat(data[0][:4], repeats, 0), np.repeat(data[1][:4], repeats)
    sampled = fit_curvature(
        model,
        CROSS_ENTROPY,
        (x, y),
        curvature="ggn_mc",
        structure="diagonal",
        batch_size=len(x),
    )
    exact = fit_curvature(
        model, CROSS_ENTROPY, (data[0][:4], data[1][:4]), structure="diagonal"
    )
    ratio = numbers(sampled) / repeats / numbers(exact)
    assert abs(np.median(ratio) - 1) < 0.03
    assert np.quantile(abs(ratio - 1), 0.9) < 0.12


# --- Kronecker blocks ---


def test_convolution_is_a_dense_layer_over_patches():
    x = np.random.default_rng(0).normal(size=(6, 7, 6, 2)).astype("float32")
    y = np.arange(6) % 3
    convolution = L.Conv2D(4, 3, strides=2, padding="same", name="linear")
    dense = L.Dense(4, name="linear")
    convolutional = mlp(convolution, L.Activation("relu"), shape=x.shape[1:])
    patches = np.asarray(
        keras.ops.image.extract_patches(x, 3, strides=2, padding="same")
    )
    flat = mlp(dense, L.Activation("relu"), shape=patches.shape[1:])
    kernel, *others = convolutional.get_weights()
    flat.set_weights([kernel.reshape(18, 4), *others])
    expected = fit_curvature(flat, CROSS_ENTROPY, (patches, y))
    found = fit_curvature(convolutional, CROSS_ENTROPY, (x, y))
    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-4, atol=1e-6)
    matrix = found.blocks[0].to_matrix(tf.constant(kernel))
    np.testing.assert_array_equal(matrix, kernel.reshape(18, 4))
    np.testing.assert_array_equal(found.blocks[0].from_matrix(matrix), kernel)


def test_embedding_is_a_dense_layer_over_one_hot_vectors():
    x = np.random.default_rng(0).integers(0, 5, (6, 4))
    y = np.arange(6) % 3
    indexed = mlp(L.Embedding(6, 3), L.Activation("tanh"), shape=(4,))
    dense = mlp(L.Dense(3, use_bias=False), L.Activation("tanh"), shape=(4, 6))
    dense.set_weights(indexed.get_weights())
    found = fit_curvature(indexed, CROSS_ENTROPY, (x, y)).blocks[0]
    expected = fit_curvature(dense, CROSS_ENTROPY, (np.eye(6)[x], y)).blocks[0]
    np.testing.assert_allclose(
        np.diag(found.input_factor), expected.input_factor, atol=1e-7
    )
    np.testing.assert_allclose(
        found.output_factor, expected.output_factor, rtol=1e-4, atol=1e-6
    )


def test_attention_projections_are_dense_layers():
    inputs = keras.Input((3, 4))
    attention = L.MultiHeadAttention(2, 3, name="attention")
    hidden = attention(inputs, inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(hidden)))
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype("float32")
    y = np.arange(5) % 2
    blocks = {
        block.name: block
        for block in fit_curvature(model, CROSS_ENTROPY, (x, y)).blocks
        if block.layer is attention
    }
    assert "_output_dense.bias" in blocks
    block = blocks["_query_dense.kernel"]
    rows = x.reshape(-1, 4)
    np.testing.assert_allclose(
        block.input_factor, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6
    )
    # (features, heads, keys) -> (features, heads * keys)
    kernel = np.asarray(attention._query_dense.kernel)
    np.testing.assert_array_equal(block.to_matrix(kernel), kernel.reshape(4, 6))


@pytest.mark.parametrize("positions", [None, 6])
def test_normalisation_has_its_whole_curvature(model, data, positions):
    if positions is not None:
        # A residual transformer block in small, with a mean over positions.
        inputs = keras.Input((positions,), dtype="int32")
        x = L.Embedding(5, 4)(inputs)
        x = x + L.Dense(4)(L.LayerNormalization()(x))
        x = L.GlobalAveragePooling1D()(x)
        model = keras.Model(inputs, L.Dense(3)(x))
        tokens = np.random.default_rng(0).integers(0, 5, (24, positions))
        data = tokens.astype("int32"), data[1]
    kronecker = fit_curvature(model, CROSS_ENTROPY, data)
    diagonal = fit_curvature(model, CROSS_ENTROPY, data, structure="diagonal")
    pairs = zip(kronecker.blocks, diagonal.blocks, strict=True)
    pairs = [p for p in pairs if p[0].name in ("gamma", "beta")]
    assert len(pairs) == 2
    for full, single in pairs:
        np.testing.assert_allclose(
            np.diag(full.output_factor), single.diagonal, rtol=1e-5
        )


# --- Which weights ---


def test_frozen_and_skipped_weights_are_left_out():
    model = mlp(L.Dense(5, name="first"), L.Dense(5, name="second"))
    model.get_layer("first").trainable = False
    names = {layer.name for layer, _, _ in curvature_weights(model, skip=["second"])}
    assert names == {model.layers[-1].name}


@keras.saving.register_keras_serializable("tests")
class Doubled(L.Dense):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs)


class Renamed(L.Dense):
    pass


def test_a_subclass_that_computes_the_same_is_known(data):
    assert fit_curvature(mlp(Renamed(4)), CROSS_ENTROPY, data, structure="diagonal")


def test_unknown_layers_are_named_until_registered(data):
    model = mlp(Doubled(4, name="odd"), L.Activation("tanh"))
    with pytest.raises(ValueError, match="'odd' of class Doubled"):
        fit_curvature(model, CROSS_ENTROPY, data)

    @register_curvature_rule(Doubled)
    class DoubledRule(CurvatureRule):
        def gradients(self, layer, features, cotangents):
            (x,), (g,) = features, cotangents
            return {"kernel": 2 * x[:, :, None] * g[:, None, :], "bias": 2 * g}

    with pytest.raises(ValueError, match="already has a curvature rule"):
        register_curvature_rule(Doubled)(DoubledRule)
    plain = mlp(L.Dense(4, name="odd"), L.Activation("tanh"))
    kernel, bias, *others = model.get_weights()
    plain.set_weights([2 * kernel, 2 * bias, *others])
    options = {"structure": "diagonal"}
    with pytest.raises(ValueError, match="another gradient of 'kernel'"):
        # Its cotangents are those of what the activation gets: half of the outputs.
        fit_curvature(model, CROSS_ENTROPY, data, **options)


class Tied(L.Layer):
    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, inputs):
        return inputs @ keras.ops.transpose(self.table.embeddings)


def test_weights_used_outside_of_their_layer_are_refused():
    table = L.Embedding(6, 3, name="table")
    inputs = keras.Input((4,), dtype="int32")
    model = keras.Model(inputs, Tied(table)(table(inputs)))
    x = np.arange(8).reshape(2, 4) % 6
    with pytest.raises(ValueError, match="another gradient of 'embeddings'"):
        fit_curvature(model, CROSS_ENTROPY, (x, x))


def test_random_models_are_refused(data):
    class Noise(L.Layer):
        def call(self, inputs):
            return inputs + keras.random.normal(keras.ops.shape(inputs))

    with pytest.raises(ValueError, match="random outside of training"):
        fit_curvature(mlp(L.Dense(4), Noise()), CROSS_ENTROPY, data)


def test_random_data_are_refused(model, data):
    dataset = tf.data.Dataset.from_tensor_slices(data).shuffle(24).batch(8)
    assert fit_curvature(model, CROSS_ENTROPY, dataset, structure="diagonal")
    noisy = dataset.map(lambda x, y: (x + tf.random.normal(tf.shape(x)), y))
    with pytest.raises(ValueError, match="other examples when it is read again"):
        fit_curvature(model, CROSS_ENTROPY, noisy, structure="diagonal")


def test_factors_that_cannot_fit_are_refused_early():
    model = mlp(shape=(1_000_000,))
    x, y = np.zeros((1, 1_000_000), "float32"), [0]
    with pytest.raises(ValueError, match="structure='diagonal'"):
        fit_curvature(model, CROSS_ENTROPY, (x, y))


# --- Data and losses ---


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: (x[:0], y[:0]), "at least one example"),
        (lambda x, y: (x, y[:5]), "the same number"),
        (lambda x, y: (x * np.nan, y), "must be finite"),
        (lambda x, y: (x.tolist(), y), "an axis of examples"),
        (lambda x, y: (x.astype(object), y), "arrays of numbers.*object"),
        (lambda x, y: (x, y + 1), "labels from 0 to 2"),
        (lambda x, y: (x, y + 0.5), "labels from 0 to 2"),
        (lambda x, y: (x, np.eye(3)[y]), "must have the shape"),
        (lambda x, y: (x, y, y), "pair"),
        (lambda x, y: tf.data.Dataset.from_tensors((x, y)).repeat(), "finite"),
        (lambda x, y: tf.data.Dataset.from_tensors((x, y)).take(0), "at least one"),
    ],
)
def test_bad_data_are_refused(model, data, change, message):
    with pytest.raises(ValueError, match=message):
        fit_curvature(model, CROSS_ENTROPY, change(*data), structure="diagonal")


def test_a_log_likelihood_beyond_the_largest_number_is_refused(model, data):
    x, y = data
    targets = 1e30 * np.eye(3)[y]
    with pytest.raises(ValueError, match="log likelihood of batch 0 is -inf"):
        fit_curvature(model, "mse", (x, targets), structure="diagonal")


@pytest.mark.parametrize("spoiled", ["x", "y"])
def test_nan_in_a_dataset_is_refused_as_in_arrays(data, spoiled):
    """Also where the outputs stay finite: a ReLU may turn NaN into zero."""
    x, y = data[0].copy(), np.eye(3, dtype="float32")[data[1]]
    {"x": x, "y": y}[spoiled][20] = np.nan
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    for given in ((x, y), dataset):
        with pytest.raises(ValueError, match="`data` must be finite.*with NaN"):
            fit_curvature(mlp(L.Dense(5, activation="relu")), "mse", given)


@pytest.mark.parametrize(
    "loss",
    [
        "mae",
        keras.losses.Huber(),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        keras.losses.SparseCategoricalCrossentropy(ignore_class=0),
    ],
)
def test_losses_that_are_no_likelihood_are_refused(model, data, loss):
    with pytest.raises(ValueError, match="Received: (loss|label_smoothing|ignore)"):
        fit_curvature(model, loss, data)


def test_a_loss_has_a_name(model, data):
    """As in `compile`, where names stand for losses of probabilities."""
    x, y = data
    by_name = fit_curvature(model, "mse", (x, np.eye(3)[y]))
    expected = fit_curvature(model, keras.losses.MeanSquaredError(), (x, np.eye(3)[y]))
    np.testing.assert_array_equal(numbers(by_name), numbers(expected))
    probabilities = keras.Sequential([keras.Input((4,)), *model.layers, L.Softmax()])
    by_name = fit_curvature(probabilities, "sparse_categorical_crossentropy", data)
    expected = fit_curvature(model, CROSS_ENTROPY, data)
    np.testing.assert_allclose(numbers(by_name), numbers(expected), rtol=1e-4)


@pytest.mark.parametrize(
    ("activation", "loss", "received"),
    [
        ("softmax", CROSS_ENTROPY, "the softmax of layer 'last'"),
        (lambda x: L.Softmax()(x), CROSS_ENTROPY, "positive outputs that add up to 1"),
        ("sigmoid", BINARY_CROSS_ENTROPY, "the sigmoid of layer 'last'"),
        ("linear", "sparse_categorical_crossentropy", "outputs between -"),
        ("linear", "binary_crossentropy", "outputs between -"),
        ("relu", "binary_crossentropy", "outputs between 0"),
    ],
)
def test_probabilities_are_no_logits(model, data, activation, loss, received):
    x, y = data
    last = L.Activation(activation, name="last")
    network = keras.Sequential([model, L.Rescaling(5.0), last])
    is_binary = loss in ("binary_crossentropy", BINARY_CROSS_ENTROPY)
    y = np.eye(3)[y] if is_binary else y
    with pytest.raises(ValueError, match=f"from_logits=.*Received: {received}"):
        fit_curvature(network, loss, (x, y))


def test_probabilities_of_a_nested_model_are_found(model, data):
    inner = keras.Sequential(
        [keras.Input((4,)), *model.layers, L.Activation("sigmoid")]
    )
    inputs = keras.Input((4,))
    outer = keras.Model(inputs, inner(inputs))
    with pytest.raises(ValueError, match="Received: the sigmoid of layer"):
        fit_curvature(outer, BINARY_CROSS_ENTROPY, (data[0], np.eye(3)[data[1]]))


def test_positive_outputs_need_not_add_up_to_one(model, data):
    """Keras divides them by their sum, and so does the likelihood."""
    positive = keras.Sequential([*model.layers, L.Activation("exponential")])
    positive.build((None, 4))
    by_sum = fit_curvature(positive, "sparse_categorical_crossentropy", data)
    expected = fit_curvature(model, CROSS_ENTROPY, data)
    np.testing.assert_allclose(numbers(by_sum), numbers(expected), rtol=1e-4)


def test_a_model_has_one_output(data):
    inputs = keras.Input((4,))
    outputs = {"a": L.Dense(3)(inputs), "b": L.Dense(2)(inputs)}
    for several, shapes in (
        (outputs, "{'a': (24, 3), 'b': (24, 2)}"),
        (list(outputs.values()), "[(24, 3), (24, 2)]"),
    ):
        message = (
            f"must have one output .*Received: outputs of shapes {re.escape(shapes)}$"
        )
        with pytest.raises(ValueError, match=message):
            fit_curvature(keras.Model(inputs, several), CROSS_ENTROPY, data)


@pytest.mark.parametrize(
    "options",
    [{"curvature": "hessian"}, {"structure": "full"}, {"seed": -1}, {"verbose": 7}],
)
def test_bad_options_are_refused(model, data, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        fit_curvature(model, CROSS_ENTROPY, data, **options)
