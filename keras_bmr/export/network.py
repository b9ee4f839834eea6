"""The deterministic float32 network that is exported in a model's place."""

import dataclasses
import re

import keras

from keras_bmr.layers import to_deterministic, variational_layers
from keras_bmr.layers.checks import check_finite, check_not_quantized
from keras_bmr.layers.cloning import clone_with, copy_layer

# What the interpreter takes as an input and Keras can produce.
_INPUT_DTYPES = ("float32", "int32", "int64", "int8", "uint8", "bool")
_HALF_PRECISION = ("float16", "bfloat16")
_OTHER_PRECISION = (*_HALF_PRECISION, "float64")


@dataclasses.dataclass(frozen=True)
class InputSpecification:
    """Name, shape without the batch axis, and dtype of one input."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def deterministic_network(model: keras.Model) -> keras.Model:
    """Returns the network of posterior means in float32, ready to be traced.

    Args:
        model: A built Keras model, Bayesian or not. It stays as it is.

    Returns:
        A Functional or Sequential model of ordinary layers: `model` itself where
        nothing had to change.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If it is not built, holds a value that is not finite, keeps state
            between calls, or is a subclassed model of unknown input shape.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Invalid value for `model`, expected a `keras.Model`. Received: "
            f"model={model!r} of type {type(model)}"
        )
    if not model.built:
        raise ValueError(
            f"The model `{model.name}` is not built, so its weights do not exist yet. "
            "Start it with `keras.Input(shape)` or call it on data before the export."
        )
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False):
            raise ValueError(
                "A layer that keeps its state between calls cannot be exported; "
                "expected `stateful=False`. Received: "
                f"layer `{layer.name}` of type {type(layer).__name__}"
            )
    check_not_quantized(model._flatten_layers())
    check_finite(model)
    if variational_layers(model):
        model = to_deterministic(model)
        check_finite(model)
    if not getattr(model, "inputs", None):
        model = _functional(model)
    if _computes_in(model, _OTHER_PRECISION):
        model = clone_with(model, lambda layer: copy_layer(layer, _replace_dtype))
    return model


def reference(model: keras.Model, network: keras.Model) -> keras.Model:
    """Returns the model whose outputs the file must have.

    Args:
        model: The model that a user exports.
        network: Result of `deterministic_network`.

    Returns:
        `model` itself, so that the comparison covers every step of the export; but
        `network` where the model rounds to half precision or has no defined inputs.
    """
    same_inputs = bool(getattr(model, "inputs", None))
    half = _computes_in(model, _HALF_PRECISION)
    return model if same_inputs and not half else network


def input_specifications(
    network: keras.Model, batch_size: int
) -> list[InputSpecification]:
    """Returns one specification per input, in the order of `network.inputs`.

    Args:
        network: Result of `deterministic_network`.
        batch_size: Number of examples per call, to be checked against the model.

    Returns:
        The inputs with names that are unique and free of special characters.

    Raises:
        ValueError: If a shape is not fixed, the model fixes another batch size, or
            TFLite has no such input dtype.
    """
    specifications = []
    names = set()
    for position, tensor in enumerate(network.inputs):
        batch, *shape = tensor.shape
        if None in shape:
            raise ValueError(
                "TFLite kernels need fixed shapes; only the batch axis of an input "
                "may be None. Rebuild the model with `keras.Input` of a full shape. "
                f"Received: input `{tensor.name}` of shape {tuple(tensor.shape)}"
            )
        if batch not in (None, batch_size):
            raise ValueError(
                f"The model's input `{tensor.name}` fixes a batch of {batch}; "
                f"expected the same `batch_size`. Received: batch_size={batch_size}"
            )
        if tensor.dtype not in _INPUT_DTYPES:
            raise ValueError(
                f"Expected inputs of dtype {', '.join(_INPUT_DTYPES)}; build the model "
                "with `keras.Input(shape, dtype=...)` of one of them. Received: "
                f"input `{tensor.name}` of dtype {tensor.dtype}"
            )
        name = re.sub(r"\W", "_", tensor.name)
        # Keras counts unnamed tensors per process; files shall not depend on it.
        if name.startswith("keras_tensor") or name in names:
            name = f"input_{position}"
        names.add(name)
        specifications.append(InputSpecification(name, tuple(shape), tensor.dtype))
    return specifications


def call_flat(network: keras.Model, tensors: list) -> list:
    """Calls a model on the flat list of its inputs; returns its flat outputs."""
    if isinstance(network, keras.Sequential):
        (inputs,) = tensors
    else:
        inputs = keras.tree.pack_sequence_as(network.input, list(tensors))
    return keras.tree.flatten(network(inputs, training=False))


def _functional(model: keras.Model) -> keras.Model:
    """Returns a Functional model around a subclassed one of known input shape."""
    shape = (model.get_build_config() or {}).get("input_shape")
    if not (
        isinstance(shape, (tuple, list))
        and all(size is None or isinstance(size, int) for size in shape)
    ):
        raise ValueError(
            "A subclassed model can be exported if it was built with the shape of its "
            "only input. Call `model.build(input_shape)` or express it as a Functional "
            f"model. Received: model `{model.name}` of type {type(model).__name__} "
            f"with the build shape {shape}"
        )
    inputs = keras.Input(batch_shape=(None, *shape[1:]))
    return keras.Model(inputs, model(inputs, training=False), name=model.name)


def _computes_in(model: keras.Model, dtypes: tuple[str, ...]) -> bool:
    """Returns whether a layer computes in one of the dtypes."""
    return any(layer.compute_dtype in dtypes for layer in model._flatten_layers())


def _replace_dtype(config):
    """Returns a layer's config with float32 in every `dtype` entry."""
    if isinstance(config, dict):
        return {
            key: "float32"
            if key == "dtype" and any(name in str(value) for name in _OTHER_PRECISION)
            else _replace_dtype(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_replace_dtype(value) for value in config)
    return config
