import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_bmr
from keras_bmr import layers


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.DepthwiseConv2D(3),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, name="head"),
        ]
    )


def residual():
    first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = keras.layers.Dense(4, activation="tanh", name="shared")
    x = shared(first) + shared(second)
    x = keras.layers.Dense(4)(ops.tanh(x)) + x
    outputs = [keras.layers.Dense(2, name="left")(x), keras.layers.Dense(1)(x)]
    return keras.Model([first, second], outputs)


def nested():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)], name="inner")
    block_input = keras.Input((5,))
    block = keras.Model(
        block_input, keras.layers.Dense(5)(block_input) + block_input, name="block"
    )
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2)(block(block(inner(inputs)))))


def wrapped():
    return keras.Sequential(
        [
            keras.Input((6, 5)),
            keras.layers.TimeDistributed(keras.layers.Dense(4, name="inner")),
            keras.layers.Bidirectional(
                keras.layers.LSTM(3, return_sequences=True, name="lstm")
            ),
            keras.layers.Bidirectional(
                keras.layers.GRU(3),
                backward_layer=keras.layers.GRU(3, go_backwards=True, name="back"),
            ),
            keras.layers.Dense(2),
        ]
    )


def tokens():
    inputs = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(7, 6, mask_zero=True)(inputs)
    x = keras.layers.MultiHeadAttention(2, 3)(x, x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.SimpleRNN(3)(x)
    x = keras.layers.EinsumDense("ab,bc->ac", 4, bias_axes="c")(x)
    return keras.Model(inputs, x)


MODELS = [sequential, residual, nested, wrapped, tokens]


def randomize_weights(model):
    generator = np.random.default_rng(0)
    model.set_weights(
        [
            np.abs(generator.normal(size=w.shape)) * 0.3 + 0.1
            if "variance" in v.name
            else generator.normal(size=w.shape) * 0.3
            for v, w in zip(model.weights, model.get_weights(), strict=True)
        ]
    )
    return model


def inputs_of(model):
    generator = np.random.default_rng(1)
    return [
        generator.integers(0, 7, (3, *i.shape[1:])).astype("int32")
        if i.dtype == "int32"
        else generator.normal(size=(3, *i.shape[1:])).astype("float32")
        for i in model.inputs
    ]


def outputs_of(model, inputs):
    return keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0]))


def layer_names(model):
    # Keras renames inputs that the user gave no name, and parts of an attention.
    return [layer.name for layer in model._flatten_layers() if layer.weights]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("prior", ["layerwise_normal", "scale_mixture_normal"])
def test_there_and_back(make, prior):
    model = randomize_weights(make())
    bayesian = keras_bmr.to_variational(
        model, num_examples=10, prior=prior, bayesian_bias=True
    )
    back = keras_bmr.to_deterministic(bayesian)
    inputs = inputs_of(model)
    expected = outputs_of(model, inputs)
    for converted in (bayesian, back):
        for mine, theirs in zip(outputs_of(converted, inputs), expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6)
    assert layer_names(bayesian) == layer_names(model) == layer_names(back)
    assert [type(each) for each in back._flatten_layers()] == [
        type(each) for each in model._flatten_layers()
    ]
    weighty = (keras.layers.Dense, keras.layers.Conv2D, keras.layers.RNN)
    for layer in back._flatten_layers():
        assert not isinstance(layer, layers.Variational)
    for layer in bayesian._flatten_layers():
        if isinstance(layer, weighty):
            assert layer in layers.variational_layers(bayesian)


@pytest.mark.parametrize("make", MODELS)
def test_a_converted_model_trains_and_draws(make):
    model = keras_bmr.to_variational(make(), num_examples=10)
    model.compile("adam", "mse", jit_compile=False)
    inputs = inputs_of(model)
    targets = [np.zeros(o.shape) for o in outputs_of(model, inputs)]
    before = [v.numpy() for v in model.trainable_variables]
    inputs_or_one = inputs if len(inputs) > 1 else inputs[0]
    targets = targets if len(targets) > 1 else targets[0]
    assert np.isfinite(model.train_on_batch(inputs_or_one, targets)).all()
    for old, variable in zip(before, model.trainable_variables, strict=True):
        if "key" not in variable.path:  # a key's bias has no effect on a softmax
            assert np.any(old != variable.numpy()), variable.path
    with keras_bmr.posteriors.sampling(seed=1):
        drawn = outputs_of(model, inputs)
    assert np.any(drawn[0] != outputs_of(model, inputs)[0])


def test_shared_layers_stay_shared():
    model = keras_bmr.to_variational(residual(), num_examples=10)
    assert len(layers.variational_layers(model)) == 4
    assert len(model.losses) == 4


@pytest.mark.parametrize("make", [sequential, wrapped])
def test_a_converted_model_survives_saving(make, tmp_path):
    model = keras_bmr.to_variational(make(), num_examples=10)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.name for v in loaded.variables] == [v.name for v in model.variables]
    for mine, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert all(each.num_examples == 10 for each in layers.variational_layers(loaded))
    keras_bmr.set_num_examples(loaded, 20)


def test_time_distributed_over_sequences_of_unknown_length():
    inputs = keras.Input((None, 5))
    outputs = keras.layers.TimeDistributed(keras.layers.Dense(4))(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(outputs))
    bayesian = keras_bmr.to_variational(model, num_examples=10)
    bayesian.compile("sgd", "mse", jit_compile=False)
    assert np.isfinite(bayesian.train_on_batch(np.ones((2, 3, 5)), np.zeros((2, 4))))


def test_masks_are_respected_on_the_way_back():
    model = keras_bmr.to_variational(sequential(), num_examples=10)
    conv = model.get_layer("conv")
    keep = np.random.default_rng(0).uniform(size=conv.kernel.shape) < 0.5
    conv.prune("kernel", keep)
    back = keras_bmr.to_deterministic(model)
    kernel = back.get_layer("conv").kernel.numpy()
    np.testing.assert_array_equal(kernel != 0, keep)
    x = inputs_of(model)[0]
    np.testing.assert_allclose(back(x), model(x), atol=1e-6)


@pytest.mark.parametrize("make", [sequential, wrapped, tokens])
def test_what_is_pruned_stays_so_when_the_means_are_trained_on(make):
    model = keras_bmr.to_variational(make(), num_examples=10)
    generator = np.random.default_rng(0)
    for layer in layers.variational_layers(model):
        for name in layer.random_weight_names:
            layer.prune(name, generator.uniform(size=layer.mask(name).shape) < 0.5)
    back = keras_bmr.to_deterministic(model)
    assert keras_bmr.sparsity(back) == keras_bmr.sparsity(model) > 0.3
    inputs, before = inputs_of(back), back.get_weights()
    back.compile(keras.optimizers.Adam(0.1), "mse")
    targets = [1 + np.asarray(output) for output in outputs_of(back, inputs)]
    x = inputs if len(inputs) > 1 else inputs[0]
    back.fit(x, targets, epochs=2, verbose=0)
    assert any((a != b).any() for a, b in zip(before, back.get_weights(), strict=True))
    assert keras_bmr.sparsity(back) == keras_bmr.sparsity(model)


def test_frozen_layers_stay_as_they_are():
    model = sequential()
    model.get_layer("conv").trainable = False
    bayesian = keras_bmr.to_variational(model, num_examples=10)
    assert type(bayesian.get_layer("conv")) is type(model.get_layer("conv"))
    assert not bayesian.get_layer("conv").trainable
    assert len(bayesian.losses) == 2
    assert not keras_bmr.to_deterministic(bayesian).get_layer("conv").trainable
    model.trainable = False
    with pytest.raises(ValueError, match="frozen layers.*trainable=True"):
        keras_bmr.to_variational(model)


def numbers_scaled():
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3.0, 5.0, (50, 4)))
    inputs = np.random.default_rng(1).normal(3.0, 5.0, (6, 4)).astype("float32")
    return keras.Input((4,)), layer, inputs


def words_looked_up():
    layer = keras.layers.StringLookup(output_mode="multi_hot")
    layer.adapt(np.array(["a", "b", "c"]))
    inputs = tf.constant([["a", "b"], ["c", "z"]])
    return keras.Input((2,), dtype="string"), layer, inputs


def numbers_doubled():
    factor = 2.0
    layer = keras.layers.Lambda(lambda x: factor * x)
    return keras.Input((4,)), layer, np.ones((3, 4), "float32")


@pytest.mark.parametrize("make", [numbers_scaled, words_looked_up, numbers_doubled])
def test_state_that_is_no_variable_is_copied(make):
    inputs, layer, x = make()
    model = keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))
    expected = model(x).numpy()
    bayesian = keras_bmr.to_variational(model, num_examples=10)
    np.testing.assert_allclose(bayesian(x), expected, atol=1e-6)
    reduced = keras_bmr.reduce_model(bayesian, sparsity=0.0)
    np.testing.assert_allclose(reduced(x), expected, atol=1e-6)
    back = keras_bmr.to_deterministic(reduced)
    np.testing.assert_allclose(back(x), expected, atol=1e-6)


def test_the_model_is_not_changed_and_the_copy_not_compiled():
    model = sequential()
    model.compile("adam", loss=lambda y, p: ops.mean((y - p) ** 2))
    before = model.get_weights()
    bayesian = keras_bmr.to_variational(model, num_examples=10)
    assert model.compiled and not bayesian.compiled
    bayesian.get_layer("conv").kernel.assign(
        bayesian.get_layer("conv").kernel.value + 1
    )
    for mine, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_normalisation_layers_are_left_alone():
    model = keras_bmr.to_variational(sequential(), num_examples=10)
    (norm,) = [
        each
        for each in model.layers
        if isinstance(each, keras.layers.BatchNormalization)
    ]
    assert type(norm) is keras.layers.BatchNormalization


def test_skip_a_layer_and_a_nested_model():
    model = keras_bmr.to_variational(nested(), num_examples=10, skip=["inner"])
    names = {each.name for each in layers.variational_layers(model)}
    assert len(names) == 2
    inner = model.get_layer("inner").layers[0]
    assert type(inner) is keras.layers.Dense
    with pytest.raises(ValueError, match=r"skip=\['nowhere'\]"):
        keras_bmr.to_variational(nested(), skip=["nowhere"])


def test_a_bayesian_layer_in_the_model_takes_the_new_number_of_examples():
    model = keras.Sequential(
        [keras.Input((3,)), layers.DenseVariational(2, num_examples=5)]
    )
    bayesian = keras_bmr.to_variational(model, num_examples=50)
    assert bayesian.layers[0].num_examples == 50
    assert float(bayesian.layers[0].kl_weight) == pytest.approx(1 / 50)


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_keras_applications(name):
    kwargs = {"alpha": 0.35} if name == "MobileNetV2" else {}
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=3, **kwargs
    )
    bayesian = keras_bmr.to_variational(model, num_examples=10)
    with_kernels = [
        each.name
        for each in model.layers
        if isinstance(
            each,
            (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense),
        )
    ]
    assert [each.name for each in layers.variational_layers(bayesian)] == with_kernels
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(bayesian(x), model(x), atol=1e-6)


def test_a_layer_shared_between_a_model_and_one_inside_stays_shared():
    shared = keras.layers.Dense(4)
    inner = keras.Sequential([keras.Input((4,)), shared, keras.layers.Dense(4)])
    inputs = keras.Input((4,))
    outputs = keras.layers.Add()([shared(inputs), inner(inputs)])
    model = keras.Model(inputs, outputs)
    bayesian = keras_bmr.to_variational(model, num_examples=10)
    assert len(layers.variational_layers(bayesian)) == len(bayesian.losses) == 2
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    np.testing.assert_allclose(bayesian(x), model(x), atol=1e-6)
