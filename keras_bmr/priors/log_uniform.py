"""Log-uniform prior of positive factors."""

from collections.abc import Mapping

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr import distributions
from keras_bmr.priors.prior import Prior


@keras.saving.register_keras_serializable(package="keras_bmr")
class LogUniform(Prior):
    """The prior p(theta) ~ 1 / theta of multiplicative noise, which favours no scale.

    It lives on the interval that the posterior is truncated to, without which it would
    be improper.

    Example:
        >>> keras_bmr.layers.MultiplicativeNoise(prior="log_uniform")

    References:
        Neklyudov, Molchanov, Ashukha and Vetrov, Structured Bayesian pruning via
        log-normal multiplicative noise, arXiv 1705.07283, section 3.
    """

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> distributions.LogUniform:
        """See `Prior.distribution`.

        Raises:
            ValueError: If the posterior is no truncated log-normal.
        """
        del state, mask
        if not isinstance(posterior, distributions.TruncatedLogNormal):
            raise ValueError(
                "The log-uniform prior takes its bounds from a truncated log-normal "
                "posterior: use `posterior='truncated_log_normal'`, or another prior, "
                f"for example 'normal'. Received: posterior={posterior!r}"
            )
        return distributions.LogUniform(posterior.log_low, posterior.log_high)
