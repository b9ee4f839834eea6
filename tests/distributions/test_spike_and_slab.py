import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import tensorflow_probability as tfp

from keras_bmr.distributions import (
    ContinuousSpikeAndSlab,
    LogScaleNormal,
    SpikeAndSlab,
)

tfd = tfp.distributions
_PROBS = np.array([0.02, 0.5, 0.97])
_LOC = np.array([0.4, -1.0, 2.0])
_SCALE = np.array([0.3, 1.5, 0.1])


def point_mass():
    return SpikeAndSlab(_PROBS, _LOC, _SCALE), SpikeAndSlab(
        np.float64(0.3), np.float64(0.0), np.float64(0.8)
    )


def continuous():
    posterior = ContinuousSpikeAndSlab(_PROBS, _LOC, _SCALE, _LOC / 3, _SCALE / 2)
    prior = ContinuousSpikeAndSlab(
        np.float64(0.3), np.float64(0.0), np.float64(0.8), spike_scale=np.float64(0.2)
    )
    return posterior, prior


def normal_kl(loc, scale, prior_scale):
    ratio = (scale / prior_scale) ** 2
    return 0.5 * (ratio + (loc / prior_scale) ** 2 - 1 - np.log(ratio))


def bernoulli_kl(probs, prior):
    return scipy.special.rel_entr(probs, prior) + scipy.special.rel_entr(
        1 - probs, 1 - prior
    )


def test_kl_of_a_point_mass_spike():
    posterior, prior = point_mass()
    kl = tfd.kl_divergence(posterior, prior).numpy()
    expected = _PROBS * normal_kl(_LOC, _SCALE, 0.8) + bernoulli_kl(_PROBS, 0.3)
    np.testing.assert_allclose(kl, expected, rtol=1e-12)
    drawn = posterior.sample(40000, seed=(1, 2))
    ratio = (posterior.log_prob(drawn) - prior.log_prob(drawn)).numpy()
    assert np.all(np.abs(ratio.mean(0) - kl) < 5 * ratio.std(0) / 200)


def test_kl_of_a_continuous_spike_is_that_of_the_joint():
    posterior, prior = continuous()
    kl = tfd.kl_divergence(posterior, prior).numpy()
    generator = np.random.default_rng(0)
    included = generator.uniform(size=(40000, 3)) < _PROBS
    loc = np.where(included, _LOC, _LOC / 3)
    scale = np.where(included, _SCALE, _SCALE / 2)
    w = loc + scale * generator.normal(size=included.shape)
    ratio = (
        scipy.stats.norm.logpdf(w, loc, scale)
        - scipy.stats.norm.logpdf(w, 0, np.where(included, 0.8, 0.2))
        + np.log(np.where(included, _PROBS / 0.3, (1 - _PROBS) / 0.7))
    )
    assert np.all(np.abs(ratio.mean(0) - kl) < 5 * ratio.std(0) / 200)
    drawn = posterior.sample(40000, seed=(1, 2))
    of_mixtures = np.mean(posterior.log_prob(drawn) - prior.log_prob(drawn), axis=0)
    assert np.all(of_mixtures < kl)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kl_of_indicators_at_the_ends(dtype):
    logits = np.array([-np.inf, -800, -30, 0, 30, 800, np.inf], dtype)
    prior_logits = np.array([-5, 0, 20, 1000], dtype)[:, None]
    slab = {"loc": np.zeros(1, dtype), "scale": np.ones(1, dtype)}
    kl = tfd.kl_divergence(
        SpikeAndSlab(logits=logits, **slab), SpikeAndSlab(logits=prior_logits, **slab)
    ).numpy()
    assert kl.dtype == dtype
    log_odds, prior = logits.astype("float64"), prior_logits.astype("float64")
    probs, others = scipy.special.expit(log_odds), scipy.special.expit(-log_odds)
    entropy = scipy.special.entr(probs) + scipy.special.entr(others)
    expected = probs * np.logaddexp(0, -prior) + others * np.logaddexp(0, prior)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(kl, expected - entropy, rtol=tolerance, atol=tolerance)
    # In for sure under both: nothing is left of the indicator.
    assert kl[3, 5] == 0


@pytest.mark.parametrize("make", [point_mass, continuous])
def test_moments_and_density(make):
    distribution, _ = make()
    drawn = distribution.sample(40000, seed=(3, 4)).numpy()
    error = drawn.std(0) / 200
    assert np.all(np.abs(drawn.mean(0) - distribution.mean()) < 5 * error)
    centred = (drawn - distribution.mean().numpy()) ** 2
    error = centred.std(0) / 200
    assert np.all(np.abs(centred.mean(0) - distribution.variance()) < 5 * error)
    np.testing.assert_allclose(distribution.stddev() ** 2, distribution.variance())
    grid = np.linspace(-12, 12, 100001)[:, None] + 1e-7
    mass = scipy.integrate.trapezoid(distribution.prob(grid), grid, axis=0)
    if make is point_mass:
        np.testing.assert_allclose(distribution.prob(np.zeros(3)), 1 - _PROBS)
        np.testing.assert_allclose((drawn == 0).mean(0), 1 - _PROBS, atol=0.02)
        mass = mass + 1 - _PROBS
    np.testing.assert_allclose(mass, 1, rtol=1e-4)


def test_a_spike_without_a_scale_is_as_wide_as_the_slab():
    same = ContinuousSpikeAndSlab(_PROBS, _LOC, _SCALE, spike_loc=_LOC)
    np.testing.assert_allclose(same.variance(), _SCALE**2)
    np.testing.assert_allclose(same.mean(), _LOC)
    logs = ContinuousSpikeAndSlab(
        _PROBS, _LOC, spike_loc=_LOC, log_scale=np.log(_SCALE)
    )
    _, prior = continuous()
    np.testing.assert_allclose(
        tfd.kl_divergence(logs, prior), tfd.kl_divergence(same, prior), rtol=1e-12
    )


def test_parameters():
    weight = SpikeAndSlab(_PROBS, _LOC, log_scale=np.log(_SCALE))
    assert isinstance(weight.slab, LogScaleNormal)
    np.testing.assert_allclose(weight.probs, _PROBS, rtol=1e-12)
    np.testing.assert_allclose(weight.scale, _SCALE, rtol=1e-12)
    assert weight.batch_shape == (3,) and weight[1:].batch_shape == (2,)
    changed = weight.copy(probs=None, logits=np.zeros(3))
    np.testing.assert_allclose(changed.mean(), 0.5 * _LOC)
    with pytest.raises(ValueError, match="either `probs` or `logits`"):
        SpikeAndSlab(0.5, scale=1.0, logits=0.0)
    with pytest.raises(ValueError, match="either `scale` or `log_scale`"):
        ContinuousSpikeAndSlab(0.5)
    with pytest.raises(ValueError, match="one dtype"):
        SpikeAndSlab(np.float32(0.5), np.float64(0.0), 1.0)
