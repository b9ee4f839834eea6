"""Smaller files that compute the same, read back with LiteRT and its schema."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_bmr.export import converter
from keras_bmr.export.latency import load
from keras_bmr.export.network import input_specifications
from keras_bmr.export.operators import parse
from keras_bmr.export.packing import compact, operations, pack


def network():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.BatchNormalization(name="norm_1")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    # So many weights that "dynamic" takes int8 for them.
    x = layers.Dense(160, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x))


@pytest.fixture(scope="module", params=[None, "int8", "dynamic"])
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def content(mode):
    keras.utils.set_random_seed(0)
    model = network()
    function = converter.trace_function(model, input_specifications(model, 1), 1)
    return converter.convert(function, mode, [images()])


def images():
    return np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")


def outputs(content):
    interpreter = load(content)
    (given,), (returned,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    results = []
    for image in images():
        interpreter.set_tensor(given["index"], image[np.newaxis])
        interpreter.invoke()
        results.append(interpreter.get_tensor(returned["index"]))
    return given["name"], returned["name"], np.concatenate(results)


def test_smaller_and_the_same_to_the_last_bit(content):
    smaller = compact(content)
    assert len(smaller) < len(content)
    given, returned, results = outputs(smaller)
    expected_given, expected_returned, expected = outputs(content)
    assert (given, returned) == (expected_given, expected_returned)
    np.testing.assert_array_equal(results, expected)
    # The network depends on its inputs, so that equal outputs say something.
    assert np.ptp(results, axis=0).min() > 1e-3


def names_of(model):
    return [tensor.name for graph in model.subgraphs for tensor in graph.tensors]


def without_names(part):
    """The object tree as dictionaries, lists and plain values."""
    if hasattr(part, "__dict__"):
        is_tensor = type(part).__name__ == "TensorT"
        return {
            key: without_names(value)
            for key, value in vars(part).items()
            if not (is_tensor and key == "name")
        }
    if isinstance(part, list):
        return [without_names(item) for item in part]
    return part.tolist() if isinstance(part, np.ndarray) else part


def check_nothing_is_lost_but_names(content):
    _, before, _ = parse(content)
    _, after, _ = parse(compact(content))
    assert without_names(after) == without_names(before)
    for old, new in zip(names_of(before), names_of(after), strict=True):
        assert new.partition(b":")[0] in old
        assert b";" not in new
    return before


def test_nothing_is_lost_but_names(content):
    check_nothing_is_lost_but_names(content)


def test_nothing_is_lost_of_several_subgraphs():
    model = keras.Sequential([keras.Input((6, 4)), layers.LSTM(8), layers.Dense(2)])
    function = converter.trace_function(model, input_specifications(model, 1), 1)
    model = check_nothing_is_lost_but_names(converter.convert(function))
    assert len(model.subgraphs) == 3


def test_names_stay_apart(content):
    """Fused tensors may have their first operation in common."""
    _, before, _ = parse(content)
    tensors = before.subgraphs[0].tensors
    names = [b"net/a/Relu", b"net/a/Relu;net/a/Add", b"net/a/Relu;net/a/Add;2", None]
    for tensor, name in zip(tensors, names, strict=False):
        tensor.name = name
    _, after, _ = parse(compact(pack(before)))
    assert names_of(after)[:4] == [
        b"net/a/Relu",
        b"net/a/Relu:1",
        b"net/a/Relu:2",
        None,
    ]


def test_constants_are_aligned_and_apart(content):
    smaller = compact(content)
    start = np.frombuffer(smaller, np.uint8).ctypes.data
    _, model, _ = parse(smaller)
    places = [b.data.ctypes.data for b in model.buffers if b.data is not None]
    assert len(places) > 5
    assert len(set(places)) == len(places)
    assert all((place - start) % 16 == 0 for place in places)


def test_zero_points_are_written_once(mode, content):
    _, model, _ = parse(compact(content))
    quantized = [
        tensor.quantization.zeroPoint
        for tensor in model.subgraphs[0].tensors
        if tensor.quantization is not None and tensor.quantization.scale is not None
    ]
    places: dict[bytes, set[int]] = {}
    for zero_points in quantized:
        key = zero_points.tobytes()
        places.setdefault(key, set()).add(zero_points.ctypes.data)
    assert all(len(place) == 1 for place in places.values())
    if mode == "int8":
        assert len(quantized) >= 2 * len(places)
    else:
        assert len(quantized) == {None: 0, "dynamic": 1}[mode]


def test_a_second_time_changes_nothing(content):
    smaller = compact(content)
    assert len(compact(smaller)) == len(smaller)


def test_constants_behind_the_flatbuffer_stay_there(content):
    """As in files beyond 2 GB: what an offset points at would get lost."""
    _, model, _ = parse(content)
    model.buffers[1].offset, model.buffers[1].size = len(content), 16
    split = pack(model) + bytes(16)
    assert compact(split) == split


def test_of_a_normalised_layer_the_layer_gives_the_name():
    name = "net/norm/batchnorm/add_1;net/stem/BiasAdd;net/stem/convolution"
    assert operations(name)[0] == "net/stem/BiasAdd"
    assert operations("net/norm/batchnorm/mul") == ["net/norm/batchnorm/mul"]
