"""Files with uncertainty, run by an interpreter of the test's own."""

import os

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_bmr
from keras_bmr.export import export_tflite, propagate_moments, verify
from keras_bmr.objectives import predictive_moments


def run(path, x, batch_size=1):
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    outputs = [detail["index"] for detail in interpreter.get_output_details()]
    results = []
    for start in range(0, len(x), batch_size):
        interpreter.set_tensor(entry["index"], x[start : start + batch_size])
        interpreter.invoke()
        results.append([interpreter.get_tensor(index) for index in outputs])
    return [np.concatenate(output) for output in zip(*results, strict=True)]


@pytest.fixture
def lenet(bayesian):
    return bayesian(
        (8, 8, 1),
        layers.Conv2D(4, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(18, activation="relu"),
        layers.Dense(3),
        scale=0.05,
    )


@pytest.mark.parametrize(
    ("uncertainty", "from_logits"),
    [("moments", False), ("moments", True), ("ensemble", True)],
)
def test_files_are_what_keras_says(lenet, normal, tmp_path, uncertainty, from_logits):
    x, path = normal(24, 8, 8, 1), tmp_path / "model.tflite"
    report = export_tflite(
        lenet,
        path,
        validation_data=x,
        uncertainty=uncertainty,
        from_logits=from_logits,
        seed=3,
    )
    if uncertainty == "moments":
        expected = propagate_moments(lenet, x, from_logits)
    else:
        expected = predictive_moments(
            lenet, x, num_samples=8, seed=3, from_logits=from_logits, verbose=0
        )
    mean, variance = run(path, x)
    np.testing.assert_allclose(mean, expected.mean, atol=1e-4)
    np.testing.assert_allclose(
        np.sqrt(variance), np.sqrt(expected.variance), atol=1e-4, rtol=1e-3
    )
    assert report.uncertainty == uncertainty
    assert f"uncertainty          {uncertainty}\n" in str(report)
    assert report.top1_agreement == 1.0
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_batches_and_modes(lenet, normal, tmp_path):
    x = normal(32, 8, 8, 1)
    x[:, :4] = 0  # Nothing varies there, and float16 knows no tiny numbers.
    expected = propagate_moments(lenet, x, from_logits=True)
    for quantize, batch_size, tolerance in (
        (None, 4, 1e-4),
        ("float16", 1, 1e-2),
        ("dynamic", 1, 5e-2),
    ):
        path = tmp_path / "model.tflite"
        export_tflite(
            lenet,
            path,
            quantize,
            validation_data=x,
            batch_size=batch_size,
            uncertainty="moments",
            from_logits=True,
        )
        mean, variance = run(path, x, batch_size)
        np.testing.assert_allclose(mean, expected.mean, atol=tolerance)
        deviation = np.sqrt(variance)
        np.testing.assert_allclose(
            deviation, np.sqrt(expected.variance), atol=tolerance
        )


def test_ensembles_of_layers_without_a_rule(normal, tmp_path):
    """Recurrent layers, wrappers, gates, shared layers and several inputs."""
    first, second = keras.Input((3, 3)), keras.Input((3, 3))
    shared = layers.TimeDistributed(layers.Dense(4, activation="relu"))
    x = layers.Concatenate()([shared(first), shared(second)])
    x = layers.SimpleRNN(5, unroll=True)(layers.LayerNormalization()(x))
    network = keras.Model([first, second], layers.Dense(2)(x))
    model = keras_bmr.to_variational(network, num_examples=100, structured=False)
    inputs = [normal(12, 3, 3), normal(12, 3, 3, seed=2)]
    report = export_tflite(
        model,
        tmp_path / "model.tflite",
        validation_data=inputs,
        uncertainty="ensemble",
        num_samples=2,
    )
    assert report.max_difference < 1e-4
    gated = keras_bmr.layers.add_noise_gates(
        keras.Sequential(
            [keras.Input((4,)), layers.Dense(6, activation="relu"), layers.Dense(2)]
        ),
        num_examples=100,
    )
    report = export_tflite(
        gated, tmp_path / "gated.tflite", uncertainty="ensemble", num_samples=2
    )
    assert report.max_difference < 1e-4


def test_what_is_certain_is_there_once(bayesian, tmp_path):
    """Weights without a posterior do not grow with the number of draws."""

    def size(num_samples):
        network = keras.Sequential(
            [keras.Input((64,)), layers.Dense(256, name="body"), layers.Dense(2)]
        )
        model = keras_bmr.to_variational(network, num_examples=100, skip=["body"])
        return export_tflite(
            model,
            tmp_path / "model.tflite",
            uncertainty="ensemble",
            num_samples=num_samples,
        ).bytes

    body, head = 4 * 64 * 256, 4 * 256 * 2
    assert size(4) - size(2) < 2 * head + 4000 < body


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"uncertainty": "samples"}, "uncertainty='samples'"),
        ({"uncertainty": "moments", "num_samples": 5}, "no meaning otherwise"),
        ({"uncertainty": "ensemble", "num_samples": 1}, "num_samples=1"),
        ({"uncertainty": "ensemble", "seed": -1}, "seed=-1"),
        ({"from_logits": True}, "uncertainty=None"),
        ({"uncertainty": "moments", "quantize": "int8"}, "256 steps"),
    ],
)
def test_bad_arguments_write_nothing(lenet, tmp_path, arguments, match):
    with pytest.raises(ValueError, match=match):
        export_tflite(lenet, tmp_path / "model.tflite", **arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("uncertainty", ["moments", "ensemble"])
def test_a_single_logit_is_no_class(bayesian, tmp_path, uncertainty):
    model = bayesian((4,), layers.Dense(1))
    with pytest.raises(ValueError, match=r"sigmoid.*shape \(None, 1\)"):
        export_tflite(
            model,
            tmp_path / "model.tflite",
            uncertainty=uncertainty,
            from_logits=True,
        )
    assert os.listdir(tmp_path) == []


def test_failures_leave_the_older_file(lenet, bayesian, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"an older file")
    unknown = bayesian((4,), layers.Dense(3), layers.GroupNormalization(1, name="norm"))
    with pytest.raises(ValueError, match="'norm'"):
        export_tflite(unknown, path, uncertainty="moments")
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    for uncertainty in ("moments", "ensemble"):
        with pytest.raises(ValueError, match="has no Bayesian layer"):
            export_tflite(plain, path, uncertainty=uncertainty)
    run_function = verify.run_function

    def wrong_variance(*arguments):
        mean, variance = run_function(*arguments)
        return [mean, 1.1 * variance + 1e-3]

    monkeypatch.setattr(verify, "run_function", wrong_variance)
    with pytest.raises(RuntimeError, match="disagrees with Keras"):
        export_tflite(lenet, path, uncertainty="moments")
    assert path.read_bytes() == b"an older file"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_clipped_activations_one_after_another(bayesian, normal, tmp_path):
    """What is clipped is nearly certain: thousands of deviations from the next clip."""
    depthwise = keras.layers.DepthwiseConv2D(3, padding="same")
    model = bayesian(
        (8, 8, 3),
        keras.layers.Conv2D(4, 3, padding="same"),
        keras.layers.ReLU(6.0),
        depthwise,
        keras.layers.ReLU(6.0),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
        scale=1e-3,
    )
    report = keras_bmr.export_tflite(
        model,
        tmp_path / "moments.tflite",
        uncertainty="moments",
        validation_data=100 * normal(20, 8, 8, 3),
    )
    assert report.relative_difference < 1e-3
