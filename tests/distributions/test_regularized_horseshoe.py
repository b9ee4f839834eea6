import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate

from keras_bmr.distributions import RegularizedHorseshoe, regularized_log_scale


def density(w, scale, slab_scale):
    """The density by adaptive quadrature over the logarithm of the local scale."""

    def integrand(log_local):
        precision = np.exp(-2 * log_local) / scale**2 + slab_scale**-2
        normal = np.exp(-0.5 * w**2 * precision) * np.sqrt(precision / (2 * np.pi))
        return normal / (np.pi * np.cosh(log_local))

    peak = np.log(np.abs(w) / scale)
    ends = min(peak, 0) - 40, max(peak, 0) + 45
    points = sorted((peak, 0.0))
    return integrate.quad(integrand, *ends, points=points, limit=500, epsabs=0)[0]


CASES = [
    (1.0, 0.1, 2.0),
    (-3.0, 0.01, 1.5),
    (1e-3, 1.0, 0.5),
    (1e-6, 0.01, 1.0),
    (1e-20, 1e-8, 1.0),
    (5.0, 100.0, 1.0),
]


@pytest.mark.parametrize("w, scale, slab_scale", CASES)
def test_the_density_is_that_of_the_mixture(w, scale, slab_scale):
    expected = np.log(density(w, scale, slab_scale))
    exact = RegularizedHorseshoe(np.float64(scale), np.float64(slab_scale))
    np.testing.assert_allclose(exact.log_prob(np.float64(w)), expected, rtol=1e-9)
    single = RegularizedHorseshoe(scale, slab_scale)
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single.log_prob(w), expected, rtol=1e-5)


def test_the_density_is_infinite_at_zero_only():
    prior = RegularizedHorseshoe([0.1, 0.1], 1.0)
    np.testing.assert_array_equal(prior.log_prob([0.0, -0.0]), np.inf)
    assert np.isfinite(prior.log_prob([1e-30, 1e4])).all()


def test_draws_have_the_quantiles_and_moments_of_the_mixture():
    scale, slab_scale, num_draws = 0.2, 1.5, 200000
    prior = RegularizedHorseshoe(scale, slab_scale)
    draws = prior.sample(num_draws, seed=3).numpy()
    generator = np.random.default_rng(0)
    unbounded = scale * np.abs(generator.standard_cauchy(num_draws))
    scales = np.sqrt(1 / (1 / unbounded**2 + 1 / slab_scale**2))
    simulated = scales * generator.normal(size=num_draws)
    # Each quantile in ranks of the other sample; their error is that of a share.
    shares = np.array([0.01, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 0.99])
    found = np.mean(simulated[:, np.newaxis] < np.quantile(draws, shares), axis=0)
    error = np.sqrt(2 * shares * (1 - shares) / num_draws)
    assert (np.abs(found - shares) < 5 * error).all()
    squares = simulated**2
    error = squares.std() / np.sqrt(num_draws)
    assert abs(squares.mean() - float(prior.variance())) < 5 * error
    assert float(prior.mean()) == 0


@hypothesis.given(st.floats(-60, 60), st.floats(-60, 60))
def test_scales_and_gradients_are_finite_at_extremes(log_scale, log_slab_scale):
    values = [tf.constant(log_scale), tf.constant(log_slab_scale)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = regularized_log_scale(*values)
    assert float(result) <= min(log_scale, log_slab_scale) + 1e-4
    gradients = np.array(tape.gradient(result, values))
    # Two shares, of the scale and of the slab.
    np.testing.assert_allclose(gradients.sum(), 1, rtol=1e-5)
    assert (gradients >= 0).all()
    exact = -0.5 * np.logaddexp(-2 * log_scale, -2 * log_slab_scale)
    np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-5)
