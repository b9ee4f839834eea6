"""Pruned entries of ordinary layers: zero through training, saving and copying."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bmr
from keras_bmr.layers.conversion import copy_model
from keras_bmr.layers.pruned_weights import weight_variable
from keras_bmr.pruning import prune_weight, weight_mask

PLACES = {
    "embedding": ["embeddings"],
    "conv1d": ["kernel", "bias"],
    "separable": ["depthwise_kernel", "pointwise_kernel"],
    "normalization": ["gamma", "beta"],
    "lstm": ["cell.kernel", "cell.recurrent_kernel", "cell.bias"],
    "both_ways": ["forward_layer.cell.kernel", "backward_layer.cell.recurrent_kernel"],
    "attention": ["query_kernel", "_output_dense.kernel", "_key_dense.bias"],
    "einsum": ["kernel"],
    "scales": ["gamma"],
    "dense": ["kernel", "bias"],
}


def text_model():
    inputs = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(7, 6, name="embedding")(inputs)
    x = keras.layers.Conv1D(6, 3, padding="same", name="conv1d")(x)
    x = keras.layers.SeparableConv1D(6, 3, padding="same", name="separable")(x)
    x = keras.layers.BatchNormalization(name="normalization")(x)
    x = keras.layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = keras.layers.Bidirectional(
        keras.layers.GRU(3, return_sequences=True), name="both_ways"
    )(x)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = keras.layers.EinsumDense("abc,cd->abd", (None, 4), name="einsum")(x)
    x = keras.layers.LayerNormalization(name="scales")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    outputs = keras.layers.Dense(3, name="dense", kernel_constraint="max_norm")(x)
    return keras.Model(inputs, outputs)


def prune_some(model, seed=0):
    generator = np.random.default_rng(seed)
    for name, paths in PLACES.items():
        for path in paths:
            layer = model.get_layer(name)
            shape = weight_variable(layer, path).shape
            keep = generator.random(shape) < 0.5
            keep.flat[0], keep.flat[1] = False, True
            prune_weight(layer, path, keep)


def check_masks(model, expected=None):
    for name, paths in PLACES.items():
        layer = model.get_layer(name)
        for path in paths:
            mask = weight_mask(layer, path)
            value = weight_variable(layer, path).numpy()
            assert not mask.flat[0]
            assert mask.flat[1]
            assert (value[~mask] == 0).all()
            # Biases that began at zero have moved.
            assert (value[mask] != 0).all()
            if expected is not None:
                np.testing.assert_array_equal(
                    mask, weight_mask(expected.get_layer(name), path)
                )


def compile_and_fit(model, optimizer):
    generator = np.random.default_rng(1)
    x = generator.integers(0, 7, (12, 8))
    model.compile(optimizer, loss=keras.losses.MeanSquaredError(), jit_compile=False)
    y = generator.normal(size=(12, 3)).astype("float32")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)


@pytest.fixture(scope="module")
def trained():
    """Pruned in the middle of training, with Adam's momentum from before."""
    keras.utils.set_random_seed(0)
    model = text_model()
    compile_and_fit(model, keras.optimizers.Adam(0.03))
    prune_some(model)
    model.make_train_function(force=True)
    x, y = np.ones((12, 8), "int32"), np.ones((12, 3), "float32")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    return model


def test_zeros_hold_in_training_with_momentum(trained):
    check_masks(trained)
    kernel = trained.get_layer("dense").kernel.numpy()
    # The constraint of the user's is in force.
    assert np.linalg.norm(kernel, axis=0).max() <= 2.0 + 1e-5


def test_zeros_hold_after_saving_with_another_optimizer(trained, tmp_path):
    trained.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras", safe_mode=True)
    compile_and_fit(loaded, keras.optimizers.SGD(0.1, momentum=0.9))
    check_masks(loaded, trained)


def test_copies_have_the_masks(trained):
    copied = copy_model(trained)
    check_masks(copied, trained)
    bayesian = keras_bmr.to_variational(trained, num_examples=10, bayesian_bias=True)
    check_masks(bayesian, trained)
    check_masks(keras_bmr.to_deterministic(bayesian), trained)
    name = "separable"
    prune_weight(copied.get_layer(name), "depthwise_kernel", np.zeros((3, 6, 1), bool))
    assert weight_mask(trained.get_layer(name), "depthwise_kernel").any()


def test_a_custom_layer_keeps_its_mask_in_copies():
    class Scale(keras.layers.Layer):
        def build(self, input_shape):
            self.scale = self.add_weight(shape=(input_shape[-1],), initializer="ones")

        def call(self, inputs):
            return inputs * self.scale

    model = keras.Sequential([keras.Input((3,)), Scale()])
    keep = np.array([True, False, True])
    prune_weight(model.layers[0], "scale", keep)
    copied = copy_model(model)
    copied.compile("sgd", loss="mse")
    copied.fit(np.ones((4, 3)), np.full((4, 3), 3.0), verbose=0)
    assert copied.layers[0].scale[1] == 0
    assert copied.layers[0].scale[0] != 1
    np.testing.assert_array_equal(weight_mask(copied.layers[0], "scale"), keep)


def test_more_is_pruned_and_nothing_returns():
    layer = keras.layers.DepthwiseConv2D(2)
    keras.Sequential([keras.Input((4, 4, 2)), layer])
    first = np.arange(layer.kernel.numpy().size).reshape(layer.kernel.shape) % 2 == 0
    second = np.arange(first.size).reshape(first.shape) > 3
    prune_weight(layer, "kernel", first)
    prune_weight(layer, "kernel", second)
    np.testing.assert_array_equal(weight_mask(layer, "kernel"), first & second)
    np.testing.assert_array_equal(layer.kernel.numpy() != 0, first & second)
    rebuilt = keras.layers.DepthwiseConv2D.from_config(layer.get_config())
    assert type(rebuilt.depthwise_constraint) is type(layer.kernel.constraint)


def test_zeros_of_a_constraint_may_move_again():
    layer = keras.layers.Dense(2, use_bias=False, kernel_constraint="non_neg")
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.kernel.assign([[-1.0, 1.0], [1.0, 1.0]])
    prune_weight(layer, "kernel", [[True, True], [True, False]])
    constrained = layer.kernel.constraint(layer.kernel)
    layer.kernel.assign(constrained)
    # -1 became a zero that is not pruned, also after the mask is lost.
    copied = keras.models.clone_model(model)
    copied.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        weight_mask(copied.layers[0], "kernel"), [[True, True], [True, False]]
    )
    np.testing.assert_array_equal(layer.kernel.numpy(), [[0, 1], [1, 0]])


def test_half_precision_training_under_xla():
    layer = keras.layers.Dense(3, dtype="mixed_float16")
    model = keras.Sequential([keras.Input((4,)), layer])
    keep = np.arange(12).reshape(4, 3) % 2 == 0
    prune_weight(layer, "kernel", keep)
    model.compile(keras.optimizers.Adam(0.1), loss="mse", jit_compile=True)
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    np.testing.assert_array_equal(layer.kernel.numpy() != 0, keep)


def test_bad_arguments_are_refused_by_name():
    layer = keras.layers.Dense(3, name="d")
    with pytest.raises(ValueError, match="'d' has no weight.*not built yet.*'kernel'"):
        prune_weight(layer, "kernel", np.ones((4, 3)))
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"\['bias', 'kernel'\].*name='gamma'"):
        weight_mask(layer, "gamma")
    with pytest.raises(ValueError, match=r"\(4, 3\).*keep.shape=\(3,\)"):
        prune_weight(layer, "kernel", np.ones(3, bool))
    assert layer.kernel.constraint is None
    assert tf.reduce_all(layer.kernel != 0)
