"""Ways to a sparse network side by side on MNIST: error, calibration, weights, time.

All methods begin with the same ordinary network, trained for a few epochs, and end
after the same number of epochs, with the same batches and learning rates. Those that
reduce a flat posterior share its training as far as the first reduction; its time
counts for each of them. Error, expected calibration error (20 quantile bins) and
negative log likelihood are those of the mean over 100 draws of the posterior, or of
the network itself where there is none. Times are those of the processor, over all
threads, which suffer little from other jobs; compilation is counted by itself.

Networks that are trained stay in `--output-dir`, and rows in the file of results: what
is there is not done again. `--table` prints the means over the seeds.

    python benchmarks/sparsity_methods.py --network mlp --data mnist.npz
    python benchmarks/sparsity_methods.py --network lenet_5 --data mnist.npz
    python benchmarks/sparsity_methods.py --table
"""

import argparse
import json
import os
import pathlib

import keras
import numpy as np
from mnist_images import load_images
from sparsity_runs import METHODS, Run
from sparsity_training import RECIPES

import keras_bmr
from keras_bmr import objectives
from keras_bmr.layers import variational_layers

NUM_SAMPLES = 100
RESULTS = pathlib.Path(__file__).parent / "results" / "sparsity_methods.json"


def judged(model: keras.Model, seconds: np.ndarray, x, y) -> dict[str, float]:
    """What a trained network is worth."""
    if variational_layers(model):
        probabilities = objectives.predictive_moments(
            model, x, NUM_SAMPLES, batch_size=5000, seed=0, from_logits=True, verbose=0
        ).mean
    else:
        logits = model.predict(x, batch_size=1000, verbose=0)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    return {
        "error_percent": 100 * float(np.mean(probabilities.argmax(-1) != y)),
        "ece": objectives.expected_calibration_error(probabilities, y),
        "nll": objectives.negative_log_likelihood(probabilities, y),
        "kept_percent": 100 * (1 - keras_bmr.sparsity(model)),
        "cpu_seconds": round(float(seconds[0]), 1),
        "compilation_cpu_seconds": round(float(seconds[1]), 1),
    }


def read_rows(path: pathlib.Path) -> dict[str, dict]:
    """The rows that are there, by network/seed/method."""
    return json.loads(path.read_text()) if path.exists() else {}


def add_row(path: pathlib.Path, key: str, row: dict) -> None:
    """Adds a row to the file as it is now: another process may write to it, too."""
    rows = {**read_rows(path), key: row}
    temporary = path.with_name(f"writing_{os.getpid()}_{path.name}")
    temporary.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
    os.replace(temporary, path)


def print_table(rows: dict[str, dict]) -> None:
    """Means over the seeds, as Markdown; of the error the standard deviation, too."""
    for network in RECIPES:
        print(
            f"| {network} | seeds | error % | ECE | NLL | kept % | CPU s |\n"
            "|---|---|---|---|---|---|---|"
        )
        for method, (title, _) in METHODS.items():
            found = [
                row
                for key, row in rows.items()
                if key.startswith(f"{network}/") and key.endswith(f"/{method}")
            ]
            if not found:
                continue
            values = {key: [row[key] for row in found] for key in found[0]}
            mean = {key: np.mean(value) for key, value in values.items()}
            spread = f" ± {np.std(values['error_percent']):.2f}" * (len(found) > 1)
            print(
                f"| {title} | {len(found)} | {mean['error_percent']:.2f}{spread} | "
                f"{mean['ece']:.4f} | {mean['nll']:.4f} | "
                f"{mean['kept_percent']:.2f} | {mean['cpu_seconds']:.0f} + "
                f"{mean['compilation_cpu_seconds']:.0f} |"
            )
        print()


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, help="an .npz file with MNIST")
    add("--network", choices=sorted(RECIPES), default="mlp")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    add("--output-dir", type=pathlib.Path, default="build/sparsity_methods")
    add("--results", type=pathlib.Path, default=RESULTS)
    add("--table", action="store_true", help="only print the rows that are there")
    arguments = parser.parse_args()
    if arguments.table:
        print_table(read_rows(arguments.results))
        return
    if arguments.data is None:
        parser.error("--data is needed for training, for example --data mnist.npz")
    for folder in (arguments.output_dir, arguments.results.parent):
        folder.mkdir(parents=True, exist_ok=True)
    train, test = load_images(arguments.data)
    for seed in arguments.seeds:
        run = Run(arguments.network, seed, train, arguments.output_dir)
        for method in arguments.methods:
            key = f"{arguments.network}/{seed}/{method}"
            if key in read_rows(arguments.results):
                continue
            model, _, seconds = METHODS[method][1](run)
            row = judged(model, seconds, *test)
            add_row(arguments.results, key, row)
            print(key, json.dumps(row), flush=True)
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
