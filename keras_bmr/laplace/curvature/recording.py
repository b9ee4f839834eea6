"""Recording what goes into layers, and what comes out before the activation."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf


class Calls:
    """The calls of one layer during a pass.

    Attributes:
        inputs: First argument of each call.
        outputs: Pre-activation of each call.
    """

    def __init__(self) -> None:
        self.inputs: list[tf.Tensor] = []
        self.outputs: list[tf.Tensor] = []


@contextlib.contextmanager
def recorded_calls(
    layers: Sequence[keras.layers.Layer], tape: tf.GradientTape
) -> Iterator[list[Calls]]:
    """Records the calls of layers while the context lasts, also within other layers.

    Args:
        layers: Layers of a model that is called within the context.
        tape: Tape that shall watch the pre-activations.

    Yields:
        One `Calls` per layer.
    """
    records = [Calls() for _ in layers]
    # An attribute of the instance hides the method, and leaves no trace once deleted.
    # Past Keras' `__setattr__`, which would track what it is given.
    for layer, calls in zip(layers, records, strict=True):
        object.__setattr__(layer, "call", _recording(layer, calls, tape))
    try:
        yield records
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _recording(
    layer: keras.layers.Layer, calls: Calls, tape: tf.GradientTape
) -> Callable:
    original = layer.call

    def call(*args: Any, **kwargs: Any) -> Any:
        inputs = args[0] if args else kwargs["inputs"]
        calls.inputs.append(tf.convert_to_tensor(inputs))
        num_before = len(calls.outputs)
        activation = getattr(layer, "activation", None)
        if activation is None:
            outputs = tf.convert_to_tensor(original(*args, **kwargs))
        else:

            def watched(values: tf.Tensor) -> tf.Tensor:
                tape.watch(values)
                calls.outputs.append(values)
                return activation(values)

            object.__setattr__(layer, "activation", watched)
            try:
                outputs = original(*args, **kwargs)
            finally:
                object.__setattr__(layer, "activation", activation)
        if len(calls.outputs) == num_before:
            tape.watch(outputs)
            calls.outputs.append(outputs)
        return outputs

    return call
