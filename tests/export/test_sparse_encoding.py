"""Encodings layer by layer, each file run by an interpreter of the test's own."""

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_bmr.export import converter
from keras_bmr.export.network import input_specifications
from keras_bmr.export.sparse_encoding import (
    DENSE,
    SPARSE_KERNEL,
    UNPACKED,
    UNPACKED_BLOCKS,
    compress,
    encode_sparse,
)


def dense_file(model, batch_size=1):
    specifications = input_specifications(model, batch_size)
    return converter.convert(converter.trace(model, specifications, batch_size))


def run(content, x):
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (detail,) = interpreter.get_input_details()
    size, outputs = detail["shape"][0], []
    for start in range(0, len(x), size):
        interpreter.set_tensor(detail["index"], x[start : start + size])
        interpreter.invoke()
        outputs.append(
            interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        )
    return np.concatenate(outputs)


def prune(layer, share, block=1):
    """Zeros in blocks of consecutive rows of the kernel, as a matrix."""
    kernel, *rest = layer.get_weights()
    matrix = kernel.reshape(-1, kernel.shape[-1])
    rng = np.random.default_rng(3)
    keep = rng.random((matrix.shape[0] // block, matrix.shape[1])) >= share
    matrix = matrix * np.repeat(keep, block, 0)
    layer.set_weights([matrix.reshape(kernel.shape), *rest])


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2DTranspose(8, 2, name="transposed"),
            layers.Flatten(),
            layers.Dense(32, activation="relu", name="first"),
            layers.Dense(64, activation="relu", name="second"),
            layers.Dense(12, name="last"),
        ]
    )


X = np.random.default_rng(1).normal(size=(6, 8, 8, 4)).astype("float32")


def check(model, shares, expected):
    """Prunes layers by name and compares encodings, bytes and outputs."""
    for name, (share, block) in shares.items():
        prune(model.get_layer(name), share, block)
    content = dense_file(model)
    encoded, encodings = encode_sparse(content)
    found = {
        layer.name: encoding
        for layer in model.layers
        for name, encoding in encodings.items()
        if layer.name == name.split("/")[-2].removesuffix("_1")
    }
    assert {name: found[name] for name in expected} == expected
    np.testing.assert_allclose(run(encoded, X), model.predict(X, verbose=0), atol=1e-5)
    return content, encoded


def test_each_layer_has_its_own_encoding():
    model = network()
    dense, encoded = check(
        model,
        {"conv": (0.9, 1), "first": (0.9, 4), "second": (0.6, 4), "last": (0.9, 1)},
        {
            "conv": UNPACKED,
            "depthwise": DENSE,
            "transposed": DENSE,
            "first": SPARSE_KERNEL,
            "second": UNPACKED_BLOCKS,
            "last": UNPACKED,
        },
    )
    assert len(encoded) < 0.5 * len(dense)


def test_layers_of_zeros_still_load():
    model = network()
    zero = (1.0, 1)
    dense, encoded = check(
        model,
        {"conv": zero, "second": zero, "last": zero},
        {
            "conv": UNPACKED,
            "first": DENSE,
            "second": SPARSE_KERNEL,
            "last": SPARSE_KERNEL,
        },
    )
    assert len(encoded) < len(dense)


def test_a_network_that_is_not_sparse_stays_as_it_is():
    content = dense_file(network())
    encoded, encodings = encode_sparse(content)
    assert encoded is content and set(encodings.values()) == {DENSE}


def test_sequences_and_batches_take_the_dense_kernel():
    """Which makes more of many rows than the sparse one does."""
    inputs = keras.Input((16, 64))
    model = keras.Model(inputs, layers.Dense(32)(inputs))
    prune(model.layers[1], 0.9, 4)
    x = np.random.default_rng(0).normal(size=(4, 16, 64)).astype("float32")
    encoded, encodings = encode_sparse(dense_file(model))
    assert list(encodings.values()) == [UNPACKED_BLOCKS]
    np.testing.assert_allclose(run(encoded, x), model.predict(x, verbose=0), atol=1e-5)
    flat = keras.Sequential([keras.Input((64,)), layers.Dense(32)])
    flat.set_weights(model.get_weights())
    for batch_size, expected in ((1, SPARSE_KERNEL), (4, UNPACKED_BLOCKS)):
        encoded, encodings = encode_sparse(dense_file(flat, batch_size))
        assert list(encodings.values()) == [expected]
        np.testing.assert_allclose(
            run(encoded, x[0, :4]), flat.predict(x[0, :4], verbose=0), atol=1e-5
        )


@pytest.mark.parametrize("shared", ["layer", "equal constants"])
def test_shared_weights(shared):
    inputs = keras.Input((32,))
    first = layers.Dense(32, use_bias=False)
    second = first if shared == "layer" else layers.Dense(32, use_bias=False)
    model = keras.Model(inputs, second(keras.ops.relu(first(inputs))))
    prune(first, 0.9, 4)
    second.set_weights(first.get_weights())
    x = np.random.default_rng(0).normal(size=(5, 32)).astype("float32")
    encoded, encodings = encode_sparse(dense_file(model))
    assert set(encodings.values()) == {SPARSE_KERNEL}
    np.testing.assert_allclose(run(encoded, x), model.predict(x, verbose=0), atol=1e-5)


def test_loops_and_embeddings():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(200, 16)(inputs)
    model = keras.Model(inputs, layers.LSTM(16)(x))
    for layer in model.layers[1:]:
        rng = np.random.default_rng(0)
        layer.set_weights(
            [w * (rng.random(w.shape) > 0.9) for w in layer.get_weights()]
        )
    x = np.random.default_rng(0).integers(0, 200, (5, 6)).astype("int32")
    content = dense_file(model)
    encoded, encodings = encode_sparse(content)
    assert list(encodings.values()) == [UNPACKED] * 3
    assert len(encoded) < len(content)
    np.testing.assert_allclose(run(encoded, x), model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.parametrize("block", [1, 4])
def test_compressed_rows_hold_every_weight(block):
    rng = np.random.default_rng(0)
    keep = rng.random((5, 3, 24 // block, 1)) > 0.7
    values = rng.normal(size=(5, 3, 24)).astype("float32")
    values *= np.broadcast_to(keep, (5, 3, 24 // block, block)).reshape(values.shape)
    compressed = compress(values, block)
    restored = np.zeros((15, 24), "float32")
    entries = compressed.values.reshape(-1, block)
    for row in range(15):
        for entry in range(*compressed.segments[row : row + 2]):
            start = compressed.indices[entry] * block
            restored[row, start : start + block] = entries[entry]
    np.testing.assert_array_equal(restored.reshape(values.shape), values)
    assert len(entries) == keep.sum()


def test_constants_are_aligned_in_the_file():
    model = network()
    prune(model.get_layer("first"), 0.9, 4)
    content, _ = encode_sparse(dense_file(model))
    file = schema.Model.GetRootAs(content, 0)
    starts = []
    for index in range(file.BuffersLength()):
        buffer = file.Buffers(index)
        if buffer.DataLength():
            field = buffer._tab.Offset(4)
            starts.append(buffer._tab.Vector(field))
    assert starts and all(start % 16 == 0 for start in starts)
    assert flatbuffers.util.BufferHasIdentifier(content, 0, b"TFL3")
