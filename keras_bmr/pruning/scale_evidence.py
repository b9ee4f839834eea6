"""The log Bayes factor of each unit as a function of its prior scale, tabulated."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.distributions import regularized_log_scale
from keras_bmr.reduction import model_reduction

# In log scale. What varies is at most like exp(-2 log s), of which the cubic between
# nodes is off by 4e-6.
_STEP = 0.1


def narrowed(prior: tfd.Normal, scale: tf.Tensor) -> tfd.Normal:
    """The prior times N(0, scale^2), normalised: never wider than the prior.

    Args:
        prior: `tfd.Normal` with mean 0.
        scale: Positive tensor; broadcasts.

    Returns:
        N(0, 1 / (1/scale^2 + 1/prior scale^2)).
    """
    log_scale = regularized_log_scale(tf.math.log(scale), tf.math.log(prior.scale))
    return tfd.Normal(tf.zeros((), log_scale.dtype), tf.exp(log_scale))


class ScaleEvidence:
    """sum_j delta_f(w_ij) of N(0, s_i^2) over the weights of a unit, for any s_i.

    The reduced prior is N(0, s_i^2) times the full prior: what a wider prior than
    that of training would have found, its posterior does not tell. Of weights that
    the data said nothing of, posteriors deviate from the prior by noise alone, and
    a wide reduced prior would take it for evidence, without bound.

    A sum over many weights, but a smooth function of one variable for each unit, so
    it is evaluated once on a grid of log s_i; afterwards its cost does not depend on
    the number of weights. Between nodes it is a cubic with the exact values and
    slopes. Beyond them it is constant, as it is where s_i^2 is far below or above
    all variances.

    Args:
        posterior: `tfd.Normal` with the batch shape of the weight.
        prior: `tfd.Normal` with mean 0, the full prior; broadcasts to it.
        scale_shape: Shape of the scales, of the weight's rank; 1 where one scale
            is shared.

    Attributes:
        shared_axes: The axes over which a scale is shared, those of size 1.

    Raises:
        ValueError: If a parameter is NaN or infinite, a scale not positive, or the
            prior has another mean.
    """

    def __init__(
        self,
        posterior: tfd.Normal,
        prior: tfd.Normal,
        scale_shape: tuple[int, ...],
    ) -> None:
        self._scale_shape = scale_shape
        self.shared_axes = tuple(i for i, size in enumerate(scale_shape) if size == 1)
        posterior, prior = (
            tfd.Normal(tf.cast(q.loc, tf.float64), tf.cast(q.scale, tf.float64))
            for q in (posterior, prior)
        )
        if np.any(prior.loc != 0):
            raise ValueError(
                "The full prior must have mean 0. Received: a prior with "
                f"loc={prior.loc.numpy()}"
            )
        # Traced, the reduction checks nothing. This one raises.
        model_reduction(posterior, prior, prior)
        low = np.log(min(np.min(posterior.scale), np.min(prior.scale))) - 8
        high = np.log(np.max(prior.scale)) + 8

        @tf.function
        def evidence(log_scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_unit = tf.fill(scale_shape, log_scale)
            with tf.GradientTape() as tape:
                tape.watch(of_unit)
                reduced = narrowed(prior, tf.exp(of_unit))
                delta_f = model_reduction(posterior, prior, reduced).delta_f
                total = tf.reduce_sum(delta_f, axis=self.shared_axes, keepdims=True)
            return total, tape.gradient(total, of_unit)

        self._low = float(low)
        self._num_nodes = int(np.ceil((high - low) / _STEP)) + 1
        table = [
            evidence(tf.constant(low + _STEP * node, tf.float64))
            for node in range(self._num_nodes)
        ]
        # Both of shape (units, nodes).
        self._values, self._slopes = (
            tf.constant(np.stack([np.ravel(part) for part in parts], axis=-1))
            for parts in zip(*table, strict=True)
        )

    def __call__(self, log_scale: tf.Tensor) -> tf.Tensor:
        """Evaluates the function of each unit.

        Args:
            log_scale: Float64 tensor of shape (draws,) + scale_shape.

        Returns:
            Tensor of shape (units, draws), in nats; positive favours the reduced
            prior.
        """
        num_units = int(np.prod(self._scale_shape))
        position = tf.transpose(tf.reshape(log_scale, (-1, num_units)))
        position = (position - self._low) / _STEP
        position = tf.clip_by_value(position, 0.0, self._num_nodes - 1.0)
        index = tf.minimum(tf.cast(tf.floor(position), tf.int32), self._num_nodes - 2)
        left, right, left_slope, right_slope = (
            tf.gather(table, index + shift, batch_dims=1)
            for table in (self._values, self._slopes)
            for shift in (0, 1)
        )
        part = position - tf.cast(index, position.dtype)
        rise = right - left
        return left + part * (
            rise
            + (1 - part)
            * (
                (1 - part) * (_STEP * left_slope - rise)
                - part * (_STEP * right_slope - rise)
            )
        )
