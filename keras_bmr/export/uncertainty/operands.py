"""What a call hands to a rule: moments of tensors, and constants."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.export.uncertainty.moments import Moments
from keras_bmr.pruning.channels.calls import Call


def call_operands(call: Call, inputs: Sequence[Moments]) -> list[Moments]:
    """The operands of a call in their order, constants among them.

    Args:
        call: A call of a layer or operation.
        inputs: Moments of its inputs.

    Returns:
        Moments of all operands; constants are certain.

    Raises:
        ValueError: If the call has a mask, or an argument of another kind.
    """
    is_layer = isinstance(call.operation, keras.layers.Layer)
    arguments = list(call.arguments)
    if is_layer:
        # Layers take lists of tensors, and options such as `training` by keyword.
        arguments = keras.tree.flatten(arguments)
    operands = []
    for argument in arguments:
        operands += _operand(call, inputs, argument)
    for name, argument in call.keywords.items():
        if name == "mask" and argument is not None:
            raise ValueError(
                "Moments do not pass layers that are called with a mask, which leaves "
                "out some of the positions. Expected a model without masks, such as an "
                'Embedding with `mask_zero=False`; or use uncertainty="ensemble", '
                "which takes every layer. Received: a mask for layer "
                f"'{call.operation.name}' of class {type(call.operation).__name__}"
            )
        if not (is_layer and isinstance(argument, bool)):
            operands += _operand(call, inputs, argument)
    return operands


def _operand(call: Call, inputs: Sequence[Moments], argument: Any) -> list[Moments]:
    position = call.position(argument)
    if position is not None:
        return [inputs[position]]
    if argument is None:
        return []
    if isinstance(argument, keras.Variable):
        # A value, also while a function is traced.
        with tf.init_scope():
            argument = np.asarray(argument.value)
    if not isinstance(argument, int | float | np.generic | np.ndarray | tf.Tensor):
        raise ValueError(
            "Moments pass calls whose arguments are tensors of the network, numbers, "
            "arrays or variables. Wrap other calls into a layer of their own and "
            "register a rule for it with `keras_bmr.export.register_moment_rule`, or "
            'use uncertainty="ensemble". Received: an argument of type '
            f"{type(argument).__name__} for '{call.operation.name}' of class "
            f"{type(call.operation).__name__}"
        )
    return [Moments(tf.cast(argument, "float32"))]
