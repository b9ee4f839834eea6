"""What a softmax over the outputs of a model makes sense of."""

from collections.abc import Sequence

import keras


def check_logits(model: keras.Model, shape: Sequence[int | None]) -> None:
    """Refuses probabilities, and logits of a single class, whose softmax is always 1.

    Args:
        model: The model.
        shape: Shape of its output, the batch axis included.

    Raises:
        ValueError: If the last axis has a single entry, or is the batch axis, or the
            model ends in a softmax itself.
    """
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    for operation in {tensor._keras_history.operation for tensor in outputs}:
        activation = getattr(operation, "activation", None)
        if (
            isinstance(operation, keras.layers.Softmax)
            or activation is keras.activations.softmax
        ):
            raise ValueError(
                "`from_logits=True` applies a softmax to the outputs of the model, "
                "which are probabilities already. Leave `from_logits=False`. Received: "
                f"model '{model.name}' with the softmax of layer '{operation.name}' as "
                "its output"
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
