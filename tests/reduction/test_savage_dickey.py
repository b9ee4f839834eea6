import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction import model_reduction

tfd = tfp.distributions


def _normal(loc, scale):
    return tfd.Normal(np.asarray(loc, np.float64), np.asarray(scale, np.float64))


def test_any_family():
    reduction = model_reduction(
        tfd.Laplace(np.float64([0.1, 0.2]), np.float64(0.3)),
        tfd.StudentT(np.float64(3), np.float64(0), np.float64(2)),
        tfd.Deterministic(np.float64(0.5)),
    )
    expected = scipy.stats.laplace.logpdf(0.5, [0.1, 0.2], 0.3)
    expected -= scipy.stats.t.logpdf(0.5, 3, 0, 2)
    np.testing.assert_allclose(reduction.delta_f, expected, rtol=1e-12)
    assert isinstance(reduction.posterior, tfd.Deterministic)
    np.testing.assert_array_equal(reduction.posterior.loc, [0.5, 0.5])


def test_vectors():
    posterior = tfd.MultivariateNormalTriL(
        np.array([0.3, -0.2]), np.array([[0.5, 0.0], [0.2, 0.4]])
    )
    prior = tfd.MultivariateNormalDiag(np.zeros(2), np.array([2.0, 3.0]))
    reduction = model_reduction(posterior, prior, tfd.VectorDeterministic(np.zeros(2)))
    expected = scipy.stats.multivariate_normal.logpdf(
        np.zeros(2), [0.3, -0.2], [[0.25, 0.1], [0.1, 0.2]]
    ) - scipy.stats.multivariate_normal.logpdf(np.zeros(2), [0, 0], np.diag([4, 9]))
    np.testing.assert_allclose(reduction.delta_f, expected, rtol=1e-12)
    np.testing.assert_array_equal(reduction.posterior.loc, [0, 0])


def test_it_is_the_limit_of_a_narrow_reduced_prior():
    posterior, prior = _normal([0.3, 1.2], [0.2, 0.1]), _normal(0.1, 1.7)
    point = model_reduction(posterior, prior, tfd.Deterministic(np.float64(0)))
    narrow = model_reduction(posterior, prior, _normal(0, 1e-7))
    np.testing.assert_allclose(point.delta_f, narrow.delta_f, rtol=1e-9)


def test_a_posterior_near_the_prior_does_not_cancel():
    """The exact difference to first order in a change of the scale and mean."""
    change = 1e-12
    scale = 1 + change
    reduction = model_reduction(
        _normal(change, scale), _normal(0, 1), tfd.Deterministic(np.float64(30))
    )
    # log q - log p = -e + e t^2 + t e, up to second order; e as rounded in 1 + e.
    rounded = scale - 1
    expected = -rounded + rounded * 900 + change * 30
    np.testing.assert_allclose(reduction.delta_f, expected, rtol=1e-6)
    same = model_reduction(
        _normal(0.3, 0.7), _normal(0.3, 0.7), tfd.Deterministic(np.float64(5))
    )
    assert float(same.delta_f) == 0


def test_the_log_inclusion_odds_of_spike_and_slab():
    """delta_f = -1/2 log(s2/v0) - mu^2 / (2 s2) for a slab N(0, v0)."""
    mu, s2, v0 = np.array([0.01, 0.5]), np.array([0.04, 0.09]), 2.5
    reduction = model_reduction(
        _normal(mu, np.sqrt(s2)), _normal(0, v0**0.5), tfd.Deterministic(np.float64(0))
    )
    np.testing.assert_allclose(
        reduction.delta_f, -0.5 * np.log(s2 / v0) - mu**2 / (2 * s2), rtol=1e-13
    )


def test_float32_at_extremes_and_under_xla():
    mu = tf.constant([0.0, 3.0, 1e-7, 100.0])
    scale = tf.constant([1e-6, 0.01, 1e-7, 50.0])

    @tf.function(jit_compile=True)
    def compiled(mu, scale):
        with tf.GradientTape() as tape:
            tape.watch([mu, scale])
            delta_f = model_reduction(
                tfd.Normal(mu, scale), tfd.Normal(0.0, 0.1), tfd.Deterministic(0.0)
            ).delta_f
        return delta_f, tape.gradient(delta_f, [mu, scale])

    delta_f, gradients = compiled(mu, scale)
    mu, scale = (v.numpy().astype(np.float64) for v in (mu, scale))
    exact = np.log(np.float32(0.1) / scale) - 0.5 * (mu / scale) ** 2
    np.testing.assert_allclose(delta_f, exact, rtol=1e-5)
    np.testing.assert_allclose(gradients[0], -mu / scale**2, rtol=1e-5)
    np.testing.assert_allclose(gradients[1], -1 / scale + mu**2 / scale**3, rtol=1e-5)


def test_densities_that_do_not_exist_raise():
    point = tfd.Deterministic(0.0)
    with pytest.raises(ValueError, match="prior density.*log density -inf of Uniform"):
        model_reduction(
            tfd.Normal(0.0, 1.0), tfd.Uniform(0.0, 1.0), tfd.Deterministic(-1.0)
        )
    with pytest.raises(ValueError, match="prior density.*inf of Horseshoe"):
        model_reduction(tfd.Normal([0.0, 1.0], 1.0), tfd.Horseshoe(1.0), point)
    with pytest.raises(ValueError, match="posterior density.*inf of Horseshoe"):
        model_reduction(tfd.Horseshoe(1.0), tfd.Normal(0.0, 1.0), point)
    with pytest.raises(ValueError, match="must not be point masses"):
        model_reduction(point, tfd.Normal(0.0, 1.0), point)
    with pytest.raises(ValueError, match="reduced prior loc must be finite"):
        model_reduction(
            tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0), tfd.Deterministic(np.nan)
        )


def test_an_excluded_point_is_minus_infinity_and_an_undefined_one_nan_in_a_graph():
    excluded = model_reduction(
        tfd.Uniform(0.0, 1.0), tfd.Normal(0.0, 1.0), tfd.Deterministic(2.0)
    )
    assert float(excluded.delta_f) == -np.inf
    for dtype in (tf.float32, tf.float64):
        zero, one, two = tf.unstack(tf.constant([0.0, 1.0, 2.0], dtype))
        undefined = tf.function(
            lambda point, low, high: (
                model_reduction(
                    tfd.Normal(low, high),
                    tfd.Uniform(low, high),
                    tfd.Deterministic(point),
                ).delta_f
            )
        )(two, zero, one)
        assert np.isnan(undefined)
