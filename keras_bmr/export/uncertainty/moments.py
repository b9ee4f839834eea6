"""Mean and variance of a tensor, and of sums over it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Correlated(NamedTuple):
    """What of a vector's variance has a known covariance.

    Attributes:
        variance: That part of the variance, shape (batch, n).
        rest: The other part, uncorrelated from entry to entry; None if there is none.
        of_sums: Maps coefficients of sums to the variances of the sums of that part,
            see `Moments.variance_of_sums`. The coefficients have the shape (sums, n),
            or (batch, sums, n) where the batch is larger than 1; the variances that
            shape without the last axis.
        root: Gives a matrix of shape (n, m): times m uncorrelated numbers of variance
            1 it has about the correlations of this part.
    """

    variance: tf.Tensor
    rest: tf.Tensor | None
    of_sums: Callable[[tf.Tensor], tf.Tensor]
    root: Callable[[], np.ndarray]

    def scaled(self, factor: tf.Tensor) -> "Correlated":
        """The same of entries that are multiplied by factors.

        Args:
            factor: Broadcasts to shape (batch, n).
        """
        square = tf.square(factor)
        return Correlated(
            self.variance * square,
            None if self.rest is None else self.rest * square,
            lambda coefficients: self.of_sums(coefficients * per_sum(factor)),
            self.root,
        )


class Moments:
    """Mean and variance of every entry of a tensor under the posterior.

    Entries count as uncorrelated, unless `correlated` says how a part of their
    variance hangs together: so dense layers hand the covariance of their inputs on to
    sums over their outputs.

    Args:
        mean: Tensor of shape (batch, ...).
        variance: Tensor of the same shape; None if the values are certain.
        correlated: The part with a known covariance, of one vector per example.

    Example:
        >>> moments = Moments(tf.zeros((1, 2)), tf.ones((1, 2)))
        >>> moments.variance_of_sums(np.array([[1.0, 2.0]], "float32")).numpy()
        array([[5.]], dtype=float32)
    """

    def __init__(
        self,
        mean: tf.Tensor,
        variance: tf.Tensor | None = None,
        correlated: Correlated | None = None,
    ) -> None:
        self._mean = mean
        self._variance = variance
        self._correlated = correlated

    @property
    def mean(self) -> tf.Tensor:
        """The mean of every entry."""
        return self._mean

    @property
    def variance(self) -> tf.Tensor | None:
        """The variance of every entry; None if the values are certain."""
        return self._variance

    @property
    def correlated(self) -> Correlated | None:
        """The part of the variance whose covariance is known; None if there is none."""
        return self._correlated

    @property
    def is_certain(self) -> bool:
        """Whether the values are the same under every draw of the weights."""
        return self.variance is None

    def variance_of_sums(self, coefficients: np.ndarray) -> tf.Tensor:
        """The variance of weighted sums over the entries of each example's vector.

        Args:
            coefficients: Matrix of shape (sums, n).

        Returns:
            Tensor of shape (batch, sums). The values must not be certain.
        """
        total = self.accumulate(tf.constant(coefficients))
        return tf.reshape(total, (self.mean.shape[0], len(coefficients)))

    def accumulate(self, coefficients: tf.Tensor) -> tf.Tensor:
        """As `variance_of_sums`, in the shapes of `Correlated.of_sums`."""
        if self.correlated is None:
            return _of_uncorrelated(coefficients, self.variance)
        variance = self.correlated.of_sums(coefficients)
        if self.correlated.rest is None:
            return variance
        return variance + _of_uncorrelated(coefficients, self.correlated.rest)


class Spread(NamedTuple):
    """Moments of a function of one Gaussian number, entry by entry.

    Attributes:
        mean: Its mean.
        variance: Its variance.
        gain: Covariance of value and argument over the variance of the argument.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    gain: tf.Tensor


class Activated(Moments):
    """Moments of a function of each entry, evaluated when they are asked for.

    Max pooling asks for what was `before` instead, where the function rises: fewer
    numbers are left behind the pooling, and those before are closer to Gaussian.

    The covariance of the values is that of the best linear approximation of the
    function, whose slope is the gain; what is left of the variance is uncorrelated.

    Args:
        before: Moments of the argument, not certain.
        spread: Maps mean and variance of a Gaussian argument to a `Spread`.
        rises: Whether the function is monotonically increasing.
    """

    def __init__(
        self,
        before: Moments,
        spread: Callable[[tf.Tensor, tf.Tensor], Spread],
        rises: bool,
    ) -> None:
        self.before = before
        self.spread = spread
        self.rises = rises

    @functools.cached_property
    def _evaluated(self) -> Spread:
        return self.spread(self.before.mean, self.before.variance)

    @property
    def mean(self) -> tf.Tensor:
        """See `Moments.mean`."""
        return self._evaluated.mean

    @property
    def variance(self) -> tf.Tensor:
        """See `Moments.variance`."""
        return self._evaluated.variance

    @property
    def is_certain(self) -> bool:
        """See `Moments.is_certain`."""
        return False

    @property
    def correlated(self) -> Correlated | None:
        """See `Moments.correlated`."""
        if self.before.correlated is None:
            return None
        scaled = self.before.correlated.scaled(self._evaluated.gain)
        return scaled._replace(rest=tf.nn.relu(self.variance - scaled.variance))


def _of_uncorrelated(coefficients: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """The variances of sums over uncorrelated entries."""
    return tf.reduce_sum(tf.square(coefficients) * per_sum(variance), axis=-1)


def per_sum(values: tf.Tensor) -> tf.Tensor:
    """Values of an example's entries in a shape that broadcasts to coefficients.

    One example at a time is what devices do, and matrices are faster there.

    Args:
        values: Tensor of shape (batch, n).

    Returns:
        Tensor of shape (1, n), or (batch, 1, n) where the batch is larger than 1.
    """
    return values if values.shape[0] == 1 else tf.expand_dims(values, -2)
