import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction import model_reduction

tfd = tfp.distributions


def _normal(loc, scale):
    return tfd.Normal(np.asarray(loc, np.float64), np.asarray(scale, np.float64))


def test_delta_f_sums_over_the_event_and_keeps_the_batch():
    loc = np.linspace(-1, 1, 24).reshape(2, 3, 4)
    posterior, prior = _normal(loc, 0.3), _normal(np.zeros((3, 4)), 2.0)
    reduced = _normal(np.zeros((3, 4)), 0.4)
    plain = model_reduction(posterior, prior, reduced)
    reduction = model_reduction(
        *(tfd.Independent(d, 2) for d in (posterior, prior, reduced))
    )
    assert reduction.delta_f.shape == (2,)
    np.testing.assert_allclose(
        reduction.delta_f, np.sum(plain.delta_f, axis=(1, 2)), rtol=1e-13
    )
    assert reduction.posterior.event_shape == (3, 4)
    assert reduction.posterior.batch_shape == (2,)
    np.testing.assert_allclose(reduction.posterior.mean(), plain.posterior.mean())


def test_point_masses_reduce_together():
    posterior, prior = _normal([0.1, 2.0], 0.2), _normal([0.0, 0.0], 1.5)
    point = tfd.Deterministic(np.zeros(2))
    together = model_reduction(
        *(tfd.Independent(d, 1) for d in (posterior, prior, point))
    )
    expected = tf.reduce_sum(posterior.log_prob(0) - prior.log_prob(0))
    np.testing.assert_allclose(together.delta_f, expected, rtol=1e-12)
    # The same through the vector point mass, without a rule of its own.
    vector = model_reduction(
        tfd.Independent(posterior, 1),
        tfd.Independent(prior, 1),
        tfd.VectorDeterministic(np.zeros(2)),
    )
    np.testing.assert_allclose(vector.delta_f, expected, rtol=1e-12)


def test_independent_against_plain_raises():
    normal = _normal([0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="same event shape.*Wrap batched"):
        model_reduction(tfd.Independent(normal, 1), normal, normal)


def test_different_inner_ranks_raise():
    scalar = tfd.Independent(_normal(np.zeros((2, 3)), 1.0), 2)
    vector = tfd.Independent(
        tfd.MultivariateNormalDiag(np.zeros((2, 3)), np.ones(3)), 1
    )
    with pytest.raises(ValueError, match=r"same rank.*\[0, 1, 0\]"):
        model_reduction(scalar, vector, scalar)
