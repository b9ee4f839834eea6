"""Truncated log-normal posteriors, of positive factors."""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from keras_bmr import distributions
from keras_bmr.argument_checks import require_positive
from keras_bmr.posteriors.posterior import Posterior

# Of the scale, as in the structured Bayesian pruning of the references.
_LOG_SCALE_RANGE = (-20.0, 5.0)
# Its exponential is 0 in every floating dtype.
_LOG_OF_ZERO = -2000.0


@keras.saving.register_keras_serializable(package="keras_bmr")
class TruncatedLogNormal(Posterior):
    """A truncated log-normal of its own for every factor, of multiplicative noise.

    The logarithm of a factor follows N(mu, sigma^2) truncated to [log_low, log_high].
    The location variable holds mu, which may lie anywhere. log(sigma) is kept within
    [-20, 5].

    Args:
        initial_scale: Positive float, sigma at the start.
        log_low: Float, logarithm of the smallest factor.
        log_high: Float above `log_low`, logarithm of the largest factor.

    Raises:
        ValueError: If `initial_scale` is outside of [exp(-20), exp(5)], or the bounds
            are not finite and in order.

    Example:
        >>> posterior = keras_bmr.posteriors.TruncatedLogNormal(initial_scale=0.1)
        >>> keras_bmr.layers.MultiplicativeNoise(posterior=posterior)

    References:
        Neklyudov, Molchanov, Ashukha and Vetrov, Structured Bayesian pruning via
        log-normal multiplicative noise, arXiv 1705.07283, section 3.
    """

    def __init__(
        self,
        initial_scale: float = math.exp(-5.0),
        log_low: float = -20.0,
        log_high: float = 0.0,
    ) -> None:
        require_positive("initial_scale", initial_scale)
        smallest, largest = (math.exp(bound) for bound in _LOG_SCALE_RANGE)
        if not smallest <= initial_scale <= largest:
            raise ValueError(
                f"`initial_scale` must lie in [{smallest:.3g}, {largest:.3g}]. "
                f"Received: initial_scale={initial_scale!r}"
            )
        if not -math.inf < log_low < log_high < math.inf:
            raise ValueError(
                "`log_low` must be below `log_high`, both finite. Received: "
                f"log_low={log_low!r}, log_high={log_high!r}"
            )
        self.initial_scale = float(initial_scale)
        self.log_low = float(log_low)
        self.log_high = float(log_high)
        self.pruned_location = self.log_low

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """See `Posterior.add_weights`."""
        return {
            "log_scale": add_weight(
                name="log_scale",
                shape=shape,
                initializer=keras.initializers.Constant(math.log(self.initial_scale)),
                # A step beyond the range would leave no gradient to come back by.
                constraint=_Clip(*_LOG_SCALE_RANGE),
                trainable=True,
            )
        }

    def distribution(
        self, location: tf.Tensor, state: Mapping[str, keras.Variable]
    ) -> distributions.TruncatedLogNormal:
        """See `Posterior.distribution`."""
        log_scale = tf.clip_by_value(state["log_scale"].value, *_LOG_SCALE_RANGE)
        bounds = (
            tf.fill(location.shape, tf.cast(bound, location.dtype))
            for bound in (self.log_low, self.log_high)
        )
        return distributions.TruncatedLogNormal(location, tf.exp(log_scale), *bounds)

    def sample(
        self,
        distribution: distributions.TruncatedLogNormal,
        seed: tf.Tensor,
        sample_shape: Sequence[int] | tf.Tensor = (),
    ) -> tf.Tensor:
        """See `Posterior.sample`."""
        return distribution.sample(sample_shape, seed=seed)

    def rescale(
        self,
        distribution: distributions.TruncatedLogNormal,
        scale: tf.Tensor | None,
        mask: tf.Tensor,
    ) -> distributions.TruncatedLogNormal:
        """See `Posterior.rescale`; a pruned factor is too small for any dtype."""
        shift = tf.zeros((), distribution.dtype)
        if scale is not None:
            shift = tf.math.log(tf.cast(scale, distribution.dtype))
        shift = tf.where(mask, shift, _LOG_OF_ZERO)
        # The place of a pruned one does not matter, and must not keep it from zero.
        loc = tf.where(mask, distribution.loc, distribution.log_low)
        return distributions.TruncatedLogNormal(
            loc + shift,
            distribution.scale,
            distribution.log_low + shift,
            distribution.log_high + shift,
        )

    def assign(
        self,
        distribution: distributions.TruncatedLogNormal,
        location: keras.Variable,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> None:
        """See `Posterior.assign`; the bounds stay those of the family."""
        if not isinstance(distribution, distributions.TruncatedLogNormal):
            raise ValueError(
                "Expected a `keras_bmr.distributions.TruncatedLogNormal`, which is all "
                f"that this posterior can hold. Received: {distribution!r}"
            )
        location.assign(tf.where(mask, distribution.loc, self.pruned_location))
        log_scale = state["log_scale"]
        stored = tf.clip_by_value(tf.math.log(distribution.scale), *_LOG_SCALE_RANGE)
        log_scale.assign(tf.where(mask, stored, log_scale.value))

    def assign_mean(
        self,
        mean: tf.Tensor,
        location: keras.Variable,
        state: Mapping[str, keras.Variable],
    ) -> None:
        """See `Posterior.assign_mean`; no network has such weights.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "The truncated log-normal is the posterior of a factor between "
            f"exp({self.log_low}) and exp({self.log_high}), so that it cannot start at "
            "the weights of a network. Use `posterior='mean_field_normal'` for those, "
            "and `keras_bmr.layers.MultiplicativeNoise` for factors."
        )

    def get_config(self) -> dict[str, float]:
        """The arguments of the constructor.

        Returns:
            Dictionary for `from_config`.
        """
        return {
            "initial_scale": self.initial_scale,
            "log_low": self.log_low,
            "log_high": self.log_high,
        }

    @classmethod
    def from_config(cls, config: dict[str, float]) -> "TruncatedLogNormal":
        """Builds the family from its config.

        Args:
            config: What `get_config` returned.

        Returns:
            The family.
        """
        return cls(**config)


class _Clip(keras.constraints.Constraint):
    """Keeps a variable within bounds."""

    def __init__(self, low: float, high: float) -> None:
        self._low = low
        self._high = high

    def __call__(self, value: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(tf.convert_to_tensor(value), self._low, self._high)
