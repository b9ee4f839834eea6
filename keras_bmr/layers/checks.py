"""What must hold of a model before anything is done with it."""

from collections.abc import Iterable
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
        ValueError: If it is no built Sequential or Functional model, or computes
            something else than its layers do.
    """
    if not isinstance(model, keras.Model) or _base_of(model) is None:
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
    for inner in model._flatten_layers(include_self=True, recursive=True):
        base = _base_of(inner)
        if base is not None and type(inner).call is not base.call:
            raise ValueError(
                f"Model '{inner.name}' of class {type(inner).__name__} has a `call` of "
                "its own, which a copy made of its layers would not have. Expected a "
                "Sequential or Functional model as Keras calls it: put what `call` "
                "adds into a layer."
            )


def check_plain_kernels(layers: Iterable[keras.layers.Layer]) -> None:
    """Checks that layers compute with the kernels that they store.

    Args:
        layers: Keras layers.

    Raises:
        ValueError: If a layer has a low-rank update beside its kernel, or a quantised
            kernel.
    """
    layers = list(layers)
    check_not_quantized(layers)
    for layer in layers:
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                f"Layer '{layer.name}' adds a low-rank update to its kernel "
                "(`enable_lora`), so that the stored kernel is not the one it computes "
                "with. Expected an ordinary layer: save the weights, which adds the "
                "update to the kernel, and load them into a model without it."
            )


def check_not_quantized(layers: Iterable[keras.layers.Layer]) -> None:
    """Checks that layers have floating-point weights.

    Args:
        layers: Keras layers.

    Raises:
        ValueError: If Keras has quantised one.
    """
    for layer in layers:
        if getattr(layer, "quantization_mode", None):
            raise ValueError(
                f"Layer '{layer.name}' was quantised by Keras "
                f"({layer.quantization_mode}). Expected floating-point weights: start "
                "from the model before `quantize`, and quantise the file instead, with "
                "`keras_bmr.export_tflite(model, path, quantize='int8')`."
            )


def _base_of(model: keras.layers.Layer) -> type | None:
    """Sequential or Functional, if a model is one of these."""
    bases = type(model).__mro__ if isinstance(model, keras.Model) else ()
    names = ("Functional", "Sequential")
    return next((base for base in bases if base.__name__ in names), None)
