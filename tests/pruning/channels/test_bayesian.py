"""Bayesian models that shrink: posteriors, masks, flags, and training afterwards."""

import keras
import numpy as np
import pytest

import keras_bmr
from keras_bmr.layers import variational_layers
from keras_bmr.pruning.channels import ChannelGraph, prune_channels

layers = keras.layers


@pytest.fixture(scope="module")
def models():
    """A masked model and the smaller one."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 2), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="conv", dtype="float32")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(8, activation="tanh", name="dense", use_bias=False)(x)
    outputs = layers.Dense(3, name="head", activation="sigmoid")(x)
    model = keras.Model(inputs, outputs, name="small_network")
    model = keras_bmr.to_variational(
        model, num_examples=40, bayesian_bias=True, prior="layerwise_normal"
    )
    model.get_layer("depthwise").trainable = False
    generator = np.random.default_rng(0)
    for layer in variational_layers(model):
        layer.kl_weight.assign(layer.kl_weight.value * 0.5)
        for name in layer.random_weight_names:
            shape = layer.mask(name).shape
            state = layer._random[name].posterior_state
            state["log_scale"].assign(generator.uniform(-0.4, -0.1, shape))
            layer.prune(name, generator.random(shape) < 0.9)
    graph = ChannelGraph(model)
    groups = {axis.layer.name: axis.groups for axis in graph.axes if axis.axis > 0}
    prune_channels(model, [*groups["conv"][[0, 2]], groups["dense"][7]], graph)
    return model, keras_bmr.shrink(model)


def test_output_stays(models):
    model, small = models
    x = np.random.default_rng(1).normal(size=(4, 6, 6, 2)).astype("float32")
    np.testing.assert_allclose(small(x), model(x), atol=1e-6)


def test_posteriors_and_masks_are_cut(models):
    model, small = models
    channels, units = [1, 3, 4, 5], list(range(7))
    cuts = {
        ("conv", "kernel"): lambda value: value[..., channels],
        ("conv", "bias"): lambda value: value[channels],
        ("depthwise", "kernel"): lambda value: value[:, :, channels],
        ("dense", "kernel"): lambda value: value.reshape(4, 6, 8)[:, channels][
            ..., units
        ].reshape(16, 7),
        ("head", "kernel"): lambda value: value[units],
        ("head", "bias"): lambda value: value,
    }
    for (layer, name), cut in cuts.items():
        old, new = model.get_layer(layer), small.get_layer(layer)
        np.testing.assert_array_equal(new.mask(name), cut(old.mask(name).numpy()))
        for moment in ("mean", "stddev"):
            expected = cut(getattr(old.posterior(name), moment)().numpy())
            np.testing.assert_array_equal(
                getattr(new.posterior(name), moment)(), expected
            )


def test_settings_are_kept(models):
    model, small = models
    assert small.name == model.name
    assert [layer.name for layer in small.layers] == [la.name for la in model.layers]
    for old, new in zip(
        variational_layers(model), variational_layers(small), strict=True
    ):
        assert type(new) is type(old)
        assert new.num_examples == 40
        assert float(new.kl_weight) == pytest.approx(0.5 / 40)
        assert new.trainable == old.trainable
        assert new.get_config()["prior"] == old.get_config()["prior"]


def test_a_smaller_model_learns_and_is_saved(models, tmp_path):
    small = keras_bmr.layers.conversion.copy_model(models[1])
    generator = np.random.default_rng(1)
    x = generator.normal(size=(40, 6, 6, 2)).astype("float32")
    y = generator.integers(0, 2, (40, 3)).astype("float32")
    small.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", jit_compile=False)
    losses = small.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    kernel = small.get_layer("dense")
    pruned = ~kernel.mask("kernel").numpy()
    assert pruned.any()
    assert not kernel.posterior_means()["kernel"].numpy()[pruned].any()
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(x), small(x))


def test_pruned_weights_of_ordinary_layers_stay_pruned():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="a"), layers.Dense(3, name="b")]
    )
    keep = np.arange(20).reshape(4, 5) % 3 > 0
    keras_bmr.pruning.prune_weight(model.get_layer("a"), "kernel", keep)
    prune_channels(model, [1])
    small = keras_bmr.shrink(model)
    kernel = small.get_layer("a").kernel
    small.compile("adam", "mse", jit_compile=False)
    small.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    np.testing.assert_array_equal(kernel.numpy() != 0, np.delete(keep, 1, axis=1))
