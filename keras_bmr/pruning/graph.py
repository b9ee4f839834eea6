"""Chains in the graph of a model: a layer, what follows it, the next layer."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Chain:
    """Two layers with weights and all that happens to the signal in between.

    Attributes:
        producer: The layer that the chain starts at.
        shape: Shape of its output, the batch axis included.
        between: The layers that follow it, in order.
        consumer: The layer that the chain ends at, the only one that sees the
            output of the others.
    """

    producer: keras.layers.Layer
    shape: tuple[int | None, ...]
    between: tuple[keras.layers.Layer, ...]
    consumer: keras.layers.Layer


def chains(
    model: keras.Model,
    is_end: Callable[[keras.layers.Layer], bool],
    is_between: Callable[[keras.layers.Layer], bool],
) -> list[Chain]:
    """Finds the chains of a model, those of nested models included.

    Both ends of a chain are called once in the whole model and, like the layers in
    between, with one tensor and no other arguments. Nothing else reads what is
    passed along, nor is it an output of the model. Where the graph is anything else,
    or there is none as in subclassed models, there is no chain.

    Args:
        model: A built Keras model.
        is_end: Whether a layer may start and end a chain.
        is_between: Whether a layer may stand in the middle.

    Returns:
        The chains, in the order in which the signal passes them.
    """
    graphs = list(_graphs(model))
    num_calls = collections.Counter(
        id(layer)
        for graph in graphs
        for node in _nodes(graph)
        for layer in _layers_of(node.operation)
    )

    def is_unique_end(operation: keras.Operation) -> bool:
        return is_end(operation) and num_calls[id(operation)] == 1

    found = []
    for graph in graphs:
        readers = collections.defaultdict(list)
        for node in _nodes(graph):
            for tensor in node.input_tensors:
                readers[id(tensor)].append(node)
        outputs = {id(tensor) for tensor in graph.outputs}

        for start in _nodes(graph):
            if not is_unique_end(start.operation):
                continue
            between = []
            for node in _follow(start, readers, outputs):
                if is_unique_end(node.operation):
                    shape = tuple(start.outputs[0].shape)
                    chain = Chain(
                        start.operation, shape, tuple(between), node.operation
                    )
                    found.append(chain)
                    break
                if not is_between(node.operation):
                    break
                between.append(node.operation)
    return found


def _follow(start: Any, readers: dict[int, list], outputs: set[int]) -> Iterator[Any]:
    """Yields the calls that alone read what the one before has computed."""
    node = start
    while _is_plain_call(node) and id(node.outputs[0]) not in outputs:
        following = readers[id(node.outputs[0])]
        if len(following) != 1 or not _is_plain_call(following[0]):
            return
        node = following[0]
        yield node


def _graphs(model: keras.Model) -> Iterator[keras.Model]:
    """Yields the Functional models that a model is made of, each once."""
    pending, seen = [model], set()
    while pending:
        graph = pending.pop()
        # A Sequential model wraps a Functional one.
        graph = getattr(graph, "_functional", None) or graph
        if id(graph) in seen or not hasattr(graph, "_nodes_by_depth"):
            continue
        seen.add(id(graph))
        yield graph
        operations = [node.operation for node in _nodes(graph)]
        pending += [op for op in operations if isinstance(op, keras.Model)]


def _nodes(graph: keras.Model) -> list[Any]:
    """The calls of the graph in the order of the signal."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in graph._nodes_by_depth[depth]]


def _layers_of(operation: keras.Operation) -> list[keras.layers.Layer]:
    """The layers that a call runs; those of a nested model are counted there."""
    if not isinstance(operation, keras.layers.Layer):
        return []
    if getattr(operation, "_functional", None) or hasattr(operation, "_nodes_by_depth"):
        return [operation]
    return operation._flatten_layers(include_self=True, recursive=True)


def _is_plain_call(node: Any) -> bool:
    """Whether an operation was called with one tensor and nothing else."""
    arguments = node.arguments
    return (
        len(node.outputs) == 1
        and len(node.input_tensors) == 1
        and len(arguments.args) == 1
        and all(value is None or value is False for value in arguments.kwargs.values())
    )
