"""Whether the outputs of a model are logits, and what a softmax makes of them."""

from collections.abc import Iterator, Sequence

import keras

_TO_PROBABILITIES = ("softmax", "sigmoid")


def probability_layer(model: keras.Model) -> tuple[str, str] | None:
    """Finds a softmax or a sigmoid at the end of a model.

    Args:
        model: The model; of a subclassed one nothing is known.

    Returns:
        Which of the two, and the name of its layer; None if there is none.
    """
    for operation in _last_operations(model):
        function = getattr(operation, "activation", None)
        of_operation = type(operation).__name__.lower()
        for name in _TO_PROBABILITIES:
            if of_operation == name or function is getattr(keras.activations, name):
                return name, operation.name
    return None


def _last_operations(model: keras.Model) -> Iterator[keras.Operation]:
    for tensor in keras.tree.flatten(getattr(model, "outputs", None) or []):
        operation = tensor._keras_history.operation
        if isinstance(operation, keras.Model):
            yield from _last_operations(operation)
        else:
            yield operation


def check_logits(model: keras.Model, shape: Sequence[int | None]) -> None:
    """Refuses probabilities, and logits of a single class, whose softmax is always 1.

    Args:
        model: The model.
        shape: Shape of its output, the batch axis included.

    Raises:
        ValueError: If the last axis has a single entry, or is the batch axis, or the
            model ends in a softmax or sigmoid itself.
    """
    found = probability_layer(model)
    if found:
        raise ValueError(
            "`from_logits=True` applies a softmax to the outputs of the model, which "
            "are probabilities already. Leave `from_logits=False`. Received: model "
            f"'{model.name}' with the {found[0]} of layer '{found[1]}' as its output"
        )
    if len(shape) < 2 or shape[-1] == 1:
        raise ValueError(
            "`from_logits=True` applies a softmax over the last axis, which takes at "
            "least two logits: of one it is 1 for every input. For binary "
            "classification end the model in a sigmoid, such as "
            "`keras.layers.Dense(1, activation='sigmoid')`, and leave "
            f"`from_logits=False`. Received: model '{model.name}' with outputs of "
            f"shape {tuple(shape)}"
        )
