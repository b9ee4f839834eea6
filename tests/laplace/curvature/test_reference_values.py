"""Curvature against values of laplace-torch."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_bmr.laplace.curvature import fit_curvature

HERE = Path(__file__).parent
CURVATURES = {"ggn": "CurvlinopsGGN", "empirical_fisher": "CurvlinopsEF"}
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load(file, name):
    case = json.loads(file.read_text())["cases"][name]
    x = np.reshape(case["x"], case["x_shape"])
    y = np.reshape(case["y"], case.get("y_shape", (-1,)))
    return case, x, y


def keras_layout(weight):
    """Torch puts outputs first, Keras last."""
    axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[weight.ndim]
    return weight.transpose(axes)


def torch_layout(weight):
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[weight.ndim]
    return weight.transpose(axes)


def network(case, layers, shape):
    model = keras.Sequential([keras.Input(shape, dtype="float64"), *layers])
    model.set_weights([keras_layout(np.reshape(v, s)) for _, s, v in case["weights"]])
    return model


def mlp(case, x):
    (hidden, _), (outputs, _) = (case["weights"][i][1] for i in (0, 2))
    layers = [
        keras.layers.Dense(hidden, activation="tanh", dtype="float64"),
        keras.layers.Dense(outputs, dtype="float64"),
    ]
    return network(case, layers, x.shape[1:])


def convolutions(case, x):
    layers = [
        keras.layers.Conv2D(4, 3, activation="tanh", dtype="float64"),
        keras.layers.Conv2D(3, 3, activation="tanh", dtype="float64"),
        # Torch flattens with the channels first.
        keras.layers.Permute((3, 1, 2), dtype="float64"),
        keras.layers.Flatten(dtype="float64"),
        keras.layers.Dense(3, dtype="float64"),
    ]
    return network(case, layers, (*x.shape[2:], x.shape[1]))


# The empirical Fisher of the regression is missing: see the note of the file.
REFERENCES = pytest.mark.parametrize(
    "reference, curvature",
    [
        ("mlp_classification", "ggn"),
        ("mlp_classification", "empirical_fisher"),
        ("conv", "ggn"),
        ("conv", "empirical_fisher"),
        ("mlp_regression", "ggn"),
    ],
    indirect=["reference"],
)


@pytest.fixture(scope="module")
def reference(request):
    if request.param == "mlp_classification":
        file = HERE.parent / "laplace_cases.json"
        case, x, y = load(file, request.param)
        log_likelihood = case["results"][0]["log_likelihood"]
        return case, mlp(case, x), CROSS_ENTROPY, x, y, log_likelihood
    file = HERE / "laplace_torch_cases.json"
    if request.param == "conv":
        case, x, y = load(file, "conv_classification")
        model = convolutions(case, x)
        x = x.transpose(0, 2, 3, 1)
        return case, model, CROSS_ENTROPY, x, y, -case["loss"]
    case, x, y = load(file, request.param)
    log_likelihood = -case["loss"] - 0.5 * y.size * np.log(2 * np.pi)
    loss = keras.losses.MeanSquaredError()
    return case, mlp(case, x), loss, x, y, log_likelihood


@REFERENCES
def test_diagonal(reference, curvature):
    case, model, loss, x, y, log_likelihood = reference
    expected = case[f"diag_{CURVATURES[curvature]}"]
    result = fit_curvature(
        model, loss, (x, y), curvature=curvature, structure="diagonal", batch_size=5
    )
    found = [torch_layout(block.diagonal.numpy()).ravel() for block in result.blocks]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-10)
    np.testing.assert_allclose(result.log_likelihood, log_likelihood, rtol=1e-10)
    assert result.num_examples == len(x)


@REFERENCES
def test_kronecker(reference, curvature):
    case, model, loss, x, y, _ = reference
    expected = case[f"kron_eig_{CURVATURES[curvature]}"]
    result = fit_curvature(
        model, loss, (x, y), curvature=curvature, structure="kronecker", batch_size=5
    )
    for block, factors in zip(result.blocks, expected, strict=True):
        values = np.linalg.eigvalsh(block.output_factor)
        assert (block.input_factor is None) == (len(factors) == 1)
        if len(factors) == 2:
            values = np.outer(values, np.linalg.eigvalsh(block.input_factor))
            # What counts is the product: which factor carries the scale is free.
            factors = [np.outer(*factors)]
        # The smallest of the output layer is zero, known up to rounding.
        np.testing.assert_allclose(values, factors[0], rtol=1e-8, atol=1e-12)
