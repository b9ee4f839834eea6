"""Uncertainty on the device: a Bayesian LeNet-5 on MNIST, its files and their latency.

A network is trained once per size and kept in `--output-dir`. Then negative log
likelihood and error on the complete test set of draws of the weights, and of the files
with the means, with moments and with ensembles, as LiteRT runs them. `--latency` times
the files in turns on one thread; it needs an idle machine and no data. Rows go to
`--results` as they come, and what is there is not computed again.

    python benchmarks/device_uncertainty.py --data mnist.npz
    python benchmarks/device_uncertainty.py --latency
"""

import argparse
import json
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf
from mnist_images import load_images

import keras_bmr
from keras_bmr.callbacks import KLAnnealing
from keras_bmr.export import export_tflite, latency, measure_latency
from keras_bmr.objectives import negative_log_likelihood, predictive_moments

WIDTHS = {"lenet_5_6_16_120_84": (6, 16, 120, 84), "lenet_5_20_50_500": (20, 50, 500)}
FILES = {
    "means": {},
    "moments": {"uncertainty": "moments"},
    "moments, float16": {"uncertainty": "moments", "quantize": "float16"},
    "ensemble of 4": {"uncertainty": "ensemble", "num_samples": 4},
    "ensemble of 8": {"uncertainty": "ensemble", "num_samples": 8},
    "ensemble of 16": {"uncertainty": "ensemble", "num_samples": 16},
}


def build(name: str) -> keras.Model:
    """The ordinary network, with logits as output."""
    layers = keras.layers
    first, second, *hidden = WIDTHS[name]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(first, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(second, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            *[layers.Dense(units, activation="relu") for units in hidden],
            layers.Dense(10),
        ],
        name=name,
    )


def trained(name: str, data, epochs: int, folder: pathlib.Path) -> keras.Model:
    """The Bayesian network: two epochs of plain training, then of the posterior."""
    path = folder / f"{name}.keras"
    if path.exists():
        return keras.models.load_model(path, compile=False)
    keras.utils.set_random_seed(0)

    def fit(model, num_epochs, callbacks=()):
        model.compile(
            keras.optimizers.Adam(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        options = {"batch_size": 128, "epochs": num_epochs, "verbose": 2}
        model.fit(*data, callbacks=list(callbacks), **options)
        return model

    network = fit(build(name), 2)
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch: 1e-3 * min(1.0, 2 * (epochs - epoch) / epochs)
    )
    model = keras_bmr.to_variational(network, num_examples=len(data[0]))
    fit(model, epochs, [KLAnnealing(epochs=max(1, epochs // 3)), schedule])
    temporary = path.with_name(f"writing_{path.name}")
    model.save(temporary)
    temporary.replace(path)
    return model


def run_file(path: str, x: np.ndarray) -> list[np.ndarray]:
    """The outputs of a file, image by image."""
    interpreter = latency.load(path)
    entry = interpreter.get_input_details()[0]["index"]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]
    rows = []
    for image in x:
        interpreter.set_tensor(entry, image[None])
        interpreter.invoke()
        rows.append([interpreter.get_tensor(index) for index in outputs])
    return [np.concatenate(output) for output in zip(*rows, strict=True)]


def scores(probabilities: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Negative log likelihood and error."""
    return {
        "nll": negative_log_likelihood(probabilities, y),
        "error_percent": 100 * float(np.mean(probabilities.argmax(-1) != y)),
    }


def quality(model: keras.Model, x, y, numbers_of_draws, folder, known):
    """Yields label and row of draws, and of files as LiteRT runs them.

    Deviations are compared with those of the most draws.
    """
    for num_draws in sorted(numbers_of_draws):
        path = folder / f"{model.name}_{num_draws}_draws.npz"
        if not path.exists():
            mean, variance = predictive_moments(
                model, x, num_samples=num_draws, seed=0, from_logits=True, verbose=0
            )
            np.savez(path, mean=mean, variance=variance)
        with np.load(path) as draws:
            reference = np.sqrt(draws["variance"])
            yield f"{num_draws} draws", scores(draws["mean"], y)
    for label, options in FILES.items():
        if label in known:
            continue
        if options:
            options = {**options, "from_logits": True}
        with tempfile.TemporaryDirectory() as temporary:
            report = export_tflite(
                model, f"{temporary}/model.tflite", validation_data=x[:500], **options
            )
            outputs = run_file(report.path, x)
        if options:
            deviation = np.sqrt(outputs[1])
            row = scores(outputs[0], y)
            row["deviation_over_that_of_draws"] = float(
                deviation.mean() / reference.mean()
            )
            row["correlation_of_deviations"] = float(
                np.corrcoef(deviation.ravel(), reference.ravel())[0, 1]
            )
        else:
            row = scores(np.asarray(tf.nn.softmax(outputs[0])), y)
        yield label, {**row, "bytes": report.bytes}


def times(model: keras.Model, rounds: int) -> dict:
    """Microseconds of each file and multiples of the file of the means."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, options in enumerate(FILES.values()):
            if options:
                options = {**options, "from_logits": True}
            paths.append(f"{folder}/{number}.tflite")
            export_tflite(model, paths[-1], **options)
        seconds = np.array([measure_latency(paths) for _ in range(rounds)])
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    return {
        label: {"microseconds": 1e6 * float(median), "times_the_means": float(ratio)}
        for label, median, ratio in zip(
            FILES, np.median(seconds, axis=0), ratios, strict=True
        )
    }


def main() -> None:
    """Runs what is missing and prints all rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, help="an .npz file with MNIST")
    add("--networks", nargs="+", choices=list(WIDTHS), default=[next(iter(WIDTHS))])
    add("--epochs", type=int, default=9, help="of the posterior")
    add("--draws", type=int, nargs="+", default=[100, 1000], help="to compare with")
    add("--latency", action="store_true", help="time the files instead")
    add("--rounds", type=int, default=5, help="of timing")
    folder = pathlib.Path("build/device_uncertainty")
    add("--output-dir", type=pathlib.Path, default=folder)
    results = pathlib.Path("benchmarks/results/device_uncertainty.json")
    add("--results", type=pathlib.Path, default=results)
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    rows = {}
    if arguments.results.exists():
        rows = json.loads(arguments.results.read_text())
    for name in arguments.networks:
        key = f"{name} {'latency' if arguments.latency else 'quality'}"
        known = rows.setdefault(key, {})
        num_draws = 0 if arguments.latency else len(arguments.draws)
        if len(known) < len(FILES) + num_draws:
            for label, row in measured(name, arguments, known):
                known[label] = row
                temporary = arguments.results.with_suffix(".tmp")
                temporary.write_text(json.dumps(rows, indent=1) + "\n")
                temporary.replace(arguments.results)
        for label, row in known.items():
            numbers = ", ".join(f"{k} {v:.5g}" for k, v in row.items())
            print(f"{key}: {label}: {numbers}", flush=True)


def measured(name: str, arguments, known):
    """Yields label and row of what is asked for."""
    if arguments.latency:
        # Untrained weights take as long.
        keras.utils.set_random_seed(0)
        model = keras_bmr.to_variational(build(name), num_examples=60000)
        yield from times(model, arguments.rounds).items()
        return
    train, test = load_images(arguments.data)
    folder = arguments.output_dir
    model = trained(name, train, arguments.epochs, folder)
    yield from quality(model, *test, arguments.draws, folder, known)


if __name__ == "__main__":
    main()
