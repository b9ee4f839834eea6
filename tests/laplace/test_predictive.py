import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.laplace import Laplace, linearized


def dense_covariance(laplace, index):
    """The posterior covariance of one weight, from its Kronecker factors."""
    posterior = laplace._fit.posteriors[index]
    if posterior.input_vectors is None:
        vectors = posterior.output_vectors.numpy()
        values = posterior.output_values
    else:
        vectors = np.kron(posterior.input_vectors, posterior.output_vectors)
        values = np.kron(posterior.input_values, posterior.output_values)
    precision = np.broadcast_to(laplace.prior_precisions[index], values.shape)
    return np.linalg.inv(vectors @ np.diag(values) @ vectors.T + np.diag(precision))


def test_regression_has_the_exact_covariance(linear_regression):
    laplace, x, _, posterior_precision = linear_regression
    exact = np.einsum("ni,ij,nj->n", x, np.linalg.inv(posterior_precision), x)
    mean, covariance = laplace.linearized(x)
    np.testing.assert_allclose(mean, x @ laplace.model.get_weights()[0])
    np.testing.assert_allclose(
        covariance, exact[:, None, None] * np.eye(2), rtol=1e-6, atol=1e-12
    )
    for method in ("linearized", "monte_carlo"):
        samples = laplace.predictive(x[:5], method, num_samples=1000, seed=1)
        variance = samples.var(axis=0)
        np.testing.assert_allclose(variance, exact[:5, None] * [1, 1], rtol=0.25)
        np.testing.assert_allclose(
            samples.mean(axis=0), mean[:5], atol=5 * np.sqrt(exact.max() / 1000)
        )
        again = laplace.predictive(x[:5], method, num_samples=3, seed=1)
        np.testing.assert_array_equal(again, samples[:3])

    # A Kronecker posterior has correlations; its draws do, too.
    @tf.function
    def draw(seed):
        return laplace._fit.draw(seed, laplace.prior_precisions, laplace._noise())[0]

    draws = np.stack([draw(tf.constant([3, i])) for i in range(1000)])
    expected = np.linalg.inv(posterior_precision)
    tolerance = 6 * np.diag(expected).max() / np.sqrt(1000)
    np.testing.assert_allclose(np.cov(draws[:, :, 0].T), expected, atol=tolerance)
    np.testing.assert_allclose(
        np.cov(draws[:, :, 0].T, draws[:, :, 1].T)[:4, 4:], 0, atol=tolerance
    )


def test_covariance_of_logits(fitted, classification, monkeypatch):
    laplace = fitted("kronecker", prior_precision=[0.5, 1.0, 2.0, 3.0])
    x = classification[2][0][:6]
    kernel, bias, head_kernel, head_bias = laplace.model.get_weights()
    hidden = np.tanh(x @ kernel + bias)
    logits = hidden @ head_kernel + head_bias
    through = (1 - hidden**2)[:, None, :] * head_kernel.T
    jacobians = [
        np.einsum("ni,nkj->nkij", x, through),
        through,
        np.einsum("ni,kj->nkij", hidden, np.eye(3)),
        np.broadcast_to(np.eye(3), (6, 3, 3)),
    ]
    expected = 0
    for index, jacobian in enumerate(jacobians):
        flat = jacobian.reshape(6, 3, -1)
        covariance = dense_covariance(laplace, index)
        expected = expected + np.einsum("nka,ab,nlb->nkl", flat, covariance, flat)
    # Two examples at a time.
    monkeypatch.setattr(linearized, "_CHUNK_BYTES", 2 * 8 * 75 * 3)
    mean, covariance = laplace.linearized(x)
    np.testing.assert_allclose(covariance, expected, rtol=1e-7)
    np.testing.assert_allclose(mean, logits, rtol=1e-6)
    variances = np.diagonal(expected, axis1=1, axis2=2)
    scaled = np.exp(logits / np.sqrt(1 + np.pi * variances / 8))
    np.testing.assert_allclose(
        laplace.probit(x), scaled / scaled.sum(-1, keepdims=True), rtol=1e-6
    )
    samples = laplace.predictive(x, num_samples=4000, seed=0)
    np.testing.assert_allclose(samples.sum(-1), 1.0)
    noise = np.random.default_rng(0).multivariate_normal(mean[0], expected[0], 20000)
    probabilities = np.exp(noise) / np.exp(noise).sum(-1, keepdims=True)
    np.testing.assert_allclose(samples[:, 0].mean(0), probabilities.mean(0), atol=0.015)


def test_the_posterior_is_that_of_the_fit(classification):
    model, loss, (x, y) = classification
    moved = keras.models.clone_model(model)
    moved.set_weights(model.get_weights())
    laplace = Laplace(moved, loss, structure="diagonal").fit((x, y), verbose=0)
    before = laplace.linearized(x[:3])
    moved.set_weights([2 * weight for weight in model.get_weights()])
    for now, then in zip(laplace.linearized(x[:3]), before, strict=True):
        np.testing.assert_allclose(now, then)


def test_errors(fitted, linear_regression, classification, monkeypatch):
    laplace = fitted("kronecker")
    x = classification[2][0][:2]
    with pytest.raises(ValueError, match="`method` must be"):
        laplace.predictive(x, method="probit")
    with pytest.raises(ValueError, match="`probit` is for classification"):
        linear_regression[0].probit(x)
    with_nan = np.where(x > 0, np.nan, x)
    for method in ("linearized", "monte_carlo"):
        for inputs in (with_nan, tf.data.Dataset.from_tensors(with_nan)):
            with pytest.raises(ValueError, match="`x` must be finite.*NaN"):
                laplace.predictive(inputs, method=method)
    with pytest.raises(ValueError, match="`x` must be finite.*NaN"):
        laplace.probit(with_nan)
    monkeypatch.setattr(linearized, "_CHUNK_BYTES", 100)
    with pytest.raises(ValueError, match="Use `method='monte_carlo'`"):
        laplace.predictive(x)
