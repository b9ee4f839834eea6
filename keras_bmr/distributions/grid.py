"""Equally spaced point masses, of any weights."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from keras_bmr.distributions.discrete_normal import check_steps
from keras_bmr.distributions.log_uniform import common_dtype

tfd = tfp.distributions


class Grid(tfd.Distribution):
    """Finitely many equally spaced point masses.

        P(first + k step) = softmax(logits)_k,  k = 0 ... num_points - 1

    As a prior it says that a weight has one of the values that a number of few bits
    can have.

    Args:
        first: Tensor, the least value.
        step: Tensor, distance of neighbouring values, positive. Both broadcast.
        logits: Tensor of shape `(..., num_points)`, the logarithms of the masses up to
            a constant; zeros for equal masses. `-inf` leaves a point out.
        validate_args: Whether to check the arguments of methods.
        allow_nan_stats: Whether statistics may be NaN rather than raise.
        name: Name of the distribution.

    Raises:
        ValueError: If the step is not positive, or there are no logits.

    Example:
    >>> grid = Grid(first=-0.5, step=0.5, logits=tf.zeros(3))
    >>> print(grid.points().numpy(), grid.prob(0.5).numpy().round(3))
    [-0.5  0.   0.5] 0.333
    """

    def __init__(
        self,
        first: tf.Tensor | float,
        step: tf.Tensor | float,
        logits: tf.Tensor,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "Grid",
    ) -> None:
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = common_dtype(first, step, logits)
            self._first = tf.convert_to_tensor(first, dtype)
            self._step = tf.convert_to_tensor(step, dtype)
            self._logits = tf.convert_to_tensor(logits, dtype)
            check_steps(step=self._step)
            if not self._logits.shape.rank or not self._logits.shape[-1]:
                raise ValueError(
                    "`logits` must have one entry per point along its last axis. "
                    f"Received: logits of shape {self._logits.shape}"
                )
            super().__init__(
                dtype=dtype,
                reparameterization_type=tfd.NOT_REPARAMETERIZED,
                validate_args=validate_args,
                allow_nan_stats=allow_nan_stats,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype: tf.DType, num_classes: None = None) -> dict:
        properties = tfp.util.ParameterProperties
        return {
            "first": properties(),
            "step": properties(),
            "logits": properties(event_ndims=1),
        }

    @classmethod
    def of_density(
        cls,
        distribution: tfd.Distribution,
        first: tf.Tensor | float,
        step: tf.Tensor | float,
        num_points: int,
    ) -> Grid:
        """Builds a grid whose masses are in proportion to a density.

        Args:
            distribution: A scalar distribution with a `log_prob`, the prior for
                example.
            first: Tensor, the least value.
            step: Tensor, distance of neighbouring values.
            num_points: Number of values.

        Returns:
            The grid, with the batch shape of all three.
        """
        uniform = cls(first, step, tf.zeros(num_points, distribution.dtype))
        return cls(first, step, uniform.log_density(distribution))

    @property
    def first(self) -> tf.Tensor:
        """The least value."""
        return self._first

    @property
    def step(self) -> tf.Tensor:
        """Distance of neighbouring values."""
        return self._step

    @property
    def logits(self) -> tf.Tensor:
        """Logarithms of the masses, up to a constant."""
        return self._logits

    def points(self) -> tf.Tensor:
        """The values, in a last axis of their own."""
        ticks = tf.range(tf.shape(self._logits)[-1])
        ticks = tf.cast(ticks, self.dtype)
        return self._first[..., tf.newaxis] + ticks * self._step[..., tf.newaxis]

    def log_density(self, distribution: tfd.Distribution) -> tf.Tensor:
        """The log density of a scalar distribution at each value, in a last axis."""
        points = self.points()
        rank = max(distribution.batch_shape.rank, points.shape.rank - 1)
        # The points become a sample axis, in front of all batch axes.
        missing = rank - (points.shape.rank - 1)
        shape = tf.concat([tf.ones(missing, tf.int32), tf.shape(points)], axis=0)
        points = tf.reshape(points, shape)
        points = tf.transpose(points, [rank, *range(rank)])
        return tf.transpose(distribution.log_prob(points), [*range(1, rank + 1), 0])

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _log_masses(self) -> tf.Tensor:
        return tf.nn.log_softmax(self._logits, axis=-1)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        position = tf.round((value - self._first) / self._step)
        nearest = self._first + position * self._step
        epsilon = np.finfo(self.dtype.as_numpy_dtype).eps
        size = tf.maximum(tf.abs(value), tf.abs(self._first))
        num_points = self._logits.shape[-1]
        is_point = (
            (tf.abs(value - nearest) <= 4 * epsilon * size)
            & (position >= 0)
            & (position < num_points)
        )
        index = tf.cast(tf.clip_by_value(position, 0, num_points - 1), tf.int32)
        hot = tf.one_hot(index, num_points, True, False, dtype=tf.bool)
        log_mass = tf.reduce_max(tf.where(hot, self._log_masses(), -math.inf), axis=-1)
        return tf.where(is_point, log_mass, -math.inf)

    def _sample_n(self, n: tf.Tensor, seed: tf.Tensor = None) -> tf.Tensor:
        # One set of masses may serve a batch of values.
        shape = tf.concat([self.batch_shape_tensor(), [-1]], axis=0)
        logits = self._logits + tf.zeros(tf.maximum(shape, 1), self.dtype)
        index = tfd.Categorical(logits=logits).sample(n, seed=seed)
        return self._first + tf.cast(index, self.dtype) * self._step

    def _mean(self) -> tf.Tensor:
        return tf.reduce_sum(tf.exp(self._log_masses()) * self.points(), axis=-1)

    def _variance(self) -> tf.Tensor:
        deviation = self.points() - self._mean()[..., tf.newaxis]
        return tf.reduce_sum(tf.exp(self._log_masses()) * tf.square(deviation), axis=-1)

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())

    def _mode(self) -> tf.Tensor:
        index = tf.argmax(self._logits, axis=-1)
        return self._first + tf.cast(index, self.dtype) * self._step


@tfd.RegisterKL(Grid, Grid)
def kl_grid(posterior: Grid, prior: Grid, name: str | None = None) -> tf.Tensor:
    """Returns the divergence of two grids; infinite if the first has other points.

    Args:
        posterior: `Grid`.
        prior: `Grid`; broadcasts.
        name: Optional name scope.

    Returns:
        Tensor in nats.
    """
    with tf.name_scope(name or "kl_grid"):
        log_masses = tf.nn.log_softmax(posterior.logits, axis=-1)
        log_ratio = log_masses - posterior.log_density(prior)
        terms = tf.math.multiply_no_nan(log_ratio, tf.exp(log_masses))
        return tf.reduce_sum(terms, axis=-1)
