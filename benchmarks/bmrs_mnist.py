r"""Structured pruning of MNIST networks by the evidence of their noise gates.

The networks are those of Wright, Igel and Selvan, "BMRS: Bayesian model reduction for
structured pruning" (arXiv 2406.01345): images of 32 x 32 pixels, 48000 of the 60000 for
training and 12000 for validation, Adam, batches of 128. Unlike there, gates are put
behind the layers of a trained network whose weights stay as they are while the gates
are trained, with noise that is visible from the start and a higher learning rate. That
takes 20 epochs in all (38 for the MLP) instead of 60. The KL divergence of a gate
counts in proportion to the parameters that go with it.

Compression is the share of the parameters that go with the units: `shrink` removes them
and folds the gates, and the small network is fine-tuned; the epoch that is best on the
validation set counts. "none" is the network without gates, trained for as many epochs.
Criteria without a rule of their own (l2, expected_value) shut as many gates as
bmrs_n_reference does; snr shuts those with a ratio below 1. At least one gate of each
layer stays. Besides the methods of the default there are bmrs_n, with the exact
threshold, and bmrs_u8_whole, with the lower bound of the posterior.

Rows go to a JSON file at once, and rows that are there are not computed again; neither
are the trained networks. Methods of one network and seed share the network.

    python benchmarks/bmrs_mnist.py --data mnist.npz \
        --results benchmarks/results/bmrs_mnist.json
"""

import argparse
import itertools
import json
import os
import pathlib

import keras
import numpy as np
from bmrs_networks import (
    LEARNING_RATES,
    compiled,
    fit,
    gated,
    gates_of,
    load_data,
    trained,
)

import keras_bmr
from keras_bmr.layers import MultiplicativeNoise
from keras_bmr.pruning import BMRSUniform, GateGroups
from keras_bmr.pruning.channels import widths

# By network, where nothing else is asked for.
RECIPES = {
    "mlp": {"epochs": 16, "kl_factor": 50.0, "fine_tuning_epochs": 16},
    "lenet_5": {"epochs": 8, "kl_factor": 400.0, "fine_tuning_epochs": 6},
}
METHODS = (
    "none",
    "l2",
    "expected_value",
    "snr",
    "bmrs_n_reference",
    "bmrs_u8",
    "bmrs_u4",
)
OTHERS = ("bmrs_n", "bmrs_u8_whole")
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
    if method.startswith("bmrs"):
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


def pruned(model: keras.Model, keeps: list[np.ndarray]) -> keras.Model:
    """The network without the units whose gates are shut, and without gates."""
    for gate, keep in zip(gates_of(model), keeps, strict=True):
        if not keep.any():
            mean = gate.posterior_means()["noise"].numpy()
            keep = np.arange(keep.size) == mean.argmax()
        gate.prune("noise", keep)
    small = keras_bmr.shrink(model)
    for layer in small.layers:
        layer.trainable = True
    return small


def run(network: str, method: str, seed: int, data, arguments, known: dict) -> dict:
    """One row of the table; methods that shut the same gates have the same one."""
    plain = trained(network, seed, data, arguments)
    row = {}
    model, epochs, rate = plain, arguments.fine_tuning_epochs, LEARNING_RATES[network]

    def accuracy() -> float:
        compiled(model, rate)
        return 100 * model.evaluate(*data[2], batch_size=1000, verbose=0)[1]

    if method == "none":
        epochs += arguments.gate_epochs
    else:
        model = gated(network, seed, data, arguments)
        row["accuracy_gated"] = accuracy()
        keeps = decide(model, method)
        key = (network, seed, np.concatenate(keeps).tobytes())
        if known.setdefault(key, row) is not row:
            return known[key] | row
        model = pruned(model, keeps)
    row["compression"] = 100 * (1 - model.count_params() / plain.count_params())
    row["widths"] = list(widths(model).values())
    row["accuracy_before_fine_tuning"] = accuracy()
    keras.utils.set_random_seed(seed)
    best = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=10**6, restore_best_weights=True
    )
    # It falls to zero over the epochs of fine-tuning.
    falling = keras.callbacks.LearningRateScheduler(
        lambda epoch: rate * min(1.0, (epochs - epoch) / arguments.fine_tuning_epochs)
    )
    fit(model, epochs, data, arguments, [falling, best])
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


def resolved(network: str, arguments: argparse.Namespace):
    """The options for a network, and those of them that its rows depend on."""
    own = argparse.Namespace(**vars(arguments))
    for name, value in RECIPES[network].items():
        if getattr(own, name) is None:
            setattr(own, name, value)
    names = "epochs", "gate_epochs", "gate_rate", "fine_tuning_epochs"
    names += "initial_scale", "kl", "kl_factor", "num_examples"
    return own, {name: getattr(own, name) for name in names}


def main() -> None:
    """Computes the rows that are missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, required=True)
    add("--output-dir", type=pathlib.Path, default="build/bmrs_mnist")
    add("--results", type=pathlib.Path, help="the file of the rows, among others")
    add("--networks", nargs="+", choices=sorted(LEARNING_RATES))
    add("--methods", nargs="+", choices=METHODS + OTHERS, default=METHODS)
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, help="before there are gates, other than the recipe's")
    add("--gate-epochs", type=int, default=6)
    add("--fine-tuning-epochs", type=int, help="other than the recipe's")
    add("--gate-rate", type=float, default=5.0, help="learning rate, in published ones")
    add("--initial-scale", type=float, default=1.0, help="of the logarithm of a gate")
    add("--kl", choices=("elbo", "published", "parameters"), default="parameters")
    add("--kl-factor", type=float, help="other than the recipe's")
    add("--num-examples", type=int, help="of the 60000, for a trial")
    add("--verbose", type=int, default=0)
    parser.set_defaults(networks=sorted(LEARNING_RATES))
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    data = load_data(arguments.data, arguments.num_examples)
    path = arguments.results or arguments.output_dir / "rows.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    known: dict[tuple, dict] = {}
    same = []
    wanted = itertools.product(arguments.seeds, arguments.networks, arguments.methods)
    for seed, network, method in wanted:
        own, settings = resolved(network, arguments)
        row = {"network": network, "method": method, "seed": seed}
        asked_for = row | {"settings": settings}
        done = [row for row in rows if asked_for.items() <= row.items()]
        if done:
            same += done
            continue
        row |= run(network, method, seed, data, own, known)
        row["settings"] = settings
        print(json.dumps(row), flush=True)
        # Another run may have written in the meantime.
        rows = json.loads(path.read_text()) if path.exists() else []
        temporary = path.with_suffix(".unfinished")
        temporary.write_text(json.dumps([*rows, row], indent=1) + "\n")
        os.replace(temporary, path)
        same.append(row)
    print_table(same, arguments)


if __name__ == "__main__":
    main()
