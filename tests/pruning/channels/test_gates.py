import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.layers import MultiplicativeNoise
from keras_bmr.pruning.channels import widths

layers = keras.layers
Input = keras.Input


def set_gates(model):
    generator = np.random.default_rng(3)
    for layer in model.layers:
        if isinstance(layer, MultiplicativeNoise):
            layer.noise.assign(generator.uniform(-2, 1, layer.noise.shape))
            layer.prune("noise", np.arange(layer.noise.shape[0]) != 1)


def gates_of(model):
    return [layer for layer in model.layers if isinstance(layer, MultiplicativeNoise)]


def behind_tanh():
    return keras.Sequential(
        [
            Input((5,)),
            layers.Dense(6, activation="tanh", name="a"),
            MultiplicativeNoise(),
            layers.Dropout(0.2),
            layers.Dense(4, activation="tanh", name="b"),
        ]
    )


def between_convolutions():
    return keras.Sequential(
        [
            Input((8, 8, 2)),
            layers.Conv2D(6, 3, name="a"),
            layers.BatchNormalization(),
            layers.ReLU(),
            MultiplicativeNoise(),
            layers.MaxPooling2D(),
            layers.Conv2D(5, 2, activation="relu", name="b"),
            MultiplicativeNoise(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def before_a_sum():
    inputs = Input((6,))
    x = layers.Dense(8, activation="relu", name="a")(inputs)
    x = MultiplicativeNoise()(x)
    x = layers.Add()([x, layers.Dense(8, name="b")(x)])
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize(
    "build, expected",
    [
        (behind_tanh, {"a": 5}),
        (between_convolutions, {"a": 5, "b": 4}),
        # The sum has a channel where the gate is closed.
        (before_a_sum, {"a": 8}),
    ],
)
@pytest.mark.parametrize("bayesian", [False, True])
def test_gates_are_folded(build, expected, bayesian, check_shrunk, random_weights):
    model = build()
    random_weights(model)
    if bayesian:
        model = keras_bmr.to_variational(model, num_examples=10)
    set_gates(model)
    small = check_shrunk(model)
    assert not gates_of(small)
    assert expected.items() <= widths(small).items()


@pytest.mark.parametrize(
    "between", [layers.LayerNormalization, lambda: layers.Activation("tanh")]
)
def test_a_gate_that_cannot_be_folded_stays(between, check_shrunk, random_weights):
    # Neither what comes before nor what follows commutes with a factor.
    model = keras.Sequential(
        [
            Input((5,)),
            layers.Dense(6, activation="tanh", name="a"),
            MultiplicativeNoise(num_examples=10),
            between(),
            layers.Dense(4, name="b"),
        ]
    )
    random_weights(model)
    set_gates(model)
    (gate,) = gates_of(check_shrunk(model))
    assert gate.num_examples == 10
    (old,) = gates_of(model)
    keep = old.mask("noise").numpy() | (widths(model)["a"] == gate.noise.shape[0])
    np.testing.assert_array_equal(gate.noise, old.noise.numpy()[keep])


def test_folding_scales_the_posterior(random_weights):
    model = behind_tanh()
    random_weights(model)
    prior = keras_bmr.priors.ScaleMixtureNormal()
    model = keras_bmr.to_variational(model, num_examples=10, prior=prior)
    set_gates(model)
    factors = gates_of(model)[0].posterior("noise").mean().numpy()
    old = model.get_layer("b").posterior("kernel")
    new = keras_bmr.shrink(model).get_layer("b").posterior("kernel")
    keep = np.arange(6) != 1
    for moment in ("mean", "stddev"):
        expected = (getattr(old, moment)().numpy() * factors[:, np.newaxis])[keep]
        np.testing.assert_allclose(getattr(new, moment)(), expected, rtol=1e-5)
