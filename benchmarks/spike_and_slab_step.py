"""Time of a spike-and-slab training step, as a multiple of the mean-field one.

The network is an MLP 784-512-512-10, batch 128, Adam, on random data, compiled as
Keras does by default. The mean-field network has one prior variance per layer, as
the slabs have. The variants are timed in turn and the rounds are repeated, so that a
change in the load of the machine meets all of them; the medians of the ratios within a
round are printed. Processor time adds up all threads, and suffers less from other jobs.

    python benchmarks/spike_and_slab_step.py --rounds 15
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

import keras_bmr

BATCH, FEATURES, CLASSES, EXAMPLES = 128, 784, 10, 60000
STEPS = 40
BASE = "mean_field_normal"


def network(posterior: str, prior: object) -> keras.Model:
    """The Bayesian network, ready for training."""
    model = keras.Sequential(
        [keras.Input((FEATURES,))]
        + [
            keras_bmr.layers.DenseVariational(
                units,
                activation=activation,
                estimator="local_reparameterization",
                posterior=posterior,
                prior=prior,
            )
            for units, activation in ((512, "relu"), (512, "relu"), (CLASSES, None))
        ]
    )
    keras_bmr.set_num_examples(model, EXAMPLES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=loss)
    return model


def seconds_per_step(model: keras.Model, data: tf.data.Dataset) -> np.ndarray:
    """Seconds per step of one epoch, by the clock and of the processor."""
    start = np.array([time.perf_counter(), time.process_time()])
    model.fit(data, verbose=0)
    end = np.array([time.perf_counter(), time.process_time()])
    return (end - start) / STEPS


def main() -> None:
    """Prints one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, FEATURES)).astype("float32")
    y = generator.integers(0, CLASSES, BATCH)
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat(STEPS)
    priors = {
        BASE: "layerwise_normal",
        # Without a warm-up, so that all is computed from the first step on.
        "spike_and_slab": keras_bmr.priors.SpikeAndSlab(warmup_steps=0),
        "continuous_spike_and_slab": keras_bmr.priors.ContinuousSpikeAndSlab(
            warmup_steps=0
        ),
    }
    models = {name: network(name, prior) for name, prior in priors.items()}
    for model in models.values():
        seconds_per_step(model, data)
    seconds = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            seconds[name].append(seconds_per_step(model, data))
    for name, values in seconds.items():
        times = 1e3 * np.median(values, axis=0)
        ratios = np.median(np.divide(values, seconds[BASE]), axis=0)
        print(
            f"{name:28s} {times[0]:7.2f} ms {ratios[0]:5.2f} x mean field,"
            f" processor {times[1]:7.2f} ms {ratios[1]:5.2f} x"
        )


if __name__ == "__main__":
    main()
