"""Regression with learned priors and noise, on data sets of the UCI repository.

A network with one hidden layer is trained while the Laplace evidence sets its prior
precisions and the observation noise, with no validation set. Predictions are those of
the linearised model. Root mean squared error and log likelihood per test point, means
over the splits, stand beside those of Monte Carlo dropout (arXiv 1506.02142).

    python examples/laplace_regression.py --data uci_regression.npz --splits 20
    python examples/laplace_regression.py

The file has arrays NAME_x, NAME_y and NAME_test, the test indices of 20 splits. Without
it the diabetes data of scikit-learn are used.
"""

import argparse
import pathlib

import keras
import numpy as np

import keras_bmr

# Root mean squared error and log likelihood.
MC_DROPOUT = {
    "boston": (2.90, -2.40),
    "concrete": (4.83, -2.94),
    "energy": (0.54, -1.21),
    "wine": (0.62, -0.93),
    "yacht": (0.67, -1.25),
}


def load_data(path: pathlib.Path | None) -> dict:
    """Inputs, targets and test indices of each split, by name of the data set."""
    if path is not None:
        with np.load(path) as file:
            names = [name for name in MC_DROPOUT if f"{name}_x" in file]
            return {
                name: (file[f"{name}_x"], file[f"{name}_y"], file[f"{name}_test"])
                for name in names
            }
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    generator = np.random.default_rng(0)
    size = len(x) // 10
    splits = np.stack([generator.permutation(len(x))[:size] for _ in range(20)])
    return {"diabetes": (x, y, splits)}


def train(x: np.ndarray, y: np.ndarray, epochs: int) -> keras_bmr.laplace.Laplace:
    """The posterior of a network for standardised data."""
    model = keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            keras.layers.Dense(50, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    loss = keras.losses.MeanSquaredError()
    model.compile(keras.optimizers.Adam(0.01), loss=loss)
    laplace = keras_bmr.laplace.Laplace(model, loss, observation_noise=0.5)
    evidence = keras_bmr.callbacks.MarginalLikelihood(
        laplace, (x, y), every=max(1, epochs // 10), learn_observation_noise=True
    )
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=[evidence])
    return laplace


def evaluate_split(x, y, test: np.ndarray, epochs: int) -> tuple[float, float]:
    """Root mean squared error and mean log likelihood, in units of the targets."""
    train_indices = np.setdiff1d(np.arange(len(x)), test)
    x_mean, y_mean = x[train_indices].mean(0), y[train_indices].mean()
    x_scale, y_scale = x[train_indices].std(0), y[train_indices].std()
    inputs = ((x - x_mean) / np.where(x_scale > 0, x_scale, 1)).astype("float32")
    targets = ((y - y_mean) / y_scale).astype("float32")[:, None]
    laplace = train(inputs[train_indices], targets[train_indices], epochs)
    mean, covariance = laplace.linearized(inputs[test])
    variance = (covariance[:, 0, 0] + laplace.observation_noise**2) * y_scale**2
    residual = y[test] - (mean[:, 0] * y_scale + y_mean)
    log_likelihood = -0.5 * (np.log(2 * np.pi * variance) + residual**2 / variance)
    return float(np.sqrt(np.mean(residual**2))), float(log_likelihood.mean())


def main() -> None:
    """Runs the example, one line per data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, help="uci_regression.npz")
    parser.add_argument("--names", nargs="+", help="data sets, all unless given")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200)
    arguments = parser.parse_args()
    for name, (x, y, splits) in load_data(arguments.data).items():
        if arguments.names and name not in arguments.names:
            continue
        results = []
        for number, test in enumerate(splits[: arguments.splits]):
            keras.utils.set_random_seed(number)
            results.append(evaluate_split(x, y.ravel(), test, arguments.epochs))
        mean = np.mean(results, axis=0)
        error = np.std(results, axis=0) / np.sqrt(len(results))
        line = (
            f"{name}: RMSE {mean[0]:.2f} +- {error[0]:.2f}, "
            f"log likelihood {mean[1]:.2f} +- {error[1]:.2f}"
        )
        if name in MC_DROPOUT:
            line += " (MC dropout {:.2f}, {:.2f})".format(*MC_DROPOUT[name])
        print(line, flush=True)


if __name__ == "__main__":
    main()
