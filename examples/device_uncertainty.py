"""Uncertainty on the device: three files of one Bayesian network of digits.

A small convolutional network of scikit-learn's 8x8 digits is trained with posteriors
on its weights and exported as the network of the means, with moments (mean and variance
of the class probabilities in one pass) and as an ensemble of draws. LiteRT runs the
files on digits that were not trained on, and on the same digits with their pixels
shuffled, which are none.

    python examples/device_uncertainty.py
"""

import argparse
import pathlib

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_bmr
from keras_bmr.export import latency
from keras_bmr.objectives import negative_log_likelihood

FILES = {
    "means": {},
    "moments": {"uncertainty": "moments", "from_logits": True},
    "ensemble": {"uncertainty": "ensemble", "from_logits": True, "num_samples": 8},
}


def load_data():
    """Digits in [0, 1] for training, for testing, and the latter with shuffled pixels.

    All shuffled digits have the same permutation.
    """
    digits = load_digits()
    x = (digits.images / 16).astype("float32")[..., None]
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], digits.target[order]
    pixels = np.random.default_rng(1).permutation(64)
    shuffled = x[1400:].reshape(-1, 64)[:, pixels].reshape(-1, 8, 8, 1)
    return (x[:1400], y[:1400]), (x[1400:], y[1400:]), shuffled


def train(data, epochs: int) -> keras.Model:
    """A Bayesian network with logits as output."""
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(10),
        ]
    )
    model = keras_bmr.to_variational(network, num_examples=len(data[0]))
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    annealing = keras_bmr.callbacks.KLAnnealing(epochs=max(1, epochs // 3))
    model.fit(*data, batch_size=64, epochs=epochs, callbacks=[annealing], verbose=0)
    return model


def run(path: pathlib.Path, x: np.ndarray) -> list[np.ndarray]:
    """The outputs of a file, image by image, as a device computes them."""
    interpreter = latency.load(path)
    entry = interpreter.get_input_details()[0]["index"]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]
    rows = []
    for image in x:
        interpreter.set_tensor(entry, image[None])
        interpreter.invoke()
        rows.append([interpreter.get_tensor(index) for index in outputs])
    return [np.concatenate(output) for output in zip(*rows, strict=True)]


def predictions(path: pathlib.Path, x: np.ndarray):
    """Probabilities of the classes, and the standard deviation of the largest."""
    mean, *variance = run(path, x)
    if not variance:
        mean = np.exp(mean - mean.max(-1, keepdims=True))
        return mean / mean.sum(-1, keepdims=True), None
    chosen = mean.argmax(-1)[:, None]
    return mean, np.sqrt(np.take_along_axis(variance[0], chosen, -1))[:, 0]


def main() -> None:
    """Trains, exports and prints one line per file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--output-dir", type=pathlib.Path, default=pathlib.Path("build/uncertainty")
    )
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    data, (x, y), shuffled = load_data()
    model = train(data, arguments.epochs)

    samples = keras_bmr.predictive(model, x, 1000, seed=1, from_logits=True, verbose=0)
    nll = negative_log_likelihood(samples.mean(0), y)
    print(f"1000 draws: NLL {nll:.4f}")
    reports = {
        label: keras_bmr.export_tflite(
            model,
            arguments.output_dir / f"{label}.tflite",
            validation_data=x[:100],
            **options,
        )
        for label, options in FILES.items()
    }
    seconds = keras_bmr.export.measure_latency([r.path for r in reports.values()])
    for (label, report), time in zip(reports.items(), seconds, strict=True):
        probabilities, deviation = predictions(report.path, x)
        strange, strange_deviation = predictions(report.path, shuffled)
        print(
            f"{label}: NLL {negative_log_likelihood(probabilities, y):.4f}, "
            f"accuracy {np.mean(probabilities.argmax(-1) == y):.4f}, "
            f"{report.bytes} bytes, {1e6 * time:.1f} microseconds, "
            f"mean confidence {probabilities.max(-1).mean():.3f} on digits and "
            f"{strange.max(-1).mean():.3f} on shuffled ones"
        )
        if deviation is not None:
            print(
                f"  standard deviation of the largest probability: "
                f"{deviation.mean():.4f} on digits, "
                f"{strange_deviation.mean():.4f} on shuffled ones"
            )


if __name__ == "__main__":
    main()
