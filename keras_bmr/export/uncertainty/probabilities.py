"""Class probabilities from Gaussian logits."""

import statistics

import numpy as np
import tensorflow as tf

from keras_bmr.export.uncertainty.moments import Correlated, Moments

# Least number of fixed points where the softmax is evaluated.
_NUM_POINTS = 60
# Beyond it the covariance of dense layers costs more than the layers themselves.
MAX_SUMS = 32


def softmax_moments(logits: Moments) -> Moments:
    """Mean and variance of the softmax of Gaussian logits, over the last axis.

    The softmax is evaluated at fixed points that have the means and the variances of
    the logits. What stems from the weights of the last layer is uncorrelated. What went
    into it moves up to 32 logits of a vector together, with variances that include its
    covariance and the correlations that the layer names; others count as uncorrelated.

    Args:
        logits: Moments of the logits.

    Returns:
        Moments of the probabilities, whose means add up to 1.

    Example:
        >>> softmax_moments(Moments(tf.zeros((1, 4)), tf.ones((1, 4)))).mean.numpy()
        array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)

    References:
        Genz and Monahan, Stochastic integration rules for infinite regions, SIAM
        Journal on Scientific Computing 19 (1998) (points on randomly rotated axes).
    """
    if logits.is_certain:
        return Moments(tf.nn.softmax(logits.mean, axis=-1))
    num_classes = logits.mean.shape[-1]
    correlated = logits.correlated
    if correlated is not None and num_classes <= MAX_SUMS:
        moved = _correlated_points(num_classes, correlated)
    else:
        points = normal_points(num_classes)
        points = np.expand_dims(points, tuple(range(1, len(logits.mean.shape) - 1)))
        moved = tf.expand_dims(tf.sqrt(logits.variance), 1) * points
    values = tf.nn.softmax(tf.expand_dims(logits.mean, 1) + moved, axis=-1)
    mean = tf.reduce_mean(values, 1, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(values, mean), 1)
    return Moments(tf.squeeze(mean, 1), variance)


def _correlated_points(num_classes: int, logits: Correlated) -> tf.Tensor:
    """Points around a vector of logits, shape (batch, points, classes)."""
    entries = np.eye(num_classes, dtype="float32")
    shape = (-1, 1, num_classes)
    deviation = tf.reshape(tf.sqrt(logits.of_sums(tf.constant(entries))), shape)
    root = logits.root()
    num_directions = root.shape[1]
    if logits.rest is None:
        return deviation * (normal_points(num_directions) @ root.T)
    points = normal_points(num_classes + num_directions)
    own, passed = np.split(points, [num_classes], axis=-1)
    moved = deviation * (passed @ root.T)
    return moved + tf.reshape(tf.sqrt(logits.rest), shape) * own


def normal_points(dimension: int) -> np.ndarray:
    """Fixed points with the mean and the covariance of standard normal numbers.

    Up to 64 dimensions: randomly rotated axes, on each of them a point on either side
    of the origin, at distances that are quantiles of those of normal numbers. Beyond:
    normal draws and their mirror images.

    Args:
        dimension: Number of dimensions.

    Returns:
        Array of shape (points, dimension), at least 60 points for up to 64 dimensions.
    """
    generator = np.random.default_rng(0)
    if dimension > 2 * MAX_SUMS:
        half = generator.normal(size=(_NUM_POINTS // 2, dimension))
        half /= np.sqrt(np.mean(np.square(half), axis=0))
    else:
        num_frames = -(-_NUM_POINTS // (2 * dimension))
        levels = (np.arange(num_frames) + 0.5) / num_frames
        # Quantiles of the chi-squared distribution, by Wilson and Hilferty.
        ratio = 2 / (9 * dimension)
        normal = np.array([statistics.NormalDist().inv_cdf(level) for level in levels])
        squares = np.maximum(1 - ratio + normal * np.sqrt(ratio), 0) ** 3
        distances = np.sqrt(squares * dimension / squares.mean())
        frames = generator.normal(size=(num_frames, dimension, dimension))
        frames, _ = np.linalg.qr(frames)
        half = np.concatenate(
            [r * frame for r, frame in zip(distances, frames, strict=True)]
        )
    return np.concatenate([half, -half]).astype("float32")
