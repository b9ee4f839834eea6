"""Structured pruning of MNIST networks by the evidence of their noise gates.

The networks and settings are those of Wright, Igel and Selvan, "BMRS: Bayesian model
reduction for structured pruning" (arXiv 2406.01345): images of 32 x 32 pixels, 48000
of the 60000 for training and 12000 for validation, Adam, batches of 128, 50 epochs with
gates, one reduction, 10 epochs of fine-tuning of which the best by validation counts.

Compression is the share of the weights and biases that go when the units go, in the
network without gates. Criteria without a rule of their own (l2, expected_value) shut
as many gates as bmrs_n_reference does; snr shuts those with a ratio below 1. At least
one gate of each layer stays. bmrs_u8_whole has the lower bound of the posterior.

Every row goes to a JSON file at once, and rows that are there are not computed again;
neither are the trained networks. Methods of one network and seed share the network.

    python benchmarks/bmrs_mnist.py --data mnist.npz --output-dir build/bmrs
"""

import argparse
import itertools
import json
import os
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

import keras_bmr
from keras_bmr.layers import MultiplicativeNoise, add_noise_gates, variational_layers
from keras_bmr.pruning import BMRSUniform, GateGroups

LEARNING_RATES = {"mlp": 8.5e-4, "lenet_5": 1.4e-3}
BMRS = ("bmrs_n", "bmrs_n_reference", "bmrs_u8", "bmrs_u4", "bmrs_u8_whole")
METHODS = ("none", "l2", "expected_value", "snr", *BMRS)
# Compression and accuracy in per cent.
PUBLISHED = {
    ("mlp", "none"): (0.0, 97.43),
    ("mlp", "snr"): (58.6, 96.9),
    ("mlp", "bmrs_n_reference"): (48.9, 97.0),
    ("mlp", "bmrs_u8"): (48.7, 96.9),
    ("mlp", "bmrs_u4"): (54.5, 97.0),
    ("lenet_5", "none"): (0.0, 99.07),
    ("lenet_5", "snr"): (92.7, 62.7),
    ("lenet_5", "bmrs_n_reference"): (86.9, 95.6),
    ("lenet_5", "bmrs_u8"): (86.1, 95.3),
    ("lenet_5", "bmrs_u4"): (87.6, 96.7),
}


def load_data(path: pathlib.Path, num_examples: int | None):
    """Training, validation and test set of images in (-0.5, 0.5) and labels."""
    with np.load(path) as file:
        x_train, y_train = file["x_train"][:num_examples], file["y_train"]
        x_test, y_test = file["x_test"], file["y_test"]

    def scaled(x):
        parts = np.array_split(x[..., np.newaxis], 10)
        resized = [tf.image.resize(part, (32, 32)).numpy() for part in parts]
        return (np.concatenate(resized) - 127) / 255

    x_train, labels = scaled(x_train), y_train[: len(x_train)].astype("int32")
    order = np.random.default_rng(0).permutation(len(x_train))
    train, validation = np.split(order, [len(order) * 4 // 5])
    return (
        (x_train[train], labels[train]),
        (x_train[validation], labels[validation]),
        (scaled(x_test), y_test.astype("int32")),
    )


def build(network: str) -> keras.Model:
    """The network without gates."""
    layers = keras.layers
    if network == "mlp":
        stack = [layers.Flatten()]
        stack += [layers.Dense(100, activation="tanh") for _ in range(8)]
    else:
        stack = [
            layers.Conv2D(6, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
        ]
    return keras.Sequential([keras.Input((32, 32, 1)), *stack, layers.Dense(10)])


def compiled(model: keras.Model, learning_rate: float) -> keras.Model:
    """Gives the model Adam and the cross-entropy."""
    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        steps_per_execution=25,
    )
    return model


def gates_of(model: keras.Model) -> list[MultiplicativeNoise]:
    """The gates, from the input on."""
    found = variational_layers(model)
    return [layer for layer in found if isinstance(layer, MultiplicativeNoise)]


def weigh_divergence(model: keras.Model, arguments: argparse.Namespace) -> None:
    """Sets the weight of the KL divergence of every gate.

    The published loss is the mean cross-entropy plus the average over the layers of
    their mean divergences. The evidence lower bound has the sum divided by the number
    of examples.
    """
    gates = gates_of(model)
    for gate in gates:
        weight = 1 / gate.num_examples
        if arguments.kl == "published":
            weight = 1 / (len(gates) * gate.noise.shape[0])
        gate.kl_weight.assign(arguments.kl_factor * weight)


def trained(network: str, seed: int, gated: bool, data, arguments) -> keras.Model:
    """The trained network, from its file if there is one."""
    kind = f"{arguments.kl}_{arguments.kl_factor:g}" if gated else "plain"
    name = f"{network}_{kind}_{arguments.epochs}_{seed}.keras"
    path = arguments.output_dir / name
    if path.exists():
        return keras.models.load_model(path)
    (x, y), validation, _ = data
    keras.utils.set_random_seed(seed)
    model = build(network)
    if gated:
        model = add_noise_gates(model, num_examples=len(x))
        weigh_divergence(model, arguments)
    start = time.perf_counter()
    compiled(model, LEARNING_RATES[network]).fit(
        x,
        y,
        epochs=arguments.epochs,
        batch_size=128,
        validation_data=validation,
        validation_batch_size=1000,
        verbose=arguments.verbose,
    )
    print(f"{name}: trained in {time.perf_counter() - start:.0f} s", flush=True)
    temporary = path.with_name(f"unfinished_{name}")
    model.save(temporary)
    os.replace(temporary, path)
    return model


def kernels_behind(model: keras.Model) -> list[np.ndarray]:
    """The kernel that makes the channels of each gate, as (inputs, channels)."""
    kernels, last = [], None
    for layer in model.layers:
        if isinstance(layer, MultiplicativeNoise):
            kernels.append(last.reshape(-1, last.shape[-1]))
        elif layer.weights:
            last = layer.kernel.numpy()
    return kernels


def decide(model: keras.Model, method: str) -> list[np.ndarray]:
    """Which gates stay, a boolean array per layer."""
    gates = gates_of(model)
    options = {"granularity": GateGroups, "verbose": False}
    if method in BMRS:
        reduced_prior = method
        if method == "bmrs_u8_whole":
            reduced_prior = BMRSUniform(p1=8, low=-20.0)
        reduction = keras_bmr.ModelReduction(model, reduced_prior, **options)
    elif method == "snr":
        reduction = keras_bmr.ModelReduction(
            model, "bmrs_n", criterion="signal_to_noise", threshold=-1.0, **options
        )
    else:
        reference = decide(model, "bmrs_n_reference")
        sparsity = 1 - np.concatenate(reference).mean()
        if method == "l2":
            norms = [np.linalg.norm(kernel, axis=0) for kernel in kernels_behind(model)]
            limit = np.sort(np.concatenate(norms))
            limit = limit[round(sparsity * limit.size) :][0]
            return [norm >= limit for norm in norms]
        reduction = keras_bmr.ModelReduction(
            model, "bmrs_n", criterion=method, sparsity=sparsity, **options
        )
    return [reduction.keep(gate) for gate in gates]


def num_parameters(network: str, widths: list[int]) -> int:
    """Weights and biases of a network with so many units in its hidden layers."""
    if network == "mlp":
        sizes = [32 * 32, *widths, 10]
        return sum((i + 1) * o for i, o in itertools.pairwise(sizes))
    first, second, third, fourth = widths
    convolutions = (25 + 1) * first + (25 * first + 1) * second
    dense = (25 * second + 1) * third + (third + 1) * fourth + (fourth + 1) * 10
    return convolutions + dense


def compression(network: str, model: keras.Model) -> tuple[float, list[int]]:
    """Per cent of the parameters that go with the pruned units, and the widths left."""
    masks = [gate.mask("noise").numpy() for gate in gates_of(model)]
    widths = [int(mask.sum()) for mask in masks]
    full = num_parameters(network, [mask.size for mask in masks])
    return 100 * (1 - num_parameters(network, widths) / full), widths


def run(network: str, method: str, seed: int, data, arguments) -> dict:
    """One row of the table."""
    (x, y), validation, (x_test, y_test) = data
    gated = method != "none"
    model = trained(network, seed, gated, data, arguments)
    keras.utils.set_random_seed(seed)
    model = compiled(model, LEARNING_RATES[network])

    def accuracy() -> float:
        return 100 * model.evaluate(x_test, y_test, batch_size=1000, verbose=0)[1]

    row = {"network": network, "method": method, "seed": seed}
    row |= {"kl": arguments.kl, "kl_factor": arguments.kl_factor}
    row["accuracy_trained"] = accuracy()
    if gated:
        for gate, keep in zip(gates_of(model), decide(model, method), strict=True):
            if not keep.any():
                mean = gate.posterior_means()["noise"].numpy()
                keep = np.arange(keep.size) == mean.argmax()
            gate.prune("noise", keep)
        row["compression"], row["widths"] = compression(network, model)
        row["accuracy_pruned"] = accuracy()
    else:
        row["compression"] = 0.0
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=10**6, restore_best_weights=True
    )
    model.fit(
        x,
        y,
        epochs=arguments.fine_tuning_epochs,
        batch_size=128,
        validation_data=validation,
        validation_batch_size=1000,
        callbacks=[best],
        verbose=arguments.verbose,
    )
    row["accuracy"] = accuracy()
    return row


def print_table(rows: list[dict], arguments: argparse.Namespace) -> None:
    """Means over the seeds, beside the published numbers."""
    print(
        f"{'network':9s}{'method':20s}{'compression':>16s}{'accuracy':>16s}  published"
    )
    for network, method in itertools.product(arguments.networks, arguments.methods):
        own = [r for r in rows if (r["network"], r["method"]) == (network, method)]
        if not own:
            continue
        columns = ""
        for key in ("compression", "accuracy"):
            values = np.array([row[key] for row in own])
            columns += f"{values.mean():9.2f} +-{values.std():5.2f}"
        published = PUBLISHED.get((network, method))
        beside = f"{published[0]:.1f} / {published[1]:.2f}" if published else ""
        print(f"{network:9s}{method:20s}{columns}  {beside}")


def main() -> None:
    """Computes the rows that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output-dir", type=pathlib.Path, default="build/bmrs_mnist")
    parser.add_argument("--networks", nargs="+", choices=sorted(LEARNING_RATES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--fine-tuning-epochs", type=int, default=10)
    parser.add_argument("--kl", choices=("elbo", "published"), default="elbo")
    parser.add_argument("--kl-factor", type=float, default=1.0)
    parser.add_argument("--num-examples", type=int, help="of the 60000, for a trial")
    parser.add_argument("--verbose", type=int, default=0)
    parser.set_defaults(networks=sorted(LEARNING_RATES))
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    data = load_data(arguments.data, arguments.num_examples)
    settings = f"{arguments.kl}_{arguments.kl_factor:g}_{arguments.epochs}"
    path = arguments.output_dir / f"rows_{settings}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    done = {(row["network"], row["method"], row["seed"]) for row in rows}
    wanted = itertools.product(arguments.networks, arguments.seeds, arguments.methods)
    for network, seed, method in wanted:
        if (network, method, seed) in done:
            continue
        rows.append(run(network, method, seed, data, arguments))
        print(json.dumps(rows[-1]), flush=True)
        temporary = path.with_suffix(".unfinished")
        temporary.write_text(json.dumps(rows, indent=1))
        os.replace(temporary, path)
    print_table(rows, arguments)


if __name__ == "__main__":
    main()
