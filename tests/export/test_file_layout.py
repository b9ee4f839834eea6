"""Bytes of files, counted by hand from the shapes of the network."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_bmr.export import export_tflite, file_layout


def network():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv2d")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU()(x)
    y = layers.Conv2D(4, 3, padding="same", name="conv2d_1")(x)
    x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(6, use_bias=False, name="dense_2")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm_1")(x))
    model = keras.Model(inputs, layers.Dense(10, name="head_2")(x), name="net")
    # The converter leaves biases out that are zero.
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for name in ("bias", "beta"):
            variable = getattr(layer, name, None)
            if variable is not None:
                variable.assign(rng.normal(size=variable.shape))
    return model


def images(num_examples=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(num_examples, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module", params=[None, "int8"])
def exported(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("layout") / "model.tflite"
    report = export_tflite(
        network(), path, quantize=request.param, representative_data=images()
    )
    return request.param, path, report


def test_weights_are_those_of_the_layers(exported):
    quantize, _, report = exported
    kernel, bias = (1, 4) if quantize else (4, 4)
    expected = {
        "conv2d": (3 * 3 * 3 * 4, 4),
        "conv2d_1": (3 * 3 * 4 * 4, 4),
        "dense_2": (4 * 6, 6),
        "head_2": (6 * 10, 10),
    }
    found = {la.name: la.weights for la in report.layout.layers if la.name in expected}
    assert found == {
        name: kernel * weights + bias * biases
        for name, (weights, biases) in expected.items()
    }


def test_scales_of_channels_are_counted(exported):
    quantize, _, report = exported
    (conv,) = [la for la in report.layout.layers if la.name == "conv2d_1"]
    # A float32 scale per channel of kernel and bias, and one for the output; an int64
    # zero point for the output. Those of the channels are the first layer's.
    assert conv.quantization == (4 * (4 + 4 + 1) + 8 if quantize else 0)
    assert report.layout.layers[0].quantization == (
        conv.quantization + 8 * 4 if quantize else 0
    )


def test_parts_make_up_the_file(exported):
    _, path, report = exported
    layout = report.layout
    assert layout.bytes == path.stat().st_size == report.bytes
    parts = (layout.weights, layout.quantization, layout.names, layout.metadata)
    assert layout.structure == layout.bytes - sum(parts)
    assert 0 < layout.structure < 8000
    # Every name is in the file.
    assert 0 < layout.names < path.read_bytes().count(b"/") * 40


def test_peak_is_that_of_the_addition(exported):
    quantize, _, report = exported
    # Both branches and their sum, 6x6x4 each; in int8 the widest moment is the first,
    # when the float input becomes an int8 one.
    expected = 8 * 8 * 3 * (4 + 1) if quantize else 4 * 3 * 6 * 6 * 4
    assert report.layout.peak_activation_bytes == expected


def test_unpacked_weights_are_no_activations(tmp_path):
    """The kernels, larger than all activations, leave the peak as it is."""
    stack = [
        keras.Input((64,)),
        layers.Dense(128, activation="relu"),
        layers.Dense(32, activation="relu"),
    ]
    model = keras.Sequential(stack)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        kernel = rng.normal(size=layer.kernel.shape)
        layer.kernel.assign(kernel * (rng.random(kernel.shape) < 0.1))
    peak = 4 * (64 + 128)
    for options, operator in (
        ({"quantize": "float16"}, "DEQUANTIZE"),
        ({"sparse": True}, "DENSIFY"),
    ):
        report = export_tflite(model, tmp_path / "model.tflite", **options)
        assert operator in report.ops
        assert report.layout.peak_activation_bytes == peak


def test_names_without_the_model(exported):
    _, path, report = exported
    layout = file_layout(path)
    assert [la.weights for la in layout.layers] == [
        la.weights for la in report.layout.layers
    ]
    assert "head_2" in layout.layers[-1].name


def test_table_has_every_layer(exported):
    _, _, report = exported
    lines = str(report).splitlines()
    (conv,) = [la for la in report.layout.layers if la.name == "conv2d_1"]
    (line,) = [line for line in lines if line.startswith("conv2d_1 ")]
    assert line.split() == [
        "conv2d_1",
        "CONV_2D",
        conv.encoding,
        f"{conv.weights:,}",
        f"{conv.quantization:,}",
    ]
    peak = f"{report.layout.peak_activation_bytes:,}"
    assert any(line.startswith("activations ") and peak in line for line in lines)


def test_picture(exported, tmp_path):
    pytest.importorskip("matplotlib")
    _, _, report = exported
    figure = report.plot(tmp_path / "layout.png")
    assert (tmp_path / "layout.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    widths = [patch.get_width() for patch in axes.patches]
    assert sum(widths) == report.bytes
    assert f"{report.bytes:,} bytes" in axes.get_title()


def test_loops_have_no_peak(tmp_path):
    model = keras.Sequential([keras.Input((4, 2)), layers.LSTM(2)])
    report = export_tflite(model, tmp_path / "model.tflite")
    assert report.layout.peak_activation_bytes is None
    # The kernels are read within the loop's body, or handed to it.
    assert report.layout.weights >= 4 * (2 * 8 + 2 * 8 + 8)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"no model at all")
    with pytest.raises(ValueError, match="TFL3"):
        file_layout(tmp_path / "model.tflite")
    with pytest.raises(FileNotFoundError):
        file_layout(tmp_path / "none.tflite")
