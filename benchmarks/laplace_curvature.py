"""Time of a curvature pass, as a multiple of one plain gradient pass.

LeNet-5 in two widths on images of the size of MNIST, with 10 classes. The gradient pass
is one compiled gradient of the loss per batch, over the same data in the same batches.
All are timed in turn and the rounds are repeated, so that a change in the load of the
machine meets all of them; the median of the ratios is printed. What a fit spends before
its first batch, tracing above all, is timed by itself.

Where laplace-torch is installed, it runs side by side on the same network and data, in
multiples of its own gradient pass, and log determinants of the posterior precision at
prior precision 1 are compared.

    python benchmarks/laplace_curvature.py --examples 60000 --rounds 1
"""

import argparse
import copy
import importlib.util
import os
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.laplace.curvature import Curvature, fit_curvature

NETWORKS = {"20-50-500": ((20, 50), (500,)), "6-16-120-84": ((6, 16), (120, 84))}
FITS = [
    (curvature, structure)
    for curvature in ("ggn", "empirical_fisher")
    for structure in ("diagonal", "kronecker")
]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(name: str) -> keras.Model:
    """LeNet-5 of the given widths."""
    filters, units = NETWORKS[name]
    layers = [keras.Input((28, 28, 1))]
    for number in filters:
        layers.append(keras.layers.Conv2D(number, 5, activation="relu"))
        layers.append(keras.layers.MaxPooling2D())
    # PyTorch flattens with the channels first.
    layers += [keras.layers.Permute((3, 1, 2)), keras.layers.Flatten()]
    layers += [keras.layers.Dense(number, activation="relu") for number in units]
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def keras_passes(
    model: keras.Model, x: np.ndarray, y: np.ndarray, batch_size: int
) -> dict[str, Callable]:
    """A function of the number of examples per kind of pass."""

    @tf.function(autograph=False)
    def gradient(images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = LOSS(labels, model(images, training=False))
        return tape.gradient(loss, model.trainable_variables)

    def gradients(num_examples: int) -> None:
        for i in range(0, num_examples, batch_size):
            gradient(
                tf.constant(x[i : i + batch_size]), tf.constant(y[i : i + batch_size])
            )

    def fit(curvature: str, structure: str) -> Callable:
        return lambda num_examples: fit_curvature(
            model,
            LOSS,
            (x[:num_examples], y[:num_examples]),
            curvature=curvature,
            structure=structure,
            batch_size=batch_size,
            verbose=0,
        )

    return {"gradient": gradients, **{fit_name(*f): fit(*f) for f in FITS}}


def torch_passes(
    model: keras.Model, name: str, x: np.ndarray, y: np.ndarray, batch_size: int
) -> dict[str, Callable]:
    """The same with laplace-torch and the fastest of its backends."""
    import torch
    from laplace import DiagLaplace, KronLaplace
    from laplace.curvature import BackPackGGN, CurvlinopsEF, CurvlinopsGGN

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    filters, units = NETWORKS[name]
    layers, channels = [], 1
    for number in filters:
        layers.append(torch.nn.Conv2d(channels, number, 5))
        layers += [torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
        channels = number
    layers.append(torch.nn.Flatten())
    size = 16 * channels
    for number in units:
        layers += [torch.nn.Linear(size, number), torch.nn.ReLU()]
        size = number
    twin = torch.nn.Sequential(*layers, torch.nn.Linear(size, 10))
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
    with torch.no_grad():
        for parameter, weight in zip(
            twin.parameters(), model.get_weights(), strict=True
        ):
            parameter.copy_(torch.tensor(weight.transpose(axes[weight.ndim]).copy()))
    images = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    labels = torch.tensor(y).long()
    loss = torch.nn.CrossEntropyLoss()

    def gradients(num_examples: int) -> None:
        for i in range(0, num_examples, batch_size):
            twin.zero_grad()
            end = min(i + batch_size, num_examples)
            loss(twin(images[i:end]), labels[i:end]).backward()

    def fit(structure: type, backend: type) -> Callable:
        def run(num_examples: int) -> object:
            data = torch.utils.data.TensorDataset(
                images[:num_examples], labels[:num_examples]
            )
            # Backends leave hooks behind that others cannot do with.
            own = structure(copy.deepcopy(twin), "classification", backend=backend)
            own.fit(torch.utils.data.DataLoader(data, batch_size=batch_size))
            return own

        return run

    backends = [
        fit(DiagLaplace, BackPackGGN),
        fit(KronLaplace, CurvlinopsGGN),
        fit(DiagLaplace, CurvlinopsEF),
        fit(KronLaplace, CurvlinopsEF),
    ]
    names = [fit_name(*f) for f in FITS]
    return {"gradient": gradients, **dict(zip(names, backends, strict=True))}


def fit_name(curvature: str, structure: str) -> str:
    """For the table."""
    return f"{structure} {curvature}"


def log_det(curvature: Curvature) -> float:
    """Log determinant of the posterior precision at prior precision 1."""
    total = 0.0
    for block in curvature.blocks:
        if hasattr(block, "diagonal"):
            values = block.diagonal.numpy()
        else:
            values = np.linalg.eigvalsh(block.output_factor)
            if block.input_factor is not None:
                values = np.outer(values, np.linalg.eigvalsh(block.input_factor))
        total += np.log1p(values).sum()
    return total


def timed(passes: dict[str, Callable], num_examples: int, batch_size: int) -> dict:
    """Seconds of a pass without its first batch, of its beginning, and its result."""
    found = {}
    for name, run in passes.items():
        marks = [time.perf_counter()]
        run(batch_size)
        marks.append(time.perf_counter())
        result = run(num_examples)
        marks.append(time.perf_counter())
        first, whole = np.diff(marks)
        if name == "gradient":
            found[name] = whole, 0.0, None
            continue
        # A fit begins with the tracing; the pass is what more data add.
        seconds = (whole - first) * num_examples / (num_examples - batch_size)
        found[name] = seconds, whole - seconds, result
    return found


def main() -> None:
    """Prints one line per network and kind of fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=60000)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--mnist", help="npz file with x_train and y_train")
    options = parser.parse_args()
    has_torch = importlib.util.find_spec("laplace") is not None
    if not has_torch:
        print("laplace-torch is not installed: no comparison")
    num, batch_size = options.examples, options.batch_size
    if options.mnist:
        with np.load(options.mnist) as file:
            x, y = file["x_train"][:num], file["y_train"][:num].reshape(-1)
        x = (x.reshape(-1, 28, 28, 1) / 255).astype("float32")
    else:
        generator = np.random.default_rng(0)
        x = generator.normal(size=(num, 28, 28, 1)).astype("float32")
        y = generator.integers(0, 10, num)
    y = y.astype("int64")
    for name in options.networks:
        keras.utils.set_random_seed(0)
        model = network(name)
        kinds = {"keras_bmr": keras_passes(model, x, y, batch_size)}
        if has_torch:
            kinds["laplace-torch"] = torch_passes(model, name, x, y, batch_size)
        for passes in kinds.values():
            passes["gradient"](batch_size)
        rounds = [
            {kind: timed(passes, len(x), batch_size) for kind, passes in kinds.items()}
            for _ in range(options.rounds)
        ]
        for kind in kinds:
            seconds = np.median([own[kind]["gradient"][0] for own in rounds])
            print(f"{name:12s} {kind:14s} {'gradient':27s} {seconds:8.2f} s")
            for curvature, structure in FITS:
                fit = fit_name(curvature, structure)
                own = [each[kind] for each in rounds]
                ratio = np.median([o[fit][0] / o["gradient"][0] for o in own])
                seconds, start = (np.median([o[fit][i] for o in own]) for i in (0, 1))
                result = own[0][fit][2]
                if kind == "keras_bmr":
                    value = log_det(result)
                else:
                    value = float(result.log_det_posterior_precision)
                print(
                    f"{name:12s} {kind:14s} {fit:27s} {seconds:8.2f} s"
                    f" {ratio:6.2f} x gradient, {start:5.1f} s before;"
                    f" log det {value:.6g}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
