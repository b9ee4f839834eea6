import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr import priors
from keras_bmr.distributions import ContinuousSpikeAndSlab, SpikeAndSlab

_GENERATOR = np.random.default_rng(0)
_LOC = _GENERATOR.normal(size=(20, 3))
_SCALE = _GENERATOR.uniform(0.05, 0.5, size=(20, 3))
_LOGITS = _GENERATOR.normal(0, 3, size=(20, 3))
_MASK = _GENERATOR.uniform(size=(20, 3)) < 0.8
_PROBS = scipy.special.expit(_LOGITS)


def posterior():
    return SpikeAndSlab(logits=_LOGITS, loc=_LOC, scale=_SCALE)


def weights(prior):
    layer = keras.layers.Layer(dtype="float64")
    return prior.add_weights(layer.add_weight, _LOC.shape)


def updated(prior, times=1, mask=_MASK):
    state = weights(prior)
    for _ in range(times):
        prior.update(posterior(), state, mask)
    return state


def test_the_update_is_the_closed_form():
    prior = priors.SpikeAndSlab(concentration1=2.0, concentration0=3.0, warmup_steps=0)
    state = updated(prior)
    total = _PROBS[_MASK].sum()
    variance = (_PROBS * (_LOC**2 + _SCALE**2))[_MASK].sum() / total
    distribution = prior.distribution(posterior(), state, _MASK)
    np.testing.assert_allclose(distribution.scale, np.sqrt(variance), rtol=1e-5)
    zeta = scipy.special.digamma(2 + total) - scipy.special.digamma(
        3 + _MASK.sum() - total
    )
    np.testing.assert_allclose(distribution.logits, zeta, rtol=1e-5)


def test_the_divergence_is_that_of_weights_indicators_and_rate():
    prior = priors.SpikeAndSlab(concentration1=2.0, concentration0=3.0, warmup_steps=0)
    state = updated(prior)
    total, slab = _PROBS[_MASK].sum(), float(state["slab_scale"])
    shape1, shape0 = 2 + total, 3 + _MASK.sum() - total
    rates = scipy.stats.beta.rvs(shape1, shape0, size=4000, random_state=0)
    bernoulli = scipy.special.rel_entr(
        _PROBS[_MASK], rates[:, None]
    ) + scipy.special.rel_entr(1 - _PROBS[_MASK], 1 - rates[:, None])
    of_rate = scipy.stats.beta.logpdf(rates, shape1, shape0)
    of_rate -= scipy.stats.beta.logpdf(rates, 2, 3)
    draws = bernoulli.sum(1) + of_rate
    ratio = (_SCALE / slab) ** 2
    normal = 0.5 * (ratio + (_LOC / slab) ** 2 - 1 - np.log(ratio))
    expected = (_PROBS * normal)[_MASK].sum() + draws.mean()
    error = draws.std() / np.sqrt(len(draws))
    assert abs(prior.divergence(posterior(), state, _MASK) - expected) < 5 * error
    # Slab and rate are where it is least.
    least = float(prior.divergence(posterior(), state, _MASK))
    for name in ("slab_scale", "inclusion_concentration1", "inclusion_concentration0"):
        value = float(state[name])
        for factor in (0.9, 1.1):
            state[name].assign(factor * value)
            assert prior.divergence(posterior(), state, _MASK) > least
        state[name].assign(value)


def test_a_fixed_rate_and_slab_stay():
    prior = priors.SpikeAndSlab(inclusion_rate=0.1, slab_scale=0.7, warmup_steps=0)
    state = updated(prior)
    assert set(state) == {"step"}
    distribution = prior.distribution(posterior(), state, _MASK)
    np.testing.assert_allclose(distribution.probs, 0.1, rtol=1e-6)
    assert float(distribution.scale) == pytest.approx(0.7)
    kept = SpikeAndSlab(logits=_LOGITS[_MASK], loc=_LOC[_MASK], scale=_SCALE[_MASK])
    reference = SpikeAndSlab(np.float64(0.1), np.float64(0), np.float64(0.7))
    np.testing.assert_allclose(
        prior.divergence(posterior(), state, _MASK),
        tf.reduce_sum(tfd.kl_divergence(kept, reference)),
        rtol=1e-6,
    )


def test_warm_up_is_a_mean_field_model():
    prior = priors.SpikeAndSlab(warmup_steps=2)
    included = SpikeAndSlab(logits=np.full(_LOC.shape, 1000.0), loc=_LOC, scale=_SCALE)
    state = weights(prior)
    for _ in range(2):
        assert not prior.is_warm(state)
        prior.update(included, state, _MASK)
        assert prior.distribution(included, state, _MASK).probs == (
            0.5 if prior.is_warm(state) else 1.0
        )
    state["step"].assign(0)
    layerwise = priors.LayerwiseNormal()
    np.testing.assert_allclose(
        prior.divergence(included, state, _MASK),
        layerwise.divergence(tfd.Normal(_LOC, _SCALE), {}, _MASK),
        rtol=1e-5,
    )


def test_nothing_left():
    prior = priors.SpikeAndSlab(warmup_steps=0)
    state = updated(prior, mask=np.zeros_like(_MASK))
    assert all(np.isfinite(variable) for variable in state.values())
    assert float(state["slab_scale"]) == 1


def test_the_continuous_prior_has_both_scales():
    prior = priors.ContinuousSpikeAndSlab(0.03, slab_scale=0.5, warmup_steps=0)
    drawn = ContinuousSpikeAndSlab(
        logits=_LOGITS, loc=_LOC, scale=_SCALE, spike_loc=_LOC
    )
    state = weights(prior)
    distribution = prior.distribution(drawn, state, _MASK)
    assert float(distribution.spike.scale) == pytest.approx(0.03)
    assert float(distribution.scale) == 0.5
    again = priors.get(keras.saving.serialize_keras_object(prior))
    assert type(again) is type(prior) and again.get_config() == prior.get_config()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"inclusion_rate": 1.0}, "between 0 and 1.*inclusion_rate=1.0"),
        ({"inclusion_rate": 0.0}, "inclusion_rate=0.0"),
        ({"concentration1": -1.0}, "concentration1=-1.0"),
        ({"slab_scale": float("nan")}, "slab_scale=nan"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"spike_scale": 0.5, "slab_scale": 0.5}, "must exceed.*slab_scale=0.5"),
    ],
)
def test_invalid_arguments(options, message):
    name = "ContinuousSpikeAndSlab" if "spike_scale" in options else "SpikeAndSlab"
    with pytest.raises(ValueError, match=message):
        getattr(priors, name)(**options)
