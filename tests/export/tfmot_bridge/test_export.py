"""int8 files through tfmot: zeros layer by layer, clusters, ranges, errors."""

import os

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from sklearn.datasets import load_digits

from keras_bmr.export.int8_weights import int8_weights
from keras_bmr.export.tfmot_bridge import export_with_tfmot, to_tf_keras
from keras_bmr.export.tfmot_bridge.calibration import calibrate
from keras_bmr.export.tfmot_bridge.loading import load_tfmot
from keras_bmr.export.tfmot_bridge.training import fine_tune
from keras_bmr.layers.pruned_weights import weight_mask
from keras_bmr.pruning import prune_weight

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return (data.images[..., None] / 16).astype("float32"), data.target


@pytest.fixture(scope="module")
def model(digits):
    """A trained network with every kind of layer that tfmot's schemes train."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False, name="plain"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same", activation="relu", name="deep"),
            layers.SeparableConv2D(8, 3, activation="relu", name="split"),
            layers.Flatten(),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ]
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        for name in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            if hasattr(layer, name):
                keep = rng.random(getattr(layer, name).shape) > 0.4
                if layer.name == "plain":
                    # A channel without inputs.
                    keep[..., 0] = False
                prune_weight(layer, name, keep)
    model.compile(keras.optimizers.Adam(5e-3), LOSS, jit_compile=False)
    model.fit(*digits, epochs=12, verbose=0)
    return model


def masks(model):
    """Keras' masks in the order of TFLite's operators and axes."""
    for name, weight in [
        ("plain", "kernel"),
        ("deep", "kernel"),
        ("split", "depthwise_kernel"),
        ("split", "pointwise_kernel"),
        ("hidden", "kernel"),
        ("logits", "kernel"),
    ]:
        mask = weight_mask(model.get_layer(name), weight)
        if mask.ndim == 2:
            yield mask.T
        elif name == "deep" or weight == "depthwise_kernel":
            yield mask.reshape(1, *mask.shape[:2], -1)
        else:
            yield mask.transpose(3, 0, 1, 2)


def accuracy(path, x, y):
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    correct = 0
    for image, label in zip(x, y, strict=True):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        index = interpreter.get_output_details()[0]["index"]
        correct += interpreter.get_tensor(index).argmax() == label
    return correct / len(x)


@pytest.mark.parametrize("scheme", ["pqat", "cluster", "pcqat"])
def test_file_keeps_every_zero(scheme, model, digits, tmp_path):
    before = model.get_weights()
    path = tmp_path / "model.tflite"
    report = export_with_tfmot(
        model,
        path,
        digits,
        LOSS,
        scheme=scheme,
        epochs=1,
        learning_rate=1e-3,
        num_clusters=8,
    )
    weights = int8_weights(path)
    for item, mask in zip(weights, masks(model), strict=True):
        assert item.codes.shape == mask.shape
        assert np.all(item.codes[~mask] == 0)
        assert np.any(item.codes[mask] != 0)
        if scheme == "pcqat" and item.operator == "FULLY_CONNECTED":
            assert len(np.unique(item.codes)) <= 8
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    expected = np.mean(model.predict(digits[0], verbose=0).argmax(-1) == digits[1])
    assert expected > 0.9
    assert accuracy(path, *digits) > expected - (0.1 if scheme == "cluster" else 0.03)
    assert report.relative_difference < 0.05
    assert scheme in report.notes[0]
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_layers_with_fewer_weights_than_clusters():
    network = keras.Sequential(
        [
            keras.Input((3, 3, 1)),
            layers.Conv2D(4, 2, name="sixteen"),
            layers.Conv2D(4, 1, name="few"),
            layers.Flatten(),
            layers.Dense(3, name="two"),
            layers.Dense(3, name="single"),
            layers.Dense(2, name="empty"),
        ]
    )
    for name, left in (("few", 7), ("two", 2), ("single", 1), ("empty", 0)):
        keep = np.zeros(network.get_layer(name).kernel.shape, bool)
        keep.flat[:left] = True
        prune_weight(network.get_layer(name), "kernel", keep)
    x = np.random.default_rng(0).normal(size=(20, 3, 3, 1)).astype("float32")
    # Without training: as many clusters as weights leave every weight where it is.
    trained = fine_tune(to_tf_keras(network), "cluster", lambda _: None, 16, [x])
    for layer in network.layers:
        for expected, weight in zip(
            layer.get_weights(),
            trained.get_layer(layer.name).get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(weight, expected)
    # tfmot warns of layers without weights, which need no clusters.
    empty = keras.Sequential(
        [keras.Input((9,)), layers.Dense(2, bias_initializer="ones", name="empty")]
    )
    prune_weight(empty.get_layer("empty"), "kernel", np.zeros((9, 2), bool))
    inputs = x.reshape(20, 9)
    aware = fine_tune(to_tf_keras(empty), "pcqat", lambda _: None, 16, [inputs])
    np.testing.assert_allclose(aware(inputs), np.ones((20, 2)), rtol=0.01)


def test_ranges_start_at_those_of_the_data(model, digits):
    tfmot, x = load_tfmot(), digits[0][:200]
    keras_2 = to_tf_keras(model)
    aware = tfmot.quantization.keras.quantize_model(keras_2)
    before = [weight.numpy() for weight in aware.trainable_weights]
    calibrate(aware, [x])
    bounds = {weight.name: weight.numpy() for weight in aware.weights}
    outputs = keras.Model(
        model.inputs, [model.get_layer(name).output for name in ("deep", "logits")]
    ).predict(x, verbose=0)
    for name, output in zip(("deep", "logits"), outputs, strict=True):
        width = output.max() - min(output.min(), 0)
        low = bounds[f"quant_{name}/post_activation_min:0"]
        high = bounds[f"quant_{name}/post_activation_max:0"]
        # Batch normalisation takes the statistics of the batch meanwhile.
        assert abs(low - min(output.min(), 0)) < 0.25 * width
        assert abs(high - output.max()) < 0.25 * width
        assert low <= 0
    for old, new in zip(before, aware.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    np.testing.assert_allclose(
        bounds[f"{model.layers[1].name}/moving_mean:0"],
        model.layers[1].moving_mean.numpy(),
    )
    agreement = aware.predict(x, verbose=0).argmax(-1) == outputs[1].argmax(-1)
    assert np.mean(agreement) > 0.95


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"scheme": "qat"}, ValueError, "scheme='qat'"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"num_clusters": 2}, ValueError, "num_clusters=2"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate=-1.0"),
        ({"data": np.ones((30, 4))}, TypeError, "pair of inputs and targets"),
        ({"data": (np.ones((30, 4)), np.ones(29))}, ValueError, "29 targets"),
        ({"data": (np.ones((5, 4)), np.ones(5))}, ValueError, "at least 20 examples"),
        (
            {"data": (np.ones((30, 4)), np.full(30, np.nan))},
            ValueError,
            "30 that are nan",
        ),
        ({"data": (np.ones((30, 3)), np.ones(30))}, ValueError, r"shape \(30, 3\)"),
    ],
)
def test_bad_arguments_write_nothing(arguments, error, message, tmp_path):
    small = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    given = {"data": (np.ones((30, 4)), np.ones(30)), **arguments}
    with pytest.raises(error, match=message):
        export_with_tfmot(small, tmp_path / "model.tflite", loss="mse", **given)
    assert os.listdir(tmp_path) == []


def test_layer_that_tfmot_refuses_is_named(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_text("before")
    transposed = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Conv2DTranspose(1, 2, name="wide")]
    )
    data = np.ones((30, 4, 4, 1)), np.ones((30, 5, 5, 1))
    with pytest.raises(ValueError, match="tfmot cannot train model.*wide"):
        export_with_tfmot(transposed, path, data, "mse")
    assert path.read_text() == "before"
