import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

import keras_bmr
from keras_bmr import layers
from keras_bmr.posteriors import sampling
from keras_bmr.posteriors.sampling import (
    fold_in,
    is_sampling,
    random_signs,
    standard_normal,
)

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def model_with_noise():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.DenseVariational(4, num_examples=1, seed=1),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            layers.DenseVariational(4, num_examples=1, seed=2),
        ]
    )


def test_weights_are_drawn_at_inference_inside_the_scope_only():
    model = model_with_noise()
    mean = model(X)
    with sampling():
        first, second = model(X), model(X, training=False)
        assert is_sampling()
    assert not is_sampling()
    assert np.all(first != mean) and np.all(first != second)
    np.testing.assert_array_equal(model(X), mean)


def test_a_seed_makes_draws_repeatable_whatever_came_before():
    model = model_with_noise()
    layer = model.layers[0]
    with sampling(seed=3):
        first, of_layer = model(X), layer(X)
    layer(X, training=True)
    with sampling(seed=tf.constant(3)):
        np.testing.assert_array_equal(layer(X), of_layer)
        np.testing.assert_array_equal(layer(X), of_layer)
    with sampling(seed=4):
        assert np.all(layer(X) != of_layer)
    fresh = model_with_noise()
    fresh.set_weights(model.get_weights())
    with sampling(seed=3):
        np.testing.assert_allclose(fresh(X), first, rtol=1e-5)


def test_dropout_and_batch_normalization_stay_in_inference_mode():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.9),
            layers.BatchNormalizationVariational(num_examples=1),
        ]
    )
    before = [w.numpy() for w in model.weights]
    posterior = model.layers[2]._random["gamma"].posterior_state["log_scale"]
    posterior.assign(tf.fill((3,), -3.0))
    with sampling(seed=1):
        drawn = model(X)
    np.testing.assert_allclose(drawn, model(X), rtol=1e-5)
    posterior.assign(before[[w is posterior for w in model.weights].index(True)])
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_scopes_nest_and_end_with_an_error():
    layer = layers.DenseVariational(2, num_examples=1)
    with sampling(seed=1):
        outer = layer(X)
        with sampling(seed=2):
            assert np.all(layer(X) != outer)
        np.testing.assert_array_equal(layer(X), outer)
    with pytest.raises(RuntimeError), sampling():
        raise RuntimeError
    assert not is_sampling()


def test_a_seed_may_be_an_argument_of_a_compiled_function():
    layer = layers.DenseVariational(2, num_examples=1)
    layer(X)

    @tf.function
    def draw(seed):
        with sampling(seed=seed):
            return layer(X)

    np.testing.assert_array_equal(draw(tf.constant(1)), draw(tf.constant(1)))
    assert np.all(draw(tf.constant(1)) != draw(tf.constant(2)))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_noise_has_the_moments_it_should_have(jit_compile):
    seed = tf.constant([1, 2])

    @tf.function(jit_compile=jit_compile)
    def draw():
        return (
            standard_normal((100000,), seed, "float32"),
            random_signs((100000,), fold_in(seed, 1), "float32"),
        )

    normal, signs = (x.numpy() for x in draw())
    error = 1 / np.sqrt(100000)
    assert abs(normal.mean()) < 5 * error and abs(signs.mean()) < 5 * error
    assert abs(normal.var() - 1) < 5 * np.sqrt(2) * error
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(np.mean(normal * signs)) < 5 * error


@pytest.mark.parametrize("jit_compile", [False, True])
def test_noise_is_standard_normal(jit_compile):
    draw = tf.function(
        lambda seed: standard_normal((1001, 999), seed, tf.float32),
        jit_compile=jit_compile,
    )
    for seed in ([7, 1], [-7, 1]):
        noise = draw(tf.constant(seed, tf.int64)).numpy().astype("float64").ravel()
        # Exact in distribution: a million draws against the cdf, tails apart.
        assert scipy.stats.kstest(noise, "norm").pvalue > 1e-3
        for bound in (3.0, 4.0):
            expected = 2 * scipy.stats.norm.sf(bound) * noise.size
            found = np.count_nonzero(np.abs(noise) > bound)
            assert abs(found - expected) < 5 * np.sqrt(expected)
        # The two halves share a radius and an angle and are independent all the same.
        half = (noise.size + 1) // 2
        first, second = noise[: noise.size - half], noise[half:]
        for function in (np.asarray, np.abs, np.square):
            correlation = np.corrcoef(function(first), function(second))[0, 1]
            assert abs(correlation) < 5 / np.sqrt(half)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0), (2, 3, 5)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_noise_has_the_shape_and_dtype_asked_for(shape, dtype):
    noise = standard_normal(shape, tf.constant([1, 2], tf.int64), dtype)
    assert noise.shape == shape and noise.dtype == dtype
    assert np.isfinite(tf.cast(noise, tf.float64).numpy()).all()


def test_noise_takes_a_shape_known_at_run_time_only():
    @tf.function(input_signature=[tf.TensorSpec((None, 3))])
    def draw(x):
        return standard_normal(keras.ops.shape(x), tf.constant([1, 2]), x.dtype)

    assert draw(tf.zeros((5, 3))).shape == (5, 3)


def test_a_seeded_draw_does_not_change_the_noise_of_training():
    model = keras.Sequential([keras.Input((4,)), layers.DenseVariational(3)])
    before = model.layers[0]._noise_seed.state.numpy()
    with sampling(seed=1):
        model(np.ones((2, 4), "float32"))
    keras_bmr.predictive(model, np.ones((2, 4), "float32"), num_samples=3, seed=1)
    np.testing.assert_array_equal(model.layers[0]._noise_seed.state.numpy(), before)
