import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr import priors


def test_a_fixed_scale():
    posterior = tfd.Normal([0.3, -0.5], [0.1, 2.0])
    mask = np.array([True, True])
    divergence = priors.Normal(0.7).divergence(posterior, {}, mask)
    expected = tfd.kl_divergence(posterior, tfd.Normal(0.0, 0.7))
    np.testing.assert_allclose(divergence, tf.reduce_sum(expected), rtol=1e-6)
    one = priors.Normal(0.7).divergence(posterior, {}, np.array([True, False]))
    np.testing.assert_allclose(one, expected[0], rtol=1e-6)
    assert priors.Normal().sample_scale({}, None) is None
    assert priors.Normal().expected_scale({}) is None


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_scales(scale):
    with pytest.raises(ValueError, match=f"scale={scale}"):
        priors.Normal(scale)


@pytest.mark.parametrize("name", sorted(priors.PRIORS))
def test_names_and_configs(name):
    prior = priors.get(name)
    assert priors.get(prior) is prior
    assert type(priors.get(priors.PRIORS[name])) is type(prior)
    config = keras.saving.serialize_keras_object(prior)
    again = priors.get(config)
    assert type(again) is type(prior) and again.get_config() == prior.get_config()


@pytest.mark.parametrize("wrong", ["gauss", 3, None])
def test_unknown_priors(wrong):
    with pytest.raises(ValueError, match="empirical_bayes_normal.*prior="):
        priors.get(wrong)
