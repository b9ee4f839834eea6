"""Running a Keras layer as if its variables had other values."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.layers.random_weight import uncast


class _RecordingScope(keras.StatelessScope):
    """A scope that knows which variables were assigned to, also untracked ones."""

    def __init__(self, state_mapping: list) -> None:
        self.assigned: dict[int, keras.Variable] = {}
        super().__init__(state_mapping=state_mapping)

    def add_update(self, update: tuple[keras.Variable, Any]) -> None:
        super().add_update(update)
        self.assigned[id(update[0])] = update[0]


def call_with_values(
    layer: keras.layers.Layer,
    call: Callable,
    values: Mapping[int, tf.Tensor],
    *args: Any,
    training: bool | None,
    **kwargs: Any,
) -> Any:
    """Calls a layer with substituted values of some of its variables.

    Moving statistics, dropout seeds and recurrent states that the call assigns
    advance as they would without the substitution.

    Args:
        layer: The layer, for its variables.
        call: The function to run, for example the `call` of a parent class.
        values: Tensors by the `id` of the variable that they stand in for.
        *args: Positional arguments of `call`.
        training: Passed on where `call` takes it.
        **kwargs: Keyword arguments of `call`.

    Returns:
        What `call` returns.
    """
    if "training" in inspect.signature(call).parameters:
        kwargs["training"] = training
    # An outer StatelessScope is hidden by the new one: hand its values on.
    scope = _RecordingScope(
        [(v, values.get(id(v), uncast(v))) for v in layer.variables]
    )
    with scope:
        outputs = call(*args, **kwargs)
    for variable in scope.assigned.values():
        variable.assign(scope.get_current_value(variable))
    return outputs
