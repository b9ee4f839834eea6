"""Checks of arguments; values only where known: outside a `tf.function`."""

from __future__ import annotations

import functools

import tensorflow as tf
import tensorflow_probability as tfp


def check_alike(
    posterior: tfp.distributions.Distribution,
    prior: tfp.distributions.Distribution,
    reduced_prior: tfp.distributions.Distribution,
) -> None:
    """Raises unless all are of one dtype, and their shapes go together."""
    arguments = {
        "posterior": posterior,
        "prior": prior,
        "reduced_prior": reduced_prior,
    }
    for name, argument in arguments.items():
        if not isinstance(argument, tfp.distributions.Distribution):
            raise TypeError(
                f"`{name}` must be a `tfp.distributions` distribution. "
                f"Received: {argument!r}"
            )
    dtypes = [tf.as_dtype(argument.dtype).name for argument in arguments.values()]
    if len(set(dtypes)) > 1:
        raise ValueError(
            "posterior, prior and reduced_prior must have the same dtype. "
            f"Received: {', '.join(dtypes)}. Give their parameters as tensors of one "
            "dtype, for example `tf.constant(0.1, tf.float64)`."
        )
    shapes = [argument.event_shape for argument in arguments.values()]
    if not all(shape.is_compatible_with(shapes[0]) for shape in shapes):
        raise ValueError(
            "posterior, prior and reduced_prior must have the same event shape. "
            f"Received: {', '.join(str(shape) for shape in shapes)}. Wrap batched "
            "distributions in `tfd.Independent(d, reinterpreted_batch_ndims=k)` to "
            "turn their last k batch dimensions into event dimensions."
        )
    batches = [argument.batch_shape for argument in arguments.values()]
    try:
        functools.reduce(tf.broadcast_static_shape, batches)
    except ValueError as error:
        raise ValueError(
            "The batch shapes of posterior, prior and reduced_prior must broadcast. "
            f"Received: {', '.join(str(shape) for shape in batches)}"
        ) from error


def check_finite(**parameters: tf.Tensor) -> None:
    """Raises if a parameter holds NaN or infinity; silent in a graph."""
    if not tf.executing_eagerly():
        return
    for name, value in parameters.items():
        finite = tf.math.is_finite(value)
        if not bool(tf.reduce_all(finite)):
            _raise(name, value, tf.logical_not(finite), "finite")


def check_positive(**parameters: tf.Tensor) -> None:
    """Raises if a parameter is not positive and finite; silent in a graph."""
    check_finite(**parameters)
    if not tf.executing_eagerly():
        return
    for name, value in parameters.items():
        if value.shape.num_elements() and not bool(tf.reduce_min(value) > 0):
            _raise(name, value, value <= 0, "positive")


def check_proper(margin: tf.Tensor, criterion: str) -> None:
    """Raises if `margin`, which must be positive, is not; silent in a graph."""
    if not tf.executing_eagerly() or not margin.shape.num_elements():
        return
    if bool(tf.reduce_min(margin) > 0):
        return
    count = int(tf.math.count_nonzero(margin <= 0))
    raise ValueError(
        f"The reduced posterior is improper in {count} of "
        f"{margin.shape.num_elements()} entries: {criterion} must be positive. "
        f"Received: {float(tf.reduce_min(margin))} at worst. The reduced prior is too "
        "broad for the posterior: choose a reduced prior no broader than the prior, "
        "or keep these parameters out of the reduction."
    )


def _raise(name: str, value: tf.Tensor, bad: tf.Tensor, wanted: str) -> None:
    """Raises a ValueError that counts the bad entries and shows the first."""
    first = tf.boolean_mask(value, bad)[0] if value.shape.rank else value
    raise ValueError(
        f"The {name.replace('_', ' ')} must be {wanted}. Received: {float(first)} "
        f"(in {int(tf.math.count_nonzero(bad))} of {value.shape.num_elements()} "
        "entries)."
    )
