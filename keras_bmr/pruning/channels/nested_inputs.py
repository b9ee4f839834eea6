"""The inputs of nested models when channels outside of them go."""

from keras_bmr.pruning.channels.along_axis import num_along
from keras_bmr.pruning.channels.graph import ChannelGraph
from keras_bmr.pruning.channels.survivors import Survivors


def nested_input_shapes(
    graph: ChannelGraph, survivors: Survivors
) -> dict[int, list[tuple[int | None, ...]]]:
    """The shapes that the inputs of nested models shrink to.

    Args:
        graph: The channels of the model.
        survivors: Which of them stay.

    Returns:
        Shapes of the inputs, the batch axis included, by the id of the nested model.
    """
    models = {id(nested.model): nested.model for nested in graph.graph.models}
    shapes: dict[int, list[tuple[int | None, ...]]] = {}
    for key, inputs in graph.model_inputs.items():
        kept = [survivors.kept(labels) for labels in inputs]
        shapes[key] = [
            tuple(
                # An axis of any size stays one.
                None if size is None else num_along(stays, axis, size)
                for axis, size in enumerate(tensor.shape)
            )
            for tensor, stays in zip(models[key].inputs, kept, strict=True)
        ]
    return shapes
