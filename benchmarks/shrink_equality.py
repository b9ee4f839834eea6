"""Networks before and after `shrink`: equal outputs, fewer parameters, seconds.

A share of the groups of channels of every layer is pruned at random, `shrink` removes
them, and the outputs of the masked and of the smaller network are compared on random
inputs: the largest difference, divided by the largest output. Weights are random; batch
normalisations have random scales and shifts, and the statistics of the inputs, so that
signals stay alive through all layers. An output that hardly depends on the input is an
error.

    python benchmarks/shrink_equality.py
    python benchmarks/shrink_equality.py --networks resnet_50 --share 0.5
"""

import argparse
import time
from collections.abc import Callable

import keras
import numpy as np

import keras_bmr
from keras_bmr.pruning.channels import ChannelGraph, prune_channels

layers = keras.layers


def convolution(x, filters: int, size: int, strides: int = 1, groups: int = 1):
    """A convolution, batch normalisation and ReLU."""
    x = layers.Conv2D(
        filters, size, strides, padding="same", use_bias=False, groups=groups
    )(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def sequential_cnn() -> keras.Model:
    """Convolutions, pooling and two dense layers."""
    stack = [keras.Input((32, 32, 3))]
    for filters in (32, 64, 128):
        stack += [
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
        ]
    stack += [layers.Flatten(), layers.Dense(256, activation="tanh"), layers.Dense(10)]
    return keras.Sequential(stack)


def resnet_8() -> keras.Model:
    """The residual network of MLPerf Tiny."""
    inputs = keras.Input((32, 32, 3))
    x = convolution(inputs, 16, 3)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = convolution(x, filters, 3, strides)
        y = layers.Conv2D(filters, 3, padding="same")(y)
        y = layers.BatchNormalization()(y)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def grouped() -> keras.Model:
    """Residual bottlenecks with convolutions in eight groups."""
    inputs = keras.Input((32, 32, 3))
    x = convolution(inputs, 64, 3)
    for _ in range(3):
        y = convolution(x, 64, 1)
        y = convolution(y, 64, 3, groups=8)
        y = layers.BatchNormalization()(layers.Conv2D(64, 1, use_bias=False)(y))
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def vision_transformer() -> keras.Model:
    """Six blocks of attention with four heads on patches of 8 x 8."""
    inputs = keras.Input((64, 64, 3))
    x = layers.Conv2D(128, 8, strides=8)(inputs)
    x = layers.Reshape((64, 128))(x)
    for _ in range(6):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 32)(y, y)])
        y = layers.Dense(256, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(128)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def lstm() -> keras.Model:
    """An LSTM behind one of both directions."""
    inputs = keras.Input((20, 32))
    x = layers.Bidirectional(layers.LSTM(96, return_sequences=True))(inputs)
    x = layers.LSTM(128)(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def application(name: str) -> Callable[[], keras.Model]:
    """A network of keras.applications with random weights."""

    def build() -> keras.Model:
        return getattr(keras.applications, name)(
            weights=None, input_shape=(128, 128, 3), classifier_activation=None
        )

    return build


NETWORKS = {
    "sequential_cnn": sequential_cnn,
    "resnet_8": resnet_8,
    "resnet_50": application("ResNet50"),
    "mobilenet_v2": application("MobileNetV2"),
    "densenet_121": application("DenseNet121"),
    "grouped": grouped,
    "vision_transformer": vision_transformer,
    "lstm": lstm,
}


def with_lively_statistics(
    model: keras.Model, inputs: np.ndarray, generator: np.random.Generator
) -> keras.Model:
    """Random scales, shifts and biases; statistics as they are behind the inputs."""
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    for variable in model.trainable_variables:
        if variable.name == "gamma":
            variable.assign(generator.uniform(0.8, 1.2, variable.shape))
        elif variable.name in ("beta", "bias"):
            variable.assign(generator.normal(0.1, 0.2, variable.shape))
    model(inputs, training=True)
    return model


def prune_at_random(
    model: keras.Model, share: float, generator: np.random.Generator
) -> None:
    """Prunes a share of the groups that each layer is the first to make."""
    graph = ChannelGraph(model)
    seen = np.zeros(graph.num_groups + 1, bool)
    # Group -1, of the channels that must stay.
    seen[-1] = True
    pruned = [np.zeros(0, int)]
    for axis in graph.axes:
        if axis.role == "incoming":
            found = np.unique(axis.groups)
            found = found[~seen[found]]
            seen[found] = True
            pruned.append(generator.permutation(found)[: int(share * found.size)])
    prune_channels(model, np.concatenate(pruned), graph)


def compare(name: str, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    keras.utils.set_random_seed(arguments.seed)
    generator = np.random.default_rng(arguments.seed)
    model = NETWORKS[name]()
    shape = (arguments.examples, *model.input_shape[1:])
    # Noise alone would be the same for every example once it is averaged over places.
    colours = generator.normal(size=(shape[0], *(len(shape) - 2) * (1,), shape[-1]))
    inputs = (generator.normal(size=shape) + colours).astype("float32")
    with_lively_statistics(model, inputs, generator)
    prune_at_random(model, arguments.share, generator)
    expected = model.predict(inputs, verbose=0)
    varies = (expected.std(axis=0) / np.abs(expected).max()).max()
    if varies < 0.01:
        raise RuntimeError(f"{name}: outputs of different inputs are alike, {varies}")
    start = time.perf_counter()
    small = keras_bmr.shrink(model)
    seconds = time.perf_counter() - start
    difference = np.abs(small.predict(inputs, verbose=0) - expected).max()
    difference /= np.abs(expected).max()
    before, after = model.count_params(), small.count_params()
    return f"{name:20s}{difference:12.1e}{before:14,d}{after:14,d}{seconds:10.1f}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--share", type=float, default=0.4, help="of the groups that are pruned")
    add("--examples", type=int, default=8)
    add("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(
        f"{'':20s}{'difference':>12s}{'parameters':>14s}{'left':>14s}{'seconds':>10s}"
    )
    for name in arguments.networks:
        print(compare(name, arguments), flush=True)


if __name__ == "__main__":
    main()
