"""The networks of bmrs_mnist.py, trained first without and then with noise gates."""

import argparse
import os
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.layers import MultiplicativeNoise, add_noise_gates, variational_layers
from keras_bmr.posteriors import TruncatedLogNormal
from keras_bmr.pruning.channels import ChannelGraph

LEARNING_RATES = {"mlp": 8.5e-4, "lenet_5": 1.4e-3}


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

    The evidence lower bound has the sum of the divergences divided by the number of
    examples. The published loss has the average over the layers of their means instead.
    With "parameters" a gate counts in proportion to the parameters that go with it.
    """
    gates = gates_of(model)
    widths = [gate.noise.shape[0] for gate in gates]
    if arguments.kl == "elbo":
        weights = np.ones(len(gates)) / gates[0].num_examples
    elif arguments.kl == "published":
        weights = 1 / (len(gates) * np.array(widths))
    else:
        weights = parameters_behind(model) / gates[0].num_examples
        weights /= np.average(parameters_behind(model), weights=widths)
    for gate, weight in zip(gates, weights, strict=True):
        gate.kl_weight.assign(arguments.kl_factor * weight)


def parameters_behind(model: keras.Model) -> np.ndarray:
    """How many parameters go with one gate, for each layer of gates."""
    graph = ChannelGraph(model)
    numbers = np.zeros(graph.num_groups + 1)
    for axis in graph.axes:
        if not isinstance(axis.layer, MultiplicativeNoise):
            size = getattr(axis.layer, axis.name).numpy().size
            np.add.at(numbers, axis.groups, size / axis.groups.size)
    by_gates = {
        axis.layer: numbers[axis.groups[0]]
        for axis in graph.axes
        if isinstance(axis.layer, MultiplicativeNoise)
    }
    return np.array([by_gates[gate] for gate in gates_of(model)])


def kept(path: pathlib.Path, compute: Callable[[], keras.Model]) -> keras.Model:
    """The model of the file, computed and written if there is none."""
    if path.exists():
        return keras.models.load_model(path, compile=False)
    start = time.perf_counter()
    model = compute()
    print(f"{path.name}: trained in {time.perf_counter() - start:.0f} s", flush=True)
    temporary = path.with_name(f"unfinished_{path.name}")
    model.save(temporary)
    os.replace(temporary, path)
    return model


def fit(model: keras.Model, epochs: int, data, arguments, callbacks=()) -> None:
    """Trains a model that is compiled."""
    model.fit(
        *data[0],
        epochs=epochs,
        batch_size=128,
        validation_data=data[1],
        validation_batch_size=1000,
        callbacks=list(callbacks),
        verbose=arguments.verbose,
    )


def trained(network: str, seed: int, data, arguments) -> keras.Model:
    """The trained network without gates."""

    def train() -> keras.Model:
        keras.utils.set_random_seed(seed)
        model = compiled(build(network), LEARNING_RATES[network])
        fit(model, arguments.epochs, data, arguments)
        return model

    name = f"{network}_plain_{arguments.epochs}_{seed}.keras"
    return kept(arguments.output_dir / name, train)


def gated(network: str, seed: int, data, arguments) -> keras.Model:
    """The trained network, trained on with gates."""

    def train() -> keras.Model:
        plain = trained(network, seed, data, arguments)
        keras.utils.set_random_seed(seed)
        posterior = TruncatedLogNormal(initial_scale=arguments.initial_scale)
        model = add_noise_gates(plain, len(data[0][0]), posterior)
        # Noise that the weights are trained with wears them out, most in deep
        # networks, which fine-tuning does not mend.
        for layer in model.layers:
            layer.trainable = isinstance(layer, MultiplicativeNoise)
        weigh_divergence(model, arguments)
        compiled(model, arguments.gate_rate * LEARNING_RATES[network])
        fit(model, arguments.gate_epochs, data, arguments)
        return model

    kind = f"{arguments.kl}_{arguments.kl_factor:g}_{arguments.gate_epochs}"
    name = f"{network}_{arguments.epochs}_gates_{kind}_{seed}.keras"
    return kept(arguments.output_dir / name, train)
