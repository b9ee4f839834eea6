import itertools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions import LogUniform, TruncatedLogNormal
from keras_bmr.distributions.truncated_normal_draw import truncated_normal_draw
from keras_bmr.distributions.truncated_normal_quantile import truncated_normal_quantile

tfd = tfp.distributions
PARAMETERS = np.array(
    list(
        itertools.product(
            (-1000, -100, -22, -20, -5, -0.1, 0, 0.1, 0.5, 3, 10, 1000),
            (-20, -10, -5, -3, -1, 0, 1, 3, 5),
        )
    )
).T
# As noise comes: odd multiples of 2^-24, the smallest and largest included.
UNIFORM = (
    np.concatenate([[1], 2 * np.arange(50, 2**23, 2**17) + 1, [2**24 - 1]]) / 2**24
)


def draws_and_gradients(function, dtype):
    """Draws and their derivatives in loc and log scale, (draws, parameters) each."""
    loc, log_scale = (tf.constant(v, dtype) for v in PARAMETERS)
    shape = (UNIFORM.size, loc.shape[0])
    loc, log_scale = tf.broadcast_to(loc, shape), tf.broadcast_to(log_scale, shape)
    uniform = tf.broadcast_to(tf.constant(UNIFORM[:, None], dtype), shape)
    with tf.GradientTape() as tape:
        tape.watch([loc, log_scale])
        low, high = tf.fill(shape, tf.cast(-20, dtype)), tf.zeros(shape, dtype)
        draws = function(uniform, loc, tf.exp(log_scale), low, high)
    return [v.numpy() for v in (draws, *tape.gradient(draws, [loc, log_scale]))]


def test_agrees_with_the_quantile_in_double_precision():
    fast = draws_and_gradients(truncated_normal_draw, "float32")
    exact = draws_and_gradients(truncated_normal_quantile, "float64")
    for ours, theirs in zip(fast, exact, strict=True):
        # Against the size that the value has for these parameters.
        size = np.mean(np.abs(theirs), axis=0)
        assert np.isfinite(ours).all()
        # Steps of single precision show where 20 deviations make up the interval.
        assert np.max(np.abs(ours - theirs) / (size + 1e-30)) < 0.02


def test_sum_over_the_draws_of_a_parameter():
    loc, scale = tf.constant([0.1, -3.0]), tf.constant([0.5, 2.0])
    uniform = tf.constant(UNIFORM[:, None] * np.ones(2), "float32")
    bounds = tf.constant([-20.0, -20.0]), tf.constant([0.0, 0.0])

    def total(loc):
        return tf.reduce_sum(
            tf.exp(truncated_normal_draw(uniform, loc, scale, *bounds))
        )

    with tf.GradientTape() as tape:
        tape.watch(loc)
        value = total(loc)
    numeric = [
        (total(loc + step) - total(loc - step)) / 2e-2
        for step in (tf.constant([1e-2, 0.0]), tf.constant([0.0, 1e-2]))
    ]
    np.testing.assert_allclose(tape.gradient(value, loc), numeric, rtol=2e-3)


@pytest.mark.parametrize("name", ["loc", "scale"])
def test_divergence_has_the_gradient_of_its_values(name):
    values = dict(zip(("loc", "scale"), np.exp([PARAMETERS[1]] * 2), strict=True))
    values["loc"] = PARAMETERS[0]
    moderate = (np.abs(PARAMETERS[0]) < 30) & (np.abs(PARAMETERS[1]) < 6)
    values = {key: tf.constant(value[moderate]) for key, value in values.items()}
    prior = LogUniform(np.float64(-20), np.float64(0))

    def divergence(change):
        changed = {**values, name: values[name] + change}
        posterior = TruncatedLogNormal(
            **changed, log_low=np.float64(-20), log_high=np.float64(0)
        )
        return tfd.kl_divergence(posterior, prior)

    change = tf.zeros_like(values["loc"])
    with tf.GradientTape() as tape:
        tape.watch(change)
        total = tf.reduce_sum(divergence(change))
    step = 1e-5 * values["scale"]
    numeric = (divergence(step) - divergence(-step)) / (2 * step)
    np.testing.assert_allclose(
        tape.gradient(total, change) * values["scale"],
        numeric * values["scale"],
        rtol=1e-4,
        atol=1e-6,
    )
