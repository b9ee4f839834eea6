"""Independent Normal posteriors."""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_positive
from keras_bmr.distributions import LogScaleNormal
from keras_bmr.posteriors.posterior import Posterior
from keras_bmr.posteriors.sampling import standard_normal


@keras.saving.register_keras_serializable(package="keras_bmr")
class MeanFieldNormal(Posterior):
    """A Normal of its own for every weight, w ~ N(mu, sigma^2).

    Args:
        initial_scale: Positive float, the standard deviation at the start.
        gain: Positive float. The variable holds log(sigma) / gain, which lets an
            optimiser whose steps do not depend on the size of the gradient (Adam)
            move log(sigma) `gain` times as fast as mu. A standard deviation has to
            travel from 0.02 to about 1 before a weight can be pruned.

    Raises:
        ValueError: If an argument is not positive and finite.

    Example:
        >>> posterior = keras_bmr.posteriors.MeanFieldNormal(initial_scale=0.01)
        >>> keras_bmr.layers.DenseVariational(10, posterior=posterior)
    """

    def __init__(self, initial_scale: float = 0.018, gain: float = 10.0) -> None:
        require_positive("initial_scale", initial_scale)
        require_positive("gain", gain)
        self.initial_scale = float(initial_scale)
        self.gain = float(gain)

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """See `Posterior.add_weights`."""
        start = math.log(self.initial_scale) / self.gain
        return {
            "log_scale": add_weight(
                name="log_scale",
                shape=shape,
                initializer=keras.initializers.Constant(start),
                trainable=True,
            )
        }

    def distribution(
        self, location: tf.Tensor, state: Mapping[str, keras.Variable]
    ) -> LogScaleNormal:
        """See `Posterior.distribution`."""
        return LogScaleNormal(location, self.gain * state["log_scale"].value)

    def sample(
        self,
        distribution: tfd.Normal,
        seed: tf.Tensor,
        sample_shape: Sequence[int] | tf.Tensor = (),
    ) -> tf.Tensor:
        """See `Posterior.sample`."""
        draws = tf.convert_to_tensor(sample_shape, tf.int32)
        shape = tf.concat([draws, distribution.loc.shape], axis=0)
        noise = standard_normal(shape, seed, distribution.dtype)
        return distribution.loc + distribution.scale * noise

    def moments(self, distribution: tfd.Normal) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Posterior.moments`."""
        # tfd.Normal.variance() multiplies by a tensor of ones first.
        return distribution.loc, tf.square(distribution.scale)

    def rescale(
        self, distribution: tfd.Normal, scale: tf.Tensor | None, mask: tf.Tensor
    ) -> tfd.Normal:
        """See `Posterior.rescale`."""
        zero = tf.zeros((), distribution.dtype)
        loc, stddev = distribution.loc, distribution.scale
        if scale is not None:
            loc, stddev = scale * loc, scale * stddev
        return tfd.Normal(tf.where(mask, loc, zero), tf.where(mask, stddev, zero))

    def assign(
        self,
        distribution: tfd.Normal,
        location: keras.Variable,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> None:
        """See `Posterior.assign`."""
        if not isinstance(distribution, tfd.Normal):
            raise ValueError(
                "Expected a `tfd.Normal`, which is all that a mean-field Normal "
                f"posterior can hold. Received: {distribution!r}"
            )
        location.assign(tf.where(mask, distribution.loc, 0))
        stored = tf.math.log(distribution.scale) / self.gain
        log_scale = state["log_scale"]
        log_scale.assign(tf.where(mask, stored, log_scale.value))

    def get_config(self) -> dict[str, float]:
        """The arguments of the constructor.

        Returns:
            Dictionary for `from_config`.
        """
        return {"initial_scale": self.initial_scale, "gain": self.gain}

    @classmethod
    def from_config(cls, config: dict[str, float]) -> "MeanFieldNormal":
        """Builds the family from its config.

        Args:
            config: What `get_config` returned.

        Returns:
            The family.
        """
        return cls(**config)
