"""Copying a model layer by layer, with other layers in place of some."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_bmr.layers.pruned_weights import StaysPruned, copy_mask, prune_variable
from keras_bmr.layers.variational import Variational

# What makes the training of a model its own.
_STEPS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


def copy_layer(
    layer: keras.Operation,
    change_config: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> keras.Operation:
    """A layer, or an operation of a Functional graph, made anew from its config.

    Args:
        layer: The layer or operation.
        change_config: Maps the config to that of the copy.

    Returns:
        One of the same class, without the variables' values.
    """
    config = change_config(layer.get_config())
    if type(layer) is not keras.layers.Lambda:
        return type(layer).from_config(config)
    # Its config has the function as bytecode, which Keras refuses to run. The function
    # itself is at hand.
    config |= {
        "function": layer.function,
        "output_shape": layer._output_shape,
        "mask": layer.mask,
        "arguments": layer.arguments,
    }
    return keras.layers.Lambda(**config)


def is_wrapper(layer: keras.layers.Layer) -> bool:
    """Whether a layer holds other layers that `convert_wrapper` may reach.

    Args:
        layer: The layer.

    Returns:
        True for the wrappers of Keras and for Bidirectional.
    """
    # Keras does not count Bidirectional among its wrappers.
    return isinstance(layer, (keras.layers.Wrapper, keras.layers.Bidirectional))


def convert_wrapper(
    wrapper: keras.layers.Layer,
    convert: Callable[[keras.layers.Layer], keras.layers.Layer],
) -> keras.layers.Layer:
    """A wrapper around what its inner layers convert to.

    Args:
        wrapper: A TimeDistributed or Bidirectional layer.
        convert: Maps an inner layer to the layer that takes its place.

    Returns:
        A wrapper of the same class.

    Raises:
        ValueError: If the wrapper is of another class, or wraps a model.
    """
    if isinstance(wrapper, keras.layers.Bidirectional):
        inner = {
            "layer": wrapper.forward_layer,
            "backward_layer": wrapper.backward_layer,
        }
    elif isinstance(wrapper, keras.layers.TimeDistributed):
        inner = {"layer": wrapper.layer}
    else:
        raise ValueError(
            f"Layer '{wrapper.name}' is a wrapper of class {type(wrapper).__name__}, "
            "whose inner layer cannot be exchanged. Only TimeDistributed and "
            f"Bidirectional can. Leave it as it is with `skip=['{wrapper.name}']`."
        )
    config = wrapper.get_config()
    for key, layer in inner.items():
        if isinstance(layer, keras.Model):
            raise ValueError(
                f"Layer '{wrapper.name}' ({type(wrapper).__name__}) wraps a model, "
                f"'{layer.name}', which is not supported. Wrap its layers one by one, "
                f"or leave it as it is with `skip=['{wrapper.name}']`."
            )
        config[key] = keras.saving.serialize_keras_object(convert(layer))
    return type(wrapper).from_config(config)


def clone_with(
    model: keras.Model, convert: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Copies a model and its weights, with converted layers.

    Args:
        model: A built Sequential or Functional model.
        convert: Maps a layer to the new layer that takes its place, of which the
            Bayesian side of either one starts or ends at the posterior means.

    Returns:
        A new, uncompiled model of the same class.

    Raises:
        ValueError: If a model that trains in a way of its own cannot be made anew.
    """
    with uncompiled(model):
        clone = keras.models.clone_model(model, clone_function=convert, recursive=True)
    clone = _with_class_of(model, clone)
    pairs = list(zip(within(model), within(clone), strict=True))
    for original, copied in pairs:
        if type(original) is type(copied):
            copy_state(original, copied)
        else:
            _copy_common_variables(original, copied)
    # Afterwards, since the random weights may belong to sublayers.
    for original, copied in pairs:
        if isinstance(original, Variational) and not isinstance(copied, Variational):
            means = original.posterior_means()
            for name, variable in original.location_variables(copied).items():
                variable.assign(means[name])
                if isinstance(variable.constraint, StaysPruned):
                    prune_variable(variable, original.mask(name).numpy())
        elif isinstance(copied, Variational) and not isinstance(original, Variational):
            locations = copied.location_variables(original)
            copied.assign_means(locations)
            for name, variable in locations.items():
                if isinstance(variable.constraint, StaysPruned):
                    copied.prune(name, variable.constraint.mask(variable).numpy())
    return clone


def _with_class_of(model: keras.Model, clone: keras.Model) -> keras.Model:
    """The clone as one of the class of the model, for which Keras takes its own."""
    model_class = type(model)
    if type(clone) is model_class:
        return clone
    if model_class.__init__ is keras.Sequential.__init__:
        first = [
            keras.Input(tensor.shape[1:], tensor.shape[0], tensor.dtype)
            for tensor in clone.inputs
        ]
        return model_class([*first, *clone.layers], name=clone.name)
    own = [n for n in _STEPS if getattr(model_class, n) is not getattr(keras.Model, n)]
    if own:
        raise ValueError(
            f"Model '{model.name}' of class {model_class.__name__} has {own} of its "
            "own, which its copy would lack: the class is made with other arguments "
            "than Keras' own. Leave `__init__` to Keras, or let it take (inputs, "
            "outputs, name)."
        )
    return clone


@contextlib.contextmanager
def uncompiled(model: keras.Model) -> Iterator[None]:
    """Keeps Keras from compiling a clone, for which the loss must be serialisable.

    Args:
        model: The model to be cloned.

    Yields:
        Nothing.
    """
    models = [m for m in within(model) if getattr(m, "compiled", False)]
    for compiled in models:
        compiled.compiled = False
    try:
        yield
    finally:
        for compiled in models:
            compiled.compiled = True


def within(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layer and all layers inside of it.

    Args:
        layer: A layer or model.

    Yields:
        Every layer once, in a fixed order.
    """
    return layer._flatten_layers(include_self=True, recursive=True)


def copy_state(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copies what Keras would save of a layer itself to one of the same class.

    Args:
        source: A built layer.
        target: A built layer of the same class.
    """
    # Variables alone are not enough: Normalization computes with tensors made of them,
    # and a vocabulary is no variable.
    store: dict[str, Any] = {}
    source.save_own_variables(store)
    if store:
        target.load_own_variables(store)
    if hasattr(source, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)
    for original, copied in zip(
        _own_variables(source), _own_variables(target), strict=True
    ):
        copy_mask(original, copied)


def _own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    return layer._trainable_variables + layer._non_trainable_variables


def _copy_common_variables(
    source: keras.layers.Layer, target: keras.layers.Layer
) -> None:
    """Copies the variables that layers of two classes have in common."""
    targets = {variable.name: variable for variable in _own_variables(target)}
    for variable in _own_variables(source):
        if variable.name in targets:
            target_variable = targets[variable.name]
            target_variable.assign(variable)
            # The location of a posterior has a mask of its own.
            if isinstance(target_variable.constraint, StaysPruned):
                copy_mask(variable, target_variable)
