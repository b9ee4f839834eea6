import mpmath
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions import DiscreteNormal, Grid
from keras_bmr.reduction import model_reduction

tfd = tfp.distributions

# Posterior loc and scale, prior loc and scale, location and scale of the masses.
_CASES = [
    (0.3, 0.1, 0.0, 1.0, 0.0, 1.0),
    (0.3, 0.1, 0.1, 0.7, 0.0, 0.5),
    (-1.7, 0.02, 0.0, 2.0, 0.0, 2.0),
    (0.0, 0.5, 0.0, 0.6, 0.2, 0.3),
]
_STEPS = (0.05, 0.2, 0.37, 1.0)


def _exact(case, step):
    """log sum_k w_k q(t_k) / p(t_k) in 50 digits."""
    mu, s, m0, s0, m1, s1 = map(mpmath.mpf, case)
    with mpmath.workdps(50):
        points = [mpmath.mpf(step) * k for k in range(-400, 401)]
        mass = [mpmath.npdf(t, m1, s1) for t in points]
        ratio = [mpmath.npdf(t, mu, s) / mpmath.npdf(t, m0, s0) for t in points]
        products = (w * r for w, r in zip(mass, ratio, strict=True))
        return float(mpmath.log(mpmath.fsum(products) / mpmath.fsum(mass)))


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-11), (np.float32, 2e-5)])
def test_an_infinite_grid_against_a_long_sum(dtype, rtol):
    for case in _CASES:
        mu, s, m0, s0, m1, s1 = map(dtype, case)
        steps = np.array(_STEPS, dtype)
        reduction = model_reduction(
            tfd.Normal(mu, s), tfd.Normal(m0, s0), DiscreteNormal(m1, s1, steps)
        )
        rounded = [float(v) for v in (mu, s, m0, s0, m1, s1)]
        exact = [_exact(rounded, float(step)) for step in steps]
        np.testing.assert_allclose(
            reduction.delta_f, exact, rtol=rtol, atol=10 * np.finfo(dtype).eps
        )


def test_the_two_grids_agree_and_so_do_their_posteriors():
    posterior = tfd.Normal(np.float64([0.3, -0.1]), np.float64(0.2))
    prior = tfd.Normal(np.float64(0.1), np.float64(0.8))
    first, step = np.float64(-8.0), np.float64(0.25)
    finite = model_reduction(posterior, prior, Grid.of_density(prior, first, step, 65))
    infinite = model_reduction(
        posterior, prior, DiscreteNormal(prior.loc, prior.scale, step)
    )
    np.testing.assert_allclose(finite.delta_f, infinite.delta_f, rtol=1e-9, atol=1e-15)
    value = np.float64(0.25)
    np.testing.assert_allclose(
        finite.posterior.prob(value), infinite.posterior.prob(value), rtol=1e-10
    )
    np.testing.assert_array_equal(finite.posterior.mode(), infinite.posterior.mode())


def test_a_fine_grid_is_the_density_and_a_coarse_one_a_point():
    posterior, prior = tfd.Normal(np.float64(0.3), 0.2), tfd.Normal(np.float64(0), 1.0)
    wide = tfd.Normal(np.float64(0.1), 0.7)
    for reduced, step in ((prior, 0.2), (wide, 0.1)):
        grid = DiscreteNormal(reduced.loc, reduced.scale, step)
        np.testing.assert_allclose(
            model_reduction(posterior, prior, grid).delta_f,
            model_reduction(posterior, prior, reduced).delta_f,
            atol=1e-8,
        )
    point = model_reduction(posterior, prior, tfd.Deterministic(np.float64(0)))
    grid = DiscreteNormal(np.float64(0), 1.0, step=50.0)
    np.testing.assert_allclose(
        model_reduction(posterior, prior, grid).delta_f, point.delta_f, rtol=1e-12
    )


def test_other_families_against_monte_carlo():
    """The mean of the Savage-Dickey ratios over draws from the grid."""
    posterior = tfd.Laplace(np.float64(0.3), np.float64(0.2))
    prior = tfd.StudentT(np.float64(4), np.float64(0), np.float64(1))
    logits = np.log(np.random.default_rng(0).uniform(0.5, 1.5, 9))
    grid = Grid(np.float64(-1.0), 0.25, logits)
    reduction = model_reduction(posterior, prior, grid)
    t = np.random.default_rng(1).choice(
        -1 + 0.25 * np.arange(9), 200_000, p=np.exp(logits) / np.exp(logits).sum()
    )
    ratio = scipy.stats.laplace.pdf(t, 0.3, 0.2) / scipy.stats.t.pdf(t, 4)
    error = ratio.std() / ratio.mean() / np.sqrt(len(t))
    assert abs(float(reduction.delta_f) - np.log(ratio.mean())) < 4 * error
    # The reduced posterior's masses are in proportion to w q / p.
    share = ratio[t == 0.25].sum() / ratio.sum()
    np.testing.assert_allclose(reduction.posterior.prob(0.25), share, atol=0.01)


def test_the_more_probable_value_need_not_be_the_nearest():
    """Equal masses follow the likelihood, the prior's own masses the posterior."""
    posterior, prior = tfd.Normal(0.45, 0.4), tfd.Normal(0.0, 0.6)
    equal = model_reduction(posterior, prior, Grid(-2.0, 1.0, tf.zeros(5)))
    own = model_reduction(posterior, prior, Grid.of_density(prior, -2.0, 1.0, 5))
    assert float(equal.posterior.mode()) == 1
    assert float(own.posterior.mode()) == 0


def test_it_works_in_compiled_graphs_and_for_batches():
    loc = tf.constant([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])

    @tf.function(jit_compile=True)
    def compiled(loc, step):
        return model_reduction(
            tfd.Normal(loc, 0.05), tfd.Normal(0.0, 1.0), DiscreteNormal(0.0, 1.0, step)
        ).delta_f

    step = tf.constant([0.1, 0.2, 0.4])
    eager = model_reduction(
        tfd.Normal(loc, 0.05), tfd.Normal(0.0, 1.0), DiscreteNormal(0.0, 1.0, step)
    ).delta_f
    np.testing.assert_allclose(compiled(loc, step), eager, rtol=1e-5, atol=1e-6)


def test_what_has_no_density_raises():
    grid = Grid(-1.0, 1.0, tf.zeros(3))
    with pytest.raises(ValueError, match="must not be discrete.*DiscreteNormal"):
        model_reduction(tfd.Normal(0.0, 1.0), DiscreteNormal(0.0, 1.0, 1.0), grid)
    with pytest.raises(ValueError, match="values from -1.0 to 1.0"):
        model_reduction(tfd.Normal(0.0, 1.0), tfd.Uniform(-0.5, 0.5), grid)
