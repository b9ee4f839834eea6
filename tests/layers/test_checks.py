"""Models and layers that are not what the library takes them for."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bmr
from keras_bmr.export import export_tflite, model_cost, to_quantization_aware
from keras_bmr.laplace import Laplace
from keras_bmr.pruning import prune_weight

X, Y = np.ones((8, 6), "float32"), np.zeros(8, "int32")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class OwnSteps(keras.Sequential):
    def train_step(self, data):
        return {"mine": 1.0}


class OwnFunctionalSteps(keras.Model):
    def train_step(self, data):
        return {"mine": 1.0}


class MadeOfUnits(keras.Model):
    def __init__(self, units, **options):
        inputs = keras.Input((6,))
        super().__init__(inputs, layers.Dense(units)(inputs), **options)


class MadeOfUnitsWithOwnSteps(MadeOfUnits):
    def train_step(self, data):
        return {"mine": 1.0}


class Doubled(keras.Sequential):
    def call(self, inputs, **options):
        return 2 * super().call(inputs, **options)


def stack():
    return [
        keras.Input((6,)),
        layers.Dense(8, activation="relu", name="hidden"),
        layers.Dense(3),
    ]


def functional():
    inputs = keras.Input((6,))
    return OwnFunctionalSteps(inputs, layers.Dense(3)(inputs), name="functional")


@pytest.mark.parametrize(
    "build", [lambda: OwnSteps(stack(), name="sequential"), functional]
)
def test_copies_train_as_the_model_does(build):
    model = build()
    bayesian = keras_bmr.to_variational(model, num_examples=8)
    for copy in (bayesian, keras_bmr.to_deterministic(bayesian)):
        assert type(copy) is type(model)
        assert copy.name == model.name
        np.testing.assert_allclose(copy(X), model(X), atol=1e-6)
        copy.compile("adam", CROSS_ENTROPY)
        assert copy.fit(X, Y, verbose=0).history == {"mine": [1.0]}


def test_a_class_that_only_builds_layers_need_not_be_kept():
    model = MadeOfUnits(3)
    bayesian = keras_bmr.to_variational(model, num_examples=8)
    np.testing.assert_allclose(bayesian(X), model(X), atol=1e-6)


def test_what_a_copy_would_lack_is_refused():
    with pytest.raises(ValueError, match=r"\['train_step'\] of its own"):
        keras_bmr.to_variational(MadeOfUnitsWithOwnSteps(3))
    doubled = Doubled(stack(), name="doubled")
    for model in (doubled, keras.Sequential([keras.Input((6,)), doubled])):
        with pytest.raises(ValueError, match="'doubled' of class Doubled has a `call`"):
            keras_bmr.to_variational(model)


def with_low_rank_update():
    model = keras.Sequential(stack())
    model.layers[0].enable_lora(2)
    return model


def quantized():
    model = keras.Sequential(stack())
    for layer in model.layers:
        layer.quantize("int8")
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [(with_low_rank_update, "'hidden' adds a low-rank"), (quantized, "'hidden' was")],
)
@pytest.mark.parametrize(
    "use",
    [
        keras_bmr.to_variational,
        lambda model: prune_weight(model.layers[0], "kernel", np.ones((6, 8), bool)),
        lambda model: Laplace(model, CROSS_ENTROPY),
        lambda model: to_quantization_aware(model, X),
        keras_bmr.shrink,
    ],
    ids=["variational", "prune", "laplace", "quantization_aware", "shrink"],
)
def test_kernels_that_are_not_all(build, message, use):
    with pytest.raises(ValueError, match=message):
        use(build())


def test_low_rank_updates_may_be_skipped_and_exported(tmp_path):
    model = with_low_rank_update()
    update = model.layers[0].lora_kernel_b
    update.assign(np.random.default_rng(0).normal(size=update.shape))
    bayesian = keras_bmr.to_variational(model, num_examples=8, skip=["hidden"])
    np.testing.assert_allclose(bayesian(X), model(X), atol=1e-6)
    report = export_tflite(model, tmp_path / "model.tflite", validation_data=X)
    assert report.max_difference < 1e-5


def test_quantized_networks_are_no_floats_to_export(tmp_path):
    path = tmp_path / "model.tflite"
    for use in (lambda model: export_tflite(model, path), model_cost):
        with pytest.raises(ValueError, match="before `quantize`"):
            use(quantized())
    assert not path.exists()
