"""Ranges of activations from data, where tfmot starts at -6 and 6 everywhere."""

import numpy as np
import tensorflow as tf
import tf_keras

# What tfmot keeps of a range in a training step (`MovingAvgQuantize`).
_EMA_DECAY = 0.999
_ANY_BOUNDS = ("_min:0", "_max:0")
_ACTIVATION_BOUNDS = tuple(
    f"{kind}{bound}"
    for kind in ("output", "post_activation", "pre_activation")
    for bound in _ANY_BOUNDS
)
_MAX_PASSES = 20
_CONVERGED = 0.01


def calibrate(aware: tf_keras.Model, inputs: list[np.ndarray]) -> None:
    """Sets the ranges of activations to those that data have.

    tfmot moves a range by a thousandth of the way to that of the batch in a training
    step, so that thousands of steps would pass before rounding is what it will be. A
    step of a known share of the way tells where it leads to; each layer needs the
    ranges of those before it, hence several passes.

    Args:
        aware: A model that tfmot's `quantize_apply` made. Nothing else of it changes.
        inputs: One array per input, a few hundred examples.
    """
    ranges = [v for v in aware.weights if v.name.endswith(_ACTIVATION_BOUNDS)]
    # A pass sets the ranges of kernels and inputs to those that they have.
    others = [(v, v.numpy()) for v in aware.weights if not v.name.endswith(_ANY_BOUNDS)]
    tensors = [tf.constant(array) for array in inputs]
    for _ in range(_MAX_PASSES):
        before = [v.numpy().astype("float64") for v in ranges]
        # The ranges move in training only.
        aware(tensors, training=True)
        after = []
        for variable, old in zip(ranges, before, strict=True):
            moved = variable.numpy().astype("float64")
            value = (moved - _EMA_DECAY * old) / (1 - _EMA_DECAY)
            # Every range contains zero, rounding of the division or not.
            is_lower = variable.name.endswith("_min:0")
            after.append(np.minimum(value, 0) if is_lower else np.maximum(value, 0))
            variable.assign(after[-1])
        width = max(np.max(np.abs(value)) for value in after)
        change = max(
            np.max(np.abs(new - old)) for new, old in zip(after, before, strict=True)
        )
        if change <= _CONVERGED * width:
            break
    # Moving statistics of batch normalisation and counters have moved as well.
    for variable, value in others:
        variable.assign(value)
