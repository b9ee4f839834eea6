"""What a layer keeps for one weight that has a posterior."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.variables import AutocastScope


@dataclasses.dataclass
class RandomWeight:
    """The variables of one weight tensor that has a posterior."""

    location: keras.Variable
    mask: keras.Variable
    posterior_state: dict[str, keras.Variable]
    prior_state: dict[str, keras.Variable]


class KLRegularizer(keras.regularizers.Regularizer):
    """Adds the weighted KL divergence of one weight to the loss.

    Sits on the location variable, so that Keras counts it once for a shared layer
    and leaves it out for a frozen one. A regularizer of the user's stays in force.
    """

    def __init__(self, layer: Any, name: str, user_regularizer: Any) -> None:
        self._layer = layer
        self._name = name
        self._user_regularizer = user_regularizer

    def __call__(self, value: Any) -> tf.Tensor:
        """Returns the term that the loss gains."""
        layer = self._layer
        if layer.num_examples is None:
            raise ValueError(
                f"Layer '{layer.name}' does not know the number of training examples, "
                "by which the KL divergence is divided so that it stands in the right "
                "proportion to the mean loss of a batch. Call "
                "`keras_bmr.set_num_examples(model, num_examples=len(x_train))` "
                "before training, or pass `num_examples` to "
                "`keras_bmr.to_variational`. Received: num_examples=None"
            )
        divergence = layer.divergence(self._name)
        loss = tf.cast(layer.kl_weight.value, divergence.dtype) * divergence
        if self._user_regularizer is not None:
            loss += self._user_regularizer(value)
        # Keras sums the losses, those of the data being in this dtype.
        return tf.cast(loss, keras.backend.floatx())


class PrunedStay(keras.constraints.Constraint):
    """Undoes what an optimiser does to pruned entries without a gradient.

    They have none, but momentum from before the pruning would still move them. A
    constraint of the user's stays in force. Being what an optimiser calls last, and
    once per step, it also lets the layer set what has a closed form.
    """

    def __init__(
        self,
        mask: keras.Variable,
        pruned_location: float,
        user_constraint: Any,
        after_step: Callable[[tf.Tensor], None],
    ) -> None:
        self._mask = mask
        self._pruned_location = pruned_location
        self._user_constraint = user_constraint
        self._after_step = after_step

    def __call__(self, value: Any) -> tf.Tensor:
        """Returns the value with the location of a pruned weight where it is one."""
        if self._user_constraint is not None:
            value = self._user_constraint(value)
        value = tf.convert_to_tensor(value)
        mask = self._mask.value
        # Runs after every step, and mostly there is nothing to do.
        value = tf.cond(
            tf.reduce_all(mask),
            lambda: value,
            lambda: tf.where(mask, value, tf.cast(self._pruned_location, value.dtype)),
        )
        self._after_step(value)
        return value


def uncast(variable: keras.Variable) -> tf.Tensor:
    """The value in the variable's own dtype, also inside a mixed-precision call."""
    with AutocastScope(None):
        return variable.value
