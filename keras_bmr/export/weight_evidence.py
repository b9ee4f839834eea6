"""What the posterior of a weight says about the grid that it is rounded to."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.distributions import DiscreteNormal
from keras_bmr.export.weight_formats import RoundedWeight
from keras_bmr.export.weight_posteriors import FileWeight
from keras_bmr.reduction import model_reduction


def resolved_bits(weight: FileWeight, max_loss: float) -> np.ndarray:
    """The number of bits that count the points of a grid of a given cost.

    Args:
        weight: The weight.
        max_loss: Nats per weight that uniform rounding errors cost on the grid.

    Returns:
        Array of shape `(channels,)`, see `WeightPrecision.bits`.
    """
    axes = weight.channel_axes
    scale = np.where(weight.keep, weight.scale, np.inf).astype(np.float64)
    num_kept = np.sum(weight.keep, axis=axes)
    precision = np.sum(scale**-2.0, axis=axes) / np.maximum(num_kept, 1)
    largest = np.max(np.abs(weight.mean), axis=axes)
    # The step is sqrt(24 max_loss / precision).
    num_steps = largest * np.sqrt(precision / (24 * max_loss))
    return np.log2(2 * num_steps + 1)


def grid_delta_f(rounded: RoundedWeight) -> float:
    """Log Bayes factor of a prior on the grid of a format against the prior.

    Args:
        rounded: The weight in the format.

    Returns:
        Sum over the weights that are not pruned, in nats.
    """
    if rounded.format.name == "float32":
        return 0.0
    weight = rounded.weight
    step = np.broadcast_to(rounded.step, weight.mean.shape)
    mean, scale, prior_loc, prior_scale, step = (
        tf.constant(array[weight.keep], tf.float64)
        for array in (
            weight.mean,
            weight.scale,
            weight.prior_loc,
            weight.prior_scale,
            step,
        )
    )
    delta_f = model_reduction(
        tfd.Normal(mean, scale),
        tfd.Normal(prior_loc, prior_scale),
        DiscreteNormal(prior_loc, prior_scale, step),
    ).delta_f
    return float(tf.reduce_sum(delta_f))
