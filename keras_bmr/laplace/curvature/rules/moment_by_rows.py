"""The second moment of the patches of an image, without making patches.

Neighbouring patches overlap, so that their outer products repeat the same products of
pixels. Here every pair of pixels is multiplied once: pairs of rows first, as matrix
products over the examples, and then summed over the positions of the kernel.
"""

import math

import keras
import numpy as np
import tensorflow as tf

# Numbers in the products of the rows of an image with those at one distance.
_MAX_NUMBERS = 1 << 24


def output_sizes(layer: keras.layers.Layer, shape: tf.TensorShape) -> list[int]:
    """Size of a convolution's outputs along each axis of space.

    Args:
        layer: The convolution.
        shape: Shape of its padded inputs, (batch, *space, channels).

    Returns:
        Number of positions along each axis.
    """
    return [
        (size - (kernel - 1) * dilation - 1) // stride + 1
        for size, kernel, stride, dilation in zip(
            shape[1:-1],
            layer.kernel_size,
            layer.strides,
            layer.dilation_rate,
            strict=True,
        )
    ]


def rows_are_cheaper(layer: keras.layers.Layer, shape: tf.TensorShape) -> bool:
    """Whether `moment_by_rows` needs fewer multiplications than patches do.

    Args:
        layer: The convolution.
        shape: Shape of its padded inputs, (batch, *space, channels).

    Returns:
        True if it does, and fits in memory. False unless there are two axes of space.
    """
    if len(layer.kernel_size) != 2:
        return False
    _, height, width, channels = shape
    taps = math.prod(layer.kernel_size)
    by_rows = layer.kernel_size[0] * height * width**2
    by_patches = math.prod(output_sizes(layer, shape)) * taps**2
    fits = height * (width * channels) ** 2 <= _MAX_NUMBERS
    return fits and by_rows < by_patches


def moment_by_rows(layer: keras.layers.Layer, images: tf.Tensor) -> tf.Tensor:
    """The sum of outer products of all patches.

    Args:
        layer: A convolution with two axes of space and one group.
        images: Its padded inputs, of shape (batch, height, width, channels).

    Returns:
        Tensor of shape (p, p), p being taps * channels.
    """
    _, height, width, channels = images.shape
    taps_y, taps_x = layer.kernel_size
    dilation_y, dilation_x = layer.dilation_rate
    sizes = output_sizes(layer, images.shape)
    outputs_y, outputs_x = (
        np.arange(size) * stride
        for size, stride in zip(sizes, layer.strides, strict=True)
    )
    size = width * channels
    rows = tf.reshape(images, (-1, height, size))
    # Rows first: the matrix products over the examples are then of whole matrices.
    rows = tf.transpose(rows, (1, 0, 2))
    # Pairs of pixels (x, x') that meet at taps (i, j): x = output + i, x' = output + j.
    offsets = np.arange(taps_x) * dilation_x
    left, right = np.broadcast_arrays(
        (outputs_x + offsets[:, None])[:, None], (outputs_x + offsets[:, None])[None]
    )
    pairs = tf.constant(left * width + right)
    blocks = [[None] * taps_y for _ in range(taps_y)]
    for distance in range(taps_y):
        shift = distance * dilation_y
        products = tf.matmul(rows[: height - shift], rows[shift:], transpose_a=True)
        # Which rows each tap meets, as a sum over rows.
        num_taps = taps_y - distance
        meets = np.zeros((num_taps, height - shift))
        for tap in range(num_taps):
            meets[tap, outputs_y + tap * dilation_y] = 1
        summed = tf.matmul(
            tf.constant(meets, images.dtype), tf.reshape(products, (-1, size * size))
        )
        pixels = tf.reshape(summed, (num_taps, width, channels, width, channels))
        pixels = tf.transpose(pixels, (0, 1, 3, 2, 4))
        pixels = tf.reshape(pixels, (num_taps, width * width, channels, channels))
        moments = tf.reduce_sum(tf.gather(pixels, pairs, axis=1), 3)
        moments = tf.transpose(moments, (0, 1, 3, 2, 4))
        own = tf.reshape(moments, (num_taps, taps_x * channels, taps_x * channels))
        for tap, block in enumerate(tf.unstack(own)):
            blocks[tap][tap + distance] = block
            if distance:
                blocks[tap + distance][tap] = tf.transpose(block)
    return tf.concat([tf.concat(line, 1) for line in blocks], 0)
