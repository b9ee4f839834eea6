import mpmath
import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.distributions import DiscreteNormal, log_grid_sum

# Scales from far below a step to several steps, the change of sums between them.
_WIDTHS = (1e-3, 0.1, 0.4, 0.7499, 0.7501, 1.0, 2.0, 5.0)
_LOCS = (0.0, 0.3, -0.5, 7.49, 0.25)


def _exact(loc, scale, step, offset=0.0):
    """log(h sum_k N(t_k; loc, scale^2)) by summation in 40 digits."""
    with mpmath.workdps(40):
        loc, scale, step, offset = (
            mpmath.mpf(float(value)) for value in (loc, scale, step, offset)
        )
        center = mpmath.nint((loc - offset) / step)
        reach = int(mpmath.ceil(15 * scale / step)) + 2
        total = mpmath.fsum(
            mpmath.npdf(offset + (center + k) * step, loc, scale)
            for k in range(-reach, reach + 1)
        )
        return float(mpmath.log(step * total))


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_the_sum_over_the_grid_is_exact(dtype, rtol):
    loc, width = (dtype(v) for v in np.meshgrid(_LOCS, _WIDTHS))
    step = dtype(0.5)
    loc, scale = loc * step, width * step
    value = log_grid_sum(loc, scale, step).numpy()
    exact = np.vectorize(_exact)(loc, scale, step)
    allowed = rtol * abs(exact) + 4 * np.finfo(dtype).eps
    assert np.all(abs(value - exact) <= allowed)


def test_fine_grids_cost_nothing_and_coarse_ones_are_finite():
    extreme = log_grid_sum(0.5, tf.constant([1e-6, 1e6], tf.float32), 1.0).numpy()
    np.testing.assert_allclose(extreme, [-0.125e12, 0.0], rtol=1e-6)


def test_gradients_are_those_of_the_sum_on_both_sides():
    for width in (0.3, 0.74, 0.76, 2.0):
        loc, scale = tf.constant(0.3, tf.float64), tf.constant(width, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch([loc, scale])
            value = log_grid_sum(loc, scale, 1.0)
        gradients = tape.gradient(value, [loc, scale])
        points = np.arange(-60, 61)
        mass = np.exp(-0.5 * ((points - 0.3) / width) ** 2)
        mass /= mass.sum()
        z = (points - 0.3) / width
        expected = [mass @ z / width, (mass @ z**2 - 1) / width]
        np.testing.assert_allclose(gradients, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("scale", [0.02, 0.2, 0.9])
def test_masses_sum_to_one_and_nothing_lies_between(scale):
    weight = DiscreteNormal(np.float64(0.33), scale, 0.25, offset=0.1)
    points = 0.1 + 0.25 * np.arange(-60, 61)
    mass = weight.prob(points).numpy()
    density = np.exp(-0.5 * ((points - 0.33) / scale) ** 2)
    np.testing.assert_allclose(mass, density / density.sum(), rtol=1e-9, atol=1e-300)
    assert weight.prob(0.2) == 0
    assert float(weight.mode()) == points[np.argmax(mass)]


@pytest.mark.parametrize("scale", [0.1, 0.8, 3.0])
def test_samples_have_the_masses(scale):
    weight = DiscreteNormal(0.2, scale, 0.5)
    samples = weight.sample(20_000, seed=(1, 2)).numpy()
    values, counts = np.unique(samples, return_counts=True)
    mass = weight.prob(values).numpy()
    assert mass.sum() > 0.999
    deviation = (counts / 20_000 - mass) / np.sqrt(mass / 20_000)
    assert np.max(np.abs(deviation[mass > 1e-3])) < 4.5


def test_bad_parameters_raise():
    with pytest.raises(ValueError, match="`step` must be positive.*step=0"):
        DiscreteNormal(0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="`scale` must be positive"):
        DiscreteNormal(0.0, [-1.0, 1.0], 1.0)
