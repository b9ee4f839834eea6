"""int8 files of quantization-aware models, read and run without the library's code."""

import os

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_bmr.export import export_tflite, int8_weights, to_quantization_aware
from keras_bmr.export.int8_weights import check_zeros
from keras_bmr.export.quantization_aware import FakeQuantization, QuantizationAware
from keras_bmr.layers.pruned_weights import weight_mask
from keras_bmr.pruning import prune_weight


def normal(*shape):
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def images():
    """One layer of each kind for images, in a residual network."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="plain")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="deep")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(4, 1, name="pixelwise")(y)
    x = layers.Activation("relu")(layers.Add()([x, y]))
    x = layers.MaxPooling2D()(x)
    x = layers.SeparableConv2D(6, 2, activation="relu", name="split")(x)
    x = layers.Conv2DTranspose(3, 2, strides=2, activation="tanh", name="wide")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(5, activation="silu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def sequences():
    inputs = keras.Input((12, 3))
    x = layers.Conv1D(6, 3, activation="relu", name="plain")(inputs)
    x = layers.DepthwiseConv1D(3, padding="same", name="deep")(x)
    x = layers.SeparableConv1D(5, 3, activation="sigmoid", name="split")(x)
    x = layers.Conv1DTranspose(4, 3, strides=2, activation="relu", name="wide")(x)
    # A bias whose entries are all the same, which the converter alone gets wrong.
    x = layers.Dense(4, bias_initializer="ones", name="hidden")(x)
    x = layers.Flatten()(layers.Concatenate()([x, layers.ReLU()(x)]))
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="end")(x))


def pruned(model):
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            if hasattr(layer, name):
                keep = rng.random(getattr(layer, name).shape) > 0.5
                if layer.name == "hidden":
                    # A unit without inputs but for its bias.
                    keep[:, 0] = False
                prune_weight(layer, name, keep)
    return model


def constants(path):
    """Names, codes and scales of all int8 constants."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] == np.int8:
            try:
                codes = interpreter.get_tensor(detail["index"])
            except ValueError:  # An activation, before any call.
                continue
            parameters = detail["quantization_parameters"]
            assert np.all(parameters["zero_points"] == 0) or codes.shape[0] == 1
            shape = [1] * codes.ndim
            shape[parameters["quantized_dimension"]] = -1
            scales = parameters["scales"]
            if len(scales):
                yield detail["name"], codes, scales.reshape(shape)


def run(path, x):
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    outputs = []
    for example in x:
        interpreter.set_tensor(
            interpreter.get_input_details()[0]["index"], example[None]
        )
        interpreter.invoke()
        index = interpreter.get_output_details()[0]["index"]
        outputs.append(interpreter.get_tensor(index)[0])
    return np.stack(outputs)


def as_in_file(layer, kernel):
    """TFLite's order of axes for each kind of layer."""
    if isinstance(layer, layers.Dense):
        return kernel.T
    one_row = kernel if kernel.ndim == 4 else kernel[None]
    if "Depthwise" in type(layer).__name__:
        return one_row.reshape(1, *one_row.shape[:2], -1)
    if "Transpose" in type(layer).__name__:
        return np.moveaxis(one_row, 2, 0)
    return np.moveaxis(one_row, 3, 0)


@pytest.mark.parametrize("build", [images, sequences])
def test_file_has_the_weights_and_outputs_of_the_trained_model(build, tmp_path):
    model = pruned(build())
    shape = model.input_shape[1:]
    aware = to_quantization_aware(model, normal(200, *shape), momentum=0.9)
    aware.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    aware.fit(normal(200, *shape), np.arange(200) % 3, epochs=3, verbose=0)
    path, x = tmp_path / "model.tflite", normal(60, *shape)
    report = export_tflite(aware, path, quantize="int8", validation_data=x)
    assert report.notes == ()

    found = list(constants(path))
    aware_layers = [la for la in aware.layers if isinstance(la, QuantizationAware)]
    assert len(aware_layers) == (8 if build is images else 7)
    for layer in aware_layers:
        kept = as_in_file(layer, weight_mask(layer, "kernel"))
        assert 0.1 < np.mean(kept) < 0.9
        matching = [
            (codes, scales)
            for name, codes, scales in found
            if f"/{layer.name}_" in name and codes.shape == kept.shape
        ]
        assert len(matching) == 1, (layer.name, [name for name, *_ in found])
        codes, scales = matching[0]
        assert np.all(codes[~kept] == 0)
        expected = as_in_file(layer, layer.rounded_kernel().numpy())
        np.testing.assert_allclose(codes * scales, expected, rtol=1e-5, atol=1e-7)

    last = [la for la in aware.layers if isinstance(la, FakeQuantization)][-1]
    difference = np.abs(run(path, x) - aware.predict(x, verbose=0)) / last.scale()
    assert np.max(difference) < 2.01
    assert np.mean(difference > 0.5) < 0.2
    zeros = sum(int(np.sum(item.codes == 0)) for item in int8_weights(path))
    pruned_weights = sum(
        int(np.sum(~weight_mask(layer, "kernel"))) for layer in aware_layers
    )
    assert zeros >= pruned_weights
    assert zeros == sum(
        int(np.sum(layer.rounded_kernel().numpy() == 0)) for layer in aware_layers
    )


def test_other_modes_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    aware = to_quantization_aware(model, normal(50, 4))
    for mode in (None, "float16", "dynamic"):
        with pytest.raises(ValueError, match='Expected quantize="int8"'):
            export_tflite(aware, tmp_path / "model.tflite", quantize=mode)
    assert os.listdir(tmp_path) == []


def test_zeros_that_are_missing_are_found(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(3)])
    aware = to_quantization_aware(model, normal(50, 4))
    path = tmp_path / "model.tflite"
    export_tflite(aware, path, quantize="int8", validation_data=normal(50, 4))
    content = path.read_bytes()
    keep = np.ones((4, 3), bool)
    check_zeros(content, {"dense": ("FULLY_CONNECTED", keep)})
    keep[1, 2] = False
    with pytest.raises(RuntimeError, match="layer 'dense'.*1 zeros"):
        check_zeros(content, {"dense": ("FULLY_CONNECTED", keep)})


def test_masks_of_equal_shape_find_their_tensors(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), *(layers.Dense(3, name=name) for name in "abc")]
    )
    masks = {}
    for name, zeros in (("a", [(0, 0)]), ("b", [(0, 0), (1, 1)]), ("c", [(2, 0)])):
        masks[name] = np.ones((3, 3), bool)
        for entry in zeros:
            masks[name][entry] = False
        prune_weight(model.get_layer(name), "kernel", masks[name])
    aware = to_quantization_aware(model, normal(50, 3))
    path = tmp_path / "model.tflite"
    export_tflite(aware, path, quantize="int8", validation_data=normal(50, 3))
    content = path.read_bytes()
    kept = {name: ("FULLY_CONNECTED", mask) for name, mask in masks.items()}
    check_zeros(content, kept)
    check_zeros(content, dict(reversed(kept.items())))
    # Two layers cannot have the zeros of one tensor.
    with pytest.raises(RuntimeError, match="layer 'd'"):
        check_zeros(content, {**kept, "d": kept["b"]})
