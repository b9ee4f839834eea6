import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.laplace import Laplace
from keras_bmr.reduction import model_reduction

STRUCTURES = {"diagonal": "diag", "kronecker": "kron"}
CURVATURES = {"ggn": "CurvlinopsGGN", "empirical_fisher": "CurvlinopsEF"}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_evidence_of_the_reference(fitted, reference, structure, curvature):
    laplace = fitted(structure, curvature)
    results = [
        result
        for result in reference["results"]
        if result["structure"] == STRUCTURES[structure]
        and result["curvature"] == CURVATURES[curvature]
    ]
    assert len(results) == 3
    for result in results:
        evidence = laplace.log_marginal_likelihood(result["prior_precision"])
        np.testing.assert_allclose(
            evidence, result["log_marginal_likelihood"], rtol=1e-5
        )
    terms = laplace.evidence_terms(1.0)
    first = next(result for result in results if result["prior_precision"] == 1.0)
    np.testing.assert_allclose(
        terms.log_det_ratio, first["log_det_posterior_precision"], rtol=1e-5
    )
    np.testing.assert_allclose(terms.log_likelihood, first["log_likelihood"], rtol=1e-5)
    squares = sum(np.sum(np.square(flat)) for _, _, flat in reference["weights"])
    np.testing.assert_allclose(terms.scatter, squares, rtol=1e-6)


def test_evidence_of_conjugate_regression_is_exact(linear_regression):
    laplace, x, y, posterior_precision = linear_regression
    noise, precision = 0.5, 3.0
    marginal = stats.multivariate_normal(
        np.zeros(30), noise**2 * np.eye(30) + x @ x.T / precision
    )
    exact = sum(marginal.logpdf(column) for column in y.T)
    np.testing.assert_allclose(laplace.log_marginal_likelihood(), exact, rtol=1e-7)
    # At the mode the derivative in the noise is that of the exact evidence.
    step = 1e-4
    differences = [
        sum(
            stats.multivariate_normal(
                np.zeros(30), s**2 * np.eye(30) + x @ x.T / precision
            ).logpdf(column)
            for column in y.T
        )
        for s in (noise - step, noise + step)
    ]
    noise_tensor = tf.constant(noise, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(noise_tensor)
        evidence = laplace.log_marginal_likelihood(observation_noise=noise_tensor)
    np.testing.assert_allclose(
        tape.gradient(evidence, noise_tensor),
        (differences[1] - differences[0]) / (2 * step),
        rtol=1e-5,
    )
    posterior = laplace.posterior(laplace.model.layers[0], "kernel")
    np.testing.assert_allclose(
        posterior.scale, np.diag(posterior_precision)[:, None] ** -0.5 * np.ones(2)
    )


def test_temperature_weighs_the_data(fitted, reference):
    cold = fitted("diagonal", temperature=0.5).evidence_terms(2.0)
    h = np.array(reference["diag_CurvlinopsGGN"])
    np.testing.assert_allclose(
        cold.log_det_ratio, np.sum(np.log(h / 0.5 + 2.0) - np.log(2.0)), rtol=1e-6
    )
    warm = fitted("diagonal").evidence_terms(2.0)
    np.testing.assert_allclose(cold.log_likelihood, 2 * warm.log_likelihood)


def test_a_query_assigns_nothing_and_is_differentiable(fitted):
    laplace = fitted("kronecker", prior_structure="layerwise", prior_precision=2.0)
    current = float(laplace.log_marginal_likelihood())
    precision = tf.constant([1.0, 2.0, 3.0, 4.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(precision)
        evidence = laplace.log_marginal_likelihood(precision)
    gradient = tape.gradient(evidence, precision).numpy()
    for index in range(4):
        step = np.eye(4)[index] * 1e-5
        difference = laplace.log_marginal_likelihood(precision + step)
        difference -= laplace.log_marginal_likelihood(precision - step)
        np.testing.assert_allclose(gradient[index], difference / 2e-5, rtol=1e-5)
    np.testing.assert_array_equal(laplace.prior_precision, 2 * np.ones(4))
    assert float(laplace.log_marginal_likelihood()) == current


def test_gradient_of_the_evidence_is_that_of_delta_f(fitted):
    laplace = fitted("diagonal", prior_structure="parameterwise", prior_precision=0.7)
    precisions = [0.7 * np.ones(weight.shape) for weight in laplace.variables]
    precisions = [tf.constant(precision) for precision in precisions]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(precisions)
        evidence = laplace.log_marginal_likelihood(precisions)
        delta_f = tf.add_n(
            [
                tf.reduce_sum(
                    model_reduction(
                        laplace.posterior(layer, name),
                        laplace.prior(layer, name),
                        tfd.Normal(tf.zeros((), tf.float64), precision**-0.5),
                    ).delta_f
                )
                for (layer, name), precision in zip(
                    laplace.weights(), precisions, strict=True
                )
            ]
        )
    for ours, other in zip(
        tape.gradient(evidence, precisions),
        tape.gradient(delta_f, precisions),
        strict=True,
    ):
        np.testing.assert_allclose(ours, other, rtol=1e-8, atol=1e-10)


def dense_kronecker(laplace, index):
    """Curvature and eigenvectors of one weight as dense matrices."""
    posterior = laplace._fit.posteriors[index]
    vectors = np.kron(posterior.input_vectors, posterior.output_vectors)
    values = np.kron(posterior.input_values, posterior.output_values)
    return vectors, vectors @ np.diag(values) @ vectors.T


def test_kronecker_with_many_precisions(fitted):
    laplace = fitted("kronecker", prior_structure="parameterwise")
    generator = np.random.default_rng(1)
    precisions = [generator.gamma(2.0, 2.0, v.shape) for v in laplace.variables]
    laplace.prior_precision = precisions
    index = laplace.weights().index((laplace.model.get_layer("head"), "kernel"))
    vectors, curvature = dense_kronecker(laplace, index)
    delta = precisions[index].ravel()
    in_eigenbasis = np.diag(vectors.T @ (curvature + np.diag(delta)) @ vectors)
    ours = laplace._fit.posteriors[index]
    prior, scale = tf.constant(precisions[index]), tf.ones((), tf.float64)
    log_det = ours.log_det(prior, scale)
    np.testing.assert_allclose(log_det, np.sum(np.log(in_eigenbasis)), rtol=1e-9)
    # The evidence is bounded from below.
    assert log_det >= np.linalg.slogdet(curvature + np.diag(delta))[1]
    approximation = vectors @ np.diag(in_eigenbasis) @ vectors.T
    posterior = laplace.posterior("head", "kernel")
    np.testing.assert_allclose(
        posterior.scale.numpy().ravel(), np.diag(approximation) ** -0.5, rtol=1e-9
    )
    scalar = ours.log_det(tf.constant(0.3, tf.float64), scale)
    exact = np.linalg.slogdet(curvature + 0.3 * np.eye(len(curvature)))[1]
    np.testing.assert_allclose(scalar, exact, rtol=1e-9)


def test_reduction_of_an_ordinary_model(fitted):
    laplace = fitted("diagonal", prior_precision=0.5)
    reduction = keras_bmr.ModelReduction(laplace, reduced_prior="point_mass")
    weight = laplace.model.get_layer("hidden").kernel.numpy()
    precision = laplace.posterior("hidden", "kernel").scale.numpy() ** -2
    expected = 0.5 * np.log(precision / 0.5) - 0.5 * precision * weight**2
    np.testing.assert_allclose(
        reduction.delta_f("hidden", "kernel"), expected, rtol=1e-5, atol=1e-5
    )


def test_pruned_weights_carry_no_evidence(classification):
    model, loss, data = classification
    reduced = keras.models.clone_model(model)
    reduced.set_weights(model.get_weights())
    keep = np.ones((5, 8), bool)
    keep[2:, :3] = False
    keras_bmr.pruning.prune_weight(reduced.get_layer("hidden"), "kernel", keep)
    laplace = Laplace(reduced, loss, structure="diagonal").fit(data, verbose=0)
    posterior = laplace.posterior("hidden", "kernel")
    np.testing.assert_allclose(posterior.scale.numpy()[~keep], 1.0)
    assert np.all(posterior.scale.numpy()[keep] < 1.0)
    draws = laplace._fit.draw((0, 0), laplace.prior_precisions, laplace._noise())
    index = laplace.weights().index((reduced.get_layer("hidden"), "kernel"))
    np.testing.assert_array_equal(draws[index].numpy()[~keep], 0.0)


def test_prior_precisions_take_the_shape_of_their_structure(fitted):
    laplace = fitted("diagonal", prior_structure="unitwise")
    rows, columns = np.arange(1.0, 6.0), np.arange(1.0, 9.0)
    product = rows[:, None] * columns
    values = [product, columns, np.ones((8, 3)), np.ones(3)]
    laplace.prior_precision = values
    for value, kept in zip(values, laplace.prior_precision, strict=True):
        np.testing.assert_allclose(kept, value)
    with pytest.raises(ValueError, match="differ where UnitwisePrior shares them"):
        laplace.prior_precision = [product + np.eye(5, 8), *values[1:]]
    with pytest.raises(ValueError, match="ScalarPrior shares them"):
        fitted("diagonal", prior_structure="scalar", prior_precision=[1.0, 1, 1, 2])


def test_errors(classification, fitted):
    model, loss, _ = classification
    with pytest.raises(ValueError, match="`structure` must be one of"):
        Laplace(model, loss, structure="full")
    with pytest.raises(ValueError, match="belongs to the Gaussian likelihood"):
        Laplace(model, loss, observation_noise=0.3)
    with pytest.raises(ValueError, match="positive and finite"):
        Laplace(model, loss, prior_precision=-1.0)
    for precision in ("a", "1.0", True, [1.0, 1.0, 1.0, "a"], [[1.0, [2.0]]] * 4):
        with pytest.raises(ValueError, match="must hold positive numbers.*Received"):
            Laplace(model, loss, prior_precision=precision)
    with pytest.raises(RuntimeError, match="Call `laplace.fit"):
        Laplace(model, loss).log_marginal_likelihood()
    laplace = fitted("diagonal")
    with pytest.raises(ValueError, match="one of its weights out of"):
        laplace.posterior("hidden", "gamma")
    with pytest.raises(ValueError, match="a vector with one entry per weight"):
        laplace.log_marginal_likelihood(np.ones(3))
    for precision in (-1.0, 0.0, np.nan, [1.0, 1.0, 1.0, -1.0], tf.constant(np.inf)):
        with pytest.raises(ValueError, match="positive and finite.*prior_precision="):
            laplace.log_marginal_likelihood(precision)
    with pytest.raises(ValueError, match="must hold positive numbers.*'a'"):
        laplace.log_marginal_likelihood("a")


@pytest.mark.parametrize("noise", [-1.0, 0.0, np.nan, "a", np.ones(2), -tf.ones(())])
def test_noise_of_a_query_is_checked(linear_regression, noise):
    with pytest.raises(ValueError, match="positive finite.*observation_noise="):
        linear_regression[0].log_marginal_likelihood(observation_noise=noise)


def test_a_query_within_a_function(linear_regression):
    laplace, *_ = linear_regression
    query = tf.function(laplace.log_marginal_likelihood, autograph=False)
    arguments = tf.constant(2.0, tf.float64), tf.constant(0.7, tf.float64)
    np.testing.assert_allclose(
        query(*arguments), laplace.log_marginal_likelihood(*arguments)
    )
    # Where there is no value to look at, the result tells.
    assert np.isnan(query(-arguments[0], arguments[1]))
