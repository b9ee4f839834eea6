"""The log Bayes factor of each unit as a function of its prior scale, tabulated."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.reduction import model_reduction

# In log scale. What varies is at most like exp(-2 log s), of which the cubic between
# nodes is off by 4e-6.
_STEP = 0.1


class ScaleEvidence:
    """sum_j delta_f(w_ij; N(0, s_i^2)) over the weights of a unit, for any s_i.

    A sum over many weights, but a smooth function of one variable for each unit, so
    it is evaluated once on a grid of log s_i; afterwards its cost does not depend on
    the number of weights. Between nodes it is a cubic with the exact values and
    slopes, beyond them a line: it is constant where the prior is far narrower than
    all posteriors, and falls as -n log s where it is far wider.

    Args:
        posterior: `tfd.Normal` with the batch shape of the weight.
        prior: `tfd.Normal`, the full prior; broadcasts to it. A posterior that is
            wider than its prior, which noise of training may leave behind, counts as
            just as wide; against wide reduced priors it would be improper.
        scale_shape: Shape of the scales, of the weight's rank; 1 where one scale
            is shared.

    Attributes:
        shared_axes: The axes over which a scale is shared, those of size 1.

    Raises:
        ValueError: If a parameter is NaN or infinite, or a scale not positive.
    """

    def __init__(
        self,
        posterior: tfd.Normal,
        prior: tfd.Normal,
        scale_shape: tuple[int, ...],
    ) -> None:
        self._scale_shape = scale_shape
        self.shared_axes = tuple(i for i, size in enumerate(scale_shape) if size == 1)
        loc = tf.cast(posterior.loc, tf.float64)
        prior_scale = tf.cast(prior.scale, tf.float64)
        scale = tf.minimum(tf.cast(posterior.scale, tf.float64), prior_scale)
        posterior = tfd.Normal(loc, scale)
        prior = tfd.Normal(tf.cast(prior.loc, tf.float64), prior_scale)

        # Traced, the reduction checks nothing. This one raises.
        model_reduction(posterior, prior, tfd.Normal(tf.zeros((), tf.float64), scale))
        low = np.log(np.min(scale)) - 7
        high = np.log(max(np.max(np.abs(loc)), np.max(prior_scale))) + 5

        @tf.function
        def evidence(log_scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_unit = tf.fill(scale_shape, log_scale)
            with tf.GradientTape() as tape:
                tape.watch(of_unit)
                reduced = tfd.Normal(tf.zeros((), tf.float64), tf.exp(of_unit))
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
        inside = tf.clip_by_value(position, 0.0, self._num_nodes - 1.0)
        index = tf.minimum(tf.cast(tf.floor(inside), tf.int32), self._num_nodes - 2)
        left, right, left_slope, right_slope = (
            tf.gather(table, index + shift, batch_dims=1)
            for table in (self._values, self._slopes)
            for shift in (0, 1)
        )
        part = inside - tf.cast(index, inside.dtype)
        rise = right - left
        cubic = left + part * (
            rise
            + (1 - part)
            * (
                (1 - part) * (_STEP * left_slope - rise)
                - part * (_STEP * right_slope - rise)
            )
        )
        end_slope = tf.where(position < 0, left_slope, right_slope)
        return cubic + _STEP * end_slope * (position - inside)
