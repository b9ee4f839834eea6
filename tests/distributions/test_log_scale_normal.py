import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions import LogScaleNormal

tfd = tfp.distributions
_LOC = np.array([0.0, 0.5, -2.0])
_LOG_SCALE = np.array([-20.0, -3.0, 1.0])


def test_it_is_a_normal():
    normal = tfd.Normal(_LOC, np.exp(_LOG_SCALE))
    same = LogScaleNormal(_LOC, _LOG_SCALE)
    np.testing.assert_array_equal(same.scale, normal.scale)
    np.testing.assert_array_equal(same.log_scale, _LOG_SCALE)
    np.testing.assert_array_equal(same.log_prob(0.3), normal.log_prob(0.3))
    np.testing.assert_array_equal(
        same.sample(5, seed=(1, 2)), normal.sample(5, seed=(1, 2))
    )
    np.testing.assert_allclose(same.entropy(), normal.entropy(), rtol=1e-13)
    copy = same.copy(log_scale=np.zeros(3))
    assert isinstance(copy, LogScaleNormal)
    np.testing.assert_array_equal(copy.scale, np.ones(3))
    assert same[1:].batch_shape == (2,)


@pytest.mark.parametrize(
    "prior",
    [
        tfd.Normal(np.float64(0.3), np.float64(2.5)),
        LogScaleNormal(np.float64(0.3), np.float64(np.log(2.5))),
    ],
    ids=["Normal", "LogScaleNormal"],
)
def test_kl_is_the_one_of_normals(prior):
    np.testing.assert_allclose(
        tfd.kl_divergence(LogScaleNormal(_LOC, _LOG_SCALE), prior),
        tfd.kl_divergence(
            tfd.Normal(_LOC, np.exp(_LOG_SCALE)),
            tfd.Normal(np.float64(0.3), np.float64(2.5)),
        ),
        rtol=1e-12,
    )


def test_kl_gradient_in_the_log_scale():
    """d KL / d rho = exp(2 rho) / v0 - 1, also where the scale is tiny."""
    log_scale = tf.constant([-30.0, -3.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(log_scale)
        kl = tfd.kl_divergence(
            LogScaleNormal(tf.zeros(3), log_scale), tfd.Normal(0.0, 2.0)
        )
    np.testing.assert_allclose(
        tape.gradient(kl, log_scale), np.exp(2 * log_scale.numpy()) / 4 - 1, rtol=1e-6
    )


def test_it_leaves_a_tf_function():
    made = tf.function(lambda: LogScaleNormal(tf.zeros(2), tf.ones(2)))()
    np.testing.assert_allclose(made.scale, np.exp([1, 1]), rtol=1e-6)
