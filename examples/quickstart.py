"""The whole path: train, reduce by log evidence, fine-tune, export.

Handwritten digits that ship with scikit-learn, no download. Leaves two .tflite files
and prints a comparison of the dense and the pruned network.

    python examples/quickstart.py --output-dir build
"""

import argparse
import pathlib

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_bmr
from keras_bmr.objectives import (
    expected_calibration_error,
    negative_log_likelihood,
    predictive,
)


def load_data():
    """Digits of 8 x 8 pixels as floats in [0, 1], split in training and test."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32")
    return train_test_split(x, y.astype("int32"), test_size=0.25, random_state=0)


def compiled(model: keras.Model) -> keras.Model:
    """Gives the model Adam and the cross-entropy."""
    model.compile(
        keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def judged(probabilities, labels) -> dict[str, str]:
    """Accuracy, NLL and ECE, formatted."""
    accuracy = float((probabilities.argmax(-1) == labels).mean())
    return {
        "test accuracy": f"{accuracy:.4f}",
        "NLL (nats)": f"{negative_log_likelihood(probabilities, labels):.4f}",
        "ECE (20 quantile bins)": (
            f"{expected_calibration_error(probabilities, labels):.4f}"
        ),
    }


def exported(model: keras.Model, path: pathlib.Path, x, **options) -> dict[str, str]:
    """Exports a model and says what the file is like."""
    report = keras_bmr.export_tflite(model, path, representative_data=x, **options)
    return {
        "file (bytes)": f"{report.bytes}",
        "file, gzip (bytes)": f"{report.gzip_bytes}",
        "latency (ms)": f"{report.latency_ms:.4f}",
        "largest difference to Keras": f"{report.max_difference:.1e}",
    }


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=pathlib.Path, default="build")
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    x_train, x_test, y_train, y_test = load_data()

    # An ordinary network, trained as usual.
    network = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ],
        name="digits",
    )
    compiled(network).fit(x_train, y_train, epochs=30, verbose=0)

    # The Bayesian network that starts from it.
    model = keras_bmr.to_variational(network, num_examples=len(x_train))
    annealing = keras_bmr.callbacks.KLAnnealing(epochs=arguments.epochs // 4)
    compiled(model).fit(
        x_train, y_train, epochs=arguments.epochs, verbose=0, callbacks=[annealing]
    )

    # What does the evidence not pay for?
    keras_bmr.ModelReduction(model).summary()
    reduced = keras_bmr.reduce_model(model)
    compiled(reduced).fit(x_train, y_train, epochs=arguments.epochs // 3, verbose=0)

    dense = keras.ops.convert_to_numpy(keras.ops.softmax(network(x_test)))
    samples = predictive(reduced, x_test, num_samples=100, from_logits=True)
    before = {
        **judged(dense, y_test),
        "weights kept": f"{1 - keras_bmr.sparsity(network):.1%}",
        **exported(network, arguments.output_dir / "digits_dense.tflite", x_test),
    }
    after = {
        **judged(samples.mean(0), y_test),
        "weights kept": f"{1 - keras_bmr.sparsity(reduced):.1%}",
        **exported(
            reduced, arguments.output_dir / "digits_pruned.tflite", x_test, sparse=True
        ),
    }
    print(f"\n{'':28s}{'before':>12s}{'after':>12s}")
    for name, value in before.items():
        print(f"{name:28s}{value:>12s}{after[name]:>12s}")


if __name__ == "__main__":
    main()
