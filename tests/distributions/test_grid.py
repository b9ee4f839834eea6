import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions import Grid

tfd = tfp.distributions


def test_masses_and_moments_against_a_plain_table():
    logits = np.log([0.2, 0.3, 0.5])
    grid = Grid(np.float64([-1.0, 0.0]), 0.5, logits + 7)
    np.testing.assert_allclose(grid.points(), [[-1, -0.5, 0], [0, 0.5, 1]])
    values = np.array([[-1.0, 0.0], [-0.5, 0.25], [0.0, 1.5], [-1.5, -0.5]])
    np.testing.assert_allclose(
        grid.prob(values), [[0.2, 0.2], [0.3, 0], [0.5, 0], [0, 0]], rtol=1e-12
    )
    np.testing.assert_allclose(grid.mean(), [-0.35, 0.65])
    np.testing.assert_allclose(grid.variance(), [0.1525] * 2)
    np.testing.assert_allclose(grid.mode(), [0, 1])
    counts = np.unique(grid.sample(10_000, seed=3)[:, 1], return_counts=True)[1]
    assert scipy.stats.chisquare(counts, [2000, 3000, 5000]).pvalue > 1e-3


def test_masses_in_proportion_to_a_density():
    prior = tfd.Normal(np.float64([0.0, 1.0]), np.float64([[1.0], [0.5], [2.0]]))
    grid = Grid.of_density(prior, np.float64(-1.0), 0.25, 12)
    points = -1 + 0.25 * np.arange(12)
    density = scipy.stats.norm.pdf(points, prior.loc[..., None], prior.scale[..., None])
    np.testing.assert_allclose(
        grid.prob(points[7]), (density / density.sum(-1, keepdims=True))[..., 7]
    )


def test_divergence():
    first = Grid(0.0, 1.0, np.log(np.float32([0.25, 0.75, 0.0]) + 1e-30))
    second = Grid(0.0, 1.0, tf.zeros(3))
    expected = 0.25 * np.log(0.75) + 0.75 * np.log(2.25)
    np.testing.assert_allclose(tfd.kl_divergence(first, second), expected, rtol=1e-6)
    assert tfd.kl_divergence(first, Grid(0.5, 1.0, tf.zeros(3))) == np.inf


def test_bad_parameters_raise():
    with pytest.raises(ValueError, match="`step` must be positive"):
        Grid(0.0, -1.0, tf.zeros(3))
    with pytest.raises(ValueError, match="one entry per point"):
        Grid(0.0, 1.0, 0.0)
