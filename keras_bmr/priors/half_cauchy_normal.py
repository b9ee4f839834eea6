"""Half-Cauchy scales as ratios of Gamma variables, and the prior with one of them."""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_positive
from keras_bmr.posteriors.sampling import standard_normal
from keras_bmr.priors.log_normal_variables import (
    add_log_normal,
    gamma_divergence,
    log_normal,
)
from keras_bmr.priors.prior import Prior


class HalfCauchyScales(Prior):
    """Priors with a global half-Cauchy scale, the root of a ratio of Gammas.

    The ratio of two variables with the law Gamma(1/2, 1) is the square of a
    half-Cauchy variable; the posterior of a Gamma variable is log-normal.

    Args:
        global_scale: Positive float, the median of the global scale.

    Raises:
        ValueError: If `global_scale` is not positive and finite.
    """

    def __init__(self, global_scale: float) -> None:
        require_positive("global_scale", global_scale)
        self.global_scale = float(global_scale)

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tfd.Normal:
        """See `Prior.distribution`."""
        del state, mask
        return tfd.Normal(tf.zeros((), posterior.dtype), tf.ones((), posterior.dtype))

    def global_log_scale(self, state: Mapping[str, keras.Variable]) -> tfd.Normal:
        """The posterior of the logarithm of the global scale.

        Args:
            state: The variables of `add_weights`.

        Returns:
            A scalar Normal.
        """
        return half_log_ratio(
            log_normal(state, "global_numerator"),
            log_normal(state, "global_denominator"),
            math.log(self.global_scale),
        )

    def get_config(self) -> dict[str, float]:
        """See `Prior.get_config`."""
        return {"global_scale": self.global_scale}


@keras.saving.register_keras_serializable(package="keras_bmr")
class HalfCauchyNormal(HalfCauchyScales):
    """The prior w = c v, v ~ N(0, 1), c ~ half-Cauchy(0, global_scale).

    One scale `c` for the whole tensor, for the last layer of a network whose others
    have a `RegularizedHorseshoe`: what it reads is chosen there.

    Args:
        global_scale: Positive float, the median of `c`.

    Raises:
        ValueError: If `global_scale` is not positive and finite.

    Example:
        >>> keras_bmr.layers.DenseVariational(10, prior="half_cauchy_normal")

    References:
        Markovic, Friston and Kiebel, Bayesian sparsification for deep neural
        networks with Bayesian model reduction, arXiv 2309.12095.
    """

    def __init__(self, global_scale: float = 1.0) -> None:
        super().__init__(global_scale)

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """See `Prior.add_weights`; the scale starts at 1."""
        del shape
        return {
            **add_log_normal(add_weight, "global_numerator", (), 1.0),
            **add_log_normal(
                add_weight, "global_denominator", (), self.global_scale**2
            ),
        }

    def scale_divergence(
        self, state: Mapping[str, keras.Variable], mask: tf.Tensor
    ) -> tf.Tensor:
        """See `Prior.scale_divergence`."""
        del mask
        return half_cauchy_divergence(state, "global")

    def sample_scale(
        self,
        state: Mapping[str, keras.Variable],
        seed: tf.Tensor,
        sample_shape: Sequence[int] = (),
    ) -> tf.Tensor:
        """See `Prior.sample_scale`."""
        return tf.exp(draw(self.global_log_scale(state), seed, sample_shape))

    def expected_scale(self, state: Mapping[str, keras.Variable]) -> tf.Tensor:
        """See `Prior.expected_scale`."""
        log_scale = self.global_log_scale(state)
        return tf.exp(log_scale.loc + 0.5 * tf.square(log_scale.scale))


def half_log_ratio(
    numerator: tfd.LogNormal, denominator: tfd.LogNormal, offset: float = 0.0
) -> tfd.Normal:
    """The law of `offset + 1/2 log(numerator / denominator)`.

    Args:
        numerator: Log-normal of any shape.
        denominator: Log-normal that is independent of it, of the same shape.
        offset: Float.

    Returns:
        Normal of that shape.
    """
    variance = tf.square(numerator.scale) + tf.square(denominator.scale)
    return tfd.Normal(
        offset + 0.5 * (numerator.loc - denominator.loc), 0.5 * tf.sqrt(variance)
    )


def half_cauchy_divergence(state: Mapping[str, keras.Variable], name: str) -> tf.Tensor:
    """KL of the Gamma variables behind half-Cauchy scales, in nats.

    Args:
        state: The variables of `add_log_normal`.
        name: "global" or "local".

    Returns:
        Tensor with the shape of the scales.
    """
    return sum(
        gamma_divergence(log_normal(state, f"{name}_{part}"), 0.5, 1.0)
        for part in ("numerator", "denominator")
    )


def draw(
    distribution: tfd.Normal, seed: tf.Tensor, sample_shape: Sequence[int]
) -> tf.Tensor:
    """Draws from a Normal, reparameterised.

    Args:
        distribution: Normal of any shape.
        seed: Integer tensor of shape (2,).
        sample_shape: Shape of independent draws.

    Returns:
        Tensor, the shape of the draws followed by that of the distribution.
    """
    shape = (*sample_shape, *distribution.loc.shape)
    noise = standard_normal(shape, seed, distribution.dtype)
    return distribution.loc + distribution.scale * noise
