import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from keras.src import testing
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.distributions import LogUniform, TruncatedLogNormal
from keras_bmr.layers import MultiplicativeNoise

LOC = np.array([-3.0, 0.0, 0.4, -8.0], "float32")
SCALE = np.array([0.8, 0.5, 0.1, 4.0], "float32")


def gates(**options):
    layer = MultiplicativeNoise(**{"num_examples": 10, **options})
    layer.build((None, 4))
    layer.assign_posterior("noise", TruncatedLogNormal(LOC, SCALE, -20.0, 0.0))
    return layer


def ones(*shape):
    return np.ones(shape, "float32")


# Keras' own test feeds a generator.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.parametrize("axis", [-1, 1])
def test_run_layer_test(axis):
    testing.TestCase().run_layer_test(
        MultiplicativeNoise,
        init_kwargs={"axis": axis, "num_examples": 10},
        input_shape=(4, 3, 2),
        expected_output_shape=(4, 3, 2),
        supports_masking=True,
    )


def test_noise_follows_its_posterior_and_is_one_draw_per_example():
    layer = gates()
    noise = layer(ones(3000, 4), training=True).numpy()
    for draws, loc, scale in zip(noise.T, LOC, SCALE, strict=True):
        bounds = (-20 - loc) / scale, -loc / scale
        reference = scipy.stats.truncnorm(*bounds, loc, scale)
        assert scipy.stats.kstest(np.log(draws), reference.cdf).pvalue > 1e-3
    correlation = np.corrcoef(noise.T)
    assert np.abs(correlation - np.eye(4)).max() < 0.08
    # All positions of an example share the draw, on either axis.
    image = MultiplicativeNoise(axis=1)(ones(5, 4, 3, 2), training=True).numpy()
    assert np.ptp(image, axis=(2, 3)).max() == 0
    assert np.ptp(image, axis=0).min() > 0 and np.ptp(image, axis=1).min() > 0


def test_inference_takes_the_mean_and_sampling_one_draw_for_all():
    layer = gates()
    expected = [
        scipy.stats.truncnorm((-20 - m) / s, -m / s, m, s).expect(np.exp)
        for m, s in zip(LOC, SCALE, strict=True)
    ]
    np.testing.assert_allclose(layer(ones(1, 4))[0], expected, rtol=1e-5)
    with keras_bmr.posteriors.sampling(seed=3):
        noise = layer(ones(5, 4)).numpy()
    assert np.ptp(noise, axis=0).max() == 0
    assert np.ptp(noise, axis=1).min() > 0


def test_divergence_is_that_of_the_log_uniform_prior():
    layer = gates()
    expected = tfd.kl_divergence(
        TruncatedLogNormal(LOC, SCALE, -20.0, 0.0), LogUniform(-20.0, 0.0)
    )
    np.testing.assert_allclose(layer.losses, [tf.reduce_sum(expected) / 10], rtol=1e-6)
    # Densities on the logarithm, by quadrature.
    x = np.linspace(-20, 0, 200001)
    density = scipy.stats.truncnorm((-17) / 0.8, 3 / 0.8, -3, 0.8).pdf(x)
    kl = np.trapezoid(np.where(density > 0, density, 0) * np.log(density * 20), x)
    np.testing.assert_allclose(expected[0], kl, rtol=1e-6)


def test_pruned_gates_are_zero_have_no_divergence_and_stay():
    keep = np.array([True, False, True, False])
    layer = gates()
    everything = float(layer.divergence("noise"))
    parts = tfd.kl_divergence(layer.posterior("noise"), layer.prior("noise")).numpy()
    layer.prune("noise", keep)
    np.testing.assert_allclose(
        layer.divergence("noise"), everything - parts[~keep].sum(), rtol=1e-5
    )
    for training in (False, True):
        outputs = layer(ones(3, 4), training=training).numpy()
        np.testing.assert_array_equal(outputs != 0, np.tile(keep, (3, 1)))
    posterior = layer.posterior("noise")
    np.testing.assert_array_equal(posterior.mean() != 0, keep)
    np.testing.assert_array_equal(posterior.stddev() != 0, keep)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(ones(3, 4), training=True)) + sum(layer.losses)
    variables = layer.trainable_variables
    for gradient in tape.gradient(loss, [v.value for v in variables]):
        np.testing.assert_array_equal(gradient != 0, keep)
    # Momentum from before cannot move them.
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    before = layer.noise.numpy()
    model.fit(ones(8, 4), ones(8, 4), epochs=2, verbose=0)
    np.testing.assert_array_equal(layer.noise.numpy() == before, ~keep)


def test_closed_gates_are_zero_but_learn():
    layer = gates()
    layer.close([True, False, False, True])
    x = ones(2000, 4)
    with tf.GradientTape() as tape:
        tape.watch(layer.noise.value)
        outputs = layer(x, training=True)
        loss = tf.reduce_mean(outputs) * 4
    np.testing.assert_array_equal((outputs.numpy() != 0).all(0), [0, 1, 1, 0])
    np.testing.assert_array_equal(layer(x)[0] != 0, [0, 1, 1, 0])
    # d E[theta] / d mu, as if the gates were open.
    location = tf.constant(LOC)
    with tf.GradientTape() as reference:
        reference.watch(location)
        mean = TruncatedLogNormal(location, SCALE, -20.0, 0.0).mean()
    np.testing.assert_allclose(
        tape.gradient(loss, layer.noise.value),
        reference.gradient(mean, location),
        rtol=0.15,
    )
    layer.close(np.zeros(4, bool))
    assert (layer(x)[0] != 0).numpy().all()
    with pytest.raises(ValueError, match=r"one entry per gate.*\(4,\)"):
        layer.close([True])


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_gradients_are_finite_over_the_allowed_range(dtype):
    loc, log_scale = np.meshgrid([-500, -30, -20, -1, 0, 1, 500], [-20, -5, 0, 5])
    layer = MultiplicativeNoise(dtype=dtype, num_examples=10)
    layer.build((None, loc.size))
    layer.noise.assign(loc.ravel())
    layer.trainable_variables[1].assign(log_scale.ravel())
    with tf.GradientTape() as tape:
        outputs = layer(ones(20, loc.size), training=True)
        loss = tf.reduce_sum(tf.cast(outputs, "float32")) + sum(layer.losses)
    assert outputs.dtype.name == dtype.removeprefix("mixed_")
    assert np.isfinite(loss)
    for gradient in tape.gradient(loss, [v.value for v in layer.trainable_variables]):
        assert np.isfinite(gradient).all()


def test_training_under_xla_moves_the_posterior_within_its_range():
    layer = gates(num_examples=10**6)
    model = keras.Sequential([keras.Input((4,)), layer])
    assert np.max(layer(ones(1, 4))) > 0.9
    # The data ask for 0.
    model.compile(keras.optimizers.Adam(0.5), "mse", jit_compile=True)
    model.fit(ones(64, 4), 0 * ones(64, 4), epochs=10, batch_size=16, verbose=0)
    assert np.max(layer(ones(1, 4))) < 0.1
    log_scale = layer.trainable_variables[1].numpy()
    assert log_scale.min() >= -20 and log_scale.max() <= 5


def test_saving_and_the_keras_layer_of_the_means(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            MultiplicativeNoise(axis=1, num_examples=10, name="rows"),
            MultiplicativeNoise(num_examples=10),
        ]
    )
    rows = model.get_layer("rows")
    rows.assign_posterior("noise", TruncatedLogNormal(LOC, SCALE, -20.0, 0.0))
    rows.prune("noise", np.array([1, 1, 1, 0], bool))
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    network = keras_bmr.to_deterministic(model)
    assert [type(layer) for layer in network.layers] == 2 * [keras.layers.Rescaling]
    np.testing.assert_allclose(network(x), model(x), rtol=1e-6)
    network.save(tmp_path / "network.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "network.keras")(x), network(x)
    )


def test_invalid_arguments():
    for options, message in (
        ({"axis": 0}, "`axis`.*axis=0"),
        ({"posterior": "mean_field_normal"}, "'truncated_log_normal'.*positive factor"),
        ({"prior": "nothing"}, "log_uniform"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiplicativeNoise(**options)
    with pytest.raises(ValueError, match=r"Axis 3.*\(None, 4\)"):
        MultiplicativeNoise(axis=3).build((None, 4))
    with pytest.raises(ValueError, match="initial_scale"):
        keras_bmr.posteriors.TruncatedLogNormal(initial_scale=1e9)
    with pytest.raises(ValueError, match="log_low"):
        keras_bmr.posteriors.TruncatedLogNormal(log_low=0.0)
    with pytest.raises(ValueError, match=r"tfd\.Normal|Normal"):
        gates().assign_posterior("noise", tfd.Normal(LOC, SCALE))
    dense = keras_bmr.layers.DenseVariational(2, prior="log_uniform", num_examples=10)
    dense.build((None, 3))
    with pytest.raises(ValueError, match="posterior='truncated_log_normal'"):
        dense.divergence("kernel")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="cannot start at the weights"):
        keras_bmr.to_variational(model, posterior="truncated_log_normal")
