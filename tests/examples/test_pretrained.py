import importlib.util
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bmr

pytest.importorskip("ai_edge_litert")
PATH = pathlib.Path(__file__).parents[2] / "examples" / "pretrained.py"


@pytest.fixture(scope="module")
def pretrained():
    specification = importlib.util.spec_from_file_location("pretrained", PATH)
    module = importlib.util.module_from_spec(specification)
    # Where AutoGraph looks for the names that a function uses.
    sys.modules["pretrained"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["pretrained"]


def images(num_examples, seed):
    """Bright in the upper, the lower or no half, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=num_examples)
    x = rng.integers(0, 100, size=(num_examples, 8, 8, 3))
    x[labels == 0, :4] += 120
    x[labels == 1, 4:] += 120
    return x.astype("uint8"), labels


def network(activation):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Conv2D(6, 3)(inputs)
    outputs = keras.layers.BatchNormalization(momentum=0.5)(outputs)
    outputs = keras.layers.ReLU()(outputs)
    outputs = keras.layers.AveragePooling2D(3)(outputs)
    outputs = keras.layers.Flatten()(outputs)
    outputs = keras.layers.Dense(3, activation=activation)(outputs)
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None),
    )
    x, y = images(640, 1)
    model.fit(x.astype("float32"), y, epochs=4, verbose=0)
    return model


@pytest.fixture(scope="module")
def splits():
    x_train, y_train = images(320, 2)
    x_test, y_test = images(100, 3)
    return {"train": (x_train, y_train), "test": (x_test, y_test)}


def test_whole_path_from_jpeg_and_probabilities(pretrained, splits, tmp_path):
    arrays = {}
    for name, (x, y) in splits.items():
        files = [tf.io.encode_jpeg(image, quality=100).numpy() for image in x]
        arrays[f"jpeg_{name}"] = np.frombuffer(b"".join(files), "uint8")
        arrays[f"offset_{name}"] = np.cumsum([0, *map(len, files)])
        arrays[f"y_{name}"] = y[:, None]
    np.savez(tmp_path / "data.npz", **arrays)
    network("softmax").save(tmp_path / "model.keras")
    command_line = f"--model {tmp_path}/model.keras --data {tmp_path}/data.npz"
    table = pretrained.main(
        f"{command_line} --epochs 2 --fine-tune-epochs 1 --sparsity 0.5 --flip "
        f"--verbose 0 --output-dir {tmp_path}".split()
    )
    assert float(table["saved"]["test accuracy"]) > 0.9
    assert float(table["fine-tuned"]["test accuracy"]) > 0.9
    assert table["trained"]["weights kept"] == "100.0%"
    assert table["fine-tuned"]["weights kept"] == "50.0%"
    for name in ("saved", "fine-tuned"):
        for label in ("float32", "int8"):
            size = (tmp_path / f"{name}_{label}.tflite").stat().st_size
            assert table[name][f"{label} file (bytes)"] == str(size)


def test_logits_are_told_from_probabilities(pretrained, splits):
    x = splits["test"][0].astype("float32")
    assert not pretrained.has_probabilities(network(None), x)
    assert pretrained.has_probabilities(network("softmax"), x)


def test_batch_statistics_are_those_of_the_means(pretrained, splits):
    x = splits["train"][0].astype("float32")
    model = keras_bmr.to_variational(network(None))
    means = pretrained.network_of_means(model, x)
    convolution, normalization = means.layers[1:3]
    activations = keras.ops.convert_to_numpy(convolution(x))
    np.testing.assert_allclose(
        normalization.moving_mean, activations.mean((0, 1, 2)), rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(
        normalization.moving_variance, activations.var((0, 1, 2)), rtol=1e-4
    )


def test_data_of_another_shape_is_refused(pretrained, tmp_path):
    network(None).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"Received: data of shape \(4, 4, 3\)"):
        pretrained.load_model(tmp_path / "model.keras", np.zeros((2, 4, 4, 3)))
