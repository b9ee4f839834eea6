import hypothesis
import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.distributions import log_normal_mass
from keras_bmr.distributions.numerics import expm1_minus, interval_quadrature


def _exact_mass(low, high):
    with mpmath.workdps(60):
        low, high = mpmath.mpf(low), mpmath.mpf(high)
        if low > 0:
            low, high = -high, -low
        root = mpmath.sqrt(2)
        return (mpmath.erfc(-high / root) - mpmath.erfc(-low / root)) / 2


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.floats(-60, 60), st.floats(1e-3, 40))
def test_log_normal_mass_against_many_digits(low, width):
    high = low + width
    value = float(
        log_normal_mass(tf.constant(low, tf.float64), tf.constant(high, tf.float64))
    )
    expected = float(mpmath.log(_exact_mass(low, high)))
    np.testing.assert_allclose(value, expected, rtol=4e-14, atol=1e-50)


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1e5, -9e4), (100.0, 101.0), (3e4, 4e4), (-0.1, 0.1), (-20.0, -0.1), (5.0, 5.5)],
)
def test_log_normal_mass_in_float32(low, high):
    low, high = np.float32(low), np.float32(high)
    with mpmath.workdps(60):
        near = mpmath.mpf(float(low if low > 0 else -high))
        expected = (
            mpmath.log(_exact_mass(float(low), float(high)))
            if near < 1000
            else -(near**2) / 2 - mpmath.log(near * mpmath.sqrt(2 * mpmath.pi))
        )
    np.testing.assert_allclose(
        log_normal_mass(tf.constant(low), tf.constant(high)),
        float(expected),
        rtol=2e-6,
    )


def test_log_normal_mass_with_an_infinite_bound():
    infinity = tf.constant(np.inf, tf.float64)
    for bound in (-50.0, -1.0, 0.0, 2.0, 40.0):
        bound = tf.constant(bound, tf.float64)
        with mpmath.workdps(40):
            root = mpmath.sqrt(2)
            expected = float(mpmath.log(mpmath.erfc(float(bound) / root) / 2))
        np.testing.assert_allclose(
            log_normal_mass(bound, infinity), expected, rtol=1e-13
        )
        np.testing.assert_allclose(
            log_normal_mass(-infinity, -bound), expected, rtol=1e-13
        )
    assert float(log_normal_mass(-infinity, infinity)) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_the_density_at_the_bounds_and_finite(dtype):
    low = tf.constant([-1e6, -1e3, -40.0, -3.0, -1.0, 0.0, 2.0, 30.0, 1e4], dtype)
    high = low + tf.constant([10.0, 1e6, 39.0, 2.0, 2.0, 1.0, 0.5, 100.0, 1.0], dtype)
    with tf.GradientTape() as tape:
        tape.watch([low, high])
        mass = log_normal_mass(low, high)
    gradients = tape.gradient(mass, [low, high])
    for gradient, bound, sign in zip(gradients, (low, high), (-1, 1), strict=True):
        assert np.all(np.isfinite(gradient))
        for index in range(2, 8):
            exact = _exact_mass(float(low[index]), float(high[index]))
            with mpmath.workdps(60):
                density = sign * mpmath.npdf(float(bound[index])) / exact
            np.testing.assert_allclose(
                gradient[index],
                float(density),
                rtol=1e-11 if dtype == "float64" else 1e-3,
                atol=1e-30,
            )


@pytest.mark.parametrize(
    ("loc", "scale", "low", "high"),
    [
        (0.0, 1.0, -50.0, 50.0),
        (-4.0, 2.0, -20.0, 0.0),
        (-10.0, 100.0, -20.0, 0.0),
        (3.0, 0.2, -20.0, 0.0),
        (-60.0, 1.5, -20.0, 0.0),
        (-0.01, 1e-4, -20.0, 0.0),
        (-5.0, 1.1, -20.0, 0.0),
    ],
)
def test_quadrature_against_many_digits(loc, scale, low, high):
    rule = interval_quadrature(
        *(tf.constant(v, tf.float64) for v in (loc, scale, low, high))
    )
    with mpmath.workdps(40):
        loc, scale, low, high = map(mpmath.mpf, (loc, scale, low, high))
        mode = min(max(loc, low), high)
        mass = _exact_mass((low - loc) / scale, (high - loc) / scale)
        log_integral = (
            mpmath.log(mass * scale * mpmath.sqrt(2 * mpmath.pi))
            + ((mode - loc) / scale) ** 2 / 2
        )
        start, end = (low - loc) / scale, (high - loc) / scale
        mean = loc + scale * (mpmath.npdf(start) - mpmath.npdf(end)) / mass
        offset = mean - mode
    assert float(rule.anchor) == float(mode)
    np.testing.assert_allclose(
        rule.log_integral(), float(log_integral), rtol=1e-13, atol=1e-13
    )
    np.testing.assert_allclose(
        rule.expectation(rule.offset),
        float(offset),
        rtol=1e-12,
        atol=1e-14 * float(scale),
    )


def test_expm1_minus():
    values = np.array([-40.0, -1.0, -0.0501, -0.0499, -1e-9, 0.0, 1e-5, 0.049, 0.3, 9])
    with mpmath.workdps(40):
        expected = [float(mpmath.expm1(v) - mpmath.mpf(v)) for v in values]
    np.testing.assert_allclose(
        expm1_minus(tf.constant(values, tf.float64)), expected, rtol=1e-14
    )
