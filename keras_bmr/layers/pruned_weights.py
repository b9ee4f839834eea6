"""Pruned entries of any weight: what is pruned is zero, and stays so in training."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.layers.checks import check_plain_kernels
from keras_bmr.layers.registry import variational_class
from keras_bmr.layers.variable_paths import owner_of, variable_at
from keras_bmr.layers.variational import Variational


@keras.saving.register_keras_serializable(package="keras_bmr")
class StaysPruned(keras.constraints.Constraint):
    """Keeps pruned entries of an ordinary Keras weight at zero.

    Pruned entries are stored as -0.0, which computes like zero and which neither
    initializers nor optimisers make. So the mask is saved, loaded and copied with the
    weight itself, whatever the layer, and zeros that are not pruned may move.

    Args:
        constraint: A constraint of the user's that stays in force, or None.
    """

    def __init__(self, constraint: Any = None) -> None:
        self.constraint = keras.constraints.get(constraint)
        # One constraint may serve several variables, as in MultiHeadAttention.
        self._masks: dict[int, tf.Variable] = {}

    def mask(self, variable: keras.Variable) -> tf.Variable:
        """The boolean variable that is False where a weight is pruned.

        Args:
            variable: The weight.

        Returns:
            Variable with the shape of the weight.
        """
        if id(variable) not in self._masks:
            # The first call comes from within the training step, which must find
            # a variable and not a constant: more may be pruned later.
            with tf.init_scope():
                value = keras.ops.cast(variable.value, "float32").numpy()
                pruned = (value == 0) & np.signbit(value)
                self._masks[id(variable)] = tf.Variable(~pruned, trainable=False)
        return self._masks[id(variable)]

    def __call__(self, value: Any) -> tf.Tensor:
        """Returns the value with zeros where the weight is pruned."""
        mask = self.mask(value) if isinstance(value, keras.Variable) else None
        if self.constraint is not None:
            value = self.constraint(value)
        value = tf.convert_to_tensor(value)
        if mask is None:
            return value
        zero = tf.zeros((), value.dtype)
        if self.constraint is not None:
            # Multiplied by a mask of its own, a negative weight becomes -0.0.
            value = tf.where(value == 0, zero, value)
        return tf.where(mask, value, -zero)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {"constraint": keras.constraints.serialize(self.constraint)}


def weight_variable(layer: keras.layers.Layer, name: str) -> keras.Variable:
    """The variable that holds a weight, or the location of its posterior.

    Args:
        layer: A built Keras layer, Bayesian or not.
        name: Name of a weight that a Bayesian layer of this kind gives a posterior,
            such as "kernel" or "query_kernel", or the path of a variable in the
            layer, such as "gamma" or "cell.kernel".

    Returns:
        The variable.

    Raises:
        ValueError: If the layer has no such weight.
    """
    variable = variable_at(layer, _path(layer, name))
    if not isinstance(variable, keras.Variable):
        built = sorted(weight.name for weight in layer.weights) or "none: not built yet"
        raise ValueError(
            f"Layer '{layer.name}' has no weight of that name. Expected the name or "
            f"path of one of {built}. Received: name={name!r}"
        )
    return variable


def weight_mask(layer: keras.layers.Layer, name: str) -> np.ndarray:
    """Which entries of a weight are not pruned.

    Args:
        layer: A built Keras layer, Bayesian or not.
        name: As for `weight_variable`.

    Returns:
        Boolean array with the shape of the weight, False where pruned. An entry that
        merely is zero is not pruned.

    Raises:
        ValueError: If the layer has no such weight.
    """
    variable = weight_variable(layer, name)
    random_name = _random_name(layer, variable)
    if random_name is not None:
        return layer.mask(random_name).numpy()
    if isinstance(variable.constraint, StaysPruned):
        return variable.constraint.mask(variable).numpy()
    return np.ones(variable.shape, bool)


def prune_weight(layer: keras.layers.Layer, name: str, keep: Any) -> None:
    """Prunes entries of a weight; what was pruned before stays so.

    Pruned entries are zero and stay so in training and after saving. A weight of an
    ordinary layer gets a constraint, which is saved in the config of the layer;
    loading the model then needs `import keras_bmr`. A model that was fitted before
    has a training step that knows nothing of it: compile the model again. An
    optimiser that overwrites the weights with moving averages (`use_ema=True`) does
    so after all constraints.

    Args:
        layer: A built Keras layer, Bayesian or not.
        name: As for `weight_variable`.
        keep: Boolean array with the shape of the weight, False to prune.

    Raises:
        ValueError: If the layer has no such weight, or `keep` another shape, or the
            layer computes with something else than the weight it stores.

    Example:
        >>> kernel = layer.kernel.numpy()
        >>> keras_bmr.pruning.prune_weight(layer, "kernel", abs(kernel) > 0.1)
    """
    check_plain_kernels([layer])
    variable = weight_variable(layer, name)
    keep = np.asarray(keep, bool)
    if keep.shape != tuple(variable.shape):
        raise ValueError(
            f"`keep` must have the shape of weight '{name}' of layer '{layer.name}', "
            f"{tuple(variable.shape)}. Received: keep.shape={keep.shape}"
        )
    random_name = _random_name(layer, variable)
    if random_name is not None:
        layer.prune(random_name, keep)
        return
    if not isinstance(variable.constraint, StaysPruned):
        _constrain(layer, name, variable)
    prune_variable(variable, keep)


def prune_variable(variable: keras.Variable, keep: np.ndarray) -> None:
    """Prunes entries of a variable that has a `StaysPruned` constraint.

    Args:
        variable: The variable of an ordinary weight.
        keep: Boolean array of its shape, False to prune.
    """
    mask = variable.constraint.mask(variable)
    mask.assign(mask.numpy() & keep)
    value = variable.value
    zero = tf.zeros((), value.dtype)
    variable.assign(tf.where(mask, tf.where(value == 0, zero, value), -zero))


def release_unpruned_weights(layer: keras.layers.Layer) -> None:
    """Takes the constraint off weights of which no entry is pruned.

    Args:
        layer: A built Keras layer, whose config then speaks of no such constraint.
    """
    constrained = [v for v in layer.weights if isinstance(v.constraint, StaysPruned)]
    # One constraint may serve several variables.
    needed = {
        id(variable.constraint)
        for variable in constrained
        if not variable.constraint.mask(variable).numpy().all()
    }
    for variable in constrained:
        if id(variable.constraint) not in needed:
            variable.constraint = variable.constraint.constraint
    owners = list(layer._flatten_layers())
    for owner in owners:
        for attribute, value in list(vars(owner).items()):
            if isinstance(value, StaysPruned) and id(value) not in needed:
                setattr(owner, attribute, value.constraint)
    for owner in owners:
        save_constraints(owner)


def renew_training_step(model: keras.Model) -> None:
    """Lets a model that was fitted before obey constraints that are new.

    Args:
        model: A Keras model. Without a training step nothing is done.
    """
    if getattr(model, "train_function", None) is not None:
        # The one that was compiled before knows nothing of them.
        model.make_train_function(force=True)


def copy_mask(source: keras.Variable, target: keras.Variable) -> None:
    """Prunes an ordinary weight where another one is pruned.

    Args:
        source: A variable.
        target: One of the same shape.
    """
    if isinstance(source.constraint, StaysPruned):
        if not isinstance(target.constraint, StaysPruned):
            target.constraint = StaysPruned(target.constraint)
        prune_variable(target, source.constraint.mask(source).numpy())


def _path(layer: keras.layers.Layer, name: str) -> str:
    """The path of a weight that may go by the name of a Bayesian layer's."""
    target = type(layer)
    if not isinstance(layer, Variational):
        target = variational_class(target)
    if target is None:
        return name
    return {**target.RANDOM_WEIGHTS, **target.BIASES}.get(name, name)


def _random_name(layer: keras.layers.Layer, variable: keras.Variable) -> str | None:
    """Name of the random weight whose location a variable is."""
    if not isinstance(layer, Variational):
        return None
    locations = layer.location_variables(layer)
    return next((n for n, v in locations.items() if v is variable), None)


# --- Where the constraint is saved ---

_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def _constrain(layer: keras.layers.Layer, name: str, variable: keras.Variable) -> None:
    """Gives a variable the constraint, and its layer's config as well."""
    constraint = StaysPruned(variable.constraint)
    variable.constraint = constraint
    owner, attribute = owner_of(layer, _path(layer, name))
    keys = [attribute, attribute.removesuffix("_kernel"), "depthwise"]
    for key in keys if "kernel" in attribute else keys[:1]:
        if hasattr(owner, f"{key}_constraint"):
            setattr(owner, f"{key}_constraint", constraint)
            break
    save_constraints(layer)


def save_constraints(layer: keras.layers.Layer) -> None:
    """Lets the config of an attention layer speak of its projections' constraints.

    Args:
        layer: Any layer; nothing is done to others, whose config knows already.
    """
    if not isinstance(layer, _ATTENTION):
        return
    for projection in layer._flatten_layers(include_self=False):
        for key in ("kernel", "bias"):
            constraint = getattr(projection, f"{key}_constraint", None)
            # One argument stands for all projections.
            attribute = f"_{key}_constraint"
            if not hasattr(layer, attribute):
                attribute = f"{key}_constraint"
            if isinstance(constraint, StaysPruned):
                setattr(layer, attribute, constraint)
