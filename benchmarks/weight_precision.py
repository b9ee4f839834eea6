"""Formats of weights chosen by the posterior, against plain rounding after training.

LeNet-300-100 or LeNet-5 with posteriors is trained on MNIST once. Its weights are then
rounded

- plainly by ai-edge-quantizer, weights only: int8 and int4 with the range of each
  channel, and int4 with the range of the algorithm OCTAV;
- as `WeightPrecision` does with posteriors of one width, that is by squared error;
- by the posterior: one format for all, and chosen for several numbers of bytes.

Every file is run by LiteRT on the test images. `--latency` measures the files that are
there, in turns within one run; for an idle machine.

    pip install keras_bmr[litert,quantizer]
    python benchmarks/weight_precision.py --data mnist.npz
    python benchmarks/weight_precision.py --data mnist.npz --network lenet_5
    python benchmarks/weight_precision.py --latency --network lenet_5
"""

import argparse
import json
import os
import pathlib

import keras
import numpy as np
import tensorflow as tf
from mnist_images import load_images
from tensorflow_probability import distributions as tfd

import keras_bmr
from keras_bmr.callbacks import KLAnnealing
from keras_bmr.export import WEIGHT_FORMATS, WeightPrecision, measure_latency
from keras_bmr.export.verify import run_file

# Bytes that a file may have.
BUDGETS = {
    "lenet_300_100": (145_000, 150_000, 180_000, 280_000, 400_000),
    "lenet_5": (229_000, 235_000, 260_000, 300_000, 450_000),
}


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


def build(name: str) -> keras.Model:
    """The ordinary network, with logits as output."""
    layers, stack = keras.layers, [keras.Input((28, 28, 1))]
    if name == "lenet_5":
        for filters in (20, 50):
            stack.append(layers.Conv2D(filters, 5, activation="relu"))
            stack.append(layers.MaxPooling2D())
    stack.append(layers.Flatten())
    for units in (500,) if name == "lenet_5" else (300, 100):
        stack.append(layers.Dense(units, activation="relu"))
    return keras.Sequential([*stack, layers.Dense(10)])


def trained(arguments: argparse.Namespace, x, y) -> keras.Model:
    """The Bayesian network, from its file if there is one."""
    path = arguments.output_dir / f"base_{arguments.seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(arguments.seed)
    network = build(arguments.network)
    options = {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "steps_per_execution": 20,
        # TensorFlow's graph kernels are faster than XLA's for convolutions on a CPU.
        "jit_compile": arguments.network != "lenet_5",
    }
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
    train, (x, y) = load_images(arguments.data)
    model, results = trained(arguments, *train), {}

    def path_of(name: str) -> str:
        return str(arguments.output_dir / f"{name}.tflite")

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
    for max_bytes in BUDGETS[arguments.network]:
        choice = by_posterior.choose(max_bytes)
        name = f"budget_{max_bytes}"
        keras_bmr.export.export_precision(choice, path_of(name), x)
        add(name, loss=choice.loss, formats=choice.formats)
    return results


def measure(arguments: argparse.Namespace, results: dict) -> None:
    """Adds latencies relative to the float file, measured in turns."""
    # The first one is the float file.
    paths = [arguments.output_dir / f"{name}.tflite" for name in results]
    rounds = [measure_latency(paths) for _ in range(arguments.rounds)]
    seconds = np.array(rounds)
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    for (name, known), ratio, milliseconds in zip(
        results.items(), ratios, 1e3 * np.median(seconds, axis=0), strict=True
    ):
        known |= {"ms": float(milliseconds), "latency_ratio": float(ratio)}
        print(f"{name}: {milliseconds:.4f} ms, {ratio:.2f} of float32", flush=True)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, help="an .npz file with MNIST")
    add("--network", choices=list(BUDGETS), default="lenet_300_100")
    folder = pathlib.Path("build/weight_precision")
    add("--output-dir", type=pathlib.Path, default=folder)
    path = pathlib.Path(__file__).parent / "results" / "weight_precision.json"
    add("--results", type=pathlib.Path, default=path)
    add("--seed", type=int, default=0)
    add("--epochs", type=int, default=10, help="of the posterior")
    add("--rounds", type=int, default=3)
    add("--latency", action="store_true", help="measure the files that are there")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.latency:
        parser.error("all but --latency needs --data")
    arguments.output_dir /= arguments.network
    path = arguments.results
    for needed in (arguments.output_dir, path.parent):
        needed.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    if arguments.latency:
        measure(arguments, results[arguments.network])
    else:
        results[arguments.network] = compare(arguments)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
