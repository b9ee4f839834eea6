import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy.special import gammaln

from keras_bmr.reduction import model_reduction, monte_carlo_delta_f

tfd = tfp.distributions


def test_a_family_without_a_rule_against_its_analytic_value():
    """Gamma posterior, prior and reduced prior: a ratio of gamma functions."""

    def log_normaliser(shape, rate):
        return shape * np.log(rate) - gammaln(shape)

    estimate = monte_carlo_delta_f(
        tfd.Gamma(np.float64(9), np.float64(3)),
        tfd.Gamma(np.float64(2), np.float64(2)),
        tfd.Gamma(np.float64(3), np.float64(2.5)),
        num_samples=100_000,
        seed=1,
    )
    exact = (
        log_normaliser(3, 2.5)
        - log_normaliser(2, 2)
        + log_normaliser(9, 3)
        - log_normaliser(9 + 3 - 2, 3 + 2.5 - 2)
    )
    assert abs(estimate.delta_f - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.01


def test_the_standard_error_is_the_spread_of_estimates():
    arguments = tfd.Normal(0.5, 0.5), tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 0.5)
    estimates = [
        monte_carlo_delta_f(*arguments, num_samples=400, seed=seed)
        for seed in range(200)
    ]
    spread = np.std([e.delta_f for e in estimates])
    claimed = np.mean([e.standard_error for e in estimates])
    np.testing.assert_allclose(claimed, spread, rtol=0.2)
    exact = model_reduction(*arguments).delta_f
    np.testing.assert_allclose(
        np.mean([e.delta_f for e in estimates]), exact, atol=4 * spread / 200**0.5
    )


def test_batches_broadcast_without_mixing_with_the_samples():
    prior_scale = tf.constant([[1.0], [2.0], [3.0]])
    arguments = (
        tfd.Normal([0.1, 0.4], 0.3),
        tfd.Normal(0.0, prior_scale),
        tfd.Normal(0.0, 0.5),
    )
    estimate = monte_carlo_delta_f(*arguments, num_samples=20_000, seed=2)
    exact = model_reduction(*arguments).delta_f
    assert estimate.delta_f.shape == (3, 2)
    assert np.all(np.abs(estimate.delta_f - exact) < 5 * estimate.standard_error)


def test_weights_too_large_for_exp_do_not_overflow():
    estimate = monte_carlo_delta_f(
        tfd.Normal(100.0, 0.01), tfd.Normal(0.0, 1.0), tfd.Normal(100.0, 1.0), 100, 1
    )
    np.testing.assert_allclose(estimate.delta_f, 5000, rtol=1e-3)
    assert np.isfinite(estimate.standard_error)


def test_the_seed_decides():
    arguments = tfd.Normal(0.5, 0.5), tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 0.5)
    first = monte_carlo_delta_f(*arguments, num_samples=10, seed=5).delta_f
    assert first == monte_carlo_delta_f(*arguments, num_samples=10, seed=5).delta_f
    assert first != monte_carlo_delta_f(*arguments, num_samples=10, seed=6).delta_f


def test_bad_arguments_raise():
    normal = tfd.Normal(0.0, 1.0)
    with pytest.raises(ValueError, match="at least 2.*num_samples=1"):
        monte_carlo_delta_f(normal, normal, normal, num_samples=1)
    with pytest.raises(ValueError, match="`reduced_prior` is a point mass"):
        monte_carlo_delta_f(normal, normal, tfd.Deterministic(0.0))
    with pytest.raises(TypeError, match="`posterior` must be"):
        monte_carlo_delta_f(None, normal, normal)


@pytest.mark.parametrize(
    "posterior, prior",
    [
        (tfd.Normal(float("nan"), 1.0), tfd.Normal(0.0, 1.0)),
        (tfd.Normal(0.0, 1.0), tfd.Uniform(-0.5, 0.5)),
    ],
)
def test_ratios_that_do_not_exist_are_refused(posterior, prior):
    with pytest.raises(ValueError, match="must be finite.*of 100 samples.*for NaN"):
        monte_carlo_delta_f(posterior, prior, tfd.Normal(0.0, 0.5), 100, seed=0)
