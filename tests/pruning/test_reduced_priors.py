import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.distributions import LogUniform, TruncatedLogNormal
from keras_bmr.pruning import PointMass, SpikeAndSlab, reduced_priors
from keras_bmr.reduction import model_reduction


def reference_zeta(delta_f, a0, b0, num_iterations):
    delta_f = delta_f.astype("float64")
    zeta = 0.0
    for _ in range(num_iterations):
        kept = scipy.special.expit(zeta - delta_f).sum()
        pruned = scipy.special.expit(delta_f - zeta).sum()
        zeta = scipy.special.psi(a0 + kept) - scipy.special.psi(b0 + pruned)
    return zeta


@pytest.mark.parametrize("arguments", [(1.0, 1.0, 4), (0.5, 30.0, 1), (2.0, 1e5, 20)])
@pytest.mark.parametrize("shift", [-30.0, -1.0, 0.0, 2.0, 1e4])
@pytest.mark.parametrize("size", [1, 1000, 2**18 + 3])
def test_zeta_agrees_with_scipy(arguments, shift, size):
    generator = np.random.default_rng(1)
    delta_f = (shift + 3 * generator.normal(size=size)).astype("float32")
    zeta = SpikeAndSlab(*arguments, margin=0.0).threshold(delta_f)
    expected = min(reference_zeta(delta_f, *arguments), 0.0)
    assert zeta == pytest.approx(expected, rel=1e-5)


def test_zeta_by_hand():
    # q = 1/2 for the only weight: digamma(3/2) - digamma(3/2) = 0.
    assert SpikeAndSlab(margin=0.0).threshold(np.zeros(1, "float32")) == 0.0


def test_margin_prunes_what_the_data_said_nothing_of():
    # Most weights decide nothing, the rest are well known: zeta is positive.
    delta_f = np.concatenate([np.zeros(10), np.full(90, -5.0)]).astype("float32")
    assert reference_zeta(delta_f, 1.0, 1.0, 4) > 0
    assert SpikeAndSlab().threshold(delta_f) == -0.02
    assert SpikeAndSlab(margin=3.0).threshold(delta_f) == -3.0


@pytest.mark.parametrize("margin", [-0.1, np.inf, np.nan])
def test_bad_margin_is_refused(margin):
    with pytest.raises(ValueError, match="Received: margin="):
        SpikeAndSlab(margin=margin)


@pytest.mark.parametrize("name", ["concentration1", "concentration0", "num_iterations"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_bad_arguments_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        SpikeAndSlab(**{name: value})


def test_distribution_becomes_a_reduced_prior():
    reduced_prior = reduced_priors.get(tfd.Normal(0.0, 0.1))
    assert not reduced_prior.is_point_mass
    assert reduced_prior.threshold(np.zeros(3)) == 0.0
    assert reduced_priors.get(tfd.Deterministic(0.0)).is_point_mass


@pytest.mark.parametrize("distribution", [tfd.Deterministic(1.0), tfd.Normal(0.5, 1.0)])
def test_another_centre_than_zero_is_refused(distribution):
    with pytest.raises(ValueError, match="centred at 0.*model_reduction.*with loc="):
        reduced_priors.get(distribution)


def test_for_a_gate_zero_is_the_smallest_factor():
    posterior = TruncatedLogNormal([-16.0, 0.1], [4.0, 0.01], -20.0, 0.0)
    prior = LogUniform(-20.0, 0.0)
    for reduced_prior in (PointMass(), SpikeAndSlab()):
        reduced = model_reduction(
            posterior, prior, reduced_prior.distribution_for(posterior)
        )
        # The limit of a narrow reduced prior: the density of the logarithm at the
        # lower bound over that of the prior.
        density = scipy.stats.truncnorm.logpdf(
            -20.0, (-20 - -16.0) / 4, (0 - -16.0) / 4, -16.0, 4.0
        )
        np.testing.assert_allclose(
            reduced.delta_f[0], np.log(20.0) + density, rtol=1e-5
        )
        assert reduced.delta_f[1] < -1e5


@pytest.mark.parametrize("shape", [(7,), (2, 4, 3)])
def test_a_reduced_prior_of_another_shape_is_refused_by_the_weight(shape):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras_bmr.layers.DenseVariational(3)(inputs))
    scale = tf.fill(shape, 0.01)
    with pytest.raises(ValueError, match=r"Cannot reduce.*must broadcast.*\(4, 3\)"):
        keras_bmr.reduce_model(model, reduced_prior=tfd.Normal(0.0, scale))


def test_a_reduced_prior_may_have_the_shape_of_a_weight():
    inputs = keras.Input((4,))
    layer = keras_bmr.layers.DenseVariational(3)
    model = keras.Model(inputs, layer(inputs))
    scale = tf.reshape(tf.linspace(0.01, 0.2, 12), (4, 3))
    found = keras_bmr.ModelReduction(model, tfd.Normal(0.0, scale)).delta_f(layer)
    for position in ((0, 0), (3, 1)):
        alone = keras_bmr.ModelReduction(model, tfd.Normal(0.0, scale[position]))
        np.testing.assert_allclose(
            found[position], alone.delta_f(layer)[position], rtol=1e-5
        )
