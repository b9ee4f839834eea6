import numpy as np
import pytest
import scipy.special
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning import SpikeAndSlab, reduced_priors


def reference_zeta(delta_f, a0, b0, num_iterations):
    delta_f = delta_f.astype("float64")
    zeta = 0.0
    for _ in range(num_iterations):
        kept = scipy.special.expit(zeta - delta_f).sum()
        pruned = scipy.special.expit(delta_f - zeta).sum()
        zeta = scipy.special.psi(a0 + kept) - scipy.special.psi(b0 + pruned)
    return zeta


@pytest.mark.parametrize("arguments", [(1.0, 1.0, 4), (0.5, 30.0, 1), (2.0, 1e5, 20)])
@pytest.mark.parametrize("shift", [-30.0, -1.0, 0.0, 2.0, 1e4])
@pytest.mark.parametrize("size", [1, 1000, 2**18 + 3])
def test_zeta_agrees_with_scipy(arguments, shift, size):
    generator = np.random.default_rng(1)
    delta_f = (shift + 3 * generator.normal(size=size)).astype("float32")
    zeta = SpikeAndSlab(*arguments).threshold(delta_f)
    assert zeta == pytest.approx(reference_zeta(delta_f, *arguments), rel=1e-5)


def test_zeta_by_hand():
    # q = 1/2 for the only weight: digamma(3/2) - digamma(3/2) = 0.
    assert SpikeAndSlab().threshold(np.zeros(1, "float32")) == 0.0


@pytest.mark.parametrize("name", ["concentration1", "concentration0", "num_iterations"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_bad_arguments_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        SpikeAndSlab(**{name: value})


def test_distribution_becomes_a_reduced_prior():
    reduced_prior = reduced_priors.get(tfd.Normal(0.0, 0.1))
    assert not reduced_prior.is_point_mass
    assert reduced_prior.threshold(np.zeros(3)) == 0.0
    assert reduced_priors.get(tfd.Deterministic(0.0)).is_point_mass
