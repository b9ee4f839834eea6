import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from keras_bmr.distributions import LogUniform


def _reference(low, high):
    return scipy.stats.loguniform(np.exp(low), np.exp(high))


@pytest.mark.parametrize(("low", "high"), [(-20.0, 0.0), (-3.0, 2.0), (0.0, 0.5)])
def test_against_scipy(low, high):
    prior, reference = (
        LogUniform(np.float64(low), np.float64(high)),
        _reference(low, high),
    )
    theta = np.exp(np.linspace(low + 1e-3, high - 1e-3, 20))
    np.testing.assert_allclose(
        prior.log_prob(theta), reference.logpdf(theta), rtol=1e-11
    )
    np.testing.assert_allclose(prior.cdf(theta), reference.cdf(theta), rtol=1e-10)
    np.testing.assert_allclose(
        prior.quantile(np.array([0.1, 0.9])), reference.ppf([0.1, 0.9]), rtol=1e-11
    )
    np.testing.assert_allclose(prior.mean(), reference.mean(), rtol=1e-11)
    np.testing.assert_allclose(prior.variance(), reference.var(), rtol=1e-9)
    np.testing.assert_allclose(prior.entropy(), reference.entropy(), rtol=1e-8)


def test_samples_follow_the_distribution():
    samples = LogUniform(-20.0, 0.0).sample(4000, seed=(1, 2))
    statistic = scipy.stats.kstest(np.log(samples), scipy.stats.uniform(-20, 20).cdf)
    assert statistic.pvalue > 1e-3
    assert np.all((samples > 2e-9) & (samples <= 1))


def test_nothing_lies_outside_and_the_bounds_belong():
    prior = LogUniform(-20.0, 0.0)
    assert np.all(np.isfinite(prior.log_prob(tf.exp(tf.constant([-20.0, 0.0])))))
    outside = tf.constant([1e-9, 1.001])
    np.testing.assert_array_equal(prior.log_prob(outside), [-np.inf, -np.inf])
    np.testing.assert_array_equal(prior.cdf(outside), [0, 1])


def test_bounds_in_the_wrong_order_raise():
    with pytest.raises(ValueError, match="below `log_high`.*log_low=1.0, log_high=1.0"):
        LogUniform(1.0, 1.0)


def test_values_broadcast_to_the_bounds():
    bounds = [(-20.0, 0.0), (-4.0, -1.0)]
    prior = LogUniform(*np.transpose(bounds))
    references = [_reference(low, high) for low, high in bounds]
    theta = np.exp(-2.0)
    np.testing.assert_allclose(
        prior.log_prob(theta), [r.logpdf(theta) for r in references], rtol=1e-11
    )
    np.testing.assert_allclose(
        prior.cdf(theta), [r.cdf(theta) for r in references], rtol=1e-10
    )
