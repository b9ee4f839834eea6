"""Time of a training step with noise gates, as a multiple of that without.

The network is LeNet-5 with 20 and 50 filters and 500 units, a gate behind each of its
three blocks, batch 128, Adam, on random data, without XLA. Both networks are timed in
turn, so that a change in the load of the machine meets both; the median of the ratios
is printed.

    python benchmarks/gates_training_step.py --rounds 11 --threads 1
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf

import keras_bmr

BATCH, EXAMPLES = 128, 60000


def network() -> keras.Model:
    """The deterministic network."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ]
    )


def main() -> None:
    """Prints the times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(BATCH, 28, 28, 1)).astype("float32")
    y = generator.integers(0, 10, BATCH)
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat(arguments.steps)
    plain = network()
    models = {
        "plain": plain,
        "gates": keras_bmr.layers.add_noise_gates(plain, EXAMPLES),
    }
    for model in models.values():
        model.compile(
            "adam",
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        model.fit(data, shuffle=False, verbose=0)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(arguments.rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(data, shuffle=False, verbose=0)
            seconds[name].append((time.perf_counter() - start) / arguments.steps)
    for name, values in seconds.items():
        print(f"{name}: {1e3 * np.median(values):.1f} ms per step")
    ratio = np.median(np.divide(seconds["gates"], seconds["plain"]))
    print(f"gates / plain: {ratio:.2f} (median of {arguments.rounds} rounds)")


if __name__ == "__main__":
    main()
