"""What must hold of a model before anything is done with it."""

from typing import Any

import keras
import numpy as np


def check_model(model: Any) -> None:
    """Checks that something is a Keras model or layer.

    Args:
        model: What was passed as a model.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            "Expected a `keras.Model`, for example one that "
            "`keras_bmr.to_variational` returned. Received: "
            f"model={model!r} of class {type(model).__name__}"
        )


def check_finite(model: keras.Model) -> None:
    """Checks that no weight is NaN or infinite.

    Args:
        model: A built Keras model.

    Raises:
        ValueError: If one is; the message names it.
    """
    for variable in model.weights:
        if "float" not in variable.dtype:
            continue
        # NumPy knows no bfloat16.
        value = keras.ops.convert_to_numpy(
            keras.ops.cast(variable, "float32")
            if variable.dtype == "bfloat16"
            else variable
        )
        num_bad = value.size - np.count_nonzero(np.isfinite(value))
        if num_bad:
            raise ValueError(
                f"Expected finite weights. Nothing was changed or written. Received: "
                f"variable '{variable.path}' of model '{model.name}' with {num_bad} "
                f"NaN or infinite values out of {value.size}. Load or train the model "
                "anew; a lower learning rate or a longer warm-up of the KL divergence "
                "(`keras_bmr.callbacks.KLAnnealing`) may be what it needs."
            )


def check_clonable(model: Any) -> None:
    """Checks that the layers of a model can be exchanged.

    Args:
        model: What was passed as a model.

    Raises:
        ValueError: If it is no built Sequential or Functional model.
    """
    functional = hasattr(model, "get_config") and hasattr(model, "_functional")
    if not isinstance(model, keras.Model) or not (
        functional or type(model).__name__ == "Functional"
    ):
        raise ValueError(
            "Expected a Sequential or Functional Keras model, whose layers can be "
            f"exchanged. Received: {model!r} of class {type(model).__name__}. Build a "
            "subclassed model from `keras_bmr.layers.*Variational` layers directly."
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so that it has no weights yet. Call "
            "it on data once, or give it a `keras.Input`."
        )
