"""The calls of layers while a network is traced."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.export.cost_rules import LayerCall, cost_rule


@contextlib.contextmanager
def recorded_calls(
    layers: list[keras.layers.Layer], calls: dict, inside: set[str]
) -> Iterator[None]:
    """Records the calls of layers while they are traced.

    Args:
        layers: The layers.
        calls: Is filled with a list of `LayerCall` by the id of the layer; what a
            layer with a rule calls is part of that layer.
        inside: Is filled with the names of the graph's operations in such layers.
    """
    depth = 0

    def recorder(layer: keras.layers.Layer) -> Any:
        original = layer.call
        signature = inspect.signature(original)
        has_rule = cost_rule(layer) is not None

        def call(*args, **kwargs):
            nonlocal depth
            graph = tf.compat.v1.get_default_graph()
            start = len(graph.get_operations())
            depth += has_rule
            try:
                output = original(*args, **kwargs)
            finally:
                depth -= has_rule
            if has_rule:
                inside.update(op.name for op in graph.get_operations()[start:])
            if not depth:
                bound = signature.bind(*args, **kwargs).arguments
                shapes = LayerCall(_shapes(dict(bound)), _shapes(output))
                calls.setdefault(id(layer), []).append(shapes)
            return output

        return call

    try:
        for layer in layers:
            # An attribute of the instance hides the method of the class.
            object.__setattr__(layer, "call", recorder(layer))
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)


def _shapes(structure: Any) -> Any:
    """Returns the structure with shapes in place of tensors."""
    if isinstance(structure, dict):
        return {key: _shapes(value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [_shapes(value) for value in structure]
    shape = getattr(structure, "shape", None)
    return None if shape is None else tuple(shape)
