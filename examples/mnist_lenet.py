"""LeNet-300-100 and LeNet-5 on MNIST: how few weights are enough.

One `fit` trains the posterior, reduces it round by round and trains in between. The
data comes from a file with `--data mnist.npz` (arrays x_train, y_train, x_test, y_test)
or else through `keras.datasets`.

    python examples/mnist_lenet.py --network lenet_300_100 --seeds 0 1 2
    python examples/mnist_lenet.py --network lenet_5 --seeds 0 1 2
    python examples/mnist_lenet.py --network lenet_300_100 --plain --seeds 0 1 2
"""

import argparse
import dataclasses
import json
import pathlib
import time

import keras
import numpy as np

import keras_bmr
from keras_bmr.callbacks import (
    KLAnnealing,
    ModelReductionCallback,
    ReductionSchedule,
)
from keras_bmr.objectives import (
    expected_calibration_error,
    negative_log_likelihood,
    predictive,
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings that belong to one network."""

    sparsity: float
    pretraining_epochs: int
    warm_up_epochs: int
    epochs_between: int
    final_epochs: int
    shares: tuple[float, ...]
    # TensorFlow's graph kernels are faster than XLA's for convolutions on a CPU.
    jit_compile: bool
    learning_rate: float = 1e-3


RECIPES = {
    "lenet_300_100": Recipe(0.988, 5, 15, 6, 12, (0.95, 0.3), jit_compile=True),
    "lenet_5": Recipe(0.9945, 2, 8, 3, 7, (0.95, 0.35), jit_compile=False),
}


def load_data(path: pathlib.Path | None):
    """MNIST as floats in [0, 1] of shape (n, 28, 28, 1) and integer labels."""
    if path is None:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    else:
        with np.load(path) as file:
            x_train, y_train = file["x_train"], file["y_train"]
            x_test, y_test = file["x_test"], file["y_test"]

    def scaled(x):
        return (x / np.float32(255))[..., None].astype("float32")

    return (
        (scaled(x_train), y_train.astype("int32")),
        (scaled(x_test), y_test.astype("int32")),
    )


def build(name: str) -> keras.Model:
    """The ordinary network, with logits as output."""
    layers = keras.layers
    if name == "lenet_300_100":
        stack = [
            layers.Flatten(),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    else:
        stack = [
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ]
    return keras.Sequential([keras.Input((28, 28, 1)), *stack], name=name)


def compiled(model: keras.Model, recipe: Recipe) -> keras.Model:
    """Gives the model Adam and the cross-entropy."""
    model.compile(
        keras.optimizers.Adam(recipe.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=recipe.jit_compile,
    )
    return model


def fit_recipe(network: keras.Model, x, y, recipe: Recipe, verbose: int):
    """Pretraining, then posterior, rounds of reduction and cool-down in one fit."""
    fit = {"batch_size": 128, "verbose": verbose}
    compiled(network, recipe).fit(x, y, epochs=recipe.pretraining_epochs, **fit)
    model = keras_bmr.to_variational(network, num_examples=len(x))
    schedule = ReductionSchedule(
        recipe.sparsity,
        start=recipe.warm_up_epochs,
        every=recipe.epochs_between,
        share=recipe.shares,
    )
    epochs = int(schedule.last_epoch()) + recipe.final_epochs

    def cool_down(epoch: int) -> float:
        left = min(1.0, (epochs - epoch) / recipe.final_epochs)
        return recipe.learning_rate * left

    compiled(model, recipe).fit(
        x,
        y,
        epochs=epochs,
        callbacks=[
            KLAnnealing(epochs=min(8, recipe.warm_up_epochs - 2)),
            ModelReductionCallback(schedule, verbose=True),
            keras.callbacks.LearningRateScheduler(cool_down),
        ],
        **fit,
    )
    return model


def fit_plain(network: keras.Model, x, y, verbose: int):
    """What a newcomer writes: every setting at its default."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras_bmr.to_variational(network, num_examples=len(x))
    model.compile("adam", loss=loss, metrics=["accuracy"])
    model.fit(x, y, epochs=20, callbacks=[KLAnnealing(epochs=5)], verbose=verbose)
    reduced = keras_bmr.reduce_model(model)
    reduced.compile("adam", loss=loss, metrics=["accuracy"])
    reduced.fit(x, y, epochs=5, verbose=verbose)
    return reduced


def report_of(model, x_train, x, y, path: pathlib.Path) -> dict[str, float]:
    """What the pruned model is worth, by its posterior mean and by its samples."""
    _, accuracy = model.evaluate(x, y, batch_size=1000, verbose=0)
    mean = predictive(model, x, num_samples=100, from_logits=True).mean(0)
    kept = 1 - keras_bmr.sparsity(model)
    file = keras_bmr.export_tflite(model, path, validation_data=x, sparse=True)
    int8 = keras_bmr.export_tflite(
        model,
        path.with_suffix(".int8.tflite"),
        quantize="int8",
        representative_data=x_train[:500],
        validation_data=x,
    )
    return {
        "error_percent": 100 * (1 - accuracy),
        "error_of_samples_percent": 100 * float((mean.argmax(-1) != y).mean()),
        "nll": negative_log_likelihood(mean, y),
        "ece": expected_calibration_error(mean, y),
        "pruned_percent": 100 * (1 - kept),
        "compression": 1 / kept,
        "bytes": file.bytes,
        "gzip_bytes": file.gzip_bytes,
        "largest_difference": file.max_difference,
        "int8_bytes": int8.bytes,
        "int8_agreement": int8.top1_agreement,
    }


def main() -> None:
    """Runs the example, one line of JSON per seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(RECIPES), default="lenet_300_100")
    parser.add_argument("--plain", action="store_true", help="defaults, one cut")
    parser.add_argument("--data", type=pathlib.Path, help="an .npz file with MNIST")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output-dir", type=pathlib.Path, default="build")
    parser.add_argument("--verbose", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (x_train, y_train), (x_test, y_test) = load_data(arguments.data)
    for seed in arguments.seeds:
        keras.utils.set_random_seed(seed)
        start = time.perf_counter()
        network = build(arguments.network)
        if arguments.plain:
            model = fit_plain(network, x_train, y_train, arguments.verbose)
        else:
            recipe = RECIPES[arguments.network]
            model = fit_recipe(network, x_train, y_train, recipe, arguments.verbose)
        seconds = time.perf_counter() - start
        name = f"{arguments.network}_{'plain' if arguments.plain else 'recipe'}_{seed}"
        model.save(arguments.output_dir / f"{name}.keras")
        path = arguments.output_dir / f"{name}.tflite"
        result = report_of(model, x_train, x_test, y_test, path)
        print(
            json.dumps({"run": name, "seconds": round(seconds), **result}), flush=True
        )


if __name__ == "__main__":
    main()
