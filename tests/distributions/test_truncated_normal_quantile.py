import mpmath
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.distributions.truncated_normal_quantile import (
    truncated_normal_quantile,
)

_CASES = [
    (-4.0, 2.0, 1e-10),
    (-10.0, 148.4, 1e-10),
    (0.0, 0.0067, 1e-10),
    (5.0, 0.5, 1e-10),
    (-24.0, 0.2, 1e-10),
    # More than 30 standard deviations out.
    (-30.0, 0.32, 1e-5),
    (50.0, 1.0, 1e-5),
    (200.0, 6.0, 1e-5),
]


@pytest.mark.parametrize(("loc", "scale", "tolerance"), _CASES)
def test_the_distribution_function_of_the_quantile_is_the_probability(
    loc, scale, tolerance
):
    probability = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999999])
    quantile = truncated_normal_quantile(
        *(tf.constant(v, tf.float64) for v in (probability, loc, scale, -20, 0))
    )
    with mpmath.workdps(60):
        # Measured from the bound that carries the mass, in the tail function.
        side = 1 if loc < -10 else -1
        loc, scale = mpmath.mpf(loc), mpmath.mpf(scale)

        def tail(x):
            return mpmath.erfc(side * (x - loc) / scale / mpmath.sqrt(2))

        near, far = (-20, 0) if side > 0 else (0, -20)
        for p, x in zip(probability, quantile.numpy(), strict=True):
            share = float((tail(near) - tail(mpmath.mpf(x))) / (tail(near) - tail(far)))
            np.testing.assert_allclose(
                share if side > 0 else 1 - share, p, rtol=tolerance, atol=tolerance
            )


def test_branches_meet_at_thirty_standard_deviations():
    probability = tf.constant(np.linspace(0.001, 0.999, 99))
    scale = tf.constant(1.0, tf.float64)
    low, high = tf.constant(0.0, tf.float64), tf.constant(9.0, tf.float64)
    inside, outside = (
        truncated_normal_quantile(
            probability, tf.constant(loc, tf.float64), scale, low, high
        )
        for loc in (-30 + 1e-9, -30 - 1e-9)
    )
    np.testing.assert_allclose(inside, outside, rtol=2e-5)


@pytest.mark.parametrize(("loc", "scale", "tolerance"), _CASES)
def test_gradients_agree_with_finite_differences(loc, scale, tolerance):
    probability = tf.constant([0.01, 0.5, 0.97], tf.float64)

    def quantile(parameters):
        loc, log_scale = tf.unstack(parameters)
        return truncated_normal_quantile(
            probability,
            loc,
            tf.exp(log_scale),
            tf.constant(-20.0, tf.float64),
            tf.constant(0.0, tf.float64),
        )

    parameters = tf.constant([loc, np.log(scale)], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        value = quantile(parameters)
    analytic = tape.jacobian(value, parameters).numpy()
    for index, step in enumerate((1e-4 * scale, 1e-4)):
        shift = step * np.eye(2)[index]
        numeric = quantile(parameters + shift) - quantile(parameters - shift)
        np.testing.assert_allclose(
            analytic[:, index], numeric / (2 * step), rtol=1e-4, atol=1e-9
        )


def test_results_and_gradients_are_finite_and_inside_everywhere():
    loc, log_scale, probability = np.meshgrid(
        [-1e4, -100.0, -20.0, -19.9, -10.0, -0.01, 0.0, 1e-3, 50.0, 1e4],
        [-20.0, -10.0, -5.0, 0.0, 3.0, 5.0],
        [2.0**-60, 1e-9, 0.3, 0.5, 0.9, 1 - 2.0**-53],
    )
    loc, log_scale, probability = map(tf.constant, (loc, log_scale, probability))
    with tf.GradientTape() as tape:
        tape.watch([loc, log_scale])
        quantile = truncated_normal_quantile(
            probability,
            loc,
            tf.exp(log_scale),
            tf.constant(-20.0, tf.float64),
            tf.constant(0.0, tf.float64),
        )
    assert np.all((quantile >= -20) & (quantile <= 0))
    for gradient in tape.gradient(quantile, [loc, log_scale]):
        assert np.all(np.isfinite(gradient))
