"""Latency of a network in the manner of MobileNet, whole and with half the channels.

Every second channel of every convolution is pruned and `shrink` removes them. The
files, float32 and int8, take turns in one run of LiteRT on one thread. On a busy
machine long calls are interrupted more often than short ones; the ratios grow by it.

    python benchmarks/litert_latency.py
"""

import argparse

import keras
import numpy as np

from keras_bmr.export import compare_cost
from keras_bmr.pruning.channels import ChannelGraph, prune_channels, shrink


def mobilenet(width: int, size: int) -> keras.Model:
    """Depthwise separable blocks with batch normalisation, ten classes."""
    layers = keras.layers

    def block(x, channels: int, strides: int):
        x = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        x = layers.Conv2D(channels, 1, use_bias=False)(x)
        return layers.ReLU(6.0)(layers.BatchNormalization()(x))

    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(width, 3, 2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    for factor, strides in (
        (2, 1), (4, 2), (4, 1), (8, 2), (8, 1),
        (16, 2), (16, 1), (16, 1), (16, 1), (16, 1), (16, 1), (32, 2), (32, 1),
    ):  # fmt: skip
        x = block(x, factor * width, strides)
    outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="mobilenet")


def with_lively_statistics(model: keras.Model) -> keras.Model:
    """Gives normalisations values as after training, so that signals stay alive."""
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            layer.gamma.assign(generator.uniform(0.8, 1.2, size))
            layer.beta.assign(generator.normal(0.2, 0.2, size))
            layer.moving_mean.assign(generator.normal(0.0, 0.1, size))
            layer.moving_variance.assign(generator.uniform(0.5, 1.5, size))
    return model


def without_half_of_the_channels(model: keras.Model) -> keras.Model:
    """A copy with every second channel of every convolution pruned."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    graph = ChannelGraph(copy)
    made = {
        axis.layer.name: np.unique(axis.groups[axis.groups >= 0])
        for axis in graph.axes
        if axis.role == "incoming" and type(axis.layer) is keras.layers.Conv2D
    }
    groups = np.unique(np.concatenate([groups[::2] for groups in made.values()]))
    prune_channels(copy, groups, graph)
    return copy


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=32, help="channels of the stem")
    parser.add_argument("--size", type=int, default=96, help="height and width")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = with_lively_statistics(mobilenet(arguments.width, arguments.size))
    half = shrink(without_half_of_the_channels(model))
    data = np.random.default_rng(0).normal(size=(50, arguments.size, arguments.size, 3))
    for _ in range(arguments.rounds):
        print()
        print(compare_cost(model, half, (None, "int8"), data.astype("float32")))


if __name__ == "__main__":
    main()
