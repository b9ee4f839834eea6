"""Four int8 files of one pruned LeNet-5: what quantisation costs, and what it keeps.

A network is trained, its smallest weights are pruned and the others fine-tuned. It
goes to a file in float32, to int8 after training, to int8 by quantization-aware
training in Keras 3, and to int8 by tfmot's sparsity-preserving quantization-aware
training (PQAT; not with `--skip-tfmot`, nor where tfmot is not installed). All files
are run on the test set, and the zeros of the int8 ones are counted.

Without `--data mnist.npz` (arrays x_train, y_train, x_test, y_test) it runs on the 8x8
digits of scikit-learn with a smaller network. A line of JSON per file goes to
`--output-dir`.

    python examples/quantization_aware.py
    python examples/quantization_aware.py --data mnist.npz --learning-rate 0.001
        --epochs 2 --epochs-pruned 1 --epochs-int8 1
"""

import argparse
import importlib.util
import json
import pathlib
import time

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from keras_bmr.export import export_tflite, int8_weights, to_quantization_aware
from keras_bmr.export.tfmot_bridge import export_with_tfmot
from keras_bmr.pruning import prune_weight

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load_data(path: pathlib.Path | None):
    """Images in [0, 1] with a channel axis and labels, for training and testing."""
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y = digits.images.astype("float32")[..., None] / 16, digits.target
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order], y[order]
        return (x[:1300], y[:1300]), (x[1300:], y[1300:])
    with np.load(path) as file:
        return tuple(
            (file[f"x_{part}"].astype("float32")[..., None] / 255, file[f"y_{part}"])
            for part in ("train", "test")
        )


def build(size: int) -> keras.Model:
    """LeNet-5 for 28x28 images; for 8x8 ones a network of its kind."""
    layers = keras.layers
    if size == 28:
        (first, second, hidden), kernels = (20, 50, 500), (5, 5)
    else:
        (first, second, hidden), kernels = (16, 32, 64), (3, 2)
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            layers.Conv2D(first, kernels[0], activation="relu", name="conv_1"),
            layers.MaxPooling2D(),
            layers.Conv2D(second, kernels[1], activation="relu", name="conv_2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(hidden, activation="relu", name="dense"),
            layers.Dense(10, name="logits"),
        ],
        name="lenet",
    )


def fit(model: keras.Model, data, epochs: int, learning_rate: float, arguments):
    """Trains with Adam."""
    model.compile(keras.optimizers.Adam(learning_rate), LOSS, jit_compile=False)
    model.fit(
        *data, epochs=epochs, batch_size=arguments.batch_size, verbose=arguments.verbose
    )


def prune(model: keras.Model, share: float) -> None:
    """Prunes the smallest weights of every layer but the last."""
    for layer in model.layers[:-1]:
        if layer.weights:
            kernel = np.abs(layer.kernel.numpy())
            prune_weight(layer, "kernel", kernel > np.quantile(kernel, share))


def accuracy_percent(path: pathlib.Path, x: np.ndarray, y: np.ndarray) -> float:
    """Accuracy of a file on images, one by one as on a device."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    returned = interpreter.get_output_details()[0]["index"]
    predictions = []
    for image in x:
        interpreter.set_tensor(given, image[None])
        interpreter.invoke()
        predictions.append(interpreter.get_tensor(returned).argmax())
    return 100 * float(np.mean(np.array(predictions) == y))


def num_zeros(path: pathlib.Path) -> int:
    """Number of zeros among the int8 weights of a file."""
    return sum(int(np.sum(item.codes == 0)) for item in int8_weights(path))


def main() -> None:
    """Runs the example and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, help="an .npz file with MNIST")
    add("--output-dir", type=pathlib.Path, default=pathlib.Path("build/quantization"))
    add("--seed", type=int, default=0)
    add("--epochs", type=int, default=30, help="of the network before pruning")
    add("--epochs-pruned", type=int, default=20, help="after pruning")
    add("--epochs-int8", type=int, default=5, help="of training for int8")
    add("--share", type=float, default=0.8, help="of the weights that are pruned")
    add("--batch-size", type=int, default=64)
    add("--learning-rate", type=float, default=3e-3)
    add("--learning-rate-int8", type=float, default=1e-4)
    add("--skip-tfmot", action="store_true", help="leave tfmot's training out")
    add("--verbose", type=int, default=0)
    arguments = parser.parse_args()
    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    train, (x_test, y_test) = load_data(arguments.data)
    examples = train[0][:500]

    keras.utils.set_random_seed(arguments.seed)
    network = build(train[0].shape[1])
    fit(network, train, arguments.epochs, arguments.learning_rate, arguments)
    prune(network, arguments.share)
    fit(network, train, arguments.epochs_pruned, arguments.learning_rate, arguments)
    # The files for int8 get as much training more, and so does this one.
    more = keras.models.clone_model(network)
    more.set_weights(network.get_weights())
    rate, epochs = arguments.learning_rate_int8, arguments.epochs_int8
    fit(more, train, epochs, rate, arguments)
    num_pruned = sum(
        int(np.sum(layer.kernel.numpy() == 0)) for layer in more.layers if layer.weights
    )

    def aware(path: pathlib.Path):
        model = to_quantization_aware(network, examples)
        fit(model, train, epochs, rate, arguments)
        return export_tflite(model, path, quantize="int8", validation_data=x_test)

    def with_tfmot(path: pathlib.Path):
        return export_with_tfmot(
            network,
            path,
            train,
            LOSS,
            scheme="pqat",
            epochs=epochs,
            batch_size=arguments.batch_size,
            learning_rate=rate,
            validation_data=x_test,
        )

    ways = {
        "float": lambda path: export_tflite(more, path, validation_data=x_test),
        "post-training int8": lambda path: export_tflite(
            more,
            path,
            quantize="int8",
            representative_data=examples,
            validation_data=x_test,
        ),
        "quantization-aware": aware,
        "tfmot PQAT": with_tfmot,
    }
    if arguments.skip_tfmot or not importlib.util.find_spec(
        "tensorflow_model_optimization"
    ):
        del ways["tfmot PQAT"]
    print(f"{num_pruned} pruned weights\n")
    print(
        "| file | accuracy (%) | zeros | bytes | gzip | relative difference | s |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, export in ways.items():
        keras.utils.set_random_seed(arguments.seed)
        start = time.perf_counter()
        path = folder / f"{name.replace(' ', '_')}_{arguments.seed}.tflite"
        report = export(path)
        result = {
            "file": name,
            "seed": arguments.seed,
            "accuracy_percent": accuracy_percent(path, x_test, y_test),
            "pruned": num_pruned,
            "zeros": num_pruned if report.quantize is None else num_zeros(path),
            "bytes": report.bytes,
            "gzip_bytes": report.gzip_bytes,
            "relative_difference": report.relative_difference,
            "seconds": round(time.perf_counter() - start, 1),
        }
        print(
            f"| {name} | {result['accuracy_percent']:.2f} | {result['zeros']} "
            f"| {report.bytes} | {report.gzip_bytes} "
            f"| {report.relative_difference:.2g} | {result['seconds']} |",
            flush=True,
        )
        with open(folder / "results.jsonl", "a") as file:
            file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
