"""Each bad input has its message, and leaves the folder as it was."""

import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_bmr.export import export_tflite, verify


def model():
    return keras.Sequential([keras.Input((8,)), layers.Dense(4), layers.Dense(3)])


def data(num_examples=40):
    return np.random.default_rng(0).normal(size=(num_examples, 8)).astype("float32")


@pytest.fixture
def refuses(tmp_path):
    """Exports over an older file, which must survive as the only one."""
    path = tmp_path / "model.tflite"
    path.write_bytes(b"an older file")

    def refuses(error, match, model, **arguments):
        with pytest.raises(error, match=match):
            export_tflite(model, path, **arguments)
        assert os.listdir(tmp_path) == ["model.tflite"]
        assert path.read_bytes() == b"an older file"

    return refuses


class Operation(layers.Layer):
    """Applies a TensorFlow function."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def with_operation(function):
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(3)(Operation(function)(inputs)))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (tf.math.erf, "Erf"),
        (lambda x: tf.random.stateless_normal(tf.shape(x), [1, 2]) + x, "Random"),
        (lambda x: tf.random.normal(tf.shape(x)) + x, "RANDOM_STANDARD_NORMAL"),
    ],
)
def test_operations_without_kernel_are_named(function, name, refuses):
    network = with_operation(function)
    refuses(ValueError, name, network)


def test_sampling_layer_is_refused(refuses):
    seeds = keras.random.SeedGenerator(0)
    network = with_operation(lambda x: x + keras.random.normal((1, 8), seed=seeds))
    refuses(ValueError, "deterministic network.*operation", network)


def test_loop_in_int8(refuses):
    network = keras.Sequential([keras.Input((8, 1)), layers.LSTM(3)])
    refuses(
        ValueError,
        "unroll=True",
        network,
        quantize="int8",
        representative_data=data()[..., None],
    )


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"quantize": "int4"}, ValueError, "expected one of .*quantize='int4'"),
        ({"batch_size": 0}, ValueError, "at least 1.*batch_size=0"),
        ({"batch_size": 2.0}, ValueError, "integer.*batch_size=2.0"),
        ({"batch_size": True}, ValueError, "integer.*batch_size=True"),
        ({"quantize": "int8"}, ValueError, "representative_data=None"),
        ({"quantize": "float16", "sparse": True}, ValueError, "float32 weights only"),
        ({"quantize": "dynamic", "sparse": True}, ValueError, "float32 weights only"),
        (
            {"quantize": "int8", "sparse": True, "representative_data": data()},
            ValueError,
            "float32 weights only",
        ),
    ],
)
def test_arguments(arguments, error, match, refuses):
    refuses(error, match, model(), **arguments)


@pytest.mark.parametrize(
    ("representative", "error", "match"),
    [
        (data(19), ValueError, "at least 20 examples.*Received: 19"),
        (data(0), ValueError, "at least 20 examples.*Received: 0"),
        (data()[:, :7], ValueError, r"\(num_examples, 8\).*\(40, 7\)"),
        (data()[0], ValueError, r"\(num_examples, 8\)"),
        (3.0, ValueError, r"\(num_examples, 8\)"),
        (np.where(data() > 2, np.nan, data()), ValueError, "finite values"),
        (data().astype("float64") * 1e300, ValueError, "beyond float32"),
        (data().astype("str"), TypeError, "dtype float32.*<U"),
        ((data(), data()), ValueError, "one array for each input.*no targets"),
        ({"wrong": data()}, ValueError, "Expected the keys"),
        (iter([data()]), TypeError, "numpy.concatenate"),
        (lambda: [data()], TypeError, "numpy.concatenate"),
        (tf.data.Dataset.from_tensor_slices(data()), TypeError, "concatenate"),
    ],
)
def test_representative_data(representative, error, match, refuses):
    refuses(error, match, model(), quantize="int8", representative_data=representative)


def test_validation_data(refuses):
    refuses(ValueError, "`validation_data`", model(), validation_data=data()[:, :3])
    refuses(ValueError, "at least 64", model(), validation_data=data(), batch_size=64)


def test_data_of_two_inputs(refuses):
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    network = keras.Model([a, b], layers.Add()([a, b]))
    refuses(ValueError, "Received: 1 arrays", network, validation_data=data())
    refuses(ValueError, "one length", network, validation_data=[data(), data(9)])


def test_data_of_integer_input(refuses):
    network = keras.Sequential(
        [keras.Input((8,), dtype="uint8"), layers.Embedding(5, 2)]
    )
    refuses(TypeError, "dtype uint8.*float32", network, validation_data=data())
    refuses(
        ValueError,
        "within uint8.*300",
        network,
        validation_data=np.full((4, 8), 300),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value, refuses):
    network = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="culprit")])
    kernel, bias = network.get_weights()
    kernel[2, 3] = value
    network.set_weights([kernel, bias])
    refuses(ValueError, "written.*culprit/kernel.*1 NaN or infinite", network)


def test_models(refuses):
    refuses(TypeError, "keras.Model", "model")
    refuses(TypeError, "keras.Model", layers.Dense(3))
    refuses(ValueError, "not built", keras.Sequential([layers.Dense(3)]))
    free = keras.Sequential([keras.Input((None, 3)), layers.Conv1D(2, 3)])
    refuses(ValueError, r"fixed shapes.*\(None, None, 3\)", free)
    fixed = keras.Sequential([keras.Input(batch_shape=(4, 8)), layers.Dense(2)])
    refuses(ValueError, "batch of 4.*batch_size=1", fixed)
    text = keras.Sequential([keras.Input((8,), dtype="float64"), layers.Dense(2)])
    refuses(ValueError, "float64", text)
    inputs = keras.Input(batch_shape=(1, 5, 3))
    stateful = keras.Model(inputs, layers.LSTM(2, stateful=True, name="memory")(inputs))
    refuses(ValueError, "state between calls.*`memory`", stateful)


def test_subclassed_model_with_two_inputs(refuses):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, pair):
            return self.dense(pair[0] + pair[1])

        def build(self, input_shape):
            self.dense.build(input_shape[0])

    network = Two()
    network([data(), data()])
    refuses(ValueError, "subclassed model.*Two", network)


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("missing/model.tflite", FileNotFoundError, "folder of `path`.*missing/model"),
        (".", ValueError, "name a file.*the folder '.'"),
        ("", ValueError, "name a file.*path=''"),
        ("a\0b", ValueError, r"name a file.*path='a\\x00b'"),
        (os.devnull, ValueError, f"name a file.*the device '{os.devnull}'"),
        (None, TypeError, "string or a `pathlib.Path`.*path=None"),
        (3, TypeError, "string or a `pathlib.Path`.*path=3"),
        (b"model.tflite", TypeError, "`os.fsdecode`.*path=b'model.tflite'"),
        pytest.param(
            "/proc/model.tflite",
            OSError,
            "takes no file.*'/proc/model.tflite'",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="has no /proc"),
        ),
        (250 * "a", OSError, "a shorter name.*'aaa.*too long"),
    ],
)
def test_paths(path, error, match, tmp_path, monkeypatch):
    """They are refused before any work: no network is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("keras_bmr.export.tflite.deterministic_network")
    with pytest.raises(error, match=match):
        export_tflite(model(), path)
    assert os.listdir(tmp_path) == []


def test_disagreeing_file_is_not_left_behind(refuses, monkeypatch):
    network = model()
    run_keras = verify.run_keras
    monkeypatch.setattr(
        verify,
        "run_keras",
        lambda *arguments: [y + 1e-3 for y in run_keras(*arguments)],
    )
    refuses(RuntimeError, "disagrees with Keras", network)


def test_missing_interpreter(refuses, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    refuses(ImportError, r"keras_bmr\[litert\]", model())
