"""The granularity "channel" on models whose channels are found by the graph."""

import keras
import numpy as np
import pytest
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr import ModelReduction, reduce_model
from keras_bmr.layers import MultiplicativeNoise


class KernelPosteriors:
    """Normals around the kernels of an ordinary model."""

    def __init__(self, model):
        self.model = model

    def weights(self):
        return [(la, "kernel") for la in self.model.layers if hasattr(la, "kernel")]

    def posterior(self, layer, name):
        value = layer.kernel.value
        return tfd.Normal(value, 0.05 + 0 * value)

    def prior(self, layer, name):
        return tfd.Normal(0.0, 1.0)


@pytest.fixture(scope="module")
def residual():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = keras.layers.Conv2D(5, 3, padding="same", name="inner")(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    y = keras.layers.ReLU()(y)
    y = keras.layers.Conv2D(4, 1, name="back")(y)
    x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    # The channel 2 of the sum is worth little.
    scale = np.where(np.arange(4) == 2, 0.01, 1.0)
    for name in ("stem", "back"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * scale)
    for name in ("inner", "head"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * scale[:, np.newaxis])
    return model


@pytest.mark.parametrize("granularity", ["channel", "unit"])
def test_coupled_channels_of_an_ordinary_model_go_together(residual, granularity):
    kernels = {n: residual.get_layer(n).kernel.numpy() for n in ("stem", "inner")}
    kernels |= {n: residual.get_layer(n).kernel.numpy() for n in ("back", "head")}
    damage = {name: (kernel / 0.05) ** 2 for name, kernel in kernels.items()}
    # The sum of the addition is made by two layers and read by two.
    added = damage["stem"].sum((0, 1, 2)) + damage["back"].sum((0, 1, 2))
    added += damage["inner"].sum((0, 1, 3)) + damage["head"].sum(1)
    inner = damage["inner"].sum((0, 1, 2)) + damage["back"].sum((0, 1, 3))
    reduced = reduce_model(
        KernelPosteriors(residual),
        criterion="opd",
        granularity=granularity,
        threshold=-np.sort(np.concatenate([added, inner]))[3] - 1e-3,
    )
    cut = np.sort(np.concatenate([added, inner]))[3] + 1e-2
    kept = {"added": added > cut, "inner": inner > cut}
    assert [(~value).sum() for value in kept.values()] == [1, 3]
    expected = {
        "stem": np.broadcast_to(kept["added"], (3, 3, 2, 4)),
        "inner": kept["added"][:, np.newaxis]
        & kept["inner"]
        & np.ones((3, 3, 1, 1), bool),
        "back": kept["inner"][:, np.newaxis]
        & kept["added"]
        & np.ones((1, 1, 1, 1), bool),
        "head": np.broadcast_to(kept["added"][:, np.newaxis], (4, 3)),
    }
    for name, kernel in expected.items():
        found = reduced.get_layer(name).kernel.numpy()
        np.testing.assert_array_equal(found != 0, kernel, err_msg=name)
    norm = reduced.get_layer("norm")
    np.testing.assert_array_equal(norm.gamma.numpy() != 0, kept["inner"])
    np.testing.assert_array_equal(norm.moving_variance.numpy(), np.ones(5))
    assert isinstance(reduced, keras.Model) and keras_bmr.sparsity(residual) == 0


def test_gates_decide_and_weights_leave_them_alone():
    network = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(6, activation="relu", name="second"),
            keras.layers.Dense(2, name="output"),
        ]
    )
    model = keras_bmr.to_variational(network, num_examples=10, structured=True)
    gates = [la for la in model.layers if isinstance(la, MultiplicativeNoise)]
    assert len(gates) == 2
    generator = np.random.default_rng(0)
    locations = [np.sort(generator.uniform(-5, 0, gate.noise.shape)) for gate in gates]
    for gate, location in zip(gates, locations, strict=True):
        gate.noise.assign(location)
    reduced = reduce_model(
        model,
        reduced_prior="bmrs_n",
        criterion="expected_value",
        granularity="channel",
        sparsity=0.5,
    )
    cut = np.sort(np.concatenate(locations))[7]
    for gate, location in zip(gates, locations, strict=True):
        found = reduced.get_layer(gate.name).mask("noise").numpy()
        np.testing.assert_array_equal(found, location > cut - 1e-6)
    for name in ("hidden", "second", "output"):
        assert reduced.get_layer(name).mask("kernel").numpy().all()
    weights = ModelReduction(model, sparsity=0.5)
    assert [row.layer for row in weights.layers()] == ["hidden", "second", "output"]


def test_a_layer_without_a_rule_is_named():
    class Odd(keras.layers.Layer):
        def call(self, inputs):
            return keras.ops.flip(inputs, axis=-1)

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), Odd(name="odd")]
    )
    with pytest.raises(ValueError, match="(?s)'odd'.*Odd.*register_channel_rule"):
        ModelReduction(KernelPosteriors(model), granularity="channel")
