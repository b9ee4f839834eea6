import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bmr
from keras_bmr import layers
from keras_bmr.objectives import kl_factor, set_kl_factor
from keras_bmr.posteriors import MeanFieldNormal

N = 20
X = np.random.default_rng(0).normal(size=(N, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(N, 2)).astype("float32")


def model_of(num_examples=N, scale=1e-6, optimizer=None, **compile_options):
    """A model whose data term is all but deterministic."""
    layer = layers.DenseVariational(
        2, num_examples=num_examples, posterior=MeanFieldNormal(scale)
    )
    model = keras.Sequential([keras.Input((3,)), layer])
    optimizer = optimizer or keras.optimizers.SGD(0.0)
    model.compile(optimizer, "mse", jit_compile=False, **compile_options)
    return model


def data_loss(model, x, y, weight=None):
    per_example = np.square(model(x).numpy() - y).mean(-1)
    return (per_example * (1 if weight is None else weight)).mean()


def divergence(model):
    return float(model.layers[0].divergence("kernel"))


def generate(batch=5):
    while True:
        yield from ((X[i : i + batch], Y[i : i + batch]) for i in range(0, N, batch))


@pytest.mark.parametrize(
    "data, options",
    [
        ((X, Y), {"batch_size": 5}),
        ((X, Y), {"batch_size": N}),
        ((tf.data.Dataset.from_tensor_slices((X, Y)).batch(5),), {"shuffle": False}),
        ((generate(),), {"steps_per_epoch": 4, "shuffle": False}),
    ],
    ids=["arrays", "one batch", "dataset", "generator"],
)
def test_the_loss_of_fit_is_the_lower_bound_per_example(data, options):
    model = model_of()
    expected = data_loss(model, X, Y) + divergence(model) / N
    history = model.fit(*data, verbose=0, validation_data=(X[:7], Y[:7]), **options)
    np.testing.assert_allclose(history.history["loss"][0], expected, rtol=1e-4)
    expected = data_loss(model, X[:7], Y[:7]) + divergence(model) / N
    np.testing.assert_allclose(history.history["val_loss"][0], expected, rtol=1e-4)
    np.testing.assert_allclose(
        model.evaluate(X[:7], Y[:7], verbose=0), expected, rtol=1e-4
    )


def test_sample_weights_weigh_the_data_alone():
    model = model_of()
    weight = np.arange(N, dtype="float32")
    expected = data_loss(model, X, Y, weight) + divergence(model) / N
    loss = model.train_on_batch(X, Y, sample_weight=weight)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_gradient_accumulation_counts_the_divergence_once():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model = model_of(optimizer=optimizer)
    kernel = model.layers[0].kernel
    log_scale = model.layers[0]._random["kernel"].posterior_state["log_scale"]
    variables = [kernel.value, log_scale.value]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(X) - Y)) + (
            model.layers[0].divergence("kernel") / N
        )
    # At the means no noise is drawn, as all but none is in training.
    gradients = tape.gradient(loss, variables)
    before = [v.numpy() for v in (kernel, log_scale)]
    model.train_on_batch(X[: N // 2], Y[: N // 2])
    np.testing.assert_array_equal(kernel, before[0])
    model.train_on_batch(X[N // 2 :], Y[N // 2 :])
    for variable, old, gradient in zip(
        (kernel, log_scale), before, gradients, strict=True
    ):
        np.testing.assert_allclose(
            variable.numpy() - old, -0.1 * gradient.numpy(), rtol=2e-3, atol=1e-5
        )


def test_training_without_the_number_of_examples_says_what_to_do():
    model = model_of(num_examples=None)
    message = r"(?s)'dense_variational.*set_num_examples\(model.*num_examples=None"
    for train in (
        lambda: model.fit(X, Y, verbose=0),
        lambda: model.train_on_batch(X, Y),
        lambda: model.fit(generate(), steps_per_epoch=1, shuffle=False, verbose=0),
    ):
        with pytest.raises(ValueError, match=message):
            train()
    assert np.all(np.isfinite(model.predict(X, verbose=0)))
    keras_bmr.set_num_examples(model, N)
    assert np.isfinite(model.train_on_batch(X, Y))


def test_the_number_and_the_factor_act_together():
    model = model_of(num_examples=None)
    assert kl_factor(model) == 1
    set_kl_factor(model, 0.5)
    keras_bmr.set_num_examples(model, 40)
    assert kl_factor(model) == pytest.approx(0.5)
    assert float(model.layers[0].kl_weight) == pytest.approx(0.5 / 40)
    keras_bmr.set_num_examples(model, 10)
    assert float(model.layers[0].kl_weight) == pytest.approx(0.5 / 10)
    # A function that is compiled already follows.
    first = model.train_on_batch(X, Y)
    set_kl_factor(model, 0.0)
    second = model.train_on_batch(X, Y)
    np.testing.assert_allclose(first - second, 0.05 * divergence(model), rtol=1e-3)


def test_layers_keep_weights_of_their_own_when_the_number_changes():
    network = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)]
    )
    model = keras_bmr.to_variational(network, num_examples=10)
    first, second = model.layers
    first.kl_weight.assign(0.5)
    keras_bmr.set_num_examples(model, 40)
    weights = [float(layer.kl_weight.numpy()) for layer in (first, second)]
    np.testing.assert_allclose(weights, [0.125, 0.025])
    again = keras_bmr.to_variational(model, num_examples=20)
    weights = [float(layer.kl_weight.numpy()) for layer in again.layers]
    np.testing.assert_allclose(weights, [0.25, 0.05])


def test_the_number_reaches_wrapped_and_nested_layers():
    inner = keras.Sequential([keras.Input((4,)), layers.DenseVariational(4)])
    inputs = keras.Input((5, 3))
    x = keras.layers.Bidirectional(layers.GRUVariational(2))(inputs)
    model = keras.Model(inputs, inner(x))
    keras_bmr.set_num_examples(model, 30)
    found = layers.variational_layers(model)
    assert len(found) == 3 and all(layer.num_examples == 30 for layer in found)
    assert np.isfinite(sum(model.losses))


@pytest.mark.parametrize("wrong", [0, -1, 2.5, None, True, float("nan")])
def test_invalid_numbers(wrong):
    model = model_of()
    with pytest.raises(ValueError, match=f"num_examples={wrong}"):
        keras_bmr.set_num_examples(model, wrong)
    assert model.layers[0].num_examples == N


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_invalid_factors(wrong):
    with pytest.raises(ValueError, match=f"factor={wrong}"):
        set_kl_factor(model_of(), wrong)


def test_models_without_built_bayesian_layers():
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="has no Bayesian layer.*to_variational"):
        keras_bmr.set_num_examples(plain, 3)
    unbuilt = keras.Sequential([layers.DenseVariational(1)])
    with pytest.raises(ValueError, match="not built yet.*dense_variational"):
        keras_bmr.set_num_examples(unbuilt, 3)
    with pytest.raises(ValueError, match="Expected a `keras.Model`.*class dict"):
        keras_bmr.set_num_examples({}, 3)
