"""Criteria that look at gradients, against formulas of linear networks."""

import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr import ModelReduction
from keras_bmr.pruning import criteria

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(20, 4)).astype("float32")
Y = GENERATOR.normal(size=(20, 2)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])


def linear_gradient(weights):
    """Gradient of the mean of (x w - y)^2 over examples and outputs."""
    x = np.c_[X, np.ones(20)].astype("float64")
    return 2 * x.T @ (x @ weights - Y) / Y.size


def parameters(model):
    return np.concatenate(
        [model.layers[0].kernel.numpy(), model.layers[0].bias.numpy()[np.newaxis]]
    ).astype("float64")


@pytest.fixture
def kept(model, posteriors_of):
    def kept(criterion):
        source = posteriors_of(model)
        reduction = ModelReduction(source, criterion=criterion, sparsity=0.5)
        bias = reduction.keep("d", "bias")[np.newaxis]
        return np.concatenate([reduction.keep("d", "kernel"), bias])

    return kept


@pytest.mark.parametrize("batch_size", [20, 7])
def test_snip_and_grasp(model, kept, batch_size):
    weights = parameters(model)
    gradient = linear_gradient(weights)
    sensitivity = np.abs(weights * gradient)
    snip = criteria.SNIP("mse", X, Y, batch_size=batch_size)
    np.testing.assert_array_equal(
        kept(snip), sensitivity > np.sort(sensitivity.ravel())[4]
    )
    # The loss is quadratic: differences of gradients are exact Hessian products.
    product = linear_gradient(weights + gradient) - gradient
    flow = -weights * product
    grasp = criteria.GraSP("mse", X, Y, batch_size=batch_size)
    np.testing.assert_array_equal(kept(grasp), flow < np.sort(flow.ravel())[::-1][4])


def test_synflow_of_a_linear_network():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, use_bias=False, name="first"),
            keras.layers.Dense(2, use_bias=False, name="second"),
        ]
    )
    model = keras_bmr.to_variational(model, num_examples=10)
    first, second = (np.abs(layer.kernel.numpy()) for layer in model.layers)
    flow = {
        "first": first * second.sum(axis=1),
        "second": second * first.sum(axis=0)[:, np.newaxis],
    }
    both = np.concatenate([value.ravel() for value in flow.values()])
    cut = np.sort(both)[9]
    reduction = ModelReduction(model, criterion="synflow", sparsity=0.5)
    for name, value in flow.items():
        np.testing.assert_array_equal(reduction.keep(name), value > cut)


def test_snip_of_a_bayesian_model_stands_at_the_means(model, kept):
    bayesian = keras_bmr.to_variational(model, num_examples=20, bayesian_bias=True)
    snip = criteria.SNIP(keras.losses.MeanSquaredError(), X, Y)
    reduction = ModelReduction(bayesian, criterion=snip, sparsity=0.5)
    np.testing.assert_array_equal(reduction.keep("d", "kernel"), kept(snip)[:-1])


def test_chance_is_seeded_and_uniform(kept):
    first, again = (kept(criteria.Random(seed=3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (kept(criteria.Random(seed=4)) != first).any()
    shares = np.mean([kept(criteria.Random(seed=i)) for i in range(60)], axis=0)
    # Five standard deviations of 60 draws.
    np.testing.assert_allclose(shares, 0.5, atol=0.33)


def test_bad_data_are_refused():
    with pytest.raises(ValueError, match=r"x.shape=\(20, 4\), y.shape=\(19, 2\)"):
        criteria.SNIP("mse", X, Y[1:])
    with pytest.raises(ValueError, match="at least one"):
        criteria.GraSP("mse", X[:0], Y[:0])
    with pytest.raises(ValueError, match="seed"):
        criteria.Random(seed=-1)


def test_a_class_that_needs_arguments_is_refused():
    with pytest.raises(ValueError, match=r"Expected an instance, `SNIP\(loss, x, y"):
        criteria.get(criteria.SNIP)
    assert isinstance(criteria.get(criteria.Magnitude), criteria.Magnitude)


@pytest.mark.parametrize("interface", [criteria.Criterion, criteria.GradientCriterion])
def test_an_interface_is_no_criterion(interface):
    with pytest.raises(ValueError, match="'magnitude'.*or an instance of `Criterion`"):
        criteria.get(interface)
    with pytest.raises(TypeError, match="abstract"):
        type("Unfinished", (interface,), {})()
