"""Keras 3 networks rebuilt in tf_keras, and a process that stays as it was."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_bmr.export.tfmot_bridge import to_tf_keras


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def network():
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", strides=2, use_bias=False)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    y = layers.Activation("relu")(layers.BatchNormalization(epsilon=0.1)(y))
    y = layers.Conv2D(4, 1, groups=2)(y)
    x = layers.Add()([x, y])
    x = layers.ZeroPadding2D(1)(x)
    x = layers.SeparableConv2D(3, 2, depth_multiplier=2, activation="tanh")(x)
    x = layers.Concatenate()([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(x)])
    x = layers.Conv2DTranspose(3, 2, strides=2)(x)
    pooled = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5)(layers.Dense(5, activation="relu")(layers.Flatten()(x)))
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    outputs = layers.Softmax()(layers.Multiply()([inner(x), pooled]))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 2, w.shape) for w in layer.weights])
    return model


def test_outputs_are_those_of_keras_3():
    model, x = network(), normal(20, 8, 8, 2)
    rebuilt = to_tf_keras(model)
    difference = rebuilt.predict(x, verbose=0) - model.predict(x, verbose=0)
    assert np.max(np.abs(difference)) <= 4e-7
    assert type(rebuilt).__module__.startswith("tf_keras")
    assert len(rebuilt.trainable_weights) == len(model.trainable_weights)


def test_unknown_layers_and_operations_are_named():
    memory = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4, name="memory")])
    with pytest.raises(ValueError, match="'memory' of class LSTM.*Conv2DTranspose"):
        to_tf_keras(memory)
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="of class Exp"):
        to_tf_keras(keras.Model(inputs, keras.ops.exp(inputs)))

    class Dense(layers.Dense):
        def call(self, inputs, training=None):
            return 2 * super().call(inputs)

    with pytest.raises(ValueError, match="'double' of class Dense has no counterpart"):
        to_tf_keras(keras.Sequential([keras.Input((3,)), Dense(2, name="double")]))
    with pytest.raises(TypeError, match="keras.Model"):
        to_tf_keras("model")


def test_names_of_inputs_and_keywords():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="x")])
    inputs = keras.Input((4,), name="x")
    added = layers.Add()(inputs=[inner(inputs), layers.Dense(4)(inputs=inputs)])
    model, x = keras.Model(inputs, added), normal(20, 4)
    rebuilt = to_tf_keras(model)
    assert [layer.name for layer in rebuilt.layers][:2] == ["x", "x_1"]
    difference = rebuilt.predict(x, verbose=0) - model.predict(x, verbose=0)
    assert np.max(np.abs(difference)) <= 1e-6


@pytest.mark.parametrize("activation", ["hard_sigmoid", "hard_silu"])
def test_activations_that_tf_keras_has_not_are_named(activation):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, activation=activation, name="gate")]
    )
    with pytest.raises(ValueError, match=f"'gate'.*activation='{activation}'"):
        to_tf_keras(model)


def test_import_of_tfmot_leaves_the_process_as_it_was():
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    script = """
import os, sys
import keras_bmr.export.tfmot_bridge
assert "tensorflow_model_optimization" not in sys.modules
from keras_bmr.export.tfmot_bridge.loading import load_tfmot
assert hasattr(load_tfmot(), "quantization")
assert "TF_USE_LEGACY_KERAS" not in os.environ
import tensorflow as tf
assert tf.keras.__version__.startswith("3."), tf.keras.__version__
"""
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_missing_tfmot_is_explained(monkeypatch):
    from keras_bmr.export.tfmot_bridge.loading import load_tfmot

    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    with pytest.raises(ImportError, match=r"pip install keras_bmr\[tfmot\]"):
        load_tfmot()
    assert os.environ.get("TF_USE_LEGACY_KERAS") == before
