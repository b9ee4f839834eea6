import mpmath
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions import LogUniform, TruncatedLogNormal
from keras_bmr.reduction import model_reduction, monte_carlo_delta_f


def _posterior(loc, scale, low=-20.0, high=0.0):
    return TruncatedLogNormal(*(np.float64(v) for v in (loc, scale, low, high)))


def _uniform(low=-20.0, high=0.0):
    return LogUniform(np.float64(low), np.float64(high))


def _integral(function, *points):
    with mpmath.workdps(30):
        return mpmath.quad(function, points)


def _gaussian(x, loc, scale):
    return mpmath.exp(-(((x - loc) / scale) ** 2) / 2)


@pytest.mark.parametrize(
    ("loc", "scale", "reduced_loc", "reduced_scale"),
    [(-6.0, 2.5, -15.0, 0.5), (3.0, 4.0, -20.0, 1.0), (-25.0, 3.0, -21.0, 2.0)],
)
def test_log_normal_against_quadrature(loc, scale, reduced_loc, reduced_scale):
    """Different bounds of prior, posterior and reduced prior at once."""
    reduction = model_reduction(
        _posterior(loc, scale, -19.0, -1.0),
        _uniform(),
        _posterior(reduced_loc, reduced_scale, -18.0, -2.0),
    )
    points = sorted({-18.0, -2.0, min(max(reduced_loc, -18.0), -2.0), -10.0})
    q_mass = _integral(lambda x: _gaussian(x, loc, scale), -19, -10, -1)
    r_mass = _integral(lambda x: _gaussian(x, reduced_loc, reduced_scale), *points)

    def product(x):
        return _gaussian(x, loc, scale) * _gaussian(x, reduced_loc, reduced_scale)

    joint = _integral(product, *points)
    expected = mpmath.log(20 * joint / q_mass / r_mass)
    np.testing.assert_allclose(reduction.delta_f, float(expected), rtol=1e-12)
    mean = _integral(lambda x: mpmath.exp(x) * product(x), *points) / joint
    np.testing.assert_allclose(reduction.posterior.mean(), float(mean), rtol=1e-11)
    assert float(reduction.posterior.log_low) == -18


def test_log_uniform_against_quadrature():
    reduction = model_reduction(
        _posterior(-6.0, 2.5, -19.0, -1.0), _uniform(), _uniform(-15.0, -3.0)
    )

    def mass(*points):
        return _integral(lambda x: _gaussian(x, -6.0, 2.5), *points)

    expected = mpmath.log(20 * mass(-15, -6, -3) / 12 / mass(-19, -6, -1))
    np.testing.assert_allclose(reduction.delta_f, float(expected), rtol=1e-12)
    mean = _integral(
        lambda x: mpmath.exp(x) * _gaussian(x, -6.0, 2.5), -15, -6, -3
    ) / mass(-15, -6, -3)
    np.testing.assert_allclose(reduction.posterior.mean(), float(mean), rtol=1e-11)


@pytest.mark.parametrize(
    "reduced", [_posterior(-12.0, 3.0), _uniform(-18.0, -4.0)], ids=["N", "U"]
)
def test_monte_carlo_agrees(reduced):
    arguments = _posterior(-8.0, 4.0), _uniform(), reduced
    estimate = monte_carlo_delta_f(*arguments, num_samples=50_000, seed=4)
    exact = model_reduction(*arguments).delta_f
    assert abs(estimate.delta_f - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.02


def test_a_narrow_reduced_prior_tends_to_the_one_sided_savage_dickey_ratio():
    posterior = _posterior(-17.0, 2.0)
    narrow = model_reduction(posterior, _uniform(), _posterior(-20.0, 1e-9))
    # The density of x at its lower bound, theta = exp(x).
    log_density = posterior.log_prob(tf.exp(np.float64(-20))) - 20
    np.testing.assert_allclose(narrow.delta_f, np.log(20) + log_density, rtol=1e-7)


def test_reduced_equal_to_full_is_zero():
    reduction = model_reduction(_posterior([-5.0][0], 3.0), _uniform(), _uniform())
    assert float(reduction.delta_f) == 0


@pytest.mark.parametrize("kind", ["N", "U"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_finite_and_compiled_agrees(kind, dtype):
    loc, log_scale = np.meshgrid([-100.0, -20, -10, -0.01, 0, 50], [-20.0, -5, 0, 5])
    loc, log_scale = tf.constant(loc, dtype), tf.constant(log_scale, dtype)
    low, high = tf.constant(-20.0, dtype), tf.constant(0.0, dtype)
    if kind == "N":
        spike = tf.constant(1e-6, dtype)
        reduced = TruncatedLogNormal(low, spike, low, high)
    else:
        reduced = LogUniform(low, tf.constant(-5.5, dtype))

    def evaluate(loc, log_scale):
        with tf.GradientTape() as tape:
            tape.watch([loc, log_scale])
            posterior = TruncatedLogNormal(loc, tf.exp(log_scale), low, high)
            delta_f = model_reduction(posterior, LogUniform(low, high), reduced).delta_f
        return [delta_f, *tape.gradient(delta_f, [loc, log_scale])]

    eager = evaluate(loc, log_scale)
    compiled = tf.function(evaluate, jit_compile=True)(loc, log_scale)
    for value, again in zip(eager, compiled, strict=True):
        assert np.all(np.isfinite(value))
        # XLA contracts to fused multiply-add: 1e-9 of the largest term.
        np.testing.assert_allclose(value, again, rtol=1e-4, atol=1e-6)


def test_supports_that_are_not_nested_raise():
    posterior = _posterior(-3.0, 1.0)
    with pytest.raises(ValueError, match=r"nested.*reduced prior \[-23.0, -5.0\]"):
        model_reduction(posterior, _uniform(), _uniform(-23.0, -5.0))
    with pytest.raises(ValueError, match=r"nested.*prior \[-10.0, 0.0\]"):
        model_reduction(posterior, _uniform(-10.0, 0.0), _uniform(-10.0, -5.0))
    undefined = tf.function(
        lambda: model_reduction(posterior, _uniform(), _uniform(-23.0, -5.0)).delta_f
    )()
    assert np.isnan(undefined)


def test_bad_parameters_raise():
    with pytest.raises(ValueError, match="posterior scale must be positive"):
        model_reduction(_posterior(0.0, 0.0), _uniform(), _uniform())
    with pytest.raises(ValueError, match="reduced prior scale must be positive"):
        model_reduction(_posterior(0.0, 1.0), _uniform(), _posterior(-20.0, -1.0))
    with pytest.raises(NotImplementedError, match="TruncatedLogNormal"):
        model_reduction(
            _posterior(0.0, 1.0),
            tfp.distributions.Normal(np.float64(0), np.float64(1)),
            _uniform(),
        )
