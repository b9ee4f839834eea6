import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import posteriors


def weights(family, shape=(3, 2)):
    layer = keras.layers.Layer()
    return family.add_weights(layer.add_weight, shape)


def test_distribution_follows_its_variable():
    family = posteriors.MeanFieldNormal(initial_scale=0.2, gain=4.0)
    state = weights(family)
    location = tf.ones((3, 2))
    distribution = family.distribution(location, state)
    np.testing.assert_allclose(distribution.scale, 0.2, rtol=1e-6)
    state["log_scale"].assign(tf.fill((3, 2), 0.5))
    distribution = family.distribution(location, state)
    np.testing.assert_allclose(distribution.scale, np.exp(2.0), rtol=1e-6)
    mean, variance = family.moments(distribution)
    np.testing.assert_allclose(mean, distribution.mean())
    np.testing.assert_allclose(variance, distribution.variance(), rtol=1e-6)


def test_the_gain_speeds_the_scale_up():
    gradients = []
    for gain in (1.0, 10.0):
        family = posteriors.MeanFieldNormal(initial_scale=0.2, gain=gain)
        state = weights(family)
        with tf.GradientTape() as tape:
            scale = family.distribution(tf.zeros((3, 2)), state).scale
        gradients.append(tape.gradient(scale, state["log_scale"].value))
    np.testing.assert_allclose(gradients[1], 10 * gradients[0], rtol=1e-5)
    np.testing.assert_allclose(gradients[0], 0.2, rtol=1e-5)


def test_samples_and_rescaling():
    family = posteriors.MeanFieldNormal()
    distribution = tfd.Normal(tf.fill((40000,), 0.5), tf.fill((40000,), 2.0))
    drawn = family.sample(distribution, tf.constant([1, 2])).numpy()
    assert abs(drawn.mean() - 0.5) < 5 * 2 / 200
    assert drawn.std() == pytest.approx(2, rel=0.03)
    mask = np.arange(40000) % 2 == 0
    rescaled = family.rescale(distribution, tf.constant(3.0), mask)
    np.testing.assert_allclose(rescaled.loc, np.where(mask, 1.5, 0))
    np.testing.assert_allclose(rescaled.scale, np.where(mask, 6.0, 0))


def test_assign_leaves_the_scale_of_pruned_weights():
    family = posteriors.MeanFieldNormal(initial_scale=0.2)
    state, location = weights(family), keras.Variable(tf.ones((3, 2)))
    mask = np.array([[True, False]] * 3)
    target = tfd.Normal(tf.fill((3, 2), 7.0), tf.fill((3, 2), 0.9))
    family.assign(target, location, state, mask)
    np.testing.assert_array_equal(location, np.where(mask, 7.0, 0))
    scale = family.distribution(location.value, state).scale
    np.testing.assert_allclose(scale, np.where(mask, 0.9, 0.2), rtol=1e-5)


@pytest.mark.parametrize("name", ["initial_scale", "gain"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_arguments(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*{name}={value}"):
        posteriors.MeanFieldNormal(**{name: value})


def test_names_and_configs():
    family = posteriors.get("mean_field_normal")
    again = posteriors.get(keras.saving.serialize_keras_object(family))
    assert again.get_config() == family.get_config()
    with pytest.raises(ValueError, match="mean_field_normal.*posterior='gauss'"):
        posteriors.get("gauss")


def test_another_family_is_not_taken_for_a_normal():
    layer = keras_bmr.layers.DenseVariational(2)
    layer.build((None, 3))
    before = [weight.numpy() for weight in layer.weights]
    with pytest.raises(ValueError, match="Expected a `tfd.Normal`.*Laplace"):
        layer.assign_posterior("kernel", tfd.Laplace(tf.zeros((3, 2)), 1.0))
    for weight, old in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)
