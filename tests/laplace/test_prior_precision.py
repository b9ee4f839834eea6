import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, stats
from tensorflow_probability import distributions as tfd


def diagonal_curvature(laplace):
    return np.concatenate(
        [posterior.curvature.numpy().ravel() for posterior in laplace._fit.posteriors]
    )


def all_weights(laplace):
    return np.concatenate([v.numpy().ravel() for v in laplace.variables])


def entrywise(laplace):
    return np.concatenate([np.ravel(p) for p in laplace.prior_precision])


def test_parameterwise_optimum(fitted):
    laplace = fitted("diagonal", prior_structure="parameterwise", temperature=0.5)
    theta, h = all_weights(laplace), diagonal_curvature(laplace) / 0.5
    exact = 2 / (theta**2 * (1 + np.sqrt(1 + 4 / (h * theta**2))))
    laplace.optimize_prior_precision(method="fixed_point")
    np.testing.assert_allclose(entrywise(laplace), exact, rtol=1e-8)
    laplace.prior_precision = 1.0
    laplace.optimize_prior_precision(steps=600, learning_rate=0.1)
    # Beyond, the evidence hardly depends on the precision.
    curved = exact < 100
    assert np.count_nonzero(~curved) == 5
    np.testing.assert_allclose(entrywise(laplace)[curved], exact[curved], rtol=1e-3)


def test_parameterwise_optimum_with_a_hyperprior(fitted):
    laplace = fitted("diagonal", prior_structure="parameterwise")
    concentration, rate = 2.5, 0.8
    hyperprior = tfd.Gamma(np.float64(concentration), np.float64(rate))
    laplace.optimize_prior_precision(method="fixed_point", hyperprior=hyperprior)
    found = entrywise(laplace)
    theta, h = all_weights(laplace), diagonal_curvature(laplace)
    for index in range(0, len(theta), 15):

        def loss(log_precision, t=theta[index], curvature=h[index]):
            precision = np.exp(log_precision)
            evidence = -precision * t**2 - np.log1p(curvature / precision)
            prior = stats.gamma(concentration, scale=1 / rate).logpdf(precision)
            return -0.5 * evidence - prior

        best = optimize.minimize_scalar(loss, bounds=(-8, 8), options={"xatol": 1e-9})
        np.testing.assert_allclose(np.log(found[index]), best.x, atol=1e-5)


@pytest.mark.parametrize("method", ["gradient", "fixed_point"])
def test_scalar_optimum(fitted, method):
    laplace = fitted("diagonal", prior_structure="scalar")
    steps = 300 if method == "gradient" else 100
    history = laplace.optimize_prior_precision(steps=steps, method=method)
    delta = float(laplace.prior_precision)
    theta, h = all_weights(laplace), diagonal_curvature(laplace)
    np.testing.assert_allclose(
        delta, np.sum(h / (h + delta)) / np.sum(theta**2), rtol=1e-4
    )
    assert history[-1] > history[0]
    assert float(laplace.log_marginal_likelihood()) >= history[-1] - 1e-9


@pytest.mark.parametrize("structure", ["diagonal", "kronecker"])
def test_layerwise_optimum_with_a_hyperprior(fitted, structure):
    laplace = fitted(structure, prior_structure="layerwise")
    hyperprior = tfd.Gamma(np.float64(3.0), np.float64(0.5))

    def objective(log_precision):
        precision = np.exp(log_precision)
        prior = stats.gamma(3.0, scale=2.0).logpdf(precision).sum()
        return float(laplace.log_marginal_likelihood(precision)) + prior

    laplace.optimize_prior_precision(200, method="fixed_point", hyperprior=hyperprior)
    found = np.log(laplace.prior_precision)
    for step in 1e-4 * np.eye(4):
        slope = (objective(found + step) - objective(found - step)) / 2e-4
        np.testing.assert_allclose(slope, 0.0, atol=1e-4)
        assert objective(found) > objective(found + 1000 * step)
    laplace.prior_precision = 1.0
    laplace.optimize_prior_precision(300, hyperprior=hyperprior)
    np.testing.assert_allclose(np.log(laplace.prior_precision), found, atol=1e-3)


def test_richer_priors_have_more_evidence(fitted):
    evidences = []
    for prior in ("scalar", "layerwise", "unitwise", "parameterwise"):
        laplace = fitted("diagonal", prior_structure=prior)
        laplace.optimize_prior_precision(steps=150)
        evidences.append(float(laplace.log_marginal_likelihood()))
    # Each structure contains the one before it.
    assert np.all(np.diff(evidences) > 0.1)


def test_observation_noise_is_learned(linear_regression):
    laplace, x, y, _ = linear_regression
    before = laplace.prior_precision, laplace.observation_noise

    def loss(logarithms):
        precision, noise = tf.exp(tf.constant(logarithms))
        return -float(laplace.log_marginal_likelihood(precision, noise))

    best = optimize.minimize(loss, np.zeros(2), tol=1e-8)
    laplace.optimize_prior_precision(400, 0.05, learn_observation_noise=True)
    found = float(laplace.prior_precision[0]), laplace.observation_noise
    laplace.prior_precision, laplace.observation_noise = before
    np.testing.assert_allclose(np.log(found), best.x, atol=1e-3)


def test_errors(fitted):
    laplace = fitted("kronecker", prior_structure="parameterwise")
    with pytest.raises(ValueError, match="one group of weights"):
        laplace.optimize_prior_precision(method="fixed_point")
    with pytest.raises(ValueError, match="Gamma hyperprior or none"):
        laplace.optimize_prior_precision(
            method="fixed_point", hyperprior=tfd.LogNormal(0.0, 1.0)
        )
    with pytest.raises(ValueError, match="scalar `tfd` distribution"):
        laplace.optimize_prior_precision(hyperprior=tfd.Gamma([1.0, 2.0], 1.0))
    with pytest.raises(ValueError, match="MeanSquaredError"):
        laplace.optimize_prior_precision(learn_observation_noise=True)
    with pytest.raises(ValueError, match="`steps` must be an integer"):
        laplace.optimize_prior_precision(steps=0)
