"""Formats of weights chosen by the posterior, against plain rounding after training.

LeNet-300-100 with posteriors is trained on MNIST once. Its weights are then rounded

- plainly by ai-edge-quantizer, weights only: int8 and int4 with the range of each
  channel, and int4 with the range of the algorithm OCTAV;
- as `WeightPrecision` does with posteriors of one width, that is by squared error;
- by the posterior: one format for all, and chosen for several numbers of bytes.

Every file is run by LiteRT on the test images. `--latency` measures the files that are
there, and those of an untrained LeNet-5 in each format, in turns within one run; for an
idle machine.

    pip install keras_bmr[litert,quantizer]
    python benchmarks/weight_precision.py --data mnist.npz
    python benchmarks/weight_precision.py --latency
"""

import argparse
import json
import os
import pathlib

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.callbacks import KLAnnealing
from keras_bmr.export import WEIGHT_FORMATS, WeightPrecision, measure_latency
from keras_bmr.export.verify import run_file

BUDGETS = (145_000, 150_000, 180_000, 280_000, 400_000)


class OneWidth:
    """The posteriors of a model as if all weights were known equally well."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def weights(self) -> list:
        """As a source of posteriors has it."""
        return [
            (layer, name)
            for layer in keras_bmr.layers.variational_layers(self.model)
            for name in layer.random_weight_names
        ]

    def posterior(self, layer, name: str) -> tfd.Normal:
        """The mean, and a width of one."""
        mean = layer.posterior(name).mean()
        return tfd.Normal(mean, tf.ones_like(mean))

    def prior(self, layer, name: str) -> tfd.Normal:
        """The model's own."""
        return layer.prior(name)


def load_data(path: pathlib.Path):
    """MNIST as rows of floats in [0, 1] and integer labels."""
    with np.load(path) as file:
        arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    x_train, y_train, x_test, y_test = arrays

    def scaled(x):
        return x.reshape(len(x), -1).astype("float32") / 255

    return scaled(x_train), y_train.astype("int32"), scaled(x_test), y_test


def trained(arguments: argparse.Namespace, x, y) -> keras.Model:
    """The Bayesian network, from its file if there is one."""
    path = arguments.output_dir / f"weight_precision_base_{arguments.seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(arguments.seed)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"loss": loss, "metrics": ["accuracy"], "steps_per_execution": 20}
    fit = {"batch_size": 128, "verbose": 2}
    network.compile(keras.optimizers.Adam(1e-3), **options)
    network.fit(x, y, epochs=3, **fit)
    model = keras_bmr.to_variational(network, num_examples=len(x))
    model.compile(keras.optimizers.Adam(1e-3), **options)
    annealing = KLAnnealing(epochs=4)
    model.fit(x, y, epochs=arguments.epochs, callbacks=[annealing], **fit)
    model.save(path)
    return model


def plainly_rounded(path: str, bits: int, algorithm: str) -> bytes:
    """The float file with its weights rounded by ai-edge-quantizer."""
    from ai_edge_quantizer import quantizer, recipe

    make = {8: recipe.weight_only_wi8_afp32, 4: recipe.weight_only_wi4_afp32}[bits]
    rounding = quantizer.Quantizer(path)
    rounding.load_quantization_recipe(make(algorithm_key=algorithm))
    return bytes(rounding.quantize().quantized_model)


def row(path: str, x, y) -> dict:
    """Size, accuracy and negative log likelihood of a file on the test images."""
    (logits,), _ = run_file(path, [x], 1)
    log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return {
        "bytes": os.path.getsize(path),
        "accuracy": float(np.mean(logits.argmax(-1) == y)),
        "nll": float(-np.mean(log_probs[np.arange(len(y)), y])),
    }


def compare(arguments: argparse.Namespace) -> dict:
    """Writes all files and returns their rows."""
    x_train, y_train, x_test, y_test = load_data(arguments.data)
    model = trained(arguments, x_train, y_train)
    x, y, results = x_test, y_test, {}

    def path_of(name: str) -> str:
        return str(arguments.output_dir / f"weight_precision_{name}.tflite")

    def add(name: str, **more) -> None:
        results[name] = {**row(path_of(name), x, y), **more}
        print(json.dumps({name: results[name]}), flush=True)

    keras_bmr.export_tflite(model, path_of("float32"), validation_data=x)
    add("float32")
    by_posterior = WeightPrecision(model)
    by_posterior.summary()
    sources = {
        "squared_error": WeightPrecision(OneWidth(model)),
        "posterior": by_posterior,
        "evidence": WeightPrecision(model, rounding="evidence"),
    }
    for bits, algorithm in (
        (8, "min_max_uniform_quantize"),
        (4, "min_max_uniform_quantize"),
        (4, "OCTAV"),
    ):
        name = f"plain_{algorithm.split('_')[0].lower()}_int{bits}"
        content = plainly_rounded(path_of("float32"), bits, algorithm)
        pathlib.Path(path_of(name)).write_bytes(content)
        add(name)
    for kind, precision in sources.items():
        for weight_format in WEIGHT_FORMATS:
            if weight_format == "float32" or (kind, weight_format[:5]) in (
                ("squared_error", "float"),
                ("evidence", "float"),
            ):
                continue
            choice = precision.assign({}, default=weight_format)
            name = f"{kind}_{weight_format}"
            keras_bmr.export.export_precision(choice, path_of(name), x)
            formats = by_posterior.assign({}, weight_format)
            add(name, **({"loss": formats.loss} if kind == "posterior" else {}))
    for max_bytes in BUDGETS:
        choice = by_posterior.choose(max_bytes)
        name = f"budget_{max_bytes}"
        keras_bmr.export.export_precision(choice, path_of(name), x)
        add(name, loss=choice.loss, formats=choice.formats)
    return results


def measure(arguments: argparse.Namespace, results: dict) -> dict:
    """Adds latencies relative to the float file, measured in turns."""
    of_lenet_5 = lenet_5_files(arguments.output_dir)
    names = [name for name in results if name not in of_lenet_5]
    paths = [arguments.output_dir / f"weight_precision_{name}.tflite" for name in names]
    for labels, files in ((names, paths), (of_lenet_5, list(of_lenet_5.values()))):
        # The first one is the float file.
        rounds = [measure_latency(files) for _ in range(arguments.rounds)]
        seconds = np.array(rounds)
        ratios = np.median(seconds / seconds[:, :1], axis=0)
        for name, ratio, milliseconds in zip(
            labels, ratios, 1e3 * np.median(seconds, axis=0), strict=True
        ):
            measured = {"ms": float(milliseconds), "latency_ratio": float(ratio)}
            results.setdefault(name, {}).update(measured)
            print(f"{name}: {milliseconds:.4f} ms, {ratio:.2f} of float32", flush=True)
    return results


def lenet_5_files(folder: pathlib.Path) -> dict[str, str]:
    """Files of an untrained LeNet-5 with all kernels in one format, float32 first."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ]
    )
    precision = WeightPrecision(keras_bmr.to_variational(network, num_examples=1))
    files = {}
    for weight_format in reversed(WEIGHT_FORMATS):
        name = f"lenet_5_{weight_format}"
        files[name] = str(folder / f"weight_precision_{name}.tflite")
        choice = precision.assign({}, weight_format)
        keras_bmr.export.export_precision(choice, files[name])
    return files


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, help="an .npz file with MNIST")
    parser.add_argument("--output-dir", type=pathlib.Path, default="build")
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "results" / "weight_precision.json",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10, help="of the posterior")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", action="store_true")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.results
    path.parent.mkdir(parents=True, exist_ok=True)
    if arguments.latency:
        results = measure(arguments, json.loads(path.read_text()))
    elif arguments.data is None:
        parser.error("all but --latency needs --data")
    else:
        results = compare(arguments)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
