import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.priors import EmpiricalBayesNormal, LayerwiseNormal


def setting(pruned=True):
    generator = np.random.default_rng(0)
    loc = generator.normal(size=(5, 4))
    scale = np.exp(generator.normal(-1, 1, size=(5, 4)))
    mask = generator.uniform(size=(5, 4)) < (0.6 if pruned else 1.1)
    return tf.constant(loc), tf.constant(scale), mask


def normal_divergence(loc, scale, variance):
    """KL of Normals from its textbook form."""
    ratio = (np.square(scale) + np.square(loc)) / variance
    return 0.5 * (ratio - 1 - np.log(np.square(scale) / variance))


@pytest.mark.parametrize("pruned", [False, True])
def test_layerwise_variance_maximises_the_evidence(pruned):
    loc, scale, mask = setting(pruned)
    posterior = tfd.Normal(loc, scale)
    divergence = LayerwiseNormal().divergence(posterior, {}, mask)
    best = scipy.optimize.minimize_scalar(
        lambda log_v: normal_divergence(
            loc.numpy()[mask], scale.numpy()[mask], np.exp(log_v)
        ).sum(),
        bounds=(-10, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    np.testing.assert_allclose(divergence, best.fun, rtol=1e-10)
    prior = LayerwiseNormal().distribution(posterior, {}, mask)
    np.testing.assert_allclose(prior.variance(), np.exp(best.x), rtol=1e-6)
    count = mask.sum()
    moments = (loc**2 + scale**2).numpy()[mask]
    expected = count / 2 * np.log(moments.mean()) - np.log(scale.numpy()[mask]).sum()
    np.testing.assert_allclose(divergence, expected, rtol=1e-10)


def test_variances_per_weight_maximise_the_evidence():
    loc, scale, mask = setting()
    posterior = tfd.Normal(loc, scale)
    divergence = EmpiricalBayesNormal().divergence(posterior, {}, mask)
    total = 0.0
    for mu, sigma in zip(loc.numpy()[mask], scale.numpy()[mask], strict=True):
        total += scipy.optimize.minimize_scalar(
            lambda log_v, mu=mu, sigma=sigma: normal_divergence(
                mu, sigma, np.exp(log_v)
            ),
            bounds=(-15, 15),
            method="bounded",
            options={"xatol": 1e-10},
        ).fun
    np.testing.assert_allclose(divergence, total, rtol=1e-9)
    prior = EmpiricalBayesNormal().distribution(posterior, {}, mask)
    by_tfd = tf.reduce_sum(tfd.kl_divergence(posterior, prior)[mask])
    np.testing.assert_allclose(divergence, by_tfd, rtol=1e-10)


@pytest.mark.parametrize("prior", [LayerwiseNormal(), EmpiricalBayesNormal()])
def test_gradients_are_those_with_the_variance_held_fixed(prior):
    loc, scale, mask = setting()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([loc, scale])
        posterior = tfd.Normal(loc, scale)
        divergence = prior.divergence(posterior, {}, mask)
        reference = prior.distribution(posterior, {}, mask)
        fixed = tfd.Normal(reference.loc, tf.stop_gradient(reference.scale))
        held = tf.reduce_sum(
            tf.where(mask, tfd.kl_divergence(tfd.Normal(loc, scale), fixed), 0)
        )
    for variable in (loc, scale):
        np.testing.assert_allclose(
            tape.gradient(divergence, variable),
            tape.gradient(held, variable),
            rtol=1e-9,
            atol=1e-12,
        )


@pytest.mark.parametrize("prior", [LayerwiseNormal(), EmpiricalBayesNormal()])
def test_extreme_posteriors_stay_finite_in_float32(prior):
    loc = tf.constant([0.0, 0.0, 1e4, 1e4, 1e-10])
    scale = tf.constant([1e-8, 1e4, 1e-8, 1e4, 1e-10])
    with tf.GradientTape() as tape:
        tape.watch([loc, scale])
        divergence = prior.divergence(tfd.Normal(loc, scale), {}, np.ones(5, bool))
    assert np.isfinite(divergence)
    for gradient in tape.gradient(divergence, [loc, scale]):
        assert np.isfinite(gradient).all()


def test_nothing_left_is_a_proper_prior_and_no_divergence():
    loc, scale, _ = setting()
    posterior, mask = tfd.Normal(loc, scale), np.zeros((5, 4), bool)
    assert float(LayerwiseNormal().divergence(posterior, {}, mask)) == 0
    assert float(EmpiricalBayesNormal().divergence(posterior, {}, mask)) == 0
    prior = LayerwiseNormal().distribution(posterior, {}, mask)
    assert float(prior.variance()) == 1
