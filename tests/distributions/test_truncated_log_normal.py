import json
import pathlib

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions import LogUniform, TruncatedLogNormal, log_normal_mass

tfd = tfp.distributions
_REFERENCE = json.loads(
    (
        pathlib.Path(__file__).parents[1] / "reduction" / "delta_f_vectors.json"
    ).read_text()
)["truncated_log_normal"]


def _noise(loc, scale, low=-20.0, high=0.0, dtype=np.float64):
    return TruncatedLogNormal(*(np.asarray(v, dtype) for v in (loc, scale, low, high)))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "case", _REFERENCE, ids=lambda c: f"mu {c['mu']} sigma {c['sigma']:.2g}"
)
def test_reference_values(case, dtype):
    low, high = np.asarray(case["log_a"], dtype), np.asarray(case["log_b"], dtype)
    noise = _noise(case["mu"], case["sigma"], low, high, dtype)
    bounds = [(v - noise.loc) / noise.scale for v in (low, high)]
    values = {
        "kl": tfd.kl_divergence(noise, LogUniform(low, high)),
        "log_mean": noise.log_moment(1),
        "log_second_moment": noise.log_moment(2),
        "snr": noise.snr(),
        "logZ": log_normal_mass(*bounds),
    }
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    for name, value in values.items():
        assert value.dtype == dtype
        np.testing.assert_allclose(
            value, float(case[name]), rtol=tolerance, err_msg=name
        )


def _scipy(loc, scale, low=-20.0, high=0.0):
    return scipy.stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


@pytest.mark.parametrize(
    ("loc", "scale"), [(-4.0, 2.0), (1.0, 0.5), (-10.0, 8.0), (-22.0, 3.0)]
)
def test_densities_and_moments_against_scipy(loc, scale):
    noise, x = _noise(loc, scale), np.linspace(-19.9, -0.01, 50)
    theta = np.exp(x)
    reference = _scipy(loc, scale)
    np.testing.assert_allclose(
        noise.log_prob(theta), reference.logpdf(x) - x, rtol=1e-9
    )
    np.testing.assert_allclose(
        noise.cdf(theta), reference.cdf(x), rtol=1e-8, atol=1e-300
    )
    probability = np.array([0.001, 0.2, 0.5, 0.99])
    np.testing.assert_allclose(
        np.log(noise.quantile(probability)), reference.ppf(probability), rtol=1e-9
    )
    mean = reference.expect(np.exp)
    second = reference.expect(lambda x: np.exp(2 * x))
    np.testing.assert_allclose(noise.mean(), mean, rtol=1e-7)
    np.testing.assert_allclose(noise.variance(), second - mean**2, rtol=1e-6)
    np.testing.assert_allclose(noise.snr(), mean / np.sqrt(second - mean**2), rtol=1e-6)


def test_nothing_lies_outside_and_the_bounds_belong():
    noise = _noise(-4.0, 2.0, dtype=np.float32)
    bounds = tf.exp(tf.constant([-20.0, 0.0]))
    assert np.all(np.isfinite(noise.log_prob(bounds)))
    outside = tf.constant([1e-10, 1.01, 5.0])
    np.testing.assert_array_equal(noise.log_prob(outside), [-np.inf] * 3)
    np.testing.assert_array_equal(noise.cdf(outside), [0, 1, 1])


@pytest.mark.parametrize(
    ("loc", "scale"), [(0.0, 0.0067), (-4.0, 2.0), (-25.0, 1.0), (-10.0, 148.0)]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_follow_the_distribution(loc, scale, dtype):
    noise = _noise(loc, scale, dtype=dtype)
    samples = noise.sample(4000, seed=(1, 2))
    assert samples.dtype == dtype
    statistic = scipy.stats.kstest(
        np.log(samples.numpy().astype(np.float64)), _scipy(loc, scale).cdf
    )
    # Rounding of log(theta) in float32 counts against a scale of 0.0067 alone.
    assert statistic.pvalue > 1e-3
    assert np.array_equal(samples, noise.sample(4000, seed=(1, 2)))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_kl_and_gradients_are_finite_over_the_allowed_range(dtype, jit):
    loc, log_scale = np.meshgrid(
        [-1e4, -100.0, -20.0, -19.9, -10.0, -0.01, 0.0, 50.0], [-20.0, -5, 0, 3, 5]
    )
    loc, log_scale = tf.constant(loc, dtype), tf.constant(log_scale, dtype)
    low, high = tf.constant(-20.0, dtype), tf.constant(0.0, dtype)

    @tf.function(jit_compile=jit)
    def evaluate(loc, log_scale):
        with tf.GradientTape() as tape:
            tape.watch([loc, log_scale])
            noise = TruncatedLogNormal(loc, tf.exp(log_scale), low, high)
            samples = noise.sample(50, seed=(3, 4))
            kl = tfd.kl_divergence(noise, LogUniform(low, high))
            rest = noise.mean(), noise.variance(), noise.log_prob(samples)
        # One pass: a NaN of any of them shows in the sum.
        gradients = tape.gradient([samples, kl, *rest], [loc, log_scale])
        return samples, kl, rest, gradients

    samples, kl, rest, gradients = evaluate(loc, log_scale)
    bound = tf.exp(low).numpy() * (1 - 1e-6)
    assert np.all((samples >= bound) & (samples <= 1))
    assert np.all(kl >= 0)
    for value in tf.nest.flatten([kl, rest, gradients]):
        assert np.all(np.isfinite(value))


def test_sample_gradients_are_those_of_the_mean():
    """d E[theta] / d parameter, by reparameterised samples and in closed form."""
    loc, log_scale = tf.constant(-1.0, tf.float64), tf.constant(-0.2, tf.float64)
    bounds = tf.constant(-20.0, tf.float64), tf.constant(0.0, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([loc, log_scale])
        noise = TruncatedLogNormal(loc, tf.exp(log_scale), *bounds)
        sampled = tf.reduce_mean(noise.sample(100_000, seed=(5, 6)))
        exact = noise.mean()
    np.testing.assert_allclose(
        tape.gradient(sampled, [loc, log_scale]),
        tape.gradient(exact, [loc, log_scale]),
        rtol=0.02,
    )


def test_kl_gradients_agree_with_finite_differences():
    prior = LogUniform(np.float64(-20), np.float64(0))

    def kl(parameters):
        loc, log_scale = tf.unstack(parameters)
        noise = TruncatedLogNormal(
            loc, tf.exp(log_scale), prior.log_low, prior.log_high
        )
        return tfd.kl_divergence(noise, prior)

    for values in ([-4.0, 0.7], [2.0, -1.5], [-10.0, 4.6], [0.0, -5.0]):
        analytic, numeric = tf.test.compute_gradient(
            kl, [tf.constant(values, tf.float64)], 1e-4
        )
        np.testing.assert_allclose(analytic[0], numeric[0], rtol=1e-4, atol=1e-9)


def test_kl_is_infinite_where_the_prior_is_narrower():
    noise = _noise([-4.0, -1.0], 1.0)
    prior = LogUniform(np.float64([-20.0, -10.0]), np.float64(0))
    kl = tfd.kl_divergence(noise, prior).numpy()
    assert np.isfinite(kl[0]) and np.isinf(kl[1])


def test_batch_shapes_and_slices():
    noise = TruncatedLogNormal(tf.zeros([3, 1]), tf.ones([4]), -20.0, 0.0)
    assert noise.batch_shape == (3, 4) and noise.event_shape == ()
    assert noise.sample(5, seed=1).shape == (5, 3, 4)
    assert noise[1].batch_shape == (4,)
    assert noise.copy(loc=1.0).batch_shape == (4,)
    assert noise.snr().shape == (3, 4)


def test_bounds_in_the_wrong_order_raise():
    with pytest.raises(ValueError, match="log_low=0.0, log_high=-20.0"):
        TruncatedLogNormal(0.0, 1.0, 0.0, -20.0)
    with pytest.raises(ValueError, match="one dtype. Received: float32, float64"):
        TruncatedLogNormal(np.float32(0), np.float64(1), -20.0, 0.0)
