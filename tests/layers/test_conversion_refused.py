import keras
import numpy as np
import pytest
from keras import ops

import keras_bmr
from keras_bmr import layers
from keras_bmr.layers.registry import register_variational


def network():
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, activation="relu"),
            keras.layers.Dense(3, name="head"),
        ]
    )


class Doubled(keras.layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


def in_model(layer, shape=(4,)):
    return keras.Sequential([keras.Input(shape), layer, keras.layers.Dense(1)])


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.SpectralNormalization(keras.layers.Dense(3), name="wrapper"),
        Doubled(3, name="wrapper"),
    ],
    ids=["wrapper", "subclass"],
)
def test_unknown_layers_are_refused_by_name_unless_skipped(layer):
    model = in_model(layer)
    with pytest.raises(ValueError, match=r"'wrapper'.*skip=\['wrapper'\]"):
        keras_bmr.to_variational(model)
    bayesian = keras_bmr.to_variational(model, skip=["wrapper"])
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(bayesian(x), model(x), atol=1e-6)
    back = keras_bmr.to_deterministic(bayesian)
    np.testing.assert_allclose(back(x), model(x), atol=1e-6)


def test_a_registered_subclass_is_converted():
    @keras.saving.register_keras_serializable("test_conversion")
    class Halved(keras.layers.Dense):
        def call(self, inputs):
            return super().call(inputs) / 2

    @register_variational(Halved)
    class HalvedVariational(layers.LinearVariational, Halved):
        def linear(self, inputs, kernel):
            return ops.matmul(inputs, kernel) / 2

    model = in_model(Halved(3))
    bayesian = keras_bmr.to_variational(model, num_examples=1)
    assert type(bayesian.layers[0]) is HalvedVariational
    x = np.ones((2, 4), "float32")
    np.testing.assert_allclose(bayesian(x), model(x), atol=1e-6)
    with pytest.raises(ValueError, match="already has a Bayesian layer"):
        register_variational(Halved)(HalvedVariational)
    with pytest.raises(ValueError, match="must derive from Doubled"):
        register_variational(Doubled)(HalvedVariational)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_wrong_arguments_are_named_without_the_config_of_a_layer():
    for options, message in (
        ({"prior": "spike_and_slab"}, "^A MeanFieldNormal posterior cannot stand"),
        ({"prior": 0.3}, "0.3"),
        ({"posterior": "nothing"}, "nothing"),
    ):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            keras_bmr.to_variational(network(), 10, **options)
        assert "deserializing" not in str(caught.value)


def test_models_that_cannot_be_converted():
    subclassed = Subclassed()
    subclassed(np.ones((1, 3)))
    with pytest.raises(ValueError, match="Subclassed.*Build a subclassed model"):
        keras_bmr.to_variational(subclassed)
    with pytest.raises(ValueError, match="Expected a Sequential or Functional"):
        keras_bmr.to_deterministic(subclassed)
    with pytest.raises(ValueError, match="Expected a Sequential or Functional"):
        keras_bmr.to_variational("model")
    with pytest.raises(ValueError, match="is not built"):
        keras_bmr.to_variational(keras.Sequential([keras.layers.Dense(1)]))
    wrapped_model = keras.Sequential(
        [
            keras.Input((3, 4)),
            keras.layers.TimeDistributed(in_model(keras.layers.Dense(2)), name="td"),
        ]
    )
    with pytest.raises(ValueError, match="'td'.*wraps a model"):
        keras_bmr.to_variational(wrapped_model)
    with pytest.raises(ValueError, match="no layer that could become Bayesian"):
        keras_bmr.to_variational(
            keras.Sequential([keras.Input((3,)), keras.layers.ReLU()])
        )
    with pytest.raises(ValueError, match="has no Bayesian layer"):
        keras_bmr.to_deterministic(network())
    for wrong in (0, -3, 2.5):
        with pytest.raises(ValueError, match=f"num_examples={wrong}"):
            keras_bmr.to_variational(network(), num_examples=wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    model = network()
    kernel = model.get_layer("head").kernel
    kernel.assign(np.where(np.arange(kernel.shape[0])[:, None] == 0, value, kernel))
    with pytest.raises(ValueError, match="head/kernel.*3 NaN or infinite"):
        keras_bmr.to_variational(model)
    bayesian = keras_bmr.to_variational(network())
    bayesian.get_layer("head").kernel.assign(kernel)
    with pytest.raises(ValueError, match="head/kernel.*3 NaN or infinite"):
        keras_bmr.to_deterministic(bayesian)


def test_a_subclass_that_computes_something_else_has_no_keras_layer():
    class Same(layers.DenseVariational):
        pass

    class Residual(layers.DenseVariational):
        def call(self, inputs, training=None):
            return super().call(inputs, training=training) + inputs

    x = np.ones((2, 4), "float32")
    model = keras.Sequential([keras.Input((4,)), Same(4)])
    back = keras_bmr.to_deterministic(model)
    np.testing.assert_allclose(back(x), model(x), atol=1e-6)
    model = keras.Sequential([keras.Input((4,)), Residual(4)])
    with pytest.raises(ValueError, match=r"Residual overrides \['call'\] of Dense"):
        keras_bmr.to_deterministic(model)
