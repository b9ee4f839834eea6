"""Files with formats per layer, run by an interpreter of the test's own."""

import os

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_bmr
from keras_bmr.export import WEIGHT_FORMATS, WeightPrecision, export_precision


def network():
    """Every kind of kernel, a normalisation that is folded, posteriors pruned."""
    keras.utils.set_random_seed(0)
    stack = [
        keras.Input((8, 8, 4)),
        layers.Conv2D(8, 3, name="conv"),
        layers.BatchNormalization(name="normalization"),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.Conv2DTranspose(6, 2, name="transposed"),
        layers.SeparableConv2D(4, 3, name="separable"),
        layers.Reshape((3, 12), name="rows"),
        layers.Conv1D(8, 2, name="conv1d"),
        layers.Flatten(name="flatten"),
        layers.Dense(12, activation="relu", name="dense"),
        layers.Dense(5, name="head"),
    ]
    # Names are in the file; those that Keras counts up would change its size.
    model = keras.Sequential(stack, name="network")
    rng = np.random.default_rng(0)
    model.get_layer("normalization").set_weights(
        [
            rng.uniform(-2, 2, 8),
            rng.normal(size=8),
            rng.normal(size=8),
            rng.uniform(0.5, 2, 8),
        ]
    )
    return model


@pytest.fixture(scope="module")
def model():
    model = keras_bmr.to_variational(network(), num_examples=100)
    return keras_bmr.reduce_model(model, criterion="magnitude", sparsity=0.5)


@pytest.fixture(scope="module")
def precision(model):
    return WeightPrecision(model)


X = np.random.default_rng(1).normal(size=(24, 8, 8, 4)).astype("float32")


def run(path, x):
    interpreter = Interpreter(model_path=str(path), num_threads=1)
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


def in_file(path):
    """The constants of a file by the interpreter's own dequantisation."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    found = []
    for detail in interpreter.get_tensor_details():
        if detail["name"].endswith("_packed"):
            found.append((detail, interpreter.get_tensor(detail["index"])))
    return found


@pytest.mark.parametrize("name", [name for name in WEIGHT_FORMATS if name != "float32"])
def test_every_kernel_in_every_format(name, model, precision, tmp_path):
    choice = precision.assign({}, default=name)
    path = tmp_path / "model.tflite"
    report = export_precision(choice, path, X)
    expected = choice.network().predict(X, verbose=0)
    np.testing.assert_allclose(
        run(path, X), expected, atol=1e-4 * np.abs(expected).max()
    )
    assert report.max_difference < 1e-4 * max(1, np.abs(expected).max())
    # The share of zeros in the file's own integers is that of the pruned weights.
    packed = in_file(path)
    assert len(packed) == len(precision.weight_labels) == 8
    zeros = sum(np.count_nonzero(values == 0) for _, values in packed)
    size = sum(values.size for _, values in packed)
    assert zeros / size >= keras_bmr.sparsity(model)
    # The model itself, as far as the bits go.
    exact = keras_bmr.to_deterministic(model).predict(X, verbose=0)
    error = np.sqrt(np.mean((expected - exact) ** 2)) / exact.std()
    assert error < {"int4": 0.6, "int8": 0.03, "int16": 1e-3, "float16": 2e-3}[name]


def bottleneck():
    """Each of the decoder's weights is a channel of its own."""
    stack = [
        keras.Input((16,)),
        layers.Dense(1, name="encoder"),
        layers.Dense(16, name="decoder"),
    ]
    return keras.Sequential(stack)


def depthwise():
    """One weight per channel, and a normalisation that is folded into the first."""
    stack = [
        keras.Input((3, 3, 16)),
        layers.DepthwiseConv2D(1, name="first"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.DepthwiseConv2D(1, name="second"),
        layers.ReLU(),
        layers.DepthwiseConv2D(1, name="plain"),
    ]
    model = keras.Sequential(stack)
    rng = np.random.default_rng(0)
    model.get_layer("norm").set_weights([rng.uniform(0.5, 2, 16) for _ in range(4)])
    return model


@pytest.mark.parametrize(
    ("build", "skip", "labels"),
    [
        (bottleneck, [], ("encoder/kernel", "decoder/kernel")),
        (depthwise, ["plain"], ("first/kernel", "second/kernel")),
        (depthwise, ["first"], ("second/kernel", "plain/kernel")),
    ],
)
def test_kernels_with_one_weight_per_channel(build, skip, labels, tmp_path):
    """Such a kernel is every constant of its size, up to factors."""
    keras.utils.set_random_seed(0)
    model = keras_bmr.to_variational(build(), num_examples=10, skip=skip)
    precision = WeightPrecision(model)
    assert precision.weight_labels == labels
    choice = precision.assign({labels[0]: "int4"}, default="int8")
    assert len(choice.rounded) == 2
    path = tmp_path / "model.tflite"
    x = np.random.default_rng(1).normal(size=(8, *model.input_shape[1:]))
    export_precision(choice, path, x.astype("float32"))
    expected = choice.network().predict(x, verbose=0)
    np.testing.assert_allclose(run(path, x.astype("float32")), expected, atol=1e-5)
    types = sorted(str(np.dtype(d["dtype"])) for d, _ in in_file(path))
    assert len(types) == 2 and "int8" in types


def test_layers_of_one_name_in_two_models(tmp_path):
    keras.utils.set_random_seed(0)
    blocks = [
        keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, name="dense")], name=f"block_{number}"
        )
        for number in range(2)
    ]
    inputs = keras.Input((6,))
    outputs = layers.Dense(2, name="head")(blocks[1](layers.ReLU()(blocks[0](inputs))))
    model = keras_bmr.to_variational(keras.Model(inputs, outputs), num_examples=10)
    precision = WeightPrecision(model)
    names = ["block_0/dense", "block_1/dense", "head"]
    assert precision.weight_labels == tuple(f"{name}/kernel" for name in names)
    formats = dict(zip(names, ("int4", "int8", "float16"), strict=True))
    choice = precision.assign(formats)
    assert choice.formats == {f"{name}/kernel": formats[name] for name in names}
    losses = [precision.loss(name, formats[name]) for name in names]
    assert choice.loss == pytest.approx(sum(losses)) and losses[0] > losses[1] > 0
    assert precision.assign({"block_1/dense/kernel": "int8"}).loss == losses[1]
    x = X[:, 0].reshape(24, 32)[:, :6]
    export_precision(choice, tmp_path / "model.tflite", x)
    expected = choice.network().predict(x, verbose=0)
    np.testing.assert_allclose(run(tmp_path / "model.tflite", x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="block_0/dense/kernel.*layer='dense'"):
        precision.loss("dense", "int4")


def test_mixed_formats_and_batches(precision, tmp_path):
    formats = {"conv": "int8", "depthwise": "int4", "dense": "int16", "head": "float16"}
    choice = precision.assign(formats)
    assert choice.formats["conv/kernel"] == "int8"
    assert choice.formats["separable/depthwise_kernel"] == "float32"
    path = tmp_path / "model.tflite"
    report = export_precision(choice, path, X, batch_size=4)
    encodings = {
        la.name: la.encoding
        for la in report.layout.layers
        if la.operator == "DEQUANTIZE"
    }
    assert encodings == formats
    np.testing.assert_allclose(
        run(path, X), choice.network().predict(X, verbose=0), atol=1e-4
    )


def test_formats_and_sparse_encodings_in_one_file(tmp_path, monkeypatch):
    model = keras.Sequential(
        [
            keras.Input((32,)),
            layers.Dense(64, activation="relu", name="first"),
            layers.Dense(48, activation="relu", name="second"),
            layers.Dense(5, name="head"),
        ]
    )
    model = keras_bmr.to_variational(model, num_examples=10)
    reduced = keras_bmr.reduce_model(
        model, granularity="block", sparsity=0.9, skip=["first", "head"]
    )
    choice = WeightPrecision(reduced).assign({"first": "int8", "head": "int8"})
    path, x = tmp_path / "model.tflite", X[:, 0].reshape(24, 32)
    report = export_precision(choice, path, x, sparse=True)
    assert report.sparse
    encodings = {la.name: la.encoding for la in report.layout.layers[:4]}
    assert encodings["second"] == "float32, 1x4 blocks"
    assert encodings["first"] == encodings["head"] == "int8"
    expected = choice.network().predict(x, verbose=0)
    np.testing.assert_allclose(run(path, x), expected, atol=1e-5)
    # The formats stay where a sparse file does not run.
    monkeypatch.setattr(
        "keras_bmr.export.verified_file.encode_sparse",
        lambda content: (content[: len(content) // 2], {}),
    )
    report = export_precision(choice, path, x, sparse=True)
    assert not report.sparse
    assert any("dense encoding instead of sparse" in note for note in report.notes)
    encodings = {la.name: la.encoding for la in report.layout.layers[:4]}
    assert encodings["second"] == "float32" and encodings["first"] == "int8"
    np.testing.assert_allclose(run(path, x), expected, atol=1e-5)


def test_a_file_of_the_chosen_size(precision, tmp_path):
    previous = 0
    for max_bytes in (7000, 7300, 7700):
        choice = precision.choose(max_bytes)
        report = export_precision(choice, tmp_path / "model.tflite", X)
        assert previous < report.bytes <= max_bytes
        assert report.bytes == os.path.getsize(tmp_path / "model.tflite")
        previous = report.bytes


def test_posteriors_of_an_ordinary_network(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(3)])
    before = model.get_weights()
    x = X[:, 0].reshape(-1, 32)[:, :8]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    laplace = keras_bmr.laplace.Laplace(model, loss, structure="diagonal")
    laplace.fit((x, np.arange(len(x)) % 3))
    choice = WeightPrecision(laplace).assign({}, "int8")
    export_precision(choice, tmp_path / "model.tflite", x)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_that_changed_is_refused_and_nothing_is_written(tmp_path):
    network = keras.Sequential([keras.Input((8,)), layers.Dense(6, name="layer")])
    model = keras_bmr.to_variational(network, num_examples=10)
    choice = WeightPrecision(model).assign({}, "int8")
    model.get_layer("layer").assign_means({"kernel": np.ones((8, 6), "float32")})
    path = tmp_path / "model.tflite"
    path.write_bytes(b"an older file")
    with pytest.raises(ValueError, match="changed since.*layer/kernel"):
        export_precision(choice, path)
    assert os.listdir(tmp_path) == ["model.tflite"]
    assert path.read_bytes() == b"an older file"
    with pytest.raises(TypeError, match="choose_precision"):
        export_precision(model, path)
    with pytest.raises(FileNotFoundError, match="folder of `path`"):
        export_precision(choice, tmp_path / "missing" / "model.tflite")
    with pytest.raises(TypeError, match="string or a `pathlib.Path`.*path=None"):
        export_precision(choice, None)
    with pytest.raises(ValueError, match="integer.*batch_size=True"):
        export_precision(choice, path, batch_size=True)


def test_weights_that_are_no_constant_stay_float32(tmp_path):
    inputs = keras.Input((5, 3))
    x = layers.LSTM(4, unroll=False, name="memory")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    model = keras_bmr.to_variational(model, num_examples=10)
    precision = WeightPrecision(model)
    lines = []
    precision.summary(print_fn=lines.append)
    choice = precision.assign({}, "int8")
    path = tmp_path / "model.tflite"
    data = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    export_precision(choice, path, data)
    np.testing.assert_allclose(
        run(path, data), choice.network().predict(data, verbose=0), atol=1e-5
    )
    assert "head/kernel" in choice.formats
