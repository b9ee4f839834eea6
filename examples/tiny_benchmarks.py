"""Keyword spotting and anomaly detection in small, down to files for a microcontroller.

Two networks in the manner of MLPerf Tiny, on data that need no download: a depthwise
separable CNN that tells words apart by their spectrograms, which are generated, and an
autoencoder that knows the digits 0 to 4 of scikit-learn and shall find the others
strange. Each is trained; a Laplace posterior says which channels and units can be
spared; `shrink` takes them out; what is left is fine-tuned, and so is the whole network
for comparison. Both become int8 files, and the smaller one a C array with its labels.
It needs `pip install keras_bmr[litert]`, and `[litert,micro]` to know their memory.

    python examples/tiny_benchmarks.py
    python examples/tiny_benchmarks.py --tasks anomalies --sparsity 0.7
"""

import argparse
import dataclasses
import importlib.util
import pathlib
from collections.abc import Callable

import keras
import numpy as np

import keras_bmr
from keras_bmr.export import Metadata, export_tflite, measure_latency, model_cost
from keras_bmr.laplace import Laplace
from keras_bmr.layers import refresh_batch_statistics

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NUM_FRAMES, NUM_BANDS = 32, 16


@dataclasses.dataclass(frozen=True)
class Task:
    """A network, its data and what it is judged by.

    Attributes:
        name: Of the files.
        build: Returns the network, not trained.
        loss: What it is trained with.
        train: Inputs and targets.
        test: Inputs, and what `score` compares the outputs with.
        metric: Name of the score.
        score: Maps inputs, outputs and the second part of `test` to a percentage.
        metadata: What the files say about their inputs and outputs.
        epochs: How long it is trained, and fine-tuned.
    """

    name: str
    build: Callable[[], keras.Model]
    loss: keras.losses.Loss
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    metric: str
    score: Callable[[np.ndarray, np.ndarray, np.ndarray], float]
    metadata: Metadata
    epochs: int


def spectrograms(num_examples: int, seed: int):
    """Words as two tones that rise or fall, early or late, loud or soft, in noise."""
    voices = np.random.default_rng(0)  # the words are the same for every seed
    begins, ends = voices.uniform(1, NUM_BANDS - 2, size=(2, len(WORDS), 2))
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(WORDS), size=num_examples)
    time = np.arange(NUM_FRAMES)
    start = rng.uniform(0, 12, size=(num_examples, 1))
    length = rng.uniform(14, 20, size=(num_examples, 1))
    done = (time - start) / length
    heard = (done >= 0) & (done <= 1)
    bands = np.arange(NUM_BANDS)
    x = rng.normal(scale=0.7, size=(num_examples, NUM_FRAMES, NUM_BANDS))
    for tone in range(2):
        pitch = rng.normal(scale=0.7, size=(num_examples, 1))
        centre = pitch + begins[labels, tone, np.newaxis] * (1 - done)
        centre += ends[labels, tone, np.newaxis] * done
        loudness = rng.uniform(0.8, 2.0, size=(num_examples, 1)) * heard
        distance = bands - centre[..., np.newaxis]
        x += loudness[..., np.newaxis] * np.exp(-(distance**2) / 2)
    return x[..., np.newaxis].astype("float32"), labels


def ds_cnn() -> keras.Model:
    """A convolution and four pairs of depthwise and pointwise ones."""
    layers = keras.layers
    inputs = keras.Input((NUM_FRAMES, NUM_BANDS, 1))

    def normalised(x):
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    x = layers.Conv2D(32, (10, 4), strides=2, padding="same", use_bias=False)(inputs)
    x = normalised(x)
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.Conv2D(32, 1, use_bias=False)(normalised(x))
        x = normalised(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(len(WORDS))(x), name="ds_cnn")


def keywords(num_examples: int) -> Task:
    """Which of ten words a spectrogram shows."""
    return Task(
        name="keywords",
        build=ds_cnn,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        train=spectrograms(num_examples, seed=1),
        test=spectrograms(num_examples // 2, seed=2),
        metric="accuracy (%)",
        score=lambda _, outputs, labels: 100 * np.mean(outputs.argmax(-1) == labels),
        metadata=Metadata(labels=WORDS, description="Words in generated spectrograms"),
        epochs=6,
    )


def autoencoder() -> keras.Model:
    """Dense layers of 128 units around a bottleneck of 8."""
    layers = keras.layers
    x = inputs = keras.Input((64,))
    for units in (128, 128, 8, 128, 128):
        x = layers.BatchNormalization(momentum=0.9)(layers.Dense(units)(x))
        x = layers.ReLU()(x)
    return keras.Model(inputs, layers.Dense(64)(x), name="autoencoder")


def area_under_curve(x: np.ndarray, outputs: np.ndarray, strange: np.ndarray) -> float:
    """How often, in per cent, a strange input has a larger error than a usual one."""
    errors = np.square(outputs - x).mean(-1)
    order = np.argsort(errors, kind="stable")
    ranks = np.empty(len(errors))
    ranks[order] = np.arange(1, len(errors) + 1)
    num_strange = np.count_nonzero(strange)
    wins = ranks[strange].sum() - num_strange * (num_strange + 1) / 2
    return 100 * wins / (num_strange * (len(errors) - num_strange))


def anomalies(num_examples: int) -> Task:
    """Which digits are not among those that the network was trained on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, strange = (digits.data / 16).astype("float32"), digits.target > 4
    usual = np.random.default_rng(0).permutation(np.flatnonzero(~strange))
    train, rest = np.split(usual, [len(usual) * 3 // 4])
    train = train[:num_examples]
    test = np.concatenate([rest, np.flatnonzero(strange)])
    return Task(
        name="anomalies",
        build=autoencoder,
        loss=keras.losses.MeanSquaredError(),
        train=(x[train], x[train]),
        test=(x[test], strange[test]),
        metric="AUC (%)",
        score=area_under_curve,
        metadata=Metadata(input_scale=1 / 16, description="Digits 0 to 4, copied"),
        epochs=30,
    )


def fit(model: keras.Model, task: Task, arguments) -> None:
    """Trains with Adam; the learning rate falls to nearly nothing."""
    epochs = arguments.epochs or task.epochs
    num_steps = epochs * -(-len(task.train[0]) // arguments.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, max(1, num_steps), alpha=0.02
    )
    model.compile(keras.optimizers.Adam(rate), task.loss, jit_compile=False)
    model.fit(*task.train, epochs=epochs, batch_size=arguments.batch_size, verbose=0)
    refresh_batch_statistics(model, task.train[0])


def file_outputs(path: str, x: np.ndarray) -> np.ndarray:
    """The outputs of a file, example by example."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]
    outputs = []
    for example in x:
        interpreter.set_tensor(source, example[np.newaxis])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target)[0])
    return np.stack(outputs)


def run(task: Task, arguments) -> dict[str, dict[str, float]]:
    """The whole path; returns what the whole and the smaller network are like."""
    keras.utils.set_random_seed(arguments.seed)
    network = task.build()
    fit(network, task, arguments)
    laplace = Laplace(network, task.loss, curvature="ggn_mc", structure="diagonal")
    laplace.fit(task.train, verbose=0)
    if isinstance(task.loss, keras.losses.MeanSquaredError):
        errors = network.predict(task.train[0], verbose=0) - task.train[1]
        laplace.observation_noise = float(np.std(errors))
    laplace.optimize_prior_precision(steps=20, method="fixed_point")
    reduced = keras_bmr.reduce_model(
        laplace,
        reduced_prior="point_mass",
        granularity="channel",
        sparsity=arguments.sparsity,
        ranking="layer",
    )
    networks = {"whole": network, "small": keras_bmr.shrink(reduced)}
    table, reports = {}, {}
    x, y = task.test
    for name, model in networks.items():
        fit(model, task, arguments)
        report = reports[name] = export_tflite(
            model,
            arguments.output_dir / f"{task.name}_{name}.tflite",
            quantize="int8",
            representative_data=task.train[0][:500],
            validation_data=x,
            metadata=task.metadata,
        )
        cost = model_cost(model)
        table[name] = {
            task.metric: task.score(x, model.predict(x, verbose=0), y),
            f"{task.metric}, int8": task.score(x, file_outputs(report.path, x), y),
            "parameters": cost.num_parameters,
            "multiply-accumulates": cost.num_multiply_accumulates,
            "bytes, int8": report.bytes,
        }
        # It has no builds for all systems.
        if importlib.util.find_spec("tflite_micro") is not None:
            table[name]["arena bytes, int8"] = report.arena_size().bytes
    seconds = measure_latency([report.path for report in reports.values()])
    for row, latency in zip(table.values(), seconds, strict=True):
        row["microseconds, int8"] = 1e6 * latency
    print(reports["small"])
    reports["small"].write_c_array(arguments.output_dir / f"{task.name}.cc")
    print(f"\n{task.name:28s}{'whole':>12s}{'small':>12s}")
    for label in table["whole"]:
        values = (table[name][label] for name in networks)
        cells = (f"{v:,}" if isinstance(v, int) else f"{v:.4g}" for v in values)
        print(f"{label:28s}" + "".join(f"{cell:>12s}" for cell in cells))
    return table


def main(command_line: list[str] | None = None) -> dict[str, dict]:
    """Runs the example; returns the tables by the name of the task."""
    makers = {"keywords": keywords, "anomalies": anomalies}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tasks", nargs="+", choices=list(makers), default=list(makers))
    add("--examples", type=int, default=4000, help="for training, at most")
    add("--epochs", type=int, help="before pruning, and after it; else what suits")
    add("--sparsity", type=float, default=0.4, help="share of the weights that go")
    add("--batch-size", type=int, default=64)
    add("--learning-rate", type=float, default=2e-3)
    add("--output-dir", type=pathlib.Path, default=pathlib.Path("build/tiny"))
    add("--seed", type=int, default=0)
    arguments = parser.parse_args(command_line)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    return {
        name: run(makers[name](arguments.examples), arguments)
        for name in arguments.tasks
    }


if __name__ == "__main__":
    main()
