"""The weights of a copy that stand where those of a model do."""

from collections.abc import Sequence

import keras

from keras_bmr.layers.cloning import within
from keras_bmr.pruning.prunable_weight import PrunableWeight


def counterparts(
    weights: Sequence[PrunableWeight], model: keras.Model, copy: keras.Model
) -> list[PrunableWeight]:
    """Finds the weights of a model in a copy of it.

    Args:
        weights: Weights of `model`.
        model: A model.
        copy: The model itself, or a copy of it.

    Returns:
        For each of `weights` that of the copy.

    Raises:
        ValueError: If `copy` has other layers, or weights of other shapes.
    """
    layers = list(within(copy))
    position = {id(layer): index for index, layer in enumerate(within(model))}
    found = []
    for weight in weights:
        index = position[id(weight.layer)]
        name = layers[index].name if index < len(layers) else None
        try:
            found.append(PrunableWeight(layers[index], weight.name))
            shape = found[-1].shape
        except (IndexError, ValueError):
            shape = None
        if len(layers) != len(position) or (name, shape) != (
            weight.layer.name,
            weight.shape,
        ):
            raise ValueError(
                f"Model '{copy.name}' is not the one that was analysed, nor a copy of "
                f"it. Expected {weight.label} with shape {weight.shape} as its layer "
                f"number {index}. Received: layer '{name}' with shape {shape}"
            )
    return found
