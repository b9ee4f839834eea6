"""Time of a training step, as a multiple of the deterministic Keras step.

The network is an MLP 784-512-512-10, batch 128, Adam, on random data. Every variant
is timed in turn and the rounds are repeated, so that a change in the load of the
machine meets all of them; the median of the ratios is printed.

    python benchmarks/training_step.py --rounds 7
"""

import argparse
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import keras_bmr

BATCH, FEATURES, CLASSES, EXAMPLES = 128, 784, 10, 60000
STEPS = 40


def keras_network() -> keras.Model:
    """The deterministic network."""
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(512, activation="relu"),
            keras.layers.Dense(CLASSES),
        ]
    )


def compiled(model: keras.Model, jit_compile: bool) -> keras.Model:
    """The model, ready for training."""
    model.compile(
        "adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


def bayesian_network(estimator: str, jit_compile: bool, **options) -> keras.Model:
    """The same network of Bayesian layers."""
    layers = [
        keras_bmr.layers.DenseVariational(
            units, activation=activation, estimator=estimator, **options
        )
        for units, activation in ((512, "relu"), (512, "relu"), (CLASSES, None))
    ]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers])
    keras_bmr.set_num_examples(model, EXAMPLES)
    return compiled(model, jit_compile)


def tfp_network():
    """The same network of tfp.layers, which need tf_keras."""
    import tensorflow_probability as tfp
    import tf_keras

    def divergence(q, p, _):
        return tfp.distributions.kl_divergence(q, p) / EXAMPLES

    layer = tfp.layers.DenseLocalReparameterization
    model = tf_keras.Sequential(
        [
            tf_keras.Input((FEATURES,)),
            layer(512, activation="relu", kernel_divergence_fn=divergence),
            layer(512, activation="relu", kernel_divergence_fn=divergence),
            layer(CLASSES, kernel_divergence_fn=divergence),
        ]
    )
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(), loss=loss)
    return model


def timed_fit(model, data: tf.data.Dataset) -> float:
    """Seconds per step of one epoch."""
    start = time.perf_counter()
    model.fit(data, verbose=0)
    return (time.perf_counter() - start) / STEPS


def main() -> None:
    """Prints one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, FEATURES)).astype("float32")
    y = generator.integers(0, CLASSES, BATCH)
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat(STEPS)

    local = "local_reparameterization"
    builders: dict[str, Callable] = {
        "keras, jit": lambda: compiled(keras_network(), True),
        "keras, graph": lambda: compiled(keras_network(), False),
    }
    for jit in (True, False):
        mode = "jit" if jit else "graph"
        for prior in ("normal", "layerwise_normal", "empirical_bayes_normal"):
            builders[f"{local}, {prior}, {mode}"] = lambda jit=jit, prior=prior: (
                bayesian_network(local, jit, prior=prior)
            )
        for estimator in ("flipout", "reparameterization"):
            builders[f"{estimator}, {mode}"] = lambda jit=jit, estimator=estimator: (
                bayesian_network(estimator, jit)
            )
    builders["tfp.layers local reparameterization"] = tfp_network
    models = {name: build() for name, build in builders.items()}
    for model in models.values():
        timed_fit(model, data)
    seconds = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            seconds[name].append(timed_fit(model, data))
    for name, values in seconds.items():
        ratios = {
            base: np.median(np.divide(values, seconds[base]))
            for base in ("keras, jit", "keras, graph")
        }
        print(
            f"{name:56s} {1e3 * np.median(values):7.2f} ms"
            f"  {ratios['keras, jit']:5.2f} x jit {ratios['keras, graph']:5.2f} x graph"
        )


if __name__ == "__main__":
    main()
