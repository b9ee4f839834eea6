"""Memory in TensorFlow Lite Micro, whose interpreter says whether it is enough."""

import importlib.util
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_bmr.export import arena_size, export_tflite

# There are no builds for other systems than Linux on x86_64.
pytest.importorskip("tflite_micro")

# An arena that is too small may end the process.
RUN = """
import sys
from tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2])).invoke()
"""


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(200, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def report(images, tmp_path_factory):
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    y = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.BatchNormalization()(y) + x
    x = keras.layers.MaxPooling2D()(keras.layers.ReLU()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    return export_tflite(
        model,
        tmp_path_factory.mktemp("arena") / "model.tflite",
        quantize="int8",
        representative_data=images,
        validation_data=images,
    )


def test_arena_is_the_smallest_one_that_suffices(report):
    size = report.arena_size()
    assert size.bytes % 16 == 0
    assert size.activation_bytes + size.persistent_bytes <= size.bytes
    # Memory is planned for all tensors that are alive at one time.
    assert size.activation_bytes >= report.layout.peak_activation_bytes
    for num_bytes, enough in ((size.bytes, True), (size.bytes - 16, False)):
        command = [sys.executable, "-c", RUN, report.path, str(num_bytes)]
        done = subprocess.run(command, capture_output=True)
        assert (done.returncode == 0) == enough
    assert str(size).startswith(f"{size.bytes:,} bytes")


def test_micro_interpreter_computes_what_litert_does(report, images):
    from tflite_micro import runtime

    micro = runtime.Interpreter.from_file(report.path, arena_size=1 << 20)
    lite = Interpreter(report.path)
    lite.allocate_tensors()
    outputs, expected = [], []
    for image in images[:50]:
        micro.set_input(image[np.newaxis], 0)
        micro.invoke()
        lite.set_tensor(lite.get_input_details()[0]["index"], image[np.newaxis])
        lite.invoke()
        outputs.append(micro.get_output(0)[0].copy())
        expected.append(lite.get_tensor(lite.get_output_details()[0]["index"])[0])
    # The same of every output that depends on the image, up to the rounding of int8.
    deviation = np.std(expected, axis=0)
    assert (deviation > 0).all()
    difference = np.sqrt(np.mean(np.subtract(outputs, expected) ** 2, axis=0))
    assert (difference < 0.1 * deviation).all(), difference / deviation


def test_error_names_the_operator_that_stops_it(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(300)])
    path = export_tflite(model, tmp_path / "model.tflite", quantize="float16").path
    with pytest.raises(RuntimeError, match="DEQUANTIZE"):
        arena_size(path)


def test_errors_before_anything_runs(report, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        arena_size(tmp_path / "none.tflite")
    (tmp_path / "text.tflite").write_text("no TFLite file")
    with pytest.raises(ValueError, match="TFLite"):
        arena_size(tmp_path / "text.tflite")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"keras_bmr\[micro\]"):
        arena_size(report.path)
