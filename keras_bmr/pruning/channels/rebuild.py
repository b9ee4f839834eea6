"""Building a model anew from changed layers, some left out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_bmr.layers.cloning import copy_layer, uncompiled, within

Shape = tuple[int | None, ...]


def rebuild(
    model: keras.Model,
    changes: Mapping[int, Mapping[str, Any]],
    left_out: set[int],
    input_shapes: Mapping[int, Sequence[Shape]],
) -> tuple[keras.Model, dict[int, keras.Operation]]:
    """Builds a model again, with the same names.

    Args:
        model: A built Sequential or Functional model.
        changes: Entries of the config that change, by the id of the layer.
        left_out: The ids of layers that pass on what they get instead.
        input_shapes: Shapes of the inputs, by the id of the nested model.

    Returns:
        A new, uncompiled model with initial weights, and the new layer for the id of
        each old one, those inside of layers included.
    """
    made: dict[int, keras.Operation] = {}

    def convert(operation: keras.Operation) -> Callable:
        if id(operation) in left_out:
            return _pass_on
        if id(operation) not in made:
            if isinstance(operation, keras.Model):
                shapes = input_shapes.get(
                    id(operation), [tensor.shape for tensor in operation.inputs]
                )
                made[id(operation)] = _rebuilt(operation, shapes, convert)
            else:
                change = changes.get(id(operation), {})
                made[id(operation)] = copy_layer(
                    operation, lambda config: {**config, **change}
                )
        return made[id(operation)]

    with uncompiled(model):
        smaller = convert(model)
    return smaller, _with_inner_layers(model, made)


def _rebuilt(
    model: keras.Model, shapes: Sequence[Shape], convert: Callable
) -> keras.Model:
    inputs = [
        _input_like(tensor, shape)
        for tensor, shape in zip(model.inputs, shapes, strict=True)
    ]
    if not isinstance(model, keras.Sequential):
        return keras.models.clone_model(
            model,
            clone_function=convert,
            input_tensors=keras.tree.pack_sequence_as(model.input, inputs),
        )
    layers = [convert(layer) for layer in model.layers]
    # A subclass may take other arguments, as Keras considers for Functional models.
    same_arguments = type(model).__init__ is keras.Sequential.__init__
    model_class = type(model) if same_arguments else keras.Sequential
    return model_class(
        [*inputs, *(layer for layer in layers if layer is not _pass_on)],
        name=model.name,
    )


def _input_like(tensor: keras.KerasTensor, shape: Shape) -> keras.KerasTensor:
    """An input of the same name, which Keras would not keep."""
    name = tensor._keras_history.operation.name
    return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=name)


def _pass_on(inputs: Any, **kwargs: Any) -> Any:
    del kwargs
    return inputs


def _with_inner_layers(
    model: keras.Model, made: dict[int, keras.Operation]
) -> dict[int, keras.Operation]:
    pairs = dict(made)
    for layer in within(model):
        if id(layer) in made and not isinstance(layer, keras.Model):
            inner = zip(within(layer), within(made[id(layer)]), strict=True)
            pairs.update((id(old), new) for old, new in inner)
    # From the outside in, since a layer hands its flag on to those inside of it.
    for layer in within(model):
        new = pairs.get(id(layer))
        if new is not None and new.trainable != layer.trainable:
            new.trainable = layer.trainable
    return pairs
