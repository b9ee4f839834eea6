"""Hierarchical Normal prior with a Gamma-distributed precision per tensor."""

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_positive
from keras_bmr.posteriors.sampling import standard_normal
from keras_bmr.priors.prior import Prior


@keras.saving.register_keras_serializable(package="keras_bmr")
class ScaleMixtureNormal(Prior):
    """The prior w = c v, v ~ N(0, 1), c = factor / sqrt(u), u ~ Gamma.

    The precision `u` is one per weight tensor and has the variational posterior
    LogNormal(m, s^2), whose parameters are trained together with the weights. The
    parametrisation is non-centred: the posterior of the layer is that of `v`.

    At inference the network uses E[c] = factor * exp(-m/2 + s^2/8).

    Args:
        concentration: Positive float, the Gamma's shape.
        rate: Positive float, the Gamma's rate (inverse scale).
        factor: Positive float `k`; the paper takes 1 for the last layer and 1/10
            for all others.

    Raises:
        ValueError: If an argument is not positive and finite.

    Example:
        >>> prior = keras_bmr.priors.ScaleMixtureNormal(factor=0.1)
        >>> keras_bmr.layers.DenseVariational(10, prior=prior)

    References:
        Markovic, Friston and Kiebel, Bayesian sparsification for deep neural
        networks with Bayesian model reduction, arXiv 2309.12095.
    """

    def __init__(
        self, concentration: float = 2.0, rate: float = 2.0, factor: float = 1.0
    ) -> None:
        arguments = {"concentration": concentration, "rate": rate, "factor": factor}
        for name, value in arguments.items():
            require_positive(name, value)
        self.concentration = float(concentration)
        self.rate = float(rate)
        self.factor = float(factor)

    def add_weights(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict[str, keras.Variable]:
        """See `Prior.add_weights`."""
        del shape
        return {
            name: add_weight(
                name=name,
                shape=(),
                initializer=keras.initializers.Constant(start),
                trainable=True,
            )
            # E[c] = factor at the start up to the small variance.
            for name, start in (
                ("log_precision_loc", 0.0),
                ("log_precision_log_scale", math.log(0.1)),
            )
        }

    def precision_posterior(self, state: Mapping[str, keras.Variable]) -> tfd.LogNormal:
        """The variational posterior of the precision `u`.

        Args:
            state: The variables of `add_weights`.

        Returns:
            A scalar LogNormal.
        """
        return tfd.LogNormal(
            state["log_precision_loc"].value,
            tf.exp(state["log_precision_log_scale"].value),
        )

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tfd.Normal:
        """See `Prior.distribution`."""
        del state, mask
        return tfd.Normal(tf.zeros((), posterior.dtype), tf.ones((), posterior.dtype))

    def scale_divergence(
        self, state: Mapping[str, keras.Variable], mask: tf.Tensor
    ) -> tf.Tensor:
        """See `Prior.scale_divergence`."""
        del mask
        precision = self.precision_posterior(state)
        hyperprior = tfd.Gamma(
            tf.constant(self.concentration, precision.dtype),
            tf.constant(self.rate, precision.dtype),
        )
        return tfd.kl_divergence(precision, hyperprior)

    def sample_scale(
        self,
        state: Mapping[str, keras.Variable],
        seed: tf.Tensor,
        sample_shape: Sequence[int] = (),
    ) -> tf.Tensor:
        """See `Prior.sample_scale`."""
        precision = self.precision_posterior(state)
        noise = standard_normal(tuple(sample_shape), seed, precision.dtype)
        log_precision = precision.loc + precision.scale * noise
        return self.factor * tf.exp(-0.5 * log_precision)

    def expected_scale(self, state: Mapping[str, keras.Variable]) -> tf.Tensor:
        """See `Prior.expected_scale`."""
        precision = self.precision_posterior(state)
        return self.factor * tf.exp(
            -0.5 * precision.loc + 0.125 * tf.square(precision.scale)
        )

    def get_config(self) -> dict[str, float]:
        """See `Prior.get_config`."""
        return {
            "concentration": self.concentration,
            "rate": self.rate,
            "factor": self.factor,
        }
