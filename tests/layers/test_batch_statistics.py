import keras
import numpy as np
import pytest
from keras import layers

import keras_bmr
from keras_bmr.layers import refresh_batch_statistics


def images(num_examples=100, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num_examples, 6, 6, 2)) * 3 + 1).astype("float32")


def network(dropout=0.0):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, name="conv_1")(inputs)
    x = layers.BatchNormalization(name="norm_1")(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(dropout)(x)
    x = layers.Conv2D(4, 3, name="conv_2")(x)
    x = layers.BatchNormalization(name="norm_2", scale=False)(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


def convolved(model, name, x):
    """A convolution in float64, by the sums over the kernel's entries."""
    kernel, bias = (np.asarray(w, "float64") for w in model.get_layer(name).weights)
    height, width = kernel.shape[:2]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    return bias + sum(
        x[:, i : i + rows, j : j + columns] @ kernel[i, j]
        for i in range(height)
        for j in range(width)
    )


def statistics(model, name):
    layer = model.get_layer(name)
    return np.array(layer.moving_mean), np.array(layer.moving_variance)


@pytest.mark.parametrize("num_examples", [100, 96, 20])
def test_first_layer_has_mean_and_variance_of_all_examples(num_examples):
    model, x = network(), images(num_examples)
    refresh_batch_statistics(model, x, batch_size=32)
    expected = convolved(model, "conv_1", x.astype("float64"))
    mean, variance = statistics(model, "norm_1")
    np.testing.assert_allclose(mean, expected.mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(variance, expected.var((0, 1, 2)), rtol=1e-5)


def test_later_layers_see_what_training_shows_them():
    model, x = network(dropout=0.5), images(96)
    model.get_layer("norm_1").gamma.assign([0.5, 1.0, 2.0])
    refresh_batch_statistics(model, x, batch_size=48)
    gamma = np.array([0.5, 1.0, 2.0])
    second = []
    for batch in (x[:48], x[48:]):
        first = convolved(model, "conv_1", batch.astype("float64"))
        scale = np.sqrt(first.var((0, 1, 2)) + 1e-3)
        normal = gamma * (first - first.mean((0, 1, 2))) / scale
        # No dropout: it would widen the variance.
        second.append(convolved(model, "conv_2", np.maximum(normal, 0)))
    second = np.concatenate(second)
    mean, variance = statistics(model, "norm_2")
    np.testing.assert_allclose(mean, second.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, second.var((0, 1, 2)), rtol=1e-4)


def test_shared_layer_has_the_statistics_of_all_its_calls():
    norm = layers.BatchNormalization()
    inputs = [keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(inputs, layers.Add()([norm(x) for x in inputs]))
    rng = np.random.default_rng(0)
    x = [rng.normal(loc=loc, size=(50, 3)).astype("float32") for loc in (0.0, 4.0)]
    refresh_batch_statistics(model, x)
    both = np.concatenate(x).astype("float64")
    np.testing.assert_allclose(norm.moving_mean, both.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, both.var(0), rtol=1e-5)


def test_frozen_layers_and_everything_else_stay():
    model, x = network(), images()
    model.get_layer("norm_1").trainable = False
    before = {v.path: np.array(v) for v in model.weights}
    refresh_batch_statistics(model, x)
    changed = {v.path for v in model.weights if (before[v.path] != np.array(v)).any()}
    assert changed == {"norm_2/moving_mean", "norm_2/moving_variance"}
    layer = model.get_layer("norm_2")
    assert layer.momentum == 0.99
    assert "call" not in vars(layer)
    # A second time gives the same, and training goes on as usual.
    found = statistics(model, "norm_2")
    refresh_batch_statistics(model, x)
    np.testing.assert_array_equal(found, statistics(model, "norm_2"))
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((100, 2)), verbose=0)
    assert (statistics(model, "norm_2")[0] != found[0]).any()


def test_accuracy_of_the_statistics_after_shrinking():
    """Without it the outputs are those of channels that are gone."""
    model, x = network(), images(200)
    refresh_batch_statistics(model, x)
    outputs = model.predict(x, verbose=0)
    model.get_layer("conv_1").kernel.assign(model.get_layer("conv_1").kernel * 3)
    model.get_layer("conv_1").bias.assign(model.get_layer("conv_1").bias + 1)
    assert np.abs(model.predict(x, verbose=0) - outputs).max() > 0.1
    # Normalisation takes scale and offset out again, but for its epsilon.
    refresh_batch_statistics(model, x)
    np.testing.assert_allclose(model.predict(x, verbose=0), outputs, atol=0.01)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.full((4, 6, 6, 2), np.nan, "float32"), "finite"),
        (np.zeros((1, 6, 6, 2), "float32"), "at least two examples"),
        ([images(4), images(5)], "same number"),
    ],
)
def test_bad_inputs_change_nothing(inputs, message):
    model = network()
    before = [np.array(v) for v in model.weights]
    with pytest.raises(ValueError, match=message):
        refresh_batch_statistics(model, inputs)
    for old, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_inputs_of_another_shape_change_nothing():
    model = network()
    refresh_batch_statistics(model, images())
    before = statistics(model, "norm_1")
    with pytest.raises(Exception, match="shape|dimension"):
        refresh_batch_statistics(model, np.zeros((4, 6, 6, 3), "float32"))
    np.testing.assert_array_equal(before, statistics(model, "norm_1"))
    assert model.get_layer("norm_1").momentum == 0.99


def test_bayesian_models_are_refused():
    model = keras_bmr.to_variational(network(), num_examples=10)
    with pytest.raises(ValueError, match="to_deterministic"):
        refresh_batch_statistics(model, images())
