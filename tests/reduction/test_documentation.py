"""The examples of the docstrings and of the page on adding a family."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import sys

import pytest
import tensorflow_probability as tfp

import keras_bmr.distributions
import keras_bmr.reduction

_MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (keras_bmr.reduction, keras_bmr.distributions)
    for module in pkgutil.iter_modules(package.__path__)
]
_PAGE = pathlib.Path(__file__).parents[2] / "docs" / "extending_reduction.md"


@pytest.fixture(autouse=True)
def _registry_restored(monkeypatch):
    module = sys.modules["keras_bmr.reduction.model_reduction"]
    monkeypatch.setattr(module, "_REDUCTIONS", dict(module._REDUCTIONS))


@pytest.mark.parametrize("name", _MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_page_on_adding_a_family():
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.DOTALL):
        exec(block, namespace)
    gamma = tfp.distributions.Gamma
    arguments = namespace["posterior"], namespace["prior"], gamma(3.0, 2.5)
    estimate = keras_bmr.reduction.monte_carlo_delta_f(*arguments, 100_000, seed=0)
    exact = keras_bmr.reduction.model_reduction(*arguments).delta_f
    assert abs(estimate.delta_f - exact) < 4 * estimate.standard_error
