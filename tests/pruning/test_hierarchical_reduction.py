import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, interpolate, optimize, special
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.priors import HalfCauchyNormal, RegularizedHorseshoe
from keras_bmr.pruning import HierarchicalReduction
from keras_bmr.pruning.scale_evidence import ScaleEvidence
from keras_bmr.reduction import model_reduction

NUM_FEATURES, NUM_RELEVANT, NUM_OUTPUTS = 20, 4, 3


class LinearRegression:
    """The exact posterior of a linear layer under N(0, 1), its marginals that is."""

    def __init__(self):
        generator = np.random.default_rng(0)
        x = generator.normal(size=(200, NUM_FEATURES))
        weights = generator.normal(size=(NUM_FEATURES, NUM_OUTPUTS))
        weights[NUM_RELEVANT:] = 0
        y = x @ weights + 0.5 * generator.normal(size=(200, NUM_OUTPUTS))
        precision = x.T @ x / 0.25 + np.eye(NUM_FEATURES)
        self.loc = np.linalg.solve(precision, x.T @ y / 0.25)
        scale = 1 / np.sqrt(np.diag(precision))[:, np.newaxis]
        self.scale = np.broadcast_to(scale, self.loc.shape)
        layer = keras.layers.Dense(NUM_OUTPUTS, use_bias=False, name="dense")
        self.model = keras.Sequential([keras.Input((NUM_FEATURES,)), layer])
        layer.kernel.assign(self.loc)

    def weights(self):
        return [(self.model.layers[0], "kernel")]

    def posterior(self, layer, name):
        return tfd.Normal(self.loc.astype("float32"), self.scale.astype("float32"))

    def prior(self, layer, name):
        return tfd.Normal(0.0, 1.0)


@pytest.fixture(scope="module")
def source():
    return LinearRegression()


@pytest.fixture(scope="module")
def horseshoe(source):
    prior = RegularizedHorseshoe(axis=-2)
    return HierarchicalReduction(source, prior, num_steps=600)


def product(prior, scale):
    """N(0, scale^2) times the prior."""
    return tfd.Normal(np.float64(0), 1 / np.sqrt(1 / scale**2 + 1 / prior.scale**2))


# --- The evidence of a unit as a function of its scale ---


@pytest.mark.parametrize("scale_shape", [(1, 7), (30, 1), (1, 1)])
def test_the_table_agrees_with_the_sum_over_the_weights(scale_shape):
    generator = np.random.default_rng(1)
    posterior = tfd.Normal(
        generator.normal(size=(30, 7)), np.exp(generator.uniform(-6, -0.5, (30, 7)))
    )
    prior = tfd.Normal(np.float64(0), np.exp(generator.uniform(0, 1, (30, 7))))
    table = ScaleEvidence(posterior, prior, scale_shape)
    log_scales = generator.uniform(-20, 12, (20, *scale_shape))
    found = table(tf.constant(log_scales)).numpy()
    axes = tuple(i for i, size in enumerate(scale_shape) if size == 1)
    for draw in range(20):
        reduced = product(prior, np.exp(log_scales[draw]))
        delta_f = model_reduction(posterior, prior, reduced).delta_f.numpy()
        expected = delta_f.sum(axis=axes).ravel()
        np.testing.assert_allclose(found[:, draw], expected, rtol=1e-5, atol=1e-3)
    # As narrow as can be it is the point mass.
    point = model_reduction(posterior, prior, tfd.Deterministic(np.float64(0)))
    limit = table(tf.fill((1, *scale_shape), tf.constant(-400.0, tf.float64)))
    expected = point.delta_f.numpy().sum(axis=axes).ravel()
    np.testing.assert_allclose(limit[:, 0], expected, rtol=1e-2)


def test_posteriors_that_are_noise_around_the_prior_say_nothing_for_wide_scales():
    """A mean off by noise, with all of the prior's width: an improper reduction."""
    generator = np.random.default_rng(1)
    posterior = tfd.Normal(
        0.1 * generator.normal(size=(300, 1)), generator.uniform(0.99, 1.01, (300, 1))
    )
    prior = tfd.Normal(np.float64(0), np.float64(1))
    table = ScaleEvidence(posterior, prior, (1, 1))
    log_scales = tf.reshape(tf.linspace(np.float64(-5), 200, 300), (300, 1, 1))
    evidence = table(log_scales).numpy().ravel()
    assert np.isfinite(evidence).all()
    np.testing.assert_allclose(evidence[-1], 0, atol=1e-4)
    assert evidence.max() < 1


# --- The fit ---


def test_rows_that_are_zero_lose_their_scale(source, horseshoe):
    scales = horseshoe.scales("dense")
    assert scales.shape == (NUM_FEATURES,)
    assert scales[:NUM_RELEVANT].min() > 10 * scales[NUM_RELEVANT:].max()
    # They fall back to the global scale of 0.01, not to zero.
    assert scales[NUM_RELEVANT:].min() > 1e-3
    assert horseshoe.log_evidence_gain > 50
    reduced = keras_bmr.reduce_model(
        horseshoe, criterion="prior_scale", threshold=-np.log(0.1)
    )
    expected = np.where(
        np.arange(NUM_FEATURES)[:, np.newaxis] < NUM_RELEVANT, source.loc, 0
    )
    np.testing.assert_allclose(reduced.layers[0].kernel, expected, rtol=1e-6)
    # The source is as it was.
    np.testing.assert_allclose(source.model.layers[0].kernel, source.loc, rtol=1e-6)


def test_the_evidence_is_the_best_lower_bound(source):
    """One scale for all, whose evidence is an integral over one variable."""
    result = HierarchicalReduction(source, HalfCauchyNormal(), num_steps=600)
    layer, name = source.weights()[0]
    posterior = tfd.Normal(source.loc, source.scale)
    prior = tfd.Normal(np.float64(0), np.float64(1))

    log_scales = np.linspace(-8, 8, 401)
    sums = [
        tf.reduce_sum(model_reduction(posterior, prior, product(prior, s)).delta_f)
        for s in np.exp(log_scales)
    ]
    delta_f = interpolate.CubicSpline(log_scales, np.array(sums))
    grid = np.linspace(-8, 8, 20001)
    log_joint = delta_f(grid) - np.log(np.pi * np.cosh(grid))
    peak = log_joint.max()
    exact = peak + np.log(integrate.trapezoid(np.exp(log_joint - peak), grid))
    assert result.log_evidence_gain < exact

    # The best log-normals for numerator and denominator, without a draw.
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)

    def negative_bound(parameters):
        locs, scales = parameters[:2], np.exp(parameters[2:])
        log_scale = 0.5 * (locs[0] - locs[1] + np.hypot(*scales) * nodes)
        divergences = (
            special.gammaln(0.5)
            - 0.5 * locs
            - 0.5 * np.log(2 * np.pi * np.e * scales**2)
            + np.exp(locs + 0.5 * scales**2)
        )
        mean = np.sum(weights * delta_f(log_scale)) / weights.sum()
        return divergences.sum() - mean

    start = np.array([-0.7, 0.3, -1.0, -1.0])
    best = optimize.minimize(negative_bound, start, method="Nelder-Mead", tol=1e-6)
    np.testing.assert_allclose(result.log_evidence_gain, -best.fun, atol=0.05)
    mean = np.sum(special.softmax(log_joint) * np.exp(grid))
    np.testing.assert_allclose(result.scales(layer, name), mean, rtol=0.1)


def test_pruned_weights_have_no_part_in_it():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="dense")])
    model = keras_bmr.to_variational(
        model, num_examples=10, prior=keras_bmr.priors.Normal(1.0)
    )
    layer = model.layers[0]
    generator = np.random.default_rng(0)
    loc = generator.normal(size=(6, 4)).astype("float32")
    layer.assign_posterior("kernel", tfd.Normal(loc, tf.fill((6, 4), 0.1)))
    keep = np.ones((6, 4), bool)
    keep[:, 0] = keep[0, 1] = False
    layer.prune("kernel", keep)
    pruned = HierarchicalReduction(model, num_steps=200)
    scales = pruned.scales(layer)
    assert scales[0] == 0
    assert scales[1:].min() > 0.1
    fitted = pruned.prior(layer, "kernel").scale.numpy().ravel()
    expected = 1 / np.sqrt(1 / scales[1:] ** 2 + 1)
    np.testing.assert_allclose(fitted[1:], expected, rtol=1e-6)
    assert pruned.weights() == [(layer, "kernel")]
    assert pruned.posterior(layer, "kernel").batch_shape == (6, 4)


@pytest.mark.parametrize("prior", ["normal", keras_bmr.priors.EmpiricalBayesNormal()])
def test_a_flat_prior_is_refused(source, prior):
    with pytest.raises(ValueError, match="`prior` must be hierarchical"):
        HierarchicalReduction(source, prior)


def test_other_families_are_refused(source):
    class Laplacian(LinearRegression):
        def prior(self, layer, name):
            return tfd.Laplace(0.0, 1.0)

    with pytest.raises(ValueError, match="Normal posterior and prior .* Laplace"):
        HierarchicalReduction(Laplacian())


def test_invalid_arguments(source, horseshoe):
    elsewhere = LinearRegression()
    elsewhere.prior = lambda layer, name: tfd.Normal(0.5, 1.0)
    with pytest.raises(ValueError, match="must have mean 0"):
        HierarchicalReduction(elsewhere)
    with pytest.raises(ValueError, match="num_steps=0"):
        HierarchicalReduction(source, num_steps=0)
    with pytest.raises(ValueError, match="layer='other'"):
        horseshoe.scales("other")
    source_with_nan = LinearRegression()
    source_with_nan.loc[0, 0] = np.nan
    with pytest.raises(ValueError, match="weight 'kernel' of layer 'dense'"):
        HierarchicalReduction(source_with_nan)
