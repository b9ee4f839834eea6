import hypothesis
import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.reduction import model_reduction, monte_carlo_delta_f

tfd = tfp.distributions

_LOC = st.floats(-5, 5)
_SCALE = st.floats(1e-3, 10)


def _textbook(mu, s, m0, s0, m1, s1):
    """The textbook form in natural parameters, with 50 digits."""
    with mpmath.workdps(50):
        mu, s, m0, s0, m1, s1 = map(mpmath.mpf, (mu, s, m0, s0, m1, s1))
        precision = 1 / s**2 + 1 / s1**2 - 1 / s0**2
        mean = (mu / s**2 + m1 / s1**2 - m0 / s0**2) / precision
        quadratic = (mu / s) ** 2 + (m1 / s1) ** 2 - (m0 / s0) ** 2
        quadratic -= mean**2 * precision
        log_scales = mpmath.log(s0**2 / (s**2 * s1**2 * precision))
        return (
            float((log_scales - quadratic) / 2),
            float(mean),
            float(1 / mpmath.sqrt(precision)),
        )


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(_LOC, _SCALE, _LOC, _SCALE, _LOC, st.floats(1e-6, 1))
def test_delta_f_and_posterior_against_the_textbook_form(mu, s, m0, s0, m1, share):
    s1 = s0 * share
    delta_f, mean, scale = _textbook(mu, s, m0, s0, m1, s1)
    reduction = model_reduction(
        *(
            tfd.Normal(np.float64(m), np.float64(v))
            for m, v in ((mu, s), (m0, s0), (m1, s1))
        )
    )
    # What remains is the difference of squares of the standardised distances.
    spread = s**2 + s1**2
    condition = 1 + (abs(mu - m1) ** 2 + abs(m1 - m0) ** 2 + abs(mu - m0) ** 2) / spread
    np.testing.assert_allclose(
        reduction.delta_f, delta_f, rtol=1e-12, atol=1e-14 * condition
    )
    np.testing.assert_allclose(reduction.posterior.mean(), mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(reduction.posterior.stddev(), scale, rtol=1e-12)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(_LOC, st.floats(1e-8, 1e8), _LOC, st.floats(1e-8, 1e8))
def test_reduced_equal_to_full_changes_nothing(mu, s, m0, s0):
    posterior = tfd.Normal(np.float64(mu), np.float64(s))
    prior = tfd.Normal(np.float64(m0), np.float64(s0))
    reduction = model_reduction(posterior, prior, prior)
    assert float(reduction.delta_f) == 0
    np.testing.assert_allclose(reduction.posterior.mean(), mu, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(reduction.posterior.stddev(), s, rtol=1e-12)


def test_a_prior_variance_other_than_one_counts():
    """Analytic evidences of one observation y ~ N(theta, 1)."""
    y, v0, v1 = 1.3, 4.0, 0.3
    precision = 1 + 1 / v0
    reduction = model_reduction(
        tfd.Normal(np.float64(y / precision), np.float64(precision**-0.5)),
        tfd.Normal(np.float64(0), np.float64(v0**0.5)),
        tfd.Normal(np.float64(0), np.float64(v1**0.5)),
    )

    def log_evidence(v):
        return -0.5 * np.log(2 * np.pi * (1 + v)) - 0.5 * y**2 / (1 + v)

    np.testing.assert_allclose(
        reduction.delta_f, log_evidence(v1) - log_evidence(v0), rtol=1e-13
    )
    np.testing.assert_allclose(reduction.posterior.mean(), y / (1 + 1 / v1), rtol=1e-13)


def test_monte_carlo_agrees():
    arguments = tfd.Normal(0.4, 0.5), tfd.Normal(0.1, 2.0), tfd.Normal(0.0, 0.6)
    estimate = monte_carlo_delta_f(*arguments, num_samples=100_000, seed=3)
    exact = model_reduction(*arguments).delta_f
    assert abs(estimate.delta_f - exact) < 4 * estimate.standard_error
    assert estimate.standard_error < 0.005


def _random_parameters(size, dtype):
    generator = np.random.default_rng(0)
    s = np.exp(generator.uniform(-10, 0, size))
    mu = s * generator.normal(size=size) * np.exp(generator.uniform(-3, 2, size))
    return mu.astype(dtype), s.astype(dtype)


@pytest.mark.parametrize("reduced_scale", [1e-8, 1e-3, 0.7, 1.9])
def test_float32_agrees_with_float64(reduced_scale):
    mu, s = _random_parameters(20_000, np.float32)

    def delta_f(dtype):
        prior = tfd.Normal(dtype(0), dtype(np.float32(2.0)))
        reduced = tfd.Normal(dtype(0), dtype(np.float32(reduced_scale)))
        posterior = tfd.Normal(mu.astype(dtype), s.astype(dtype))
        return model_reduction(posterior, prior, reduced).delta_f.numpy()

    exact = delta_f(np.float64)
    # Where the log ratio and the misfit cancel, relative to the log ratio.
    a, r = (s.astype(np.float64) / 2) ** 2, (np.float32(reduced_scale) / 2) ** 2
    size = np.maximum(np.abs(exact), np.abs(np.log(a + r * (1 - a))) / 2)
    assert np.max(np.abs(delta_f(np.float32) - exact) / size) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_modes_agree_and_the_batch_shape_is_kept(mode, dtype):
    mu = np.linspace(-1, 1, 12).reshape(3, 4).astype(dtype)
    zero, scale = tf.zeros([], dtype), tf.constant(0.2, dtype)

    def delta_f(mu, prior_scale, reduced_scale):
        return model_reduction(
            tfd.Normal(mu, scale),
            tfd.Normal(zero, prior_scale),
            tfd.Normal(zero, reduced_scale),
        ).delta_f

    function = delta_f
    if mode != "eager":
        function = tf.function(delta_f, jit_compile=mode == "jit")
    prior_scale = tf.constant([[1.0], [2.0], [3.0]], dtype)
    result = function(tf.constant(mu), prior_scale, tf.constant(0.1, dtype)).numpy()
    assert result.shape == (3, 4)
    for row in range(3):
        for column in range(4):
            expected = _textbook(
                float(mu[row, column]),
                float(scale),
                0,
                row + 1,
                0,
                float(tf.constant(0.1, dtype)),
            )[0]
            np.testing.assert_allclose(
                result[row, column], expected, rtol={"float32": 1e-5}.get(dtype, 1e-12)
            )


def test_gradients_agree_with_finite_differences():
    def delta_f(parameters):
        mu, s, m0, s0, m1, s1 = tf.unstack(parameters)
        return model_reduction(
            tfd.Normal(mu, s), tfd.Normal(m0, s0), tfd.Normal(m1, s1)
        ).delta_f

    for values in ([0.3, 0.2, 0.1, 2.0, -0.2, 0.1], [0.3, 0.9, 0.1, 1.0, -0.2, 0.95]):
        parameters = tf.constant(values, tf.float64)
        analytic, numeric = tf.test.compute_gradient(delta_f, [parameters], 1e-6)
        np.testing.assert_allclose(analytic[0], numeric[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_finite_at_extremes(dtype):
    mu, s, s0, s1 = (
        tf.constant(column, dtype)
        for column in zip(
            (0.0, 1e-6, 1e-6, 1e-8),
            (3.0, 1e-4, 1.0, 1e-8),
            (0.0, 1.0, 1.0, 1.0),
            (0.0, 1e-3, 1e3, 1e-3),
            (1e3, 1e-3, 1.0, 0.999),
            strict=True,
        )
    )
    with tf.GradientTape() as tape:
        tape.watch([mu, s, s0, s1])
        zero = tf.zeros([], dtype)
        delta_f = model_reduction(
            tfd.Normal(mu, s), tfd.Normal(zero, s0), tfd.Normal(zero, s1)
        ).delta_f
    for gradient in tape.gradient(delta_f, [mu, s, s0, s1]):
        assert np.all(np.isfinite(gradient))


def test_an_improper_reduced_posterior_raises_and_is_nan_in_a_graph():
    posterior = tfd.Normal([0.0, 0.0, 0.0], [0.1, 2.0, 4.0])
    prior, reduced = tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 3.0)
    with pytest.raises(
        ValueError, match=r"improper in 2 of 3 entries.*Received: -7.43.*broader"
    ):
        model_reduction(posterior, prior, reduced)
    for jit in (False, True):
        reduction = tf.function(
            lambda: model_reduction(posterior, prior, reduced).delta_f, jit_compile=jit
        )()
        np.testing.assert_array_equal(np.isnan(reduction), [False, True, True])


def test_a_reduced_posterior_leaves_a_tf_function():
    posterior = tfd.Normal([0.5, 1.0], 0.3)
    reduce = tf.function(
        lambda q: model_reduction(q, tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 0.2))
    )
    np.testing.assert_allclose(
        reduce(posterior).posterior.mean(),
        model_reduction(
            posterior, tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 0.2)
        ).posterior.mean(),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (([np.nan, 0], 1, 0, 1, 0, 1), "posterior loc must be finite.*nan.*1 of 2"),
        ((0, np.inf, 0, 1, 0, 1), "posterior scale must be finite. Received: inf"),
        ((0, 1, 0, -1, 0, 1), "prior scale must be positive. Received: -1"),
        ((0, 1, 0, 1, 0, 0), "reduced prior scale must be positive. Received: 0"),
    ],
)
def test_bad_parameters_raise(parameters, message):
    mu, s, m0, s0, m1, s1 = (np.asarray(p, np.float32) for p in parameters)
    with pytest.raises(ValueError, match=message):
        model_reduction(tfd.Normal(mu, s), tfd.Normal(m0, s0), tfd.Normal(m1, s1))
