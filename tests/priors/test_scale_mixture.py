import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.priors import ScaleMixtureNormal

STATE = {
    "log_precision_loc": tf.Variable(0.3, dtype=tf.float64),
    "log_precision_log_scale": tf.Variable(np.log(0.4), dtype=tf.float64),
}


class Value:
    """A variable as far as a prior needs it."""

    def __init__(self, variable):
        self.value = tf.convert_to_tensor(variable)


@pytest.fixture
def state():
    return {name: Value(variable) for name, variable in STATE.items()}


PRIOR = ScaleMixtureNormal(concentration=2.0, rate=3.0, factor=0.1)


def test_the_divergence_is_that_of_weights_and_precision(state):
    generator = np.random.default_rng(0)
    loc, scale = generator.normal(size=(3, 2)), generator.uniform(0.1, 2, (3, 2))
    mask = np.array([[True, False], [True, True], [False, True]])
    divergence = PRIOR.divergence(tfd.Normal(loc, scale), state, mask)

    num_draws = 200000
    log_u = 0.3 + 0.4 * generator.normal(size=num_draws)
    v = loc[mask] + scale[mask] * generator.normal(size=(num_draws, mask.sum()))
    q_u = tfd.LogNormal(np.float64(0.3), np.float64(0.4))
    p_u = tfd.Gamma(np.float64(2.0), np.float64(3.0))
    log_ratio = (
        q_u.log_prob(np.exp(log_u))
        - p_u.log_prob(np.exp(log_u))
        + tf.reduce_sum(
            tfd.Normal(loc[mask], scale[mask]).log_prob(v)
            - tfd.Normal(np.float64(0), np.float64(1)).log_prob(v),
            -1,
        )
    ).numpy()
    error = log_ratio.std() / np.sqrt(num_draws)
    assert abs(float(divergence) - log_ratio.mean()) < 5 * error
    # The closed form of the paper for the precision.
    m, v, alpha, beta = 0.3, 0.4**2, 2.0, 3.0
    precision = (
        -alpha * m
        - 0.5 * np.log(2 * np.pi * np.e * v)
        - alpha * np.log(beta)
        + beta * np.exp(m + v / 2)
    )
    nothing = PRIOR.divergence(tfd.Normal(loc, scale), state, np.zeros((3, 2), bool))
    np.testing.assert_allclose(nothing, precision, rtol=1e-10)


def test_the_scale_has_the_mean_and_the_law_it_should_have(state):
    seeds = tf.unstack(tf.reshape(tf.range(6000), (3000, 2)))
    draw = tf.function(lambda seed: PRIOR.sample_scale(state, seed))
    scales = np.array([float(draw(seed)) for seed in seeds])
    error = scales.std() / np.sqrt(3000)
    assert abs(scales.mean() - float(PRIOR.expected_scale(state))) < 5 * error
    log_scales = np.log(scales / 0.1)
    assert abs(log_scales.mean() + 0.15) < 5 * 0.2 / np.sqrt(3000)
    assert log_scales.std() == pytest.approx(0.2, rel=0.1)


def test_the_scale_of_the_weights_starts_at_the_factor():
    from keras_bmr.layers import DenseVariational

    layer = DenseVariational(3, prior=ScaleMixtureNormal(factor=0.1), num_examples=1)
    layer.build((None, 2))
    standardised = layer._random["kernel"].location.numpy()
    mean = layer.posterior("kernel").mean()
    np.testing.assert_allclose(mean, 0.1 * standardised, rtol=2e-3)
    prior = layer.prior("kernel")
    np.testing.assert_allclose(prior.stddev(), 0.1, rtol=2e-3)


@pytest.mark.parametrize("name", ["concentration", "rate", "factor"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_arguments(name, value):
    with pytest.raises(ValueError, match=f"`{name}`.*{name}={value}"):
        ScaleMixtureNormal(**{name: value})
