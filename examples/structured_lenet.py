r"""LeNet-5 (20-50-500) on MNIST: how few channels and units are enough.

A network is trained, its weights get posteriors, and channels are pruned in rounds:
those with the least log evidence, of all weights that make or read them, for what they
cost in multiply-accumulates or parameters (`--method weights`). Or noise gates behind
its layers say which channels the data do not need (`--method gates`).
`shrink` removes the channels; the small network of the means is fine-tuned, with soft
targets from the network before (distillation, arXiv 1503.02531), exported and compared
with it.

Without `--data mnist.npz` (arrays x_train, y_train, x_test, y_test) it runs on the 8x8
digits of scikit-learn with a smaller network. Models, pictures and one line of JSON
per run go to `--output-dir`; what is there already is not computed again.

    python examples/structured_lenet.py --parameters 0.2 --multiply-accumulates 0.4
    python examples/structured_lenet.py --data mnist.npz
    python examples/structured_lenet.py --data mnist.npz --name parameters \
        --parameters 0.00955 --multiply-accumulates 0.1233
    python examples/structured_lenet.py --data mnist.npz --method gates
"""

import argparse
import json
import math
import pathlib
import time

import keras
import numpy as np

import keras_bmr
from keras_bmr.callbacks import ContinuousReduction, KLAnnealing
from keras_bmr.export import compare_cost, export_tflite, model_cost, plot_widths
from keras_bmr.pruning.channels import ChannelGraph, prune_channels


def load_data(path: pathlib.Path | None):
    """Images in [0, 1] with a channel axis and labels, for training and testing."""
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y = digits.images.astype("float32")[..., None] / 16, digits.target
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order], y[order]
        return (x[:1400], y[:1400]), (x[1400:], y[1400:])
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


def fit(model, data, epochs, arguments, callbacks=(), learning_rate=None):
    """Trains with Adam; the learning rate falls to zero over the last third."""
    rate = learning_rate or arguments.learning_rate
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if data[1].ndim == 2:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False
    )

    def schedule(epoch: int) -> float:
        return rate * min(1.0, 3 * (epochs - epoch) / epochs)

    return model.fit(
        *data,
        epochs=epochs,
        batch_size=arguments.batch_size,
        verbose=arguments.verbose,
        callbacks=[keras.callbacks.LearningRateScheduler(schedule), *callbacks],
    )


def cost_terms(model: keras.Model, graph: ChannelGraph) -> dict[str, list]:
    """What the model costs, each part with the groups of channels it depends on.

    A part is a number and arrays of groups, one for each axis of a weight: it shrinks
    with the share of the positions that are left on every one of them.
    """
    axes: dict[tuple, list] = {}
    for axis in graph.axes:
        axes.setdefault((axis.layer, axis.name), []).append(axis.groups)
    products = {
        layer.name: layer.num_multiply_accumulates for layer in model_cost(model).layers
    }
    return {
        "parameters": [
            (math.prod(getattr(layer, name).shape), groups)
            for (layer, name), groups in axes.items()
        ],
        "multiply_accumulates": [
            (products[layer.name], groups)
            for (layer, name), groups in axes.items()
            if name == "kernel"
        ],
    }


def cost_left(terms: list, gone: np.ndarray) -> float:
    """The cost without some groups; the last entry of `gone` stands for group -1."""
    return sum(
        number * math.prod(float(np.mean(~gone[groups])) for groups in axes)
        for number, axes in terms
    )


def choose_channels(
    model: keras.Model, graph: ChannelGraph, limits: dict[str, float], share: float
) -> np.ndarray:
    """The groups of channels that cost most for the evidence that they bring.

    The evidence of a group is the sum of that of all weights which make or read it.
    Its cost is what would be saved of each count that is above its limit, in
    proportion to how far it is. As many go as take these counts down by a share.
    """
    reduction = keras_bmr.ModelReduction(model, "point_mass", granularity="channel")
    evidence = np.zeros(graph.num_groups + 1)
    for axis in graph.axes:
        if axis.name == "kernel":
            delta_f = np.moveaxis(reduction.delta_f(axis.layer, "kernel"), axis.axis, 0)
            np.add.at(evidence, axis.groups, delta_f.reshape(len(delta_f), -1).sum(1))
    terms = cost_terms(model, graph)
    gone = np.zeros(graph.num_groups + 1, bool)
    now = {name: cost_left(terms[name], gone) for name in limits}
    limits = {name: limit for name, limit in limits.items() if now[name] > limit}
    cost = np.zeros(graph.num_groups)
    for group in range(graph.num_groups):
        gone[group] = True
        for name, limit in limits.items():
            saved = 1 - cost_left(terms[name], gone) / now[name]
            cost[group] += (now[name] / limit - 1) * saved
        gone[group] = False
    goals = {
        name: max(limit, (1 - share) * now[name]) for name, limit in limits.items()
    }
    order = np.argsort(-evidence[:-1] / cost, kind="stable")
    for number, group in enumerate(order):
        if all(cost_left(terms[name], gone) <= goal for name, goal in goals.items()):
            return order[:number]
        gone[group] = True
    return order


def reduce_weights(network, data, arguments, name) -> keras.Model:
    """Posteriors on the weights; channels are pruned by log evidence, in rounds.

    Every round ends with a smaller network, so that the next one trains faster.
    """
    before = model_cost(network)
    limits = {
        "parameters": arguments.parameters * before.num_parameters,
        "multiply_accumulates": arguments.multiply_accumulates
        * before.num_multiply_accumulates,
    }

    def warm_up():
        model = keras_bmr.to_variational(network, num_examples=len(data[0]))
        annealing = KLAnnealing(epochs=max(1, arguments.warm_up_epochs - 1))
        fit(model, data, arguments.warm_up_epochs, arguments, [annealing])
        return model

    def reduce():
        graph = ChannelGraph(model)
        chosen = choose_channels(model, graph, limits, arguments.share)
        prune_channels(model, chosen, graph)
        small = keras_bmr.shrink(model)
        fit(small, data, arguments.epochs_between, arguments)
        return small

    folder, number = arguments.output_dir, 0
    model, cost = kept(folder / f"{name}_posterior.keras", warm_up), before
    name = f"{name}_{arguments.name or 'weights'}"
    while any(getattr(cost, f"num_{count}") > limits[count] for count in limits):
        number += 1
        model = kept(folder / f"{name}_round_{number}.keras", reduce)
        cost = model_cost(model)
        print(
            f"round {number}: widths {widths(model)}, "
            f"{cost.num_parameters} parameters, "
            f"{cost.num_multiply_accumulates} multiply-accumulates",
            flush=True,
        )
    return model


def reduce_gates(network, data, arguments, name) -> keras.Model:
    """Noise gates behind the layers, which are shut where nothing needs a channel."""

    def train():
        model = keras_bmr.layers.add_noise_gates(network, num_examples=len(data[0]))
        start = arguments.warm_up_epochs
        callbacks = [
            KLAnnealing(epochs=start),
            ContinuousReduction(arguments.reduced_prior, start=start),
        ]
        fit(model, data, arguments.gate_epochs, arguments, callbacks)
        return model

    name = f"{name}_{arguments.name or 'gates'}_gated.keras"
    return keras_bmr.shrink(kept(arguments.output_dir / name, train))


def kept(path: pathlib.Path, compute) -> keras.Model:
    """The model of the file, computed and written if there is none."""
    if not path.exists():
        model = compute()
        temporary = path.with_name(f"writing_{path.name}")
        model.save(temporary)
        temporary.replace(path)
    return keras.models.load_model(path, compile=False)


def soft_targets(network: keras.Model, x, y) -> np.ndarray:
    """Probabilities that tell which wrong classes an image is like, too.

    Most of their weight is what the network says at a temperature of 4.
    """
    logits = network.predict(x, batch_size=1000, verbose=0)
    soft = keras.ops.convert_to_numpy(keras.ops.softmax(logits / 4))
    return 0.3 * np.eye(soft.shape[-1], dtype=soft.dtype)[y] + 0.7 * soft


def error_percent(model: keras.Model, x, y) -> float:
    """Share of wrong predictions, in percent."""
    predictions = model.predict(x, batch_size=1000, verbose=0).argmax(-1)
    return 100 * float(np.mean(predictions != y))


def widths(model: keras.Model) -> list[int]:
    """Channels of the convolutions, inputs and units of the first dense layer."""
    layers = {layer.name: layer for layer in model_cost(model).layers}
    inputs = model.get_layer("dense").input.shape[-1]
    return [
        layers["conv_1"].width,
        layers["conv_2"].width,
        inputs,
        layers["dense"].width,
    ]


def run(seed: int, train, test, arguments) -> dict:
    """One line of results."""
    folder, start = arguments.output_dir, time.perf_counter()
    data = f"{'digits' if arguments.data is None else 'mnist'}_{seed}"
    name = f"{data}_{arguments.name or arguments.method}"

    def train_network():
        keras.utils.set_random_seed(seed)
        network = build(train[0].shape[1])
        fit(network, train, arguments.epochs, arguments)
        return network

    def fine_tune():
        keras.utils.set_random_seed(seed)
        small = keras.models.clone_model(reduced)
        small.set_weights(reduced.get_weights())
        if keras_bmr.layers.variational_layers(reduced):
            small = keras_bmr.to_deterministic(reduced)
        epochs, rate = arguments.fine_tuning_epochs, arguments.fine_tuning_rate
        soft = train[0], soft_targets(network, *train)
        fit(small, soft, epochs, arguments, learning_rate=rate)
        return small

    # All methods start from the same network.
    network = kept(folder / f"{data}_network.keras", train_network)
    keras.utils.set_random_seed(seed)
    reduce = reduce_weights if arguments.method == "weights" else reduce_gates
    reduced = reduce(network, train, arguments, data)
    small = kept(folder / f"{name}_small.keras", fine_tune)

    comparison = compare_cost(network, small, (None, "int8"), train[0][:500])
    print(model_cost(small), comparison, sep="\n\n")
    plot_widths(network, small, folder / f"{name}_widths.png")
    report = export_tflite(small, folder / f"{name}.tflite", validation_data=test[0])
    return {
        "run": name,
        "widths": widths(small),
        "error_percent_before": error_percent(network, *test),
        "error_percent_reduced": error_percent(reduced, *test),
        "error_percent": error_percent(small, *test),
        "parameters": comparison.after.num_parameters,
        "multiply_accumulates": comparison.after.num_multiply_accumulates,
        "bytes": report.bytes,
        "times_faster": {
            mode or "float32": comparison.latency_before[mode] / seconds
            for mode, seconds in comparison.latency_after.items()
        },
        "seconds": round(time.perf_counter() - start),
    }


def main() -> None:
    """Runs the example, one line of JSON per seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, help="an .npz file with MNIST")
    add("--output-dir", type=pathlib.Path, default=pathlib.Path("build/structured"))
    add("--method", choices=["weights", "gates"], default="weights")
    add("--name", help="name of the recipe in the files; that of the method if none")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--epochs", type=int, default=4, help="of the network before")
    add("--batch-size", type=int, default=128)
    add("--learning-rate", type=float, default=1e-3)
    add("--share", type=float, default=0.45, help="of the counts, for each round")
    add(
        "--multiply-accumulates",
        type=float,
        default=0.0928,
        help="share of them that the last round must not exceed",
    )
    add("--parameters", type=float, default=1.0, help="the same of the parameters")
    add(
        "--warm-up-epochs",
        type=int,
        default=4,
        help="before the first round, or gates shut",
    )
    add("--epochs-between", type=int, default=3, help="from round to round")
    add("--gate-epochs", type=int, default=40, help="of training with gates")
    add("--reduced-prior", default="bmrs_u4", help="of the gates")
    add("--fine-tuning-epochs", type=int, default=40)
    add("--fine-tuning-rate", type=float, default=2e-3)
    add("--verbose", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    train, test = load_data(arguments.data)
    for seed in arguments.seeds:
        print(json.dumps(run(seed, train, test, arguments)), flush=True)


if __name__ == "__main__":
    main()
