import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.layers import MultiplicativeNoise, add_noise_gates, variational_layers

L = keras.layers


def residual_network():
    inputs = keras.Input((8, 8, 3))
    stem = L.Conv2D(4, 3, padding="same", name="stem")(inputs)
    stem = L.ReLU()(L.BatchNormalization()(stem))
    hidden = L.Conv2D(6, 3, padding="same", name="expand")(stem)
    hidden = L.MaxPooling2D(1)(L.ReLU()(hidden))
    hidden = L.DepthwiseConv2D(3, padding="same", name="depthwise")(hidden)
    hidden = L.BatchNormalization()(hidden)
    hidden = L.Conv2D(4, 1, groups=2, name="branch")(hidden)
    hidden = keras.ops.relu(L.Add()([hidden, stem]))
    hidden = L.GlobalAveragePooling2D()(hidden)
    inner = keras.Sequential(
        [keras.Input((4,)), L.Dense(6, "tanh", name="in"), L.Dense(5, name="out")],
        name="inner",
    )
    shared = L.Dense(5, name="shared")
    hidden = shared(shared(inner(hidden)))
    model = keras.Model(inputs, L.Softmax()(L.Dense(3, name="head")(hidden)))
    generator = np.random.default_rng(0)
    for variable in model.weights:
        draw = generator.uniform(0.1, 1, variable.shape)
        sign = generator.choice([-1, 1], variable.shape) if draw.ndim > 1 else 1
        variable.assign(0.7 * sign * draw)
    return model


def gates_of(model):
    return {
        layer.name: layer
        for layer in variational_layers(model)
        if isinstance(layer, MultiplicativeNoise)
    }


@pytest.fixture(scope="module")
def pair():
    model = residual_network()
    return model, add_noise_gates(model, num_examples=50)


def test_gates_stand_behind_the_blocks(pair):
    _, gated = pair
    found = gates_of(gated)
    assert set(found) == {"stem_gate", "expand_gate", "branch_gate", "in_gate"}
    assert {gate.num_examples for gate in found.values()} == {50}
    layers = [layer.name for layer in gated.layers]
    behind = [layers[layers.index(f"{n}_gate") - 1] for n in ("expand", "branch")]
    assert behind[0].startswith("max_pooling") and behind[1] == "branch"


def test_open_gates_change_nothing_and_shut_ones_remove_the_channel(pair):
    model, gated = pair
    x = np.random.default_rng(1).uniform(size=(2, 8, 8, 3)).astype("float32")
    # A location far above the interval is a factor of 1.
    for gate in gates_of(gated).values():
        gate.noise.assign(gate.noise + 1e4)
    np.testing.assert_allclose(gated(x), model(x), rtol=1e-5)

    gates_of(gated)["stem_gate"].close([False, True, False, False])
    reference = residual_network()
    # Zero behind the ReLU: for the shortcut as for the branch.
    normalization = next(
        layer for layer in reference.layers if isinstance(layer, L.BatchNormalization)
    )
    for variable in (normalization.gamma, normalization.beta):
        variable.assign(variable * np.array([1, 0, 1, 1]))
    np.testing.assert_allclose(gated(x), reference(x), rtol=1e-5)
    assert np.abs(gated(x) - model(x)).max() > 1e-4
    gates_of(gated)["stem_gate"].close([False] * 4)


def test_again_and_skip(pair):
    model, gated = pair
    with pytest.raises(ValueError, match="no place for a noise gate"):
        add_noise_gates(gated)
    some = add_noise_gates(model, skip=["inner", "stem"])
    assert set(gates_of(some)) == {"expand_gate", "branch_gate"}


def test_structured_conversion_and_its_export(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            L.Conv2D(3, 3, activation="relu"),
            L.MaxPooling2D(),
            L.Flatten(),
            L.Dense(5, activation="relu"),
            L.Dense(2),
        ],
        name="network",
    )
    bayesian = keras_bmr.to_variational(model, num_examples=30, structured=True)
    assert isinstance(bayesian, keras.Sequential) and bayesian.name == "network"
    assert [type(layer).__name__ for layer in bayesian.layers] == [
        "Conv2DVariational",
        "MaxPooling2D",
        "MultiplicativeNoise",
        "Flatten",
        "DenseVariational",
        "MultiplicativeNoise",
        "DenseVariational",
    ]
    np.testing.assert_array_equal(bayesian.layers[0].kernel, model.layers[0].kernel)
    bayesian.layers[2].prune("noise", np.array([True, False, True]))
    keras_bmr.objectives.set_kl_factor(bayesian, 0.5)
    weights = [layer.kl_weight.numpy() for layer in variational_layers(bayesian)]
    np.testing.assert_allclose(weights, 5 * [0.5 / 30], rtol=1e-6)
    x = np.random.default_rng(0).uniform(size=(4, 6, 6, 1)).astype("float32")
    report = keras_bmr.export_tflite(
        bayesian, tmp_path / "model.tflite", validation_data=x
    )
    assert report.max_difference < 1e-5
    assert not any("Flex" in name for name in report.ops)


def test_gates_join_the_weight_of_the_divergence():
    model = keras.Sequential([keras.Input((3,)), L.Dense(4, "relu"), L.Dense(2)])
    bayesian = keras_bmr.to_variational(model, num_examples=20)
    keras_bmr.objectives.set_kl_factor(bayesian, 0.25)
    gated = add_noise_gates(bayesian)
    (gate,) = gates_of(gated).values()
    assert gate.num_examples == 20
    assert float(gate.kl_weight.numpy()) == pytest.approx(0.25 / 20)


def test_what_cannot_have_gates():
    with pytest.raises(ValueError, match="no place for a noise gate"):
        add_noise_gates(keras.Sequential([keras.Input((3,)), L.Dense(2)]))
    with pytest.raises(ValueError, match="not built"):
        add_noise_gates(keras.Sequential([L.Dense(2)]))
    model = keras.Sequential([keras.Input((3,)), L.Dense(4, name="a"), L.Dense(2)])
    with pytest.raises(ValueError, match="num_examples"):
        add_noise_gates(model, num_examples=0)
    with pytest.raises(ValueError, match="skip"):
        add_noise_gates(model, skip=["nothing"])
