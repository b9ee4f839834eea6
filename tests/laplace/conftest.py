import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest

from keras_bmr.laplace import Laplace


@pytest.fixture(scope="session")
def reference():
    """Values of laplace-torch 0.3 in float64, for one small network."""
    file = pathlib.Path(__file__).with_name("laplace_cases.json")
    return json.loads(file.read_text())["cases"]["mlp_classification"]


@pytest.fixture(scope="session")
def classification(reference):
    """The network of the reference, its loss and its data."""
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="float64"),
            keras.layers.Dense(8, activation="tanh", dtype="float64", name="hidden"),
            keras.layers.Dense(3, dtype="float64", name="head"),
        ]
    )
    model.set_weights(
        [np.reshape(flat, shape).T for _, shape, flat in reference["weights"]]
    )
    x = np.reshape(reference["x"], reference["x_shape"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model, loss, (x, np.array(reference["y"]))


@pytest.fixture(scope="session")
def fitted(classification):
    """Makes fitted Laplace posteriors of that network, each kind of fit once."""
    model, loss, data = classification
    fits = {}

    def make(structure, curvature="ggn", **options):
        laplace = Laplace(
            model, loss, curvature=curvature, structure=structure, **options
        )
        key = structure, curvature
        if key not in fits:
            fits[key] = laplace.fit(data, verbose=0)._fit
        # The curvature knows nothing of priors and temperatures.
        laplace._fit = dataclasses.replace(fits[key], temperature=laplace.temperature)
        return laplace

    return make


@pytest.fixture(scope="session")
def linear_regression():
    """A linear model at its exact posterior mode, and all that belongs to it."""
    noise, precision = 0.5, 3.0
    generator = np.random.default_rng(0)
    x = generator.normal(size=(30, 4))
    y = x @ generator.normal(size=(4, 2)) + noise * generator.normal(size=(30, 2))
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="float64"),
            keras.layers.Dense(2, use_bias=False, dtype="float64"),
        ]
    )
    posterior_precision = x.T @ x / noise**2 + precision * np.eye(4)
    model.set_weights([np.linalg.solve(posterior_precision, x.T @ y / noise**2)])
    laplace = Laplace(
        model,
        keras.losses.MeanSquaredError(),
        prior_precision=precision,
        observation_noise=noise,
    ).fit((x, y), verbose=0)
    return laplace, x, y, posterior_precision
