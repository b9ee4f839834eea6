"""The calls of a network, one after the other, with values of any kind."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_bmr.layers import Variational
from keras_bmr.layers.cloning import within
from keras_bmr.pruning.channels.calls import Call, call_graph


class NetworkCalls:
    """The graph of a deterministic network and the Bayesian layers behind it.

    Args:
        model: The Bayesian model.
        network: Result of `deterministic_network`, made of `model` layer by layer.

    Raises:
        ValueError: If the graph of the network is not known, as of subclassed models,
            or has more than one output.
    """

    def __init__(self, model: keras.Model, network: keras.Model) -> None:
        self._graph = call_graph(network)
        if len(self._graph.outputs) != 1:
            raise ValueError(
                "Mean and variance are exported for models with one output; make a "
                "`keras.Model` of the output wanted. Received: model "
                f"'{model.name}' with {len(self._graph.outputs)} outputs"
            )
        pairs = zip(within(network), within(model), strict=True)
        self._originals = {id(layer): original for layer, original in pairs}

    @property
    def operations(self) -> list[keras.Operation]:
        """The layers and operations that are called, a shared one more than once."""
        return [call.operation for call in self._graph.calls]

    def original(self, operation: keras.Operation) -> keras.Operation:
        """The layer of the Bayesian model that a layer stands for.

        Args:
            operation: A layer of the network, or an operation, which is its own.
        """
        return self._originals.get(id(operation), operation)

    def random_layers(
        self, operation: keras.Operation
    ) -> list[tuple[keras.layers.Layer, Variational]]:
        """The layers with posteriors in a layer, itself included.

        Args:
            operation: A layer of the network, or an operation.

        Returns:
            Pairs of the plain layer and the Bayesian one.
        """
        if not isinstance(operation, keras.layers.Layer):
            return []
        pairs = [(layer, self.original(layer)) for layer in within(operation)]
        return [pair for pair in pairs if isinstance(pair[1], Variational)]

    def evaluate(
        self, inputs: Sequence[Any], apply: Callable[[Call, list], Sequence[Any]]
    ) -> Any:
        """Goes through the calls in the order of the signal.

        Args:
            inputs: One value per input of the network.
            apply: Maps a call and the values of its inputs to those of its outputs.

        Returns:
            The value of the output.
        """
        values = dict(zip(self._graph.inputs, inputs, strict=True))
        for call in self._graph.calls:
            outputs = apply(call, [values[index] for index in call.inputs])
            values.update(zip(call.outputs, outputs, strict=True))
        (output,) = self._graph.outputs
        return values[output]


def call_operation(call: Call, tensors: Sequence[Any]) -> list[Any]:
    """Calls a layer or operation on other tensors than the symbolic ones.

    Args:
        call: The call.
        tensors: Values of its inputs.

    Returns:
        Its outputs, flattened.
    """

    def fill_in(argument: Any) -> Any:
        position = call.position(argument)
        return argument if position is None else tensors[position]

    arguments = keras.tree.map_structure(fill_in, call.arguments)
    keywords = keras.tree.map_structure(fill_in, call.keywords)
    operation = call.operation
    if isinstance(operation, keras.layers.Layer):
        if "training" in inspect.signature(operation.call).parameters:
            keywords["training"] = False
    return keras.tree.flatten(operation(*arguments, **keywords))
