"""When weights are drawn, and the noise they are drawn with."""

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

_state = threading.local()


@contextlib.contextmanager
def sampling(seed: Any = None) -> Iterator[None]:
    """Makes every Bayesian layer draw its weights, also outside training.

    Batch normalisation and dropout stay in inference mode, so that the only
    randomness of the output is that of the weights.

    Args:
        seed: Integer or scalar integer tensor. With it a draw depends on `seed`
            and on the layer alone, and leaves no trace in the noise of a training
            that follows; without it each layer's own random stream advances.

    Yields:
        Nothing.

    Note:
        Call the model itself. `model.predict` runs a function that Keras compiles
        once, inside or outside of this scope, and uses ever after.

    Example:
        >>> with keras_bmr.posteriors.sampling(seed=1):
        ...     y = model(x, training=False)
    """
    previous = getattr(_state, "active", None)
    _state.active = (seed,)
    try:
        yield
    finally:
        _state.active = previous


def is_sampling() -> bool:
    """Whether the caller stands inside a `sampling` scope.

    Returns:
        True inside `sampling`.
    """
    return getattr(_state, "active", None) is not None


def scope_seed() -> Any:
    """The seed given to the innermost `sampling` scope.

    Returns:
        The seed, or None outside any scope and where the scope has no seed.
    """
    active = getattr(_state, "active", None)
    return None if active is None else active[0]


def fold_replica(seed: tf.Tensor) -> tf.Tensor:
    """Makes a seed differ between the replicas of a `tf.distribute` strategy.

    Args:
        seed: Integer tensor of shape (2,).

    Returns:
        The seed, with the replica's number folded in if there is more than one.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    return fold_in(seed, context.replica_id_in_sync_group)


def fold_in(seed: tf.Tensor, number: Any) -> tf.Tensor:
    """A seed of its own for each number.

    Args:
        seed: Integer tensor of shape (2,).
        number: Integer or scalar integer tensor.

    Returns:
        Integer tensor of shape (2,).
    """
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def standard_normal(
    shape: Sequence[int] | tf.Tensor, seed: tf.Tensor, dtype: Any
) -> tf.Tensor:
    """Standard normal noise from the counter-based Philox generator.

    The default generator is an order of magnitude slower under XLA on a CPU. Bits
    become normals by the method of Box and Muller, which makes a training step of a
    dense network a few per cent faster than `tf.random.stateless_normal` does. Up to
    rounding |noise| is at most 5.8.

    Args:
        shape: Shape of the result.
        seed: Integer tensor of shape (2,).
        dtype: Floating dtype of the result.

    Returns:
        Tensor of independent N(0, 1) values.

    References:
        Box and Muller, A note on the generation of random normal deviates, Annals
        of Mathematical Statistics 29 (1958).
    """
    dtype = tf.as_dtype(dtype)
    if dtype == tf.float64:
        return tf.random.stateless_normal(shape, seed, dtype=dtype, alg="philox")
    # Both branches are the same noise up to its sign. XLA computes a conditional once,
    # where it would repeat plain noise in every operation that uses it.
    noise = tf.cond(
        seed[0] < 0, lambda: -_box_muller(shape, seed), lambda: _box_muller(shape, seed)
    )
    return tf.cast(noise, dtype)


def _box_muller(shape: Sequence[int] | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    shape = tf.convert_to_tensor(shape, tf.int32)
    size = tf.reduce_prod(shape)
    bits = tf.random.stateless_uniform(
        (2, (size + 1) // 2), seed, None, None, dtype=tf.uint32, alg="philox"
    )

    def uniform(word: tf.Tensor) -> tf.Tensor:
        # Midpoints of 2^23 intervals of (0, 1), never 0, from the high bits.
        high = tf.bitwise.right_shift(word, tf.constant(9, tf.uint32))
        return (tf.cast(tf.bitcast(high, tf.int32), tf.float32) + 0.5) * 2.0**-23

    def bit(number: int) -> tf.Tensor:
        return tf.bitwise.bitwise_and(bits[1], tf.constant(1 << number, tf.uint32)) > 0

    radius = tf.sqrt(-2.0 * tf.math.log(uniform(bits[0])))
    # An angle within an eighth of the circle, where few terms of the series of sine
    # and cosine are exact in float32; three of the unused bits choose the eighth.
    angle = uniform(bits[1]) * (math.pi / 4)
    square = angle * angle
    sine = angle * (1 - square / 6 * (1 - square / 20 * (1 - square / 42)))
    cosine = 1 - square / 2 * (1 - square / 12 * (1 - square / 30 * (1 - square / 56)))
    first = tf.where(bit(0), sine, cosine) * tf.where(bit(1), radius, -radius)
    second = tf.where(bit(0), cosine, sine) * tf.where(bit(2), radius, -radius)
    return tf.reshape(tf.concat([first, second], 0)[:size], shape)


def random_signs(
    shape: Sequence[int] | tf.Tensor, seed: tf.Tensor, dtype: Any
) -> tf.Tensor:
    """Independent signs, -1 or +1 with equal probability.

    Args:
        shape: Shape of the result.
        seed: Integer tensor of shape (2,).
        dtype: Floating dtype of the result.

    Returns:
        Tensor of signs.
    """
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox"
    )
    return tf.where(bits < 0, tf.ones((), dtype), -tf.ones((), dtype))
