"""Max pooling whose gradient is cheap to take again and again."""

import contextlib
import functools
from collections.abc import Iterator

import keras
import tensorflow as tf


@contextlib.contextmanager
def indexed_max_pooling(model: keras.Model) -> Iterator[None]:
    """Lets max pooling over images remember where its maxima are, while it lasts.

    The gradient that TensorFlow takes of max pooling searches for the maxima anew each
    time, which for the many backward passes of a curvature costs more than the
    convolutions do.

    Args:
        model: A Keras model that is called within the context.

    Yields:
        Nothing.
    """
    layers = [
        layer
        for layer in {id(x): x for x in model._flatten_layers()}.values()
        if type(layer) is keras.layers.MaxPooling2D
        and layer.data_format == "channels_last"
    ]
    # As in `recorded_calls`.
    for layer in layers:
        object.__setattr__(layer, "call", functools.partial(_pooled, layer))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _pooled(layer: keras.layers.MaxPooling2D, inputs: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool_with_argmax(
        inputs, layer.pool_size, layer.strides, layer.padding.upper()
    )[0]
