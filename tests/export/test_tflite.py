"""Files written by `export_tflite`, run again by an interpreter of the test's own."""

import gzip
import os

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from sklearn.datasets import load_digits

import keras_bmr
import keras_bmr.pruning
from keras_bmr.export import export_tflite


def run(path, *inputs):
    """Outputs of the file, example by example, without the library's own runner."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    results = []
    for example in zip(*inputs, strict=True):
        for detail, array in zip(interpreter.get_input_details(), example, strict=True):
            interpreter.set_tensor(detail["index"], array[None])
        interpreter.invoke()
        results.append(
            [
                interpreter.get_tensor(detail["index"])[0]
                for detail in interpreter.get_output_details()
            ]
        )
    return [np.stack(output) for output in zip(*results, strict=True)]


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def lenet():
    """A LeNet-5-like network for the 8x8 digits."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )


def residual():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    y = layers.Activation("silu")(x)
    y = layers.DepthwiseConv2D(3, padding="same")(y)
    x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(5, activation="softmax")(x))
    # Moving statistics as after training, or folding them would be the identity.
    bn = next(la for la in model.layers if isinstance(la, layers.BatchNormalization))
    rng = np.random.default_rng(0)
    bn.set_weights([rng.uniform(0.5, 2, 4).astype("float32") for _ in range(4)])
    return model


def small_dense():
    return keras.Sequential(
        [keras.Input((16,)), layers.Dense(8, activation="tanh"), layers.Dense(4)]
    )


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x = (data.images[..., None] / 16.0).astype("float32")
    # The writers of the last third are others: mixed, so that a few epochs suffice.
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1200], order[1200:]
    return x[train], data.target[train], x[test], data.target[test]


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    model = lenet()
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(digits[0], digits[1], epochs=15, batch_size=64, verbose=0)
    return model


@pytest.mark.parametrize("build", [small_dense, residual, lenet])
def test_float_file_equals_keras(build, tmp_path):
    model = build()
    x = normal(32, *model.input_shape[1:])
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, validation_data=x)
    (outputs,) = run(path, x)
    difference = np.max(np.abs(outputs - model.predict(x, verbose=0)))
    assert difference <= 1e-4
    assert report.max_difference == pytest.approx(difference, abs=1e-6)
    assert report.top1_agreement == 1.0
    assert report.bytes == os.path.getsize(path)
    assert report.gzip_bytes == len(gzip.compress(path.read_bytes()))
    assert report.verified_on == "32 examples of validation_data"
    assert 0 < report.latency_ms < 100
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_report_prints_as_table(tmp_path):
    report = export_tflite(small_dense(), tmp_path / "model.tflite")
    assert report.ops == ("FULLY_CONNECTED", "TANH")
    table = str(report)
    assert f"bytes                {report.bytes:,}\n" in table
    assert "64 random inputs (none given)" in table
    assert "FULLY_CONNECTED, TANH" in table


def test_int8_agrees_with_keras(trained, digits, tmp_path):
    x_train, _, x_test, y_test = digits
    path = tmp_path / "int8.tflite"
    report = export_tflite(
        trained,
        path,
        quantize="int8",
        representative_data=x_train[:500],
        validation_data=x_test,
    )
    (outputs,) = run(path, x_test)
    expected = trained.predict(x_test, verbose=0)
    assert np.mean(expected.argmax(-1) == y_test) > 0.95
    agreement = np.mean(outputs.argmax(-1) == expected.argmax(-1))
    assert agreement >= 0.995
    assert report.top1_agreement == pytest.approx(agreement, abs=1e-3)
    assert report.notes == ()
    # Kernels are int8 while the file still takes and returns float32.
    details = Interpreter(model_path=str(path)).get_tensor_details()
    assert sum(detail["dtype"] == np.int8 for detail in details) >= 10
    assert outputs.dtype == np.float32
    dense = export_tflite(trained, tmp_path / "float.tflite", validation_data=x_test)
    assert report.bytes < 0.5 * dense.bytes


@pytest.mark.parametrize(
    ("quantize", "share", "tolerance"), [("float16", 0.65, 0.01), ("dynamic", 0.6, 0.5)]
)
def test_smaller_weights(quantize, share, tolerance, trained, digits, tmp_path):
    x_test = digits[2]
    path = tmp_path / "model.tflite"
    dense = export_tflite(trained, path, validation_data=x_test)
    report = export_tflite(trained, path, quantize=quantize, validation_data=x_test)
    assert report.bytes < share * dense.bytes
    (outputs,) = run(path, x_test)
    expected = trained.predict(x_test, verbose=0)
    assert np.max(np.abs(outputs - expected)) < tolerance
    assert np.mean(outputs.argmax(-1) == expected.argmax(-1)) >= 0.99
    assert report.quantize == quantize


def test_int8_with_zero_channels_that_keep_a_bias(tmp_path):
    # Such a channel has weight scale zero: an int8 bias in its units would overflow.
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )
    weights = model.get_weights()
    weights[0][..., :3], weights[1][:3] = 0, [-1, 1, 3]
    weights[2][:, 5:9], weights[3][5:9] = 0, 2
    weights[4][:, 3], weights[5][3] = 0, 0.7
    model.set_weights(weights)
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        quantize="int8",
        representative_data=normal(64, 12, 12, 1),
    )
    assert report.relative_difference < 0.03


def test_many_inputs_and_outputs(tmp_path):
    # Keys out of order and equal shapes: a swap would show.
    b, a = keras.Input((4,), name="b"), keras.Input((4,), name="a")
    hidden = layers.Concatenate()([layers.Dense(3)(a), layers.Dense(5)(b)])
    outputs = {"y": layers.Dense(3)(hidden), "x": layers.Dense(3)(b)}
    model = keras.Model({"b": b, "a": a}, outputs)
    data = {"b": normal(40, 4), "a": normal(40, 4) + 1}
    path = tmp_path / "model.tflite"
    for quantize, tolerance in [(None, 1e-5), ("int8", 0.2)]:
        report = export_tflite(model, path, quantize=quantize, representative_data=data)
        expected = model.predict(data, verbose=0)
        x, y = run(path, data["a"], data["b"])
        np.testing.assert_allclose(x, expected["x"], atol=tolerance)
        np.testing.assert_allclose(y, expected["y"], atol=tolerance)
    assert report.top1_agreement > 0.9


@pytest.mark.parametrize("batch_size", [4, np.int64(4), np.uint8(4)])
def test_batch_size(batch_size, tmp_path):
    model, x = small_dense(), normal(11, 16)
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, batch_size=batch_size, validation_data=x)
    assert type(report.batch_size) is int
    interpreter = Interpreter(model_path=str(path))
    assert tuple(interpreter.get_input_details()[0]["shape"]) == (4, 16)
    assert report.verified_on == "8 examples of validation_data"


def test_integers_are_taken_for_float_inputs(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (20, 16)).astype("uint8")
    report = export_tflite(small_dense(), tmp_path / "m.tflite", validation_data=x)
    assert report.max_difference < 1e-4


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(4),
        layers.GRU(4, return_sequences=True),
        layers.SimpleRNN(4),
        layers.Bidirectional(layers.LSTM(3)),
        layers.GRU(4, unroll=True),
    ],
    ids=lambda layer: layer.name,
)
def test_recurrent_layers_need_no_flex(layer, tmp_path):
    model = keras.Sequential([keras.Input((5, 3)), layer, layers.Dense(2)])
    x = normal(24, 5, 3)
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, validation_data=x)
    (outputs,) = run(path, x)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-5)
    # The loop's body is a subgraph of its own; its operators are listed, too.
    assert "TANH" in report.ops
    assert ("WHILE" in report.ops) == (not getattr(layer, "unroll", False))


def test_attention_and_embedding(tmp_path):
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 8)(tokens)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    model = keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    data = np.random.default_rng(0).integers(0, 10, (30, 6))
    for quantize in (None, "int8"):
        report = export_tflite(
            model,
            tmp_path / "model.tflite",
            quantize=quantize,
            representative_data=data,
        )
    assert report.relative_difference < 0.2


def prune(model, share, block):
    """Sets blocks of consecutive inputs to zero, at random."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        mask = rng.random((kernel.shape[0] // block, kernel.shape[1])) >= share
        layer.set_weights([kernel * np.repeat(mask, block, 0), bias])


def wide():
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(12),
        ]
    )


def test_pruned_file_is_smaller_after_gzip(tmp_path):
    model = wide()
    dense = export_tflite(model, tmp_path / "dense.tflite")
    prune(model, 0.9, block=1)
    pruned = export_tflite(model, tmp_path / "pruned.tflite")
    assert pruned.bytes == dense.bytes
    assert pruned.gzip_bytes < 0.35 * dense.gzip_bytes


@pytest.mark.parametrize(("block", "share"), [(4, 0.15), (1, 0.3)])
def test_sparse_encoding(block, share, tmp_path):
    model, x = wide(), normal(32, 64)
    prune(model, 0.95, block)
    dense = export_tflite(model, tmp_path / "dense.tflite", validation_data=x)
    path = tmp_path / "sparse.tflite"
    report = export_tflite(model, path, validation_data=x, sparse=True)
    assert report.sparse
    assert report.bytes == os.path.getsize(path) < share * dense.bytes
    (outputs,) = run(path, x)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-5)


def test_report_names_the_encoding_of_each_layer(tmp_path):
    model, x = wide(), normal(32, 64)
    prune(model, 0.95, 4)
    first, second, last = model.layers
    # One layer in blocks, one with single zeros, one without any.
    second.set_weights([np.where(normal(128, 128) > 1.3, 1.0, 0.0), normal(128)])
    last.set_weights([normal(128, 12), normal(12)])
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, validation_data=x, sparse=True)
    found = {(la.name, la.operator, la.encoding) for la in report.layout.layers}
    assert found == {
        (first.name, "FULLY_CONNECTED", "float32, 1x4 blocks"),
        (second.name, "DENSIFY", "float32, sparse"),
        (second.name, "FULLY_CONNECTED", "float32"),
        (last.name, "FULLY_CONNECTED", "float32"),
    }
    np.testing.assert_allclose(
        run(path, x)[0], model.predict(x, verbose=0), rtol=1e-4, atol=1e-4
    )


def test_sparse_encoding_of_a_dense_model_falls_back(tmp_path):
    report = export_tflite(wide(), tmp_path / "model.tflite", sparse=True)
    assert not report.sparse
    assert "would not be smaller" in report.notes[0]


def test_mixed_precision_model_is_exported_in_float32(tmp_path):
    inner = keras.Sequential([layers.Dense(6, dtype="mixed_float16")])
    inputs = keras.Input((16,))
    x = layers.Reshape((4, 4), dtype="mixed_float16")(inputs)
    x = layers.Bidirectional(layers.LSTM(4, dtype="mixed_float16"))(x)
    model = keras.Model(inputs, layers.Dense(3, dtype="float32")(inner(x)))
    x = normal(32, 16)
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, validation_data=x)
    assert report.max_difference < 1e-5
    (outputs,) = run(path, x)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-2)
    assert model.layers[1].compute_dtype == "float16"


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_subclassed_model_of_known_input(tmp_path):
    model = Subclassed()
    x = normal(20, 7)
    model(x)
    path = tmp_path / "model.tflite"
    export_tflite(model, path, validation_data=x)
    (outputs,) = run(path, x)
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_bayesian_model_is_exported_at_its_posterior_mean(quantize, digits, tmp_path):
    model = keras_bmr.to_variational(lenet(), num_examples=1000)
    x = digits[0][:100]
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, quantize=quantize, representative_data=x)
    (outputs,) = run(path, x)
    expected = keras_bmr.to_deterministic(model).predict(x, verbose=0)
    tolerance = 1e-4 if quantize is None else 0.05 * np.std(expected)
    assert np.sqrt(np.mean((outputs - expected) ** 2)) < tolerance
    assert {"CONV_2D", "FULLY_CONNECTED", "MAX_POOL_2D"} <= set(report.ops)


def test_reduced_model_in_blocks_is_exported_sparse(tmp_path):
    model = keras_bmr.to_variational(wide(), num_examples=1000)
    dense = export_tflite(model, tmp_path / "dense.tflite")
    reduced = keras_bmr.pruning.reduce_model(model, granularity="block", sparsity=0.9)
    path, x = tmp_path / "sparse.tflite", normal(32, 64)
    report = export_tflite(reduced, path, validation_data=x, sparse=True)
    assert report.sparse
    assert report.bytes < 0.3 * dense.bytes
    (outputs,) = run(path, x)
    np.testing.assert_allclose(outputs, reduced.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_other_precisions_with_state_that_is_no_variable(dtype, tmp_path):
    generator = np.random.default_rng(0)
    scale = layers.Normalization()
    scale.adapt(generator.normal(3.0, 5.0, size=(50, 8)))
    stack = [
        scale,
        layers.Dense(6, activation="relu", dtype=dtype),
        layers.Lambda(lambda x: 2 * x, dtype=dtype),
        layers.Dense(3, dtype=dtype),
    ]
    network = keras.Sequential([keras.Input((8,)), *stack])
    model = keras_bmr.to_variational(network, num_examples=10)
    x = generator.normal(3.0, 5.0, size=(32, 8)).astype("float32")
    path = tmp_path / "model.tflite"
    keras_bmr.export_tflite(model, path, validation_data=x)
    expected = np.asarray(keras.ops.cast(network(x), "float32"))
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x[:1])
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(output, expected[:1], rtol=0.02, atol=0.1)
