"""The calls that a model is made of, nested models opened."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or operation in the graph of a model.

    Attributes:
        operation: The layer, or an operation of `keras.ops`.
        inputs: Indices of the values that it reads.
        outputs: Indices of the values that it makes.
        input_shapes: Their shapes, the batch axis included.
        output_shapes: Their shapes, the batch axis included.
        arguments: The positional arguments, tensors among them.
        keywords: The keyword arguments.
        tensors: The symbolic tensors of the arguments, in the order of `inputs`.
    """

    operation: keras.Operation
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[tuple[int | None, ...], ...]
    output_shapes: tuple[tuple[int | None, ...], ...]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    tensors: tuple[Any, ...]

    def position(self, tensor: Any) -> int | None:
        """Which input a tensor of the arguments is.

        Args:
            tensor: An argument of the call.

        Returns:
            Index into `inputs`; None if the argument is no tensor.
        """
        for index, known in enumerate(self.tensors):
            if known is tensor:
                return index
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCall:
    """One call of a nested model.

    Attributes:
        model: The nested model.
        inputs: Indices of the values that its inputs stand for.
        masks: Indices of the values that are handed to it as masks. Its layers find
            them on the tensors, so that the calls inside do not mention them.
    """

    model: keras.Model
    inputs: tuple[int, ...]
    masks: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class CallGraph:
    """The calls of a model in the order of the signal.

    Attributes:
        calls: The calls; those of nested models stand in their place.
        models: The calls of nested models.
        shapes: Shape of each value, the batch axis included.
        inputs: Indices of the values that come from outside.
        outputs: Indices of the values that the model returns.
    """

    calls: list[Call]
    models: list[ModelCall]
    shapes: list[tuple[int | None, ...]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def call_graph(model: keras.Model) -> CallGraph:
    """Reads the graph of a model.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Its calls.

    Raises:
        ValueError: If the model, or one inside of it, is subclassed or not built.
    """
    calls: list[Call] = []
    models: list[ModelCall] = []
    shapes: list[tuple[int | None, ...]] = []

    def new_value(tensor: Any) -> int:
        shapes.append(tuple(tensor.shape))
        return len(shapes) - 1

    def walk(graph: keras.Model, inputs: Sequence[int]) -> list[int]:
        values = dict(zip(map(id, graph.inputs), inputs, strict=True))
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                if isinstance(node.operation, keras.Model):
                    nested = _model_call(node, values)
                    models.append(nested)
                    made = walk(functional(node.operation), nested.inputs)
                else:
                    read = [values[id(tensor)] for tensor in node.input_tensors]
                    made = [new_value(tensor) for tensor in node.outputs]
                    calls.append(
                        Call(
                            operation=node.operation,
                            inputs=tuple(read),
                            outputs=tuple(made),
                            input_shapes=tuple(shapes[value] for value in read),
                            output_shapes=tuple(shapes[value] for value in made),
                            arguments=node.arguments.args,
                            keywords=node.arguments.kwargs,
                            tensors=tuple(node.input_tensors),
                        )
                    )
                values.update(zip(map(id, node.outputs), made, strict=True))
        return [values[id(tensor)] for tensor in graph.outputs]

    top = functional(model)
    inputs = [new_value(tensor) for tensor in top.inputs]
    outputs = walk(top, inputs)
    return CallGraph(calls, models, shapes, tuple(inputs), tuple(outputs))


def _model_call(node: Any, values: Mapping[int, int]) -> ModelCall:
    arguments, keywords = node.arguments.args, node.arguments.kwargs
    signal = keras.tree.flatten(arguments[0] if arguments else keywords["inputs"])
    known = set(map(id, signal))
    return ModelCall(
        model=node.operation,
        inputs=tuple(values[id(tensor)] for tensor in signal),
        masks=tuple(
            values[id(tensor)]
            for tensor in node.input_tensors
            if id(tensor) not in known
        ),
    )


def has_graph(model: keras.Model) -> bool:
    """Whether the graph of a model is known, and of those inside of it.

    Args:
        model: A Keras model.

    Returns:
        False if one of them is subclassed or not built.
    """
    graph = getattr(model, "_functional", None) or model
    return hasattr(graph, "_nodes_by_depth") and all(
        has_graph(operation)
        for operation in graph._operations
        if isinstance(operation, keras.Model)
    )


def functional(model: keras.Model) -> keras.Model:
    """The Functional model that holds the graph of a model.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        The model itself, or what a Sequential one wraps.

    Raises:
        ValueError: If there is no graph.
    """
    # A Sequential model wraps a Functional one.
    graph = getattr(model, "_functional", None) or model
    if not hasattr(graph, "_nodes_by_depth"):
        name = getattr(model, "name", model)
        raise ValueError(
            "Expected a built Sequential or Functional Keras model, whose graph of "
            f"layers is known. Received: '{name}' of class {type(model).__name__}. "
            "Start a Sequential model with `keras.Input`; write a subclassed one as a "
            "Functional model."
        )
    return graph
