"""Bayes-factor pruning of LeNet-300-100 on MNIST, without any Bayesian layer.

An ordinary network is trained; after every epoch a share of its weights is set to
zero if the ratio of densities favours it. For comparison the same network is trained
without pruning. Without `--data mnist.npz` (arrays x_train, y_train, x_test, y_test)
it runs on the 8x8 digits of scikit-learn.

    python examples/bayes_factor_pruning.py --data mnist.npz --seeds 0 1 2
    python examples/bayes_factor_pruning.py --data mnist.npz --method random
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np

import keras_bmr


def load_data(path: pathlib.Path | None):
    """Images as vectors in [0, 1] and integer labels, for training and for testing."""
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        x, y = digits.data.astype("float32") / 16, digits.target
        order = np.random.default_rng(0).permutation(len(x))
        x, y = x[order], y[order]
        return (x[:1400], y[:1400]), (x[1400:], y[1400:])
    with np.load(path) as file:
        return tuple(
            (
                file[f"x_{part}"].reshape(-1, 784).astype("float32") / 255,
                file[f"y_{part}"],
            )
            for part in ("train", "test")
        )


def compiled_network(
    num_features: int, prior_scale: float, num_examples: int
) -> keras.Model:
    """LeNet-300-100 with the log prior as a regulariser, so that training knows it."""
    penalty = keras.regularizers.L2(0.5 / (num_examples * prior_scale**2))
    model = keras.Sequential(
        [
            keras.Input((num_features,)),
            keras.layers.Dense(300, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dense(100, activation="relu", kernel_regularizer=penalty),
            keras.layers.Dense(10, kernel_regularizer=penalty),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def error_percent(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """Share of wrong predictions, in percent."""
    predictions = model.predict(x, batch_size=1000, verbose=0).argmax(-1)
    return 100 * float(np.mean(predictions != y))


def main() -> None:
    """Runs the example, one line of JSON per seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, help="an .npz file with MNIST")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--method", choices=["magnitude", "random"], default="magnitude"
    )
    parser.add_argument("--rate", type=float, default=0.15)
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--prior-scale", type=float, default=0.3)
    parser.add_argument(
        "--threshold", type=float, default=-0.005, help="in nats per training example"
    )
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--skip-baseline", action="store_true")
    arguments = parser.parse_args()
    (x, y), (x_test, y_test) = load_data(arguments.data)
    fit = {
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "verbose": 0,
    }
    for seed in arguments.seeds:
        result = {"seed": seed}
        if not arguments.skip_baseline:
            keras.utils.set_random_seed(seed)
            network = compiled_network(x.shape[1], arguments.prior_scale, len(x))
            network.fit(x, y, **fit)
            result["error_percent_unpruned"] = error_percent(network, x_test, y_test)
        keras.utils.set_random_seed(seed)
        network = compiled_network(x.shape[1], arguments.prior_scale, len(x))
        callback = keras_bmr.callbacks.BayesFactorPruning(
            data=(x, y),
            method=arguments.method,
            rate=arguments.rate,
            sparsity=arguments.sparsity,
            prior_scale=arguments.prior_scale,
            threshold=arguments.threshold * len(x),
            seed=seed,
        )
        start = time.perf_counter()
        history = network.fit(x, y, callbacks=[callback], **fit).history
        result |= {
            "error_percent": error_percent(network, x_test, y_test),
            "sparsity": keras_bmr.sparsity(network),
            "accepted": int(sum(history["accepted"])),
            "seconds": round(time.perf_counter() - start),
            "log_bayes_factor": [round(v, 1) for v in history["log_bayes_factor"]],
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
