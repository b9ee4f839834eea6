"""Squares of the gradients of single examples, without holding all gradients."""

import tensorflow as tf

# Gradients of single examples, numbers at a time. Small enough to stay in the cache of
# a processor while they are squared and summed.
_CHUNK = 1 << 20


def sum_of_squared_gradients(inputs: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """The sum over examples of the squared gradients of a kernel.

    Args:
        inputs: Tensor of shape (batch, positions, groups, p).
        outputs: Cotangents of shape (batch, positions, groups, q).

    Returns:
        Tensor of shape (groups, p, q): positions are summed before squaring.
    """
    groups, p, q = inputs.shape[2], inputs.shape[3], outputs.shape[3]
    if groups == 1:
        inputs, outputs = inputs[:, :, 0], outputs[:, :, 0]
    chunk = max(1, _CHUNK // (groups * p * q))
    num_examples = tf.shape(inputs)[0]

    def of(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        # Products and sums by matrices: several times as fast as einsum and reduce_sum.
        if groups == 1:
            products = tf.matmul(right, left, transpose_a=True)
        else:
            products = tf.einsum("npgi,npgj->ngji", left, right)
        rows = tf.reshape(tf.square(products), (-1, groups * q * p))
        return tf.matmul(tf.ones((1, tf.shape(rows)[0]), rows.dtype), rows)

    def add(start: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        end = start + chunk
        return end, total + of(inputs[start:end], outputs[start:end])

    def in_chunks() -> tf.Tensor:
        return tf.while_loop(
            lambda start, _: start < num_examples,
            add,
            (0, tf.zeros((1, groups * q * p), inputs.dtype)),
            parallel_iterations=1,
        )[1]

    # Most often all examples fit into one chunk, which needs no loop.
    total = tf.cond(num_examples <= chunk, lambda: of(inputs, outputs), in_chunks)
    return tf.transpose(tf.reshape(total, (groups, q, p)), (0, 2, 1))
