"""Blocks of four weights by evidence and by magnitude, and what the device gains.

A 784-512-512-10 network with posteriors is trained on MNIST once. Copies of it lose
80, 90 and 95 % of their weights in 1x4 blocks, ranked by delta_f or by magnitude, in
one cut, and are trained on for some epochs. What is left is exported with
`sparse=True` and compared with the dense file of the same network.

Every row goes to a JSON file at once, and rows that are there are not computed again.
`--latency` takes no training: it measures the files that are there, each pair of dense
and sparse in turns within one run. `--break-even` measures a layer of 512 x 512 random
weights with the sparse kernel whatever share of its blocks is empty. Both are for an
idle machine.

    python benchmarks/sparse_blocks.py --data mnist.npz
    python benchmarks/sparse_blocks.py --latency
    python benchmarks/sparse_blocks.py --break-even
"""

import argparse
import json
import os
import pathlib
import time

import keras
import numpy as np
from mnist_images import load_images

import keras_bmr
from keras_bmr.callbacks import KLAnnealing
from keras_bmr.export import converter, measure_latency
from keras_bmr.export.network import input_specifications
from keras_bmr.export.sparse_encoding import BLOCK_LENGTH, compress
from keras_bmr.export.tflite_file import TFLiteFile

CRITERIA = ("delta_f", "magnitude")
SPARSITIES = (0.8, 0.9, 0.95)


def compiled(model: keras.Model, learning_rate: float) -> keras.Model:
    """Gives the model Adam and the cross-entropy."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=20,
    )
    return model


def trained(arguments: argparse.Namespace, x, y) -> keras.Model:
    """The network before the cut, from its file if there is one."""
    path = arguments.output_dir / f"sparse_blocks_base_{arguments.seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(arguments.seed)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            layers.Dense(512, activation="relu"),
            layers.Dense(512, activation="relu"),
            layers.Dense(10),
        ]
    )
    fit = {"batch_size": 128, "verbose": 2}
    compiled(network, 1e-3).fit(x, y, epochs=3, **fit)
    model = keras_bmr.to_variational(network, num_examples=len(x))
    compiled(model, 1e-3).fit(
        x, y, epochs=arguments.epochs, callbacks=[KLAnnealing(epochs=4)], **fit
    )
    model.save(path)
    return model


def accuracy_and_nll(model: keras.Model, x, y) -> tuple[float, float]:
    """Accuracy and negative log likelihood of the network of posterior means."""
    compiled(model, 1e-3)
    nll, accuracy = model.evaluate(x, y, batch_size=1000, verbose=0)[:2]
    return float(accuracy), float(nll)


def cut(base: keras.Model, criterion: str, sparsity: float) -> keras.Model:
    """A copy without the blocks of lowest rank."""
    return keras_bmr.reduce_model(
        base, granularity="block", criterion=criterion, sparsity=sparsity
    )


def trained_on(model: keras.Model, name: str, arguments, x, y) -> keras.Model:
    """The cut network after training on, from its file if there is one."""
    path = arguments.output_dir / f"sparse_blocks_{name}_{arguments.seed}.keras"
    if path.exists():
        return keras.models.load_model(path)
    if not arguments.fine_tuning:
        return model
    keras.utils.set_random_seed(arguments.seed)
    compiled(model, 1e-3).fit(
        x, y, epochs=arguments.fine_tuning, batch_size=256, verbose=2
    )
    model.save(path)
    return model


def train(arguments: argparse.Namespace, results: dict) -> None:
    """Trains what is missing and fills in the rows of accuracy and bytes."""
    (x_train, y_train), (x_test, y_test) = (
        (images.reshape(len(images), -1), labels)
        for images, labels in load_images(arguments.data)
    )
    base = trained(arguments, x_train, y_train)
    if "base" not in results:
        accuracy, nll = accuracy_and_nll(base, x_test, y_test)
        results["base"] = {"accuracy": accuracy, "nll": nll}
        save(results, arguments.results)
    for sparsity in arguments.sparsities:
        for criterion in CRITERIA:
            name = f"{criterion}_{sparsity:g}"
            if name in results:
                continue
            start = time.perf_counter()
            model = cut(base, criterion, sparsity)
            before, _ = accuracy_and_nll(model, x_test, y_test)
            model = trained_on(model, name, arguments, x_train, y_train)
            path = str(arguments.output_dir / f"sparse_blocks_{name}")
            files = [
                keras_bmr.export_tflite(
                    model, f"{path}{suffix}", validation_data=x_test, sparse=sparse
                )
                for suffix, sparse in ((".dense.tflite", False), (".tflite", True))
            ]
            accuracy, nll = accuracy_and_nll(model, x_test, y_test)
            results[name] = {
                "criterion": criterion,
                "sparsity": keras_bmr.sparsity(model),
                "epochs_trained_on": arguments.fine_tuning,
                "accuracy_before_training_on": before,
                "accuracy": accuracy,
                "nll": nll,
                "dense_bytes": files[0].bytes,
                "sparse_bytes": files[1].bytes,
                "sparse_gzip_bytes": files[1].gzip_bytes,
                "encodings": {
                    layer.name: f"{layer.operator}, {layer.encoding}"
                    # Of a layer's constants the kernel comes first.
                    for layer in reversed(files[1].layout.layers)
                },
                "largest_difference": files[1].max_difference,
                "seconds": round(time.perf_counter() - start),
            }
            save(results, arguments.results)
            print(json.dumps({name: results[name]}), flush=True)


def measure(arguments: argparse.Namespace, results: dict) -> None:
    """Fills in the latencies of the files that are there."""
    for name, row in results.items():
        path = arguments.output_dir / f"sparse_blocks_{name}"
        files = [f"{path}.dense.tflite", f"{path}.tflite"]
        if not all(map(os.path.exists, files)):
            continue
        rounds = [measure_latency(files) for _ in range(arguments.rounds)]
        dense, sparse = np.median(rounds, axis=0)
        row["dense_ms"], row["sparse_ms"] = 1e3 * dense, 1e3 * sparse
        row["ratio"] = float(np.median([d / s for d, s in rounds]))
        print(f"{name}: dense / sparse {row['ratio']:.2f}", flush=True)
    save(results, arguments.results)


def break_even(arguments: argparse.Namespace, results: dict) -> None:
    """Prints how much faster the sparse kernel is, by empty blocks and by rows."""
    generator = np.random.default_rng(0)
    files, labels = [], []
    for rows in (1, 4, 16):
        inputs = keras.Input((rows, 512))
        model = keras.Model(inputs, keras.layers.Dense(512)(inputs))
        kernel, bias = model.get_weights()
        for share in (0.6, 0.7, 0.8, 0.9, 0.95):
            keep = generator.random((128, 512)) >= share
            model.set_weights([kernel * np.repeat(keep, BLOCK_LENGTH, 0), bias])
            specifications = input_specifications(model, 1)
            dense = converter.convert(converter.trace(model, specifications, 1))
            file = TFLiteFile(dense)
            (constant,) = file.weights()
            blocks = compress(file.values(constant), BLOCK_LENGTH)
            parameters = blocks.parameters(file.schema)
            file.store_sparse(constant, blocks.values, parameters, unpack=False)
            files += [dense, file.to_bytes()]
            labels.append(f"{rows} rows, {share:.0%} empty")
    rounds = np.array([measure_latency(files) for _ in range(arguments.rounds)])
    ratios = np.median(rounds[:, ::2] / rounds[:, 1::2], axis=0)
    results["break_even"] = dict(zip(labels, ratios.tolist(), strict=True))
    for label, ratio in results["break_even"].items():
        print(f"{label}: dense / sparse {ratio:.2f}", flush=True)
    save(results, arguments.results)


def save(results: dict, path: pathlib.Path) -> None:
    """Writes the results, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(temporary, path)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, help="an .npz file with MNIST")
    parser.add_argument("--output-dir", type=pathlib.Path, default="build")
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parent / "results" / "sparse_blocks.json",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=8, help="of the posterior")
    parser.add_argument("--fine-tuning", type=int, default=2, help="epochs")
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--break-even", action="store_true")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    path = arguments.results
    results = json.loads(path.read_text()) if path.exists() else {}
    if arguments.break_even:
        break_even(arguments, results)
    elif arguments.latency:
        measure(arguments, results)
    elif arguments.data is None:
        parser.error("training needs --data")
    else:
        train(arguments, results)


if __name__ == "__main__":
    main()
