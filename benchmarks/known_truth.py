"""What spike-and-slab posteriors find where the truth is known.

linear, network: 500 examples of 200 features, ten of which matter, drawn anew for each
seed. The targets are a weighted sum of the ten, with weights between 0.3 and 1 in size,
and noise of unit variance; or the output of a network of two tanh units that read five
each, scaled to unit variance, and noise of a standard deviation of 0.3. The first is
fitted by a single unit, the second by a network with eight tanh units. The likelihood
of the first has the true noise. That of the second has 1.5 times its standard
deviation: with less, some fits end where dozens of false features explain the noise.
Counted are the features that the median-probability model has: right ones and false
ones.

enumeration: linear regressions with ten features and conjugate priors, where the
evidence of all 1024 models gives the exact inclusion probabilities. A common factor
correlates the features. Printed is the largest difference for mean-field posteriors, as
they come out of `fit` and as coordinate ascent finds them.

Rows go to a JSON file at once; rows that are there are not computed again.

    python benchmarks/known_truth.py --plot known_truth.png
"""

import argparse
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np
import scipy.special
import tensorflow as tf

import keras_bmr

NUM_EXAMPLES, NUM_FEATURES, NUM_RELEVANT = 500, 200, 10
NOISE = {"linear": 1.0, "network": 0.3}
ASSUMED_NOISE = {"linear": 1.0, "network": 0.45}
NUM_STEPS = {"linear": 2000, "network": 1500}
RATE, SLAB = 0.3, 0.7
CORRELATIONS = (0.0, 0.1, 0.3, 0.6, 0.9)


def sparse_data(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets, and which features matter."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(NUM_EXAMPLES, NUM_FEATURES))
    relevant = np.sort(generator.choice(NUM_FEATURES, NUM_RELEVANT, replace=False))

    def signed(low: float, high: float, *shape: int) -> np.ndarray:
        size = generator.uniform(low, high, shape)
        return size * generator.choice([-1, 1], shape)

    if kind == "linear":
        signal = x[:, relevant] @ signed(0.3, 1, NUM_RELEVANT)
    else:
        weights = np.zeros((NUM_RELEVANT, 2))
        for unit, part in enumerate(np.split(generator.permutation(NUM_RELEVANT), 2)):
            weights[part, unit] = 1.5 / np.sqrt(5) * signed(0.5, 1, 5)
        hidden = x[:, relevant] @ weights + generator.normal(0, 0.5, 2)
        signal = np.tanh(hidden) @ signed(1, 1.5, 2)
        signal = (signal - signal.mean()) / signal.std()
    y = signal + NOISE[kind] * generator.normal(size=NUM_EXAMPLES)
    return x.astype("float32"), y.astype("float32"), relevant


def trained(
    layers: list[keras.layers.Layer],
    x: np.ndarray,
    y: np.ndarray,
    noise: float,
    num_steps: int,
    learning_rate: float,
) -> keras.Model:
    """Fits a regression with a known variance of the noise, in steps of all data."""
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    keras_bmr.set_num_examples(model, len(x))
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
    # The negative log likelihood of an example is half its square over the variance.
    weight = 0.5 / noise**2
    model.compile(keras.optimizers.Adam(schedule), "mse", loss_weights=weight)
    data = tf.data.Dataset.from_tensors((x, y)).repeat(num_steps)
    model.fit(data, verbose=0, shuffle=False)
    return model


def selection(kind: str, seed: int) -> dict:
    """Fits one data set and counts."""
    x, y, relevant = sparse_data(kind, seed)
    keras.utils.set_random_seed(seed)
    # Long warm-ups let hundreds of weights fit the noise, and some of them stay.
    prior = keras_bmr.priors.SpikeAndSlab(warmup_steps=300)
    options = {"posterior": "spike_and_slab", "prior": prior}
    dense = keras_bmr.layers.DenseVariational
    if kind == "linear":
        layers = [dense(1, **options)]
    else:
        layers = [
            dense(8, activation="tanh", **options),
            dense(1, prior="layerwise_normal"),
        ]
    start = time.process_time()
    model = trained(layers, x, y, ASSUMED_NOISE[kind], NUM_STEPS[kind], 0.01)
    inclusion = keras_bmr.inclusion_probabilities(model)
    selected = np.flatnonzero(inclusion.selected_features())
    return {
        "found": len(np.intersect1d(selected, relevant)),
        "false": len(np.setdiff1d(selected, relevant)),
        "weights": int(np.count_nonzero(inclusion.weights() >= 0.5)),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def conjugate_data(correlation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A hundred examples of ten features, some of them with weak effects."""
    generator = np.random.default_rng(seed)
    own, common = generator.normal(size=(100, 10)), generator.normal(size=(100, 1))
    x = np.sqrt(1 - correlation) * own + np.sqrt(correlation) * common
    w = np.array([1, -0.8, 0.5, 0.35, -0.3, 0.25, 0, 0, 0, 0])
    y = x @ w + generator.normal(size=100)
    return x.astype("float32"), y.astype("float32")


def enumerated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The exact inclusion probabilities, from the evidence of every model."""
    x, y = x.astype("float64"), y.astype("float64")
    logs, models = [], np.array(list(itertools.product([False, True], repeat=10)))
    for chosen in models:
        design = x[:, chosen]
        covariance = np.eye(len(y)) + SLAB**2 * design @ design.T
        _, log_determinant = np.linalg.slogdet(covariance)
        log_evidence = -0.5 * (log_determinant + y @ np.linalg.solve(covariance, y))
        logs.append(log_evidence + chosen.sum() * scipy.special.logit(RATE))
    return scipy.special.softmax(logs) @ models


def coordinate_ascent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The mean-field optimum (Carbonetto and Stephens 2012, equations 8 to 10)."""
    x, y = x.astype("float64"), y.astype("float64")
    gram, product = x.T @ x, x.T @ y
    variance = 1 / (np.diag(gram) + SLAB**-2)
    phi, mean = np.ones(10), np.linalg.solve(gram, product)
    for _, k in itertools.product(range(500), range(10)):
        rest = gram[k] @ (phi * mean) - gram[k, k] * phi[k] * mean[k]
        mean[k] = variance[k] * (product[k] - rest)
        signal = np.log(variance[k] / SLAB**2) + mean[k] ** 2 / variance[k]
        phi[k] = scipy.special.expit(scipy.special.logit(RATE) + 0.5 * signal)
    return phi


def enumeration(correlation: float, seed: int) -> dict:
    """Compares the probabilities of one conjugate problem."""
    x, y = conjugate_data(correlation, seed)
    keras.utils.set_random_seed(seed)
    prior = keras_bmr.priors.SpikeAndSlab(RATE, slab_scale=SLAB, warmup_steps=300)
    layer = keras_bmr.layers.DenseVariational(
        1, posterior="spike_and_slab", prior=prior, use_bias=False
    )
    model = trained([layer], x, y, 1.0, num_steps=1200, learning_rate=0.03)
    found = keras_bmr.inclusion_probabilities(model).features()
    exact, mean_field = enumerated(x, y), coordinate_ascent(x, y)
    return {
        "largest_difference": float(np.abs(found - exact).max()),
        "of_coordinate_ascent": float(np.abs(mean_field - exact).max()),
        "exact": [round(float(p), 4) for p in exact],
        "found": [round(float(p), 4) for p in found],
    }


def save(rows: list[dict], path: pathlib.Path) -> None:
    """Writes the file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    lines = ",\n ".join(json.dumps(row) for row in rows)
    temporary.write_text(f"[{lines}]\n")
    os.replace(temporary, path)


def plot(rows: list[dict], path: pathlib.Path) -> None:
    """Exact against mean-field probabilities, one panel for each correlation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3), layout="constrained")
    panels = figure.subplots(1, len(CORRELATIONS), sharey=True)
    for panel, correlation in zip(panels, CORRELATIONS, strict=True):
        of_panel = [row for row in rows if row.get("correlation") == correlation]
        for row in of_panel:
            panel.plot(row["exact"], row["found"], ".", color="tab:blue", alpha=0.6)
        panel.fill_between([0, 1], [-0.1, 0.9], [0.1, 1.1], color="0.9")
        panel.plot([0, 1], [0, 1], color="black", linewidth=0.7)
        panel.set(
            title=f"correlation {correlation}", xlabel="exact", ylim=(-0.03, 1.03)
        )
    panels[0].set_ylabel("mean field, from fit")
    figure.savefig(path, dpi=80)


def print_summary(rows: list[dict]) -> None:
    """Seeds that meet the mark, and the largest differences."""
    for kind in NOISE:
        counts = [row for row in rows if row["part"] == kind]
        good = sum(row["found"] >= 9 and row["false"] <= 1 for row in counts)
        pairs = " ".join(f"{row['found']}/{row['false']}" for row in counts)
        print(f"{kind}: {good} of {len(counts)} seeds; found/false {pairs}")
    for correlation in CORRELATIONS:
        found = [row for row in rows if row.get("correlation") == correlation]
        for name in ("largest_difference", "of_coordinate_ascent") if found else ():
            values = [row[name] for row in found]
            print(
                f"correlation {correlation}: {name} median {np.median(values):.3f}, "
                f"range {min(values):.3f} to {max(values):.3f}"
            )


def main() -> None:
    """Adds the rows that are missing, then prints a summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = [*NOISE, "enumeration"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    here = pathlib.Path(__file__).parent
    default = here / "results" / "known_truth.json"
    parser.add_argument("--results", type=pathlib.Path, default=default)
    parser.add_argument("--plot", type=pathlib.Path, help="image of the enumeration")
    arguments = parser.parse_args()
    path = arguments.results
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(path.read_text()) if path.exists() else []
    jobs: list[tuple[dict, Callable]] = []
    for part, seed in itertools.product(arguments.parts, arguments.seeds):
        if part == "enumeration":
            # Three data sets for each correlation are enough.
            for correlation in CORRELATIONS if seed < 3 else ():
                key = {"part": part, "seed": seed, "correlation": correlation}
                jobs.append((key, lambda c=correlation, s=seed: enumeration(c, s)))
        else:
            key = {"part": part, "seed": seed}
            jobs.append((key, lambda p=part, s=seed: selection(p, s)))
    for key, job in jobs:
        if not any(key.items() <= row.items() for row in rows):
            rows.append(key | job())
            save(rows, path)
            print(json.dumps(rows[-1]), flush=True)
    print_summary(rows)
    if arguments.plot is not None:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
