"""ResNet-8 of MLPerf Tiny on CIFAR-10: channels pruned by evidence, files in int8.

The saved network is trained on for an epoch, whatever follows. From there it is either
trained for the epochs that are left as it is ("unpruned"), or it loses channels in two
rounds, half an epoch apart: those of which a Laplace posterior says that they can be
spared best. The first round takes the same share of the weights around every layer,
which saves multiply-accumulates evenly; the second one ranks the channels of all layers
together, and where they are easiest to spare are most of the bytes. `shrink` takes them
out, so that what follows is cheaper. All runs see the same images as often, under the
same learning rates. The run "evidence_28_30" takes 28 % in the first round and 30 % of
the rest in the second, "magnitude_28_30" the same by the size of the weights.

Training stops and goes on between halves of epochs: what `--output-dir` has is not done
again. Each run has a row in the file of results. `--latency` measures all files that
are there, which take turns, and `--plot` draws accuracy against cost.

    python benchmarks/resnet8_cifar10.py --model resnet8_cifar10.h5 --data cifar10.npz
    python benchmarks/resnet8_cifar10.py ... --latency --plot build/pareto.png
"""

import argparse
import json
import math
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from pareto_front import measure, plot, read_rows, write_rows

import keras_bmr
from keras_bmr.export import (
    export_tflite,
    model_cost,
    to_quantization_aware,
)
from keras_bmr.laplace import Laplace
from keras_bmr.layers import refresh_batch_statistics
from keras_bmr.pruning.channels import widths

BATCH_SIZE = 64
# Examples for the curvature, for batch statistics, and to calibrate int8 with.
NUM_FOR_CURVATURE, NUM_FOR_STATISTICS, NUM_REPRESENTATIVE = 2048, 5000, 500
RESULTS = pathlib.Path(__file__).parent / "results" / "resnet8_cifar10.json"
# Inputs up to 255 make the first kernel small once batch statistics are part of it.
NUM_AWARE_STEPS, AWARE_RATE = 200, 2e-5
LOSS = keras.losses.SparseCategoricalCrossentropy()


def load_images(path: pathlib.Path, folder: pathlib.Path):
    """Images as uint8 and labels, for training and testing; decoded once."""
    decoded = folder / "images.npz"
    if not decoded.exists():
        arrays = {}
        with np.load(path) as file:
            for part in ("train", "test"):
                labels = file[f"y_{part}"].reshape(-1).astype("int32")
                if f"x_{part}" in file:
                    images = file[f"x_{part}"]
                else:
                    content = file[f"jpeg_{part}"].tobytes()
                    offset = file[f"offset_{part}"]
                    images = [
                        tf.io.decode_jpeg(content[start:stop]).numpy()
                        for start, stop in zip(offset, offset[1:], strict=False)
                    ]
                arrays |= {f"x_{part}": np.stack(images), f"y_{part}": labels}
        temporary = folder / "writing_images.npz"
        np.savez(temporary, **arrays)
        temporary.replace(decoded)
    with np.load(decoded) as file:
        return tuple(
            (file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test")
        )


class Augmented(keras.utils.PyDataset):
    """Half of the images in batches, mirrored and moved by up to four pixels."""

    def __init__(self, x: np.ndarray, y: np.ndarray, part: int, seed: int) -> None:
        super().__init__()
        self._x, self._y = x, y
        # Two parts have every image once.
        order = np.random.default_rng([seed, part // 2]).permutation(len(x))
        self._order = np.array_split(order, 2)[part % 2]
        self._rng = np.random.default_rng([seed, part, 1])

    def __len__(self) -> int:
        return len(self._order) // BATCH_SIZE

    def __getitem__(self, index: int):
        chosen = self._order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        images = np.pad(self._x[chosen], ((0, 0), (4, 4), (4, 4), (0, 0)))
        batch = np.empty((len(chosen), *self._x.shape[1:]), "float32")
        for image, target in zip(images, batch, strict=True):
            down, right = self._rng.integers(0, 9, 2)
            moved = image[down : down + 32, right : right + 32]
            target[...] = moved[:, ::-1] if self._rng.random() < 0.5 else moved
        return batch, self._y[chosen]


class Cosine(keras.callbacks.Callback):
    """A learning rate that falls along a cosine over all parts of a run."""

    def __init__(self, highest: float, part: int, num_parts: int) -> None:
        super().__init__()
        self._highest, self._part, self._num_parts = highest, part, num_parts

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Sets the rate of a step."""
        done = (self._part + batch / self.params["steps"]) / self._num_parts
        self.model.optimizer.learning_rate = (
            self._highest * (1 + math.cos(math.pi * done)) / 2
        )


def saved_network(path: pathlib.Path) -> keras.Model:
    """The network as it was published."""
    network = keras.models.load_model(path, compile=False)
    # Keras 2 saved the only input as a list of one, of which Keras 3 warns.
    return keras.Model(network.inputs[0], network.outputs[0], name="resnet8")


def pruned(network, train, method: str, share: float, ranking: str) -> keras.Model:
    """The network without the channels that hold a share of the weights."""
    order = np.random.default_rng(0).permutation(len(train[0]))[:NUM_FOR_CURVATURE]
    data = train[0][order].astype("float32"), train[1][order]
    refresh_batch_statistics(network, data[0])
    # A few images speak for all of them.
    laplace = Laplace(
        network,
        LOSS,
        curvature="ggn_mc",
        structure="diagonal",
        temperature=len(order) / len(train[0]),
    ).fit(data, verbose=0)
    laplace.optimize_prior_precision(steps=20, method="fixed_point")
    reduced = keras_bmr.reduce_model(
        laplace,
        reduced_prior="point_mass",
        criterion="magnitude" if method == "magnitude" else "delta_f",
        granularity="channel",
        sparsity=share,
        ranking=ranking,
    )
    return keras_bmr.shrink(reduced)


def train_part(network, train, part: int, arguments) -> None:
    """Half an epoch of a run."""
    num_parts, rate = 2 * arguments.epochs, arguments.learning_rate
    if not network.compiled:
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.95
        network.compile(
            keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"], jit_compile=False
        )
    start = time.process_time(), time.perf_counter()
    history = network.fit(
        Augmented(*train, part, arguments.seed),
        verbose=0,
        shuffle=False,
        callbacks=[Cosine(rate, part, num_parts)],
    ).history
    print(
        f"  part {part + 1} of {num_parts}: loss {history['loss'][0]:.4f}, "
        f"accuracy {history['accuracy'][0]:.4f}, "
        f"{time.process_time() - start[0]:.0f} s of CPU time, "
        f"{time.perf_counter() - start[1]:.0f} s",
        flush=True,
    )


def trained(network, train, run, parts: range, arguments, method="", shares=()):
    """A network after the last of some parts, from the last state on the disk."""
    folder = arguments.output_dir

    def state(after: int) -> pathlib.Path:
        return folder / f"{run}_after_{after}.keras"

    start = parts.start
    for part in reversed(parts):
        if state(part + 1).exists():
            network, start = keras.models.load_model(state(part + 1)), part + 1
            break
    for part in range(start, parts.stop):
        number = part - parts.start
        if number < len(shares):
            ranking = "layer" if number == 0 else "global"
            network = pruned(network, train, method, shares[number], ranking)
            print(f"  channels {list(widths(network).values())}", flush=True)
        train_part(network, train, part, arguments)
        temporary = folder / f"writing_{state(part + 1).name}"
        network.save(temporary)
        temporary.replace(state(part + 1))
        state(part).unlink(missing_ok=True)
    return network


def file_accuracy(path: pathlib.Path, x: np.ndarray, y: np.ndarray) -> float:
    """Share of right predictions of a file, image by image, in percent."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    right = 0
    for image, label in zip(x, y, strict=True):
        interpreter.set_tensor(source, image[np.newaxis].astype("float32"))
        interpreter.invoke()
        right += int(interpreter.get_tensor(target).argmax() == label)
    return 100 * right / len(y)


def judged(network: keras.Model, name: str, train, test, arguments) -> dict:
    """How good a network is, what it costs, and the same of its int8 file."""
    if name != "saved":
        refresh_batch_statistics(
            network, train[0][:NUM_FOR_STATISTICS].astype("float32")
        )
    predictions = network.predict(test[0].astype("float32"), batch_size=500, verbose=0)
    cost = model_cost(network)
    return {
        "channels": list(widths(network).values()),
        "parameters": cost.num_parameters,
        "multiply_accumulates": cost.num_multiply_accumulates,
        "accuracy_percent": 100 * float(np.mean(predictions.argmax(-1) == test[1])),
        **exported(network, name, train, test, arguments),
    }


def exported(network: keras.Model, name: str, train, test, arguments) -> dict:
    """Writes the int8 file and says how good and large it is."""
    path = arguments.output_dir / f"{name}_int8.tflite"
    try:
        report = export_tflite(
            network,
            path,
            quantize="int8",
            representative_data=train[0][:NUM_REPRESENTATIVE].astype("float32"),
            validation_data=test[0][:2000].astype("float32"),
        )
    except RuntimeError as error:
        return {"int8_refused": str(error)}
    print(report, flush=True)
    return {
        "int8_accuracy_percent": file_accuracy(path, *test),
        "int8_top1_agreement_percent": 100 * report.top1_agreement,
        "int8_bytes": report.bytes,
        "int8_gzip_bytes": report.gzip_bytes,
    }


def quantization_aware(network: keras.Model, train, arguments) -> keras.Model:
    """The network after some steps with the rounding of the int8 file."""
    inputs = train[0][:NUM_REPRESENTATIVE].astype("float32")
    refresh_batch_statistics(network, train[0][:NUM_FOR_STATISTICS].astype("float32"))
    aware = to_quantization_aware(network, inputs)
    aware.compile(keras.optimizers.Adam(AWARE_RATE), LOSS, jit_compile=False)
    aware.fit(
        Augmented(*train, 2 * arguments.epochs, arguments.seed),
        steps_per_epoch=NUM_AWARE_STEPS,
        verbose=0,
        shuffle=False,
    )
    return aware


def run_all(train, test, arguments) -> None:
    """Trains, exports and judges what has no row yet."""
    rows = read_rows(arguments.results)
    saved = saved_network(arguments.model)

    def add(name: str, row: dict, **settings) -> None:
        rows[name] = {**settings, **row}
        write_rows(arguments.results, rows)
        print(name, json.dumps(rows[name]), flush=True)

    if "saved" not in rows:
        add("saved", judged(saved, "saved", train, test, arguments), epochs=0)
    # The name of the recipe, so that no state of another one is taken up.
    recipe = f"{arguments.epochs}_{arguments.learning_rate:g}_{arguments.seed}"
    common = range(2 * arguments.common_epochs)
    settings = {"epochs": arguments.epochs, "seed": arguments.seed}
    for run in arguments.runs:
        method, *percents = run.split("_")
        aware_run = f"{run}_aware"
        if run in rows and (aware_run in rows or not arguments.quantization_aware):
            continue
        print(run, flush=True)
        keras.utils.set_random_seed(arguments.seed)
        network = trained(saved, train, f"common_{recipe}", common, arguments)
        network = trained(
            # A copy without the state of the optimizer, as those have that shrink.
            without_training_state(network),
            train,
            f"{run}_{recipe}",
            range(common.stop, 2 * arguments.epochs),
            arguments,
            method,
            [int(percent) / 100 for percent in percents],
        )
        if run not in rows:
            add(run, judged(network, run, train, test, arguments), **settings)
        if arguments.quantization_aware:
            aware = quantization_aware(network, train, arguments)
            row = exported(aware, aware_run, train, test, arguments)
            of_float = {k: v for k, v in rows[run].items() if "int8" not in k}
            add(aware_run, {**of_float, **row}, **settings)


def without_training_state(network: keras.Model) -> keras.Model:
    """A copy that is not compiled."""
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    return copy


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=pathlib.Path, required=True, help="resnet8_cifar10.h5")
    add("--data", type=pathlib.Path, required=True, help="an .npz with CIFAR-10")
    add("--output-dir", type=pathlib.Path, default=pathlib.Path("build/resnet8"))
    add("--results", type=pathlib.Path, default=RESULTS)
    add(
        "--runs",
        nargs="+",
        default=["unpruned", "evidence_28_30", "evidence_40_40", "magnitude_28_30"],
        help='"unpruned", or the method and what the rounds take, in per cent',
    )
    add("--epochs", type=int, default=4, help="of every run, the common ones included")
    add("--common-epochs", type=int, default=1, help="the first, without any pruning")
    add("--learning-rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    add(
        "--quantization-aware",
        action="store_true",
        help="also train a little with the rounding of int8, as rows of their own",
    )
    add("--latency", action="store_true", help="only measure the files that are there")
    add("--plot", type=pathlib.Path, help="only draw the rows that are there")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    if arguments.latency:
        measure(arguments.results, arguments.output_dir)
    if arguments.plot:
        plot(read_rows(arguments.results), arguments.plot)
    if not (arguments.latency or arguments.plot):
        train, test = load_images(arguments.data, arguments.output_dir)
        run_all(train, test, arguments)


if __name__ == "__main__":
    main()
