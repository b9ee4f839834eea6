"""Exact log Bayes factors, computed elsewhere with more than 80 digits."""

import json
import pathlib

import mpmath
import numpy as np
import pytest
import tensorflow_probability as tfp

from keras_bmr.distributions import LogUniform, TruncatedLogNormal
from keras_bmr.reduction import model_reduction

tfd = tfp.distributions
mpmath.mp.dps = 60

_VECTORS = json.loads(
    (pathlib.Path(__file__).parent / "delta_f_vectors.json").read_text()
)["vectors"]
_TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def _distributions(kind, value):
    if kind == "gauss_gauss":
        return (
            tfd.Normal(value["mu"], np.sqrt(value["s2"])),
            tfd.Normal(value["m0"], np.sqrt(value["v0"])),
            tfd.Normal(value["m1"], np.sqrt(value["v1"])),
        )
    if kind == "gauss_point":
        return (
            tfd.Normal(value["mu"], np.sqrt(value["s2"])),
            tfd.Normal(value["m0"], np.sqrt(value["v0"])),
            tfd.Deterministic(value["t0"]),
        )
    bounds = value["log_a"], value["log_b"]
    posterior = TruncatedLogNormal(value["mu"], value["sigma"], *bounds)
    if kind == "bmrs_n":
        reduced = TruncatedLogNormal(value["mu_red"], value["sigma_red"], *bounds)
    else:
        reduced = LogUniform(value["log_a_red"], value["log_b_red"])
    return posterior, LogUniform(*bounds), reduced


def _exact_normal(posterior, prior, reduced):
    """Evaluates the textbook formula at the parameters as rounded, with 60 digits."""

    def parameters(distribution):
        return [mpmath.mpf(float(v)) for v in (distribution.loc, distribution.scale)]

    mu, s = parameters(posterior)
    m0, s0 = parameters(prior)
    s2, v0 = s**2, s0**2
    if isinstance(reduced, tfd.Deterministic):
        t0 = mpmath.mpf(float(reduced.loc))
        return (
            mpmath.log(v0 / s2) / 2
            - (t0 - mu) ** 2 / (2 * s2)
            + (t0 - m0) ** 2 / (2 * v0)
        )
    m1, s1 = parameters(reduced)
    v1 = s1**2
    precision = 1 / s2 + 1 / v1 - 1 / v0
    mean = (mu / s2 + m1 / v1 - m0 / v0) / precision
    return (
        mpmath.log(v0 / s2 / v1 / precision)
        - mu**2 / s2
        - m1**2 / v1
        + m0**2 / v0
        + mean**2 * precision
    ) / 2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("vector", _VECTORS, ids=lambda v: f"{v['kind']}: {v['note']}")
def test_delta_f_meets_the_reference(vector, dtype):
    value = {k: np.asarray(v, dtype) for k, v in vector["inputs"].items()}
    arguments = _distributions(vector["kind"], value)

    delta_f = model_reduction(*arguments).delta_f

    assert delta_f.dtype == dtype
    expected = mpmath.mpf(vector["expected"])
    tolerance = _TOLERANCE[dtype] * abs(expected)
    if vector["kind"].startswith("gauss"):
        # Distributions take the rounded square root of the variance, and float32
        # its inputs rounded. Where that alone moves the exact value by more than
        # the tolerance, the exact value at the rounded inputs is the reference.
        rounded = _exact_normal(*arguments)
        if expected and abs(rounded - expected) > tolerance:
            expected, tolerance = rounded, _TOLERANCE[dtype] * abs(rounded)
    if "break-even" in vector["note"]:
        # log(v0/s2)/2 = 2.3 less the same: the result is rounding of one term.
        tolerance = 2 * np.finfo(dtype).eps * 2.3
    assert abs(mpmath.mpf(float(delta_f)) - expected) <= tolerance


def test_the_textbook_formula_agrees_with_the_reference():
    """Guards the evaluation that replaces the reference at rounded inputs."""
    for vector in _VECTORS:
        if vector["kind"] == "gauss_gauss" and vector["inputs"]["v1"] > 1e-3:
            value = {k: np.float64(v) for k, v in vector["inputs"].items()}
            exact = _exact_normal(*_distributions("gauss_gauss", value))
            assert abs(exact - mpmath.mpf(vector["expected"])) < 1e-11
