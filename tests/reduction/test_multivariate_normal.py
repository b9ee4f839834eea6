import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction import model_reduction, monte_carlo_delta_f

tfd = tfp.distributions


def _covariance(generator, size, scale):
    root = generator.normal(size=(size, size))
    return scale * (root @ root.T / size + 0.3 * np.eye(size))


def _normal(mean, covariance):
    return tfd.MultivariateNormalTriL(mean, np.linalg.cholesky(covariance))


class _Regression:
    """Conjugate Bayesian linear regression with known noise."""

    noise = 0.5

    def __init__(self, num_features=4, seed=0):
        generator = np.random.default_rng(seed)
        self.x = generator.normal(size=(25, num_features))
        self.y = self.x @ generator.normal(size=num_features) + generator.normal(
            size=25
        )
        self.mean = generator.normal(size=num_features)
        self.covariance = _covariance(generator, num_features, 4.0)

    def log_evidence(self, mean, covariance):
        return scipy.stats.multivariate_normal.logpdf(
            self.y,
            self.x @ mean,
            self.noise * np.eye(25) + self.x @ covariance @ self.x.T,
        )

    def posterior(self, mean, covariance):
        precision = np.linalg.inv(covariance) + self.x.T @ self.x / self.noise
        posterior_covariance = np.linalg.inv(precision)
        return (
            posterior_covariance
            @ (np.linalg.solve(covariance, mean) + self.x.T @ self.y / self.noise),
            posterior_covariance,
        )


def _reduced_priors(regression):
    generator = np.random.default_rng(7)
    return {
        "narrow": (np.zeros(4), 0.04 * np.eye(4)),
        "correlated": (np.ones(4), _covariance(generator, 4, 0.5)),
        "one weight out": (np.zeros(4), np.diag([1e-12, 4.0, 4.0, 4.0])),
        "broader": (regression.mean + 0.1, 1.5 * regression.covariance),
        "the same": (regression.mean, regression.covariance),
    }


@pytest.mark.parametrize("name", list(_reduced_priors(_Regression())))
def test_delta_f_is_the_difference_of_two_analytic_evidences(name):
    regression = _Regression()
    full = regression.mean, regression.covariance
    reduced = _reduced_priors(regression)[name]
    reduction = model_reduction(
        _normal(*regression.posterior(*full)), _normal(*full), _normal(*reduced)
    )
    np.testing.assert_allclose(
        reduction.delta_f,
        regression.log_evidence(*reduced) - regression.log_evidence(*full),
        rtol=1e-10,
        atol=1e-11,
    )
    mean, covariance = regression.posterior(*reduced)
    np.testing.assert_allclose(reduction.posterior.mean(), mean, rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(
        reduction.posterior.covariance(), covariance, rtol=1e-8, atol=1e-13
    )


def test_diagonal_normals_are_the_sum_of_the_scalar_rule():
    mu, s = np.array([[0.3, -1.0, 2.0], [0.0, 0.1, 0.2]]), np.array([0.1, 0.5, 0.9])
    s0, s1 = np.array([2.0, 3.0, 1.0]), np.array([0.3, 1e-8, 1.1])
    m0, m1 = np.zeros(3), np.array([0.1, 0.0, 0.0])
    vector = model_reduction(
        tfd.MultivariateNormalDiag(mu, s),
        tfd.MultivariateNormalDiag(m0, s0),
        tfd.MultivariateNormalDiag(m1, s1),
    )
    scalar = model_reduction(tfd.Normal(mu, s), tfd.Normal(m0, s0), tfd.Normal(m1, s1))
    np.testing.assert_allclose(
        vector.delta_f, tf.reduce_sum(scalar.delta_f, -1), rtol=1e-12
    )
    np.testing.assert_allclose(
        vector.posterior.mean(), scalar.posterior.mean(), rtol=1e-10, atol=1e-20
    )
    np.testing.assert_allclose(
        vector.posterior.stddev(),
        np.broadcast_to(scalar.posterior.stddev(), (2, 3)),
        rtol=1e-12,
    )


def test_a_scale_that_is_not_triangular():
    factor = np.array([[1.0, 2.0], [-0.5, 0.3]])
    prior = tfd.MultivariateNormalDiag(np.zeros(2), np.full(2, 3.0))
    reduced = tfd.MultivariateNormalDiag(np.zeros(2), np.full(2, 0.5))
    general = tfd.MultivariateNormalLinearOperator(
        np.ones(2), tf.linalg.LinearOperatorFullMatrix(factor)
    )
    np.testing.assert_allclose(
        model_reduction(general, prior, reduced).delta_f,
        model_reduction(_normal(np.ones(2), factor @ factor.T), prior, reduced).delta_f,
        rtol=1e-12,
    )


def test_monte_carlo_agrees():
    generator = np.random.default_rng(1)
    arguments = (
        _normal(np.array([0.2, -0.3]), _covariance(generator, 2, 0.2)),
        _normal(np.array([0.1, 0.0]), _covariance(generator, 2, 9.0)),
        tfd.MultivariateNormalDiag(np.zeros(2), np.full(2, 0.8)),
    )
    estimate = monte_carlo_delta_f(*arguments, num_samples=50_000, seed=3)
    exact = model_reduction(*arguments).delta_f
    assert abs(estimate.delta_f - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.01


def test_float32_under_xla_with_gradients():
    def delta_f(mean):
        return model_reduction(
            tfd.MultivariateNormalDiag(mean, 0.1 * tf.ones(3)),
            tfd.MultivariateNormalDiag(tf.zeros(3), 2.0 * tf.ones(3)),
            tfd.MultivariateNormalDiag(tf.zeros(3), 0.5 * tf.ones(3)),
        ).delta_f

    @tf.function(jit_compile=True)
    def compiled(mean):
        with tf.GradientTape() as tape:
            tape.watch(mean)
            value = delta_f(mean)
        return value, tape.gradient(value, mean)

    mean = tf.constant([0.1, -0.2, 0.4])
    value, gradient = compiled(mean)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, delta_f(mean), rtol=1e-6)
    # d/dmu of the scalar rule: -(1 - v1/v0) mu / (v1 + s2 - v1 s2 / v0).
    share = (1 - 0.25 / 4) / (0.25 + 0.01 - 0.25 * 0.01 / 4)
    np.testing.assert_allclose(gradient, -share * mean, rtol=1e-5)


def test_an_improper_reduced_posterior_raises():
    with pytest.raises(ValueError, match="improper in 1 of 2.*smallest eigenvalue"):
        model_reduction(
            tfd.MultivariateNormalDiag(np.zeros((2, 2)), [[0.1, 0.1], [0.1, 2.0]]),
            tfd.MultivariateNormalDiag(np.zeros(2), np.ones(2)),
            tfd.MultivariateNormalDiag(np.zeros(2), np.full(2, 3.0)),
        )


def test_two_improper_directions_do_not_hide_each_other():
    """The determinant is positive again where an even number is improper."""
    with pytest.raises(ValueError, match="improper in 1 of 1"):
        model_reduction(
            tfd.MultivariateNormalDiag(np.zeros(2), np.full(2, 2.0)),
            tfd.MultivariateNormalDiag(np.zeros(2), np.ones(2)),
            tfd.MultivariateNormalDiag(np.zeros(2), np.full(2, 3.0)),
        )


def test_nan_raises():
    unit = tfd.MultivariateNormalDiag(np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match="prior loc must be finite"):
        model_reduction(
            unit, tfd.MultivariateNormalDiag(np.array([0, np.nan]), np.ones(2)), unit
        )
