import math

import keras
import numpy as np
import pytest
import scipy.stats

import keras_bmr
from keras_bmr.distributions import TruncatedLogNormal
from keras_bmr.pruning import BMRSNormal, BMRSUniform, GateGroups, reduced_priors

# Collapsed, on its way, undecided, needed.
LOC = np.array([-25.0, -16.0, -9.0, 0.1], "float32")
SCALE = np.array([0.5, 4.0, 5.0, 0.01], "float32")


@pytest.fixture(scope="module")
def model():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, "relu"),
            keras_bmr.layers.MultiplicativeNoise(num_examples=10, name="gates"),
            keras.layers.Dense(2),
        ]
    )
    gates = model.get_layer("gates")
    gates.assign_posterior("noise", TruncatedLogNormal(LOC, SCALE, -20.0, 0.0))
    return model


def reduction(model, reduced_prior, **options):
    options = {"granularity": GateGroups, **options}
    return keras_bmr.ModelReduction(model, reduced_prior, **options)


def truncnorm(loc, scale):
    return scipy.stats.truncnorm((-20 - loc) / scale, -loc / scale, loc, scale)


@pytest.mark.parametrize("name", ["bmrs_n", "bmrs_n_reference"])
def test_bmrs_n_is_the_density_at_the_smallest_factor(model, name):
    expected = np.array(
        [
            truncnorm(*pair).logpdf(-20.0) + math.log(20)
            for pair in zip(LOC, SCALE, strict=True)
        ]
    )
    result = reduction(model, name)
    np.testing.assert_allclose(
        result.delta_f("gates")[:3], expected[:3], rtol=1e-4, atol=1e-4
    )
    assert result.delta_f("gates")[3] < -1e6
    threshold = {"bmrs_n": 0.0, "bmrs_n_reference": -0.5 * math.log(2 * math.pi)}[name]
    np.testing.assert_array_equal(result.keep("gates"), ~(expected > threshold))


@pytest.mark.parametrize(("name", "p1"), [("bmrs_u8", 8), ("bmrs_u4", 4)])
def test_bmrs_u_is_the_mass_of_the_small_factors(model, name, p1):
    high = -p1 * math.log(2)
    low = -23 * math.log(2)
    expected = []
    for pair in zip(LOC[:3], SCALE[:3], strict=True):
        noise = truncnorm(*pair)
        mass = noise.cdf(high) - noise.cdf(low)
        if mass < 1e-6:
            # In the upper tail, where the difference is nothing but rounding.
            mass = noise.sf(low) - noise.sf(high)
        expected.append(np.log(mass) + math.log(20 / (high - low)))
    result = reduction(model, name)
    np.testing.assert_allclose(
        result.delta_f("gates")[:3], expected[:3], rtol=1e-4, atol=1e-6
    )
    keep = [*(np.array(expected) <= 0), True]
    np.testing.assert_array_equal(result.keep("gates"), keep)


def test_lower_bound_decides_on_collapsed_and_on_idle_gates(model):
    everything = reduction(model, BMRSUniform(p1=8, low=-20.0)).delta_f("gates")
    published = reduction(model, BMRSUniform(p1=8)).delta_f("gates")
    # The first gate has collapsed, the third hardly differs from its prior.
    assert everything[0] > 0 > published[0]
    assert published[2] > everything[2]


@pytest.mark.parametrize("name", ["point_mass", "spike_and_slab"])
def test_zero_stands_for_the_smallest_factor(model, name):
    # The default reduced prior is one of them, and criteria go with it.
    result = reduction(model, name, criterion="expected_value", sparsity=0.5)
    np.testing.assert_array_equal(result.keep("gates"), [False, False, True, True])
    expected = reduction(model, "bmrs_n").delta_f("gates")
    np.testing.assert_allclose(result.delta_f("gates"), expected, rtol=1e-6)


def test_other_criteria_and_a_second_reduction(model):
    noise = [truncnorm(*pair) for pair in zip(LOC, SCALE, strict=True)]
    draws = np.exp([x.ppf(np.linspace(5e-6, 1 - 5e-6, 100001)) for x in noise])
    scores = {
        "expected_value": draws.mean(1),
        # A gate that collapsed has next to no noise.
        "signal_to_noise": draws.mean(1) / draws.std(1),
    }
    for criterion, values in scores.items():
        result = reduction(model, "bmrs_n", criterion=criterion, sparsity=0.5)
        lowest = np.argsort(values)[:2]
        np.testing.assert_array_equal(
            np.flatnonzero(~result.keep("gates")), sorted(lowest)
        )
    between = -np.sqrt(scores["expected_value"][1] * scores["expected_value"][2])
    result = reduction(model, "bmrs_n", criterion="expected_value", threshold=between)
    pruned = keras_bmr.layers.conversion.copy_model(model)
    result.apply(pruned)
    mask = pruned.get_layer("gates").mask("noise").numpy()
    np.testing.assert_array_equal(mask, [False, False, True, True])
    again = reduction(pruned, "bmrs_n")
    assert again.delta_f("gates")[:2].tolist() == [0, 0]


def test_names_and_invalid_arguments(model):
    assert reduced_priors.get("bmrs_u4").p1 == 4
    for build, message in (
        (lambda: BMRSUniform(p1=0.0), "p1"),
        (lambda: BMRSUniform(p1=40.0), "smallest factor"),
        (lambda: BMRSNormal(scale=-1.0), "scale"),
        (lambda: BMRSNormal(threshold=math.nan), "threshold"),
        (lambda: BMRSNormal(log_low=1.0), "smallest factor"),
        (lambda: reduction(model, BMRSUniform(low=-30.0)), "nested"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(ValueError, match="write_back"):
        keras_bmr.reduce_model(
            model, "bmrs_u8", granularity=GateGroups, write_back=True
        )
