"""Building a network anew, call by call."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_bmr.pruning.channels.calls import Call, CallGraph, call_graph, functional


class Graph:
    """The calls of a network, and who reads what they make.

    Args:
        network: A built Sequential or Functional model. Nested models are opened.

    Attributes:
        calls: The calls in the order of the signal.
    """

    def __init__(self, network: keras.Model) -> None:
        self._graph: CallGraph = call_graph(network)
        self.calls = self._graph.calls
        self.inputs, self.outputs = self._graph.inputs, self._graph.outputs
        self._readers: dict[int, list[Call]] = {}
        for call in self.calls:
            for value in call.inputs:
                self._readers.setdefault(value, []).append(call)
        self._num_calls = Counter(id(call.operation) for call in self.calls)

    def sole_reader(self, call: Call) -> Call | None:
        """The call that alone reads what another one makes.

        Args:
            call: A call.

        Returns:
            The reader; None if there are several, or the model returns the value.
        """
        if len(call.outputs) != 1 or call.outputs[0] in self.outputs:
            return None
        readers = self._readers.get(call.outputs[0], [])
        return readers[0] if len(readers) == 1 else None

    def is_called_once(self, call: Call) -> bool:
        """Whether a call is the only one of its layer.

        Args:
            call: A call.
        """
        return self._num_calls[id(call.operation)] == 1


Visit = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]


def rewritten(
    network: keras.Model,
    graph: Graph,
    visit: Visit,
    visit_input: Callable[[keras.KerasTensor], Any] = lambda tensor: tensor,
) -> keras.Model:
    """Builds a network with other calls in place of its own.

    Args:
        network: A built Sequential or Functional model.
        graph: Its graph.
        visit: Takes a call of the network and the arguments and keyword arguments
            that it has in the new one; returns the outputs.
        visit_input: Takes an input; returns what stands for it.

    Returns:
        A new Functional model with the names and structures of the inputs and
        outputs, nested models opened.
    """
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for tensor, name in zip(network.inputs, input_names(network), strict=True)
    ]
    values = {
        value: visit_input(tensor)
        for value, tensor in zip(graph.inputs, inputs, strict=True)
    }
    for call in graph.calls:
        replaced = {
            id(tensor): values[value]
            for tensor, value in zip(call.tensors, call.inputs, strict=True)
        }
        arguments, keywords = keras.tree.map_structure(
            lambda item, replaced=replaced: replaced.get(id(item), item),
            (call.arguments, call.keywords),
        )
        made = keras.tree.flatten(visit(call, arguments, keywords))
        values.update(zip(call.outputs, made, strict=True))
    outputs = [values[value] for value in graph.outputs]
    structures = functional(network)
    return keras.Model(
        keras.tree.pack_sequence_as(structures.input, inputs),
        keras.tree.pack_sequence_as(structures.output, outputs),
        name=network.name,
    )


def input_names(network: keras.Model) -> list[str]:
    """The names of a network's input layers.

    Args:
        network: A built Sequential or Functional model.
    """
    return [tensor._keras_history.operation.name for tensor in network.inputs]


def unique_names(
    network: keras.Model, taken: Iterable[str] = ()
) -> Callable[[str], str]:
    """Names for the layers that a network is built anew from.

    Layers of nested models may have the names of others, and of the inputs.

    Args:
        network: A built Sequential or Functional model, whose inputs keep their names.
        taken: Further names that are used already.

    Returns:
        A function that returns the name it is given, with a number behind it if that
        one is used; each call uses up a name.
    """
    names = {*input_names(network), *taken}

    def unique(name: str) -> str:
        candidate, number = name, 0
        while candidate in names:
            number += 1
            candidate = f"{name}_{number}"
        names.add(candidate)
        return candidate

    return unique
