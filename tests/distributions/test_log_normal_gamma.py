import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import keras_bmr.distributions  # noqa: F401  (registers the divergence)

tfd = tfp.distributions


@pytest.mark.parametrize(
    ("loc", "scale", "concentration", "rate"),
    [(0.0, 0.5, 2.0, 2.0), (-1.5, 0.1, 2.0, 6.0), (0.7, 1.2, 0.5, 1.0)],
)
def test_kl_against_quadrature(loc, scale, concentration, rate):
    def integrand(x):
        log_q = scipy.stats.norm.logpdf(x, loc, scale)
        log_p = scipy.stats.gamma.logpdf(np.exp(x), concentration, scale=1 / rate) + x
        return np.exp(log_q) * (log_q - log_p)

    expected, _ = scipy.integrate.quad(
        integrand, loc - 12 * scale, loc + 12 * scale, epsabs=1e-12, limit=200
    )
    kl = tfd.kl_divergence(
        tfd.LogNormal(np.float64(loc), np.float64(scale)),
        tfd.Gamma(np.float64(concentration), np.float64(rate)),
    )
    np.testing.assert_allclose(kl, expected, rtol=1e-9)


def test_kl_against_monte_carlo_and_gradients():
    loc, scale = tf.constant([0.1, -0.5]), tf.constant([0.3, 0.8])
    prior = tfd.Gamma(2.0, 2.0)
    with tf.GradientTape() as tape:
        tape.watch([loc, scale])
        posterior = tfd.LogNormal(loc, scale)
        kl = tfd.kl_divergence(posterior, prior)
    samples = posterior.sample(100_000, seed=(1, 2))
    ratio = posterior.log_prob(samples) - prior.log_prob(samples)
    error = np.std(ratio, axis=0) / np.sqrt(100_000)
    assert np.all(np.abs(np.mean(ratio, axis=0) - kl) < 4 * error)
    rise = 2 * np.exp(loc + 0.5 * scale**2)
    loc_gradient, scale_gradient = tape.gradient(kl, [loc, scale])
    np.testing.assert_allclose(loc_gradient, rise - 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        scale_gradient, rise * scale - 1 / scale, rtol=1e-5, atol=1e-6
    )


def test_kl_broadcasts():
    kl = tfd.kl_divergence(
        tfd.LogNormal([[0.0], [1.0]], 0.5), tfd.Gamma([2.0, 3.0, 4.0], 2.0)
    )
    assert kl.shape == (2, 3)
