import keras
import numpy as np
import pytest

import keras_bmr


def plain_model():
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )


def test_fresh_models_have_none():
    model = plain_model()
    # Biases are all zero, but are not what is pruned.
    assert keras_bmr.sparsity(model) == 0.0
    assert keras_bmr.sparsity(keras_bmr.to_variational(model)) == 0.0


def test_counts_zeros_of_kernels():
    model = plain_model()
    kernel = np.ones((32, 5))
    kernel[:10] = 0
    model.layers[-1].kernel.assign(kernel)
    assert keras_bmr.sparsity(model) == 50 / (160 + 18)


def test_counts_masks_and_changes_nothing(dense_model):
    reduced = keras_bmr.reduce_model(dense_model, sparsity=0.5)
    before = [variable.numpy().copy() for variable in reduced.variables]
    assert keras_bmr.sparsity(reduced) == 0.5
    for old, variable in zip(before, reduced.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy().copy())
    network = keras_bmr.to_deterministic(reduced)
    assert keras_bmr.sparsity(network) == 0.5


def test_a_zero_that_is_not_pruned_does_not_count(dense_model):
    layer = dense_model.get_layer("hidden")
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    assert keras_bmr.sparsity(dense_model) == 0.0


def test_model_without_weights_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Activation("relu")])
    with pytest.raises(ValueError, match="no prunable weight"):
        keras_bmr.sparsity(model)


def test_models_that_are_not_built_or_none_are_refused():
    model = keras.Sequential([keras_bmr.layers.DenseVariational(2, name="late")])
    with pytest.raises(ValueError, match=r"not built yet.*\['late'\].*keras.Input"):
        keras_bmr.sparsity(model)
    with pytest.raises(ValueError, match="Expected a `keras.Model`.*class NoneType"):
        keras_bmr.sparsity(None)
