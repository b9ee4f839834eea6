"""Masks of padding, which are part of the graph of a model but have no channels."""

import dataclasses
import inspect
import itertools

import keras
from keras.src.ops import numpy as numpy_operations

from keras_bmr.pruning.channels.calls import Call, CallGraph

# What they return has nothing to do with the numbers they read. Keras uses them where
# one of several tensors that are joined has a mask.
_SHAPE_ONLY = (numpy_operations.OnesLike, numpy_operations.ZerosLike)


def without_masks(graph: CallGraph) -> CallGraph:
    """The graph of a model without masks and what does nothing but compute them.

    Args:
        graph: The calls of a model.

    Returns:
        The graph in which no call reads a mask. What masks are computed from must
        stay as it is, and counts among the outputs.
    """
    signal = set(graph.outputs)
    masks = {value for nested in graph.models for value in nested.masks}
    compared = set(masks)
    calls: list[Call] = []
    for call in reversed(graph.calls):
        if _computes_masks(call, signal, masks):
            masks.update(call.inputs)
            if not isinstance(call.operation, _SHAPE_ONLY):
                compared.update(call.inputs)
            continue
        unmasked = _unmasked(call)
        calls.append(unmasked)
        signal.update(unmasked.inputs)
        given = set(call.inputs) - set(unmasked.inputs)
        masks |= given
        compared |= given
    calls.reverse()
    known = {*graph.inputs, *itertools.chain(*(call.outputs for call in calls))}
    return dataclasses.replace(
        graph,
        calls=calls,
        outputs=(*graph.outputs, *sorted(compared & known - set(graph.outputs))),
    )


def _computes_masks(call: Call, signal: set[int], masks: set[int]) -> bool:
    """Whether all that reads a call takes it for a mask."""
    outputs = set(call.outputs)
    # A layer with weights has channels that can go, whatever they are for.
    has_weights = bool(getattr(call.operation, "weights", ()))
    return bool(outputs & masks) and not outputs & signal and not has_weights


def _unmasked(call: Call) -> Call:
    """The call without the inputs that are there as masks only."""
    names = list(inspect.signature(call.operation.call).parameters)
    positional = itertools.zip_longest(names[: len(call.arguments)], call.arguments)
    read = {
        id(tensor)
        for name, argument in (*positional, *call.keywords.items())
        if not _names_mask(name)
        for tensor in keras.tree.flatten(argument)
    }
    kept = [index for index, tensor in enumerate(call.tensors) if id(tensor) in read]
    return dataclasses.replace(
        call,
        inputs=tuple(call.inputs[index] for index in kept),
        input_shapes=tuple(call.input_shapes[index] for index in kept),
        tensors=tuple(call.tensors[index] for index in kept),
    )


def _names_mask(name: str | None) -> bool:
    # As `mask`, or as `query_mask` and the like of layers with several inputs.
    return name is not None and (name == "mask" or name.endswith("_mask"))
