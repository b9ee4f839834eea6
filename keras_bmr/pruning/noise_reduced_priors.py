"""What the noise of a gate is reduced to: next to nothing."""

import math

import numpy as np
import tensorflow as tf

from keras_bmr.argument_checks import require_positive
from keras_bmr.distributions import LogUniform, TruncatedLogNormal
from keras_bmr.pruning.reduced_prior import ReducedPrior

# The published code leaves 2 pi out of delta_f, which lowers its threshold by half the
# logarithm.
REFERENCE_THRESHOLD = -0.5 * math.log(2 * math.pi)


class NoiseReducedPrior(ReducedPrior):
    """A reduced prior of the noise of a gate, close to 0; the gate then becomes 0.

    Args:
        log_low: Float, logarithm of the smallest factor of the posterior.
        threshold: Float, the log Bayes factor in nats above which a gate is pruned.

    Raises:
        ValueError: If an argument is not finite.
    """

    # A posterior that was reduced to it is a gate that is shut.
    is_point_mass = True

    def __init__(self, log_low: float, threshold: float) -> None:
        for name, value in (("log_low", log_low), ("threshold", threshold)):
            if not math.isfinite(value):
                raise ValueError(
                    f"`{name}` must be a finite number. Received: {name}={value!r}"
                )
        self.log_low = float(log_low)
        self._threshold = float(threshold)

    def threshold(self, delta_f: np.ndarray) -> float:
        """See `ReducedPrior.threshold`."""
        del delta_f
        return self._threshold


class BMRSNormal(NoiseReducedPrior):
    """BMRS_N: a log-normal factor that hardly leaves the smallest one.

    The logarithm of the factor follows N(log_low, scale^2) truncated to the interval
    of the posterior. With the exact log Bayes factor no gate with a location above
    half of `log_low` is ever pruned at threshold 0: the density at the smallest factor
    must exceed the prior's. The published code leaves out 2 pi, and so prunes from
    -0.919 on. "bmrs_n_reference" is this class with that threshold.

    Args:
        threshold: Float, the log Bayes factor in nats above which a gate is pruned.
        scale: Positive float, the standard deviation of the logarithm.
        log_low: Float, logarithm of the smallest factor of the posterior.
        log_high: Float, logarithm of the largest.

    Raises:
        ValueError: If an argument is out of its range or not finite.

    Example:
        >>> keras_bmr.reduce_model(model, reduced_prior="bmrs_n", granularity="channel")

    References:
        Wright, Igel and Selvan, BMRS: Bayesian model reduction for structured
        pruning, arXiv 2406.01345, section 4.1.
    """

    def __init__(
        self,
        threshold: float = 0.0,
        scale: float = 1e-6,
        log_low: float = -20.0,
        log_high: float = 0.0,
    ) -> None:
        super().__init__(log_low, threshold)
        require_positive("scale", scale)
        _check_order(log_low, log_high)
        self.scale = float(scale)
        self.log_high = float(log_high)

    def distribution(self, dtype: tf.DType) -> TruncatedLogNormal:
        """See `ReducedPrior.distribution`."""
        low = tf.constant(self.log_low, dtype)
        return TruncatedLogNormal(
            low, tf.constant(self.scale, dtype), low, tf.constant(self.log_high, dtype)
        )


class BMRSUniform(NoiseReducedPrior):
    """BMRS_U: a log-uniform factor between 2^-23 and 2^-p1.

    A gate of which the data say nothing drifts towards its log-uniform prior, from a
    location near 0. On the way its density is lowest at the smallest factors, so that
    a reduced prior which includes them all loses to the full one however long training
    goes on, while that with the published bound wins. The price is that a gate which
    has collapsed below 2^-23 is kept; `low=-20.0` includes it.

    Args:
        p1: Positive float; factors from 2^-p1 on are ruled out. The smaller, the more
            is pruned: 8 and 4 are the published ones.
        low: Float, logarithm of the smallest factor of the reduced prior; log(2^-23)
            by default, the precision of float32.
        threshold: Float, the log Bayes factor in nats above which a gate is pruned.

    Raises:
        ValueError: If an argument is out of its range or not finite.

    Example:
        >>> reduced_prior = keras_bmr.pruning.BMRSUniform(p1=6)
        >>> keras_bmr.reduce_model(
        ...     model, reduced_prior=reduced_prior, granularity="channel"
        ... )

    References:
        Wright, Igel and Selvan, BMRS: Bayesian model reduction for structured
        pruning, arXiv 2406.01345, section 4.2.
    """

    def __init__(
        self,
        p1: float = 8.0,
        low: float = -23 * math.log(2.0),
        threshold: float = 0.0,
    ) -> None:
        super().__init__(low, threshold)
        require_positive("p1", p1)
        self.p1 = float(p1)
        _check_order(low, self.log_high)

    @property
    def log_high(self) -> float:
        """Logarithm of the largest factor."""
        return -self.p1 * math.log(2.0)

    def distribution(self, dtype: tf.DType) -> LogUniform:
        """See `ReducedPrior.distribution`."""
        return LogUniform(
            tf.constant(self.log_low, dtype), tf.constant(self.log_high, dtype)
        )


def _check_order(log_low: float, log_high: float) -> None:
    if not log_low < log_high < math.inf:
        raise ValueError(
            "The smallest factor must be below the largest one. Received their "
            f"logarithms: {log_low!r}, {log_high!r}"
        )
