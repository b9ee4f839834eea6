"""Which features matter: inclusion probabilities of a spike-and-slab layer.

Two data sets: a regression made of 200 features, ten of which matter, and the breast
cancer data of scikit-learn, 30 measurements of a biopsy. A single unit with a
spike-and-slab posterior is trained on each; the features whose inclusion probability
reaches 1/2 are the median-probability model. Probabilities are plotted to
`--output-dir`.

    python examples/feature_selection.py
"""

import argparse
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

import keras_bmr


def synthetic(num_features: int = 200, num_relevant: int = 10, seed: int = 0):
    """500 examples: features, targets with unit noise, and the features that matter."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(500, num_features)).astype("float32")
    relevant = np.sort(generator.choice(num_features, num_relevant, replace=False))
    size = generator.uniform(0.3, 1, num_relevant)
    weights = size * generator.choice([-1, 1], num_relevant)
    y = x[:, relevant] @ weights + generator.normal(size=500)
    return x, y.astype("float32"), relevant


def breast_cancer():
    """Standardised measurements and labels, for training and testing, and names."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, y = data.data[order], data.target[order].astype("float32")
    x = ((x - x[:400].mean(0)) / x[:400].std(0)).astype("float32")
    return (x[:400], y[:400]), (x[400:], y[400:]), list(data.feature_names)


def selector(
    loss: keras.losses.Loss,
    x: np.ndarray,
    y: np.ndarray,
    num_steps: int,
    inclusion_rate: float | None = None,
) -> keras.Model:
    """One unit over all features, trained with steps on all of the data."""
    prior = keras_bmr.priors.SpikeAndSlab(
        inclusion_rate, warmup_steps=min(300, num_steps // 4)
    )
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            keras_bmr.layers.DenseVariational(
                1, posterior="spike_and_slab", prior=prior, name="unit"
            ),
        ]
    )
    keras_bmr.set_num_examples(model, len(x))
    schedule = keras.optimizers.schedules.CosineDecay(0.01, num_steps)
    # The mean of squares is twice a Gaussian's negative log likelihood, for unit noise.
    weight = 0.5 if isinstance(loss, keras.losses.MeanSquaredError) else 1.0
    model.compile(keras.optimizers.Adam(schedule), loss, loss_weights=weight)
    data = tf.data.Dataset.from_tensors((x, y)).repeat(num_steps)
    model.fit(data, verbose=0, shuffle=False)
    return model


def select_synthetic(num_steps: int, output_dir: pathlib.Path) -> dict:
    """Compares what is found with what is true."""
    x, y, relevant = synthetic()
    model = selector(keras.losses.MeanSquaredError(), x, y, num_steps)
    inclusion = keras_bmr.inclusion_probabilities(model)
    inclusion.plot(output_dir / "synthetic.png")
    selected = np.flatnonzero(inclusion.selected_features())
    return {
        "found": len(np.intersect1d(selected, relevant)),
        "missed": len(np.setdiff1d(relevant, selected)),
        "false": len(np.setdiff1d(selected, relevant)),
    }


def select_breast_cancer(num_steps: int, output_dir: pathlib.Path) -> dict:
    """Names the measurements, and tests the network that has only these."""
    (x, y), (x_test, y_test), names = breast_cancer()
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    # Thirty weights that resemble each other say little of a rate: it would be inferred
    # to be 1, and all would be in.
    model = selector(loss, x, y, num_steps, inclusion_rate=0.1)
    inclusion = keras_bmr.inclusion_probabilities(model)
    inclusion.plot(output_dir / "breast_cancer.png")
    reduced = keras_bmr.reduce_model(model)

    def accuracy(network: keras.Model) -> float:
        predicted = network.predict(x_test, verbose=0)[:, 0] > 0
        return float(np.mean(predicted == (y_test > 0.5)))

    probabilities = inclusion.features()
    return {
        "accuracy_of_all": accuracy(model),
        "accuracy_of_selected": accuracy(reduced),
        "selected": {
            names[k]: round(float(probabilities[k]), 3)
            for k in np.flatnonzero(inclusion.selected_features())
        },
    }


def main() -> None:
    """Runs both, one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--output-dir", type=pathlib.Path, default="build")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for select in (select_synthetic, select_breast_cancer):
        keras.utils.set_random_seed(0)
        result = select(arguments.steps, arguments.output_dir)
        print(json.dumps({"example": select.__name__, **result}), flush=True)


if __name__ == "__main__":
    main()
