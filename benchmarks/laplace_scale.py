"""Time and memory of curvature fits of large networks.

ResNet-50 (1000 classes, images of 224 x 224) and a transformer of 30 million parameters
(10 classes, 64 tokens), each with random weights, on 256 random examples. With 1000
classes the exact GGN needs 999 backward passes per batch, so that ResNet-50 takes the
Monte Carlo GGN. Each fit runs in a process of its own, for its peak memory.

    python benchmarks/laplace_scale.py
"""

import argparse
import multiprocessing
import resource
import time

import keras
import numpy as np

from keras_bmr.laplace.curvature import fit_curvature

LAYERS, WIDTH, HEADS, TOKENS, VOCABULARY = 8, 512, 8, 64, 9000


def resnet() -> keras.Model:
    """ResNet-50 that gives logits."""
    return keras.applications.ResNet50(weights=None, classifier_activation=None)


def transformer() -> keras.Model:
    """A transformer encoder with pre-normalisation."""
    layers = keras.layers
    inputs = keras.Input((TOKENS,), dtype="int32")
    x = layers.Embedding(VOCABULARY, WIDTH)(inputs)
    for _ in range(LAYERS):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * WIDTH, activation="gelu")(y)
        x = x + layers.Dense(WIDTH)(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def run(name: str, curvature: str, structure: str, num: int, batch_size: int) -> None:
    """Fits once and prints a line."""
    generator = np.random.default_rng(0)
    if name == "resnet":
        model = resnet()
        x = generator.normal(size=(num, 224, 224, 3)).astype("float32")
    else:
        model = transformer()
        x = generator.integers(0, VOCABULARY, (num, TOKENS)).astype("int32")
    y = generator.integers(0, model.output_shape[-1], num)
    start = time.perf_counter()
    fit_curvature(
        model,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        (x, y),
        curvature=curvature,
        structure=structure,
        batch_size=batch_size,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    # In units of 1024 bytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"{name:12s} {model.count_params() / 1e6:5.1f} M parameters, {structure:9s} "
        f"{curvature:16s} {num} examples in batches of {batch_size}: {seconds:7.1f} s, "
        f"peak {peak:5.2f} GB",
        flush=True,
    )


def main() -> None:
    """Prints one line per network and structure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--networks", nargs="+", default=["transformer", "resnet"])
    parser.add_argument("--structures", nargs="+", default=["diagonal", "kronecker"])
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for name in options.networks:
        curvature = "ggn_mc" if name == "resnet" else "ggn"
        for structure in options.structures:
            arguments = (name, curvature, structure, options.examples)
            process = context.Process(target=run, args=(*arguments, options.batch_size))
            process.start()
            process.join()
            if process.exitcode:
                print(f"{name} {structure}: ended with {process.exitcode}")


if __name__ == "__main__":
    main()
