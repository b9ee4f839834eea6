"""Zero-mean Normal priors whose variance maximises the evidence in closed form."""

from collections.abc import Mapping

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.distributions import LogScaleNormal
from keras_bmr.priors.prior import Prior, masked_sum


def _second_moment(posterior: tfd.Distribution) -> tf.Tensor:
    return tf.square(posterior.mean()) + posterior.variance()


@keras.saving.register_keras_serializable(package="keras_bmr")
class LayerwiseNormal(Prior):
    """The prior w ~ N(0, v) with one variance learned per weight tensor.

    The evidence lower bound is largest at v = mean(mu^2 + sigma^2) over the weights
    that are left. That value is used at every step, so that there is no variable to
    train and no second learning rate. With it

        KL = n/2 log v - sum log sigma     (n weights, Normal posteriors)

    Example:
        >>> keras_bmr.layers.DenseVariational(10, prior="layerwise_normal")

    References:
        MacKay, Bayesian interpolation, Neural Computation 4 (1992), section 4.
    """

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tfd.Normal:
        """See `Prior.distribution`."""
        del state
        kept = tf.reduce_sum(tf.cast(mask, posterior.dtype))
        total = masked_sum(_second_moment(posterior), mask)
        # A tensor with nothing left has no variance to estimate: any proper prior
        # serves, since none of its weights enters a sum.
        variance = tf.where(kept > 0, total / tf.maximum(kept, 1), tf.ones_like(total))
        return tfd.Normal(tf.zeros((), posterior.dtype), tf.sqrt(variance))


@keras.saving.register_keras_serializable(package="keras_bmr")
class EmpiricalBayesNormal(Prior):
    """The prior w_i ~ N(0, v_i) with a variance learned for every weight.

    The evidence lower bound is largest at v_i = mu_i^2 + sigma_i^2. That value is
    used at every step, so that there is no variable to train. With it

        KL_i = 1/2 log(1 + mu_i^2 / sigma_i^2)

    which does not grow with the size of a weight, only with the precision it is
    known to: what costs is information.

    Example:
        >>> keras_bmr.layers.DenseVariational(10, prior="empirical_bayes_normal")

    References:
        Titsias and Lazaro-Gredilla, Doubly stochastic variational Bayes for
        non-conjugate inference, ICML 2014, section 3.1 (automatic relevance
        determination with the hyperparameter maximised out).
    """

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tfd.Normal:
        """See `Prior.distribution`."""
        del state, mask
        variance = _second_moment(posterior)
        return tfd.Normal(tf.zeros((), posterior.dtype), tf.sqrt(variance))

    def divergence(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tf.Tensor:
        """See `Prior.divergence`."""
        if not isinstance(posterior, LogScaleNormal):
            return super().divergence(posterior, state, mask)
        ratio = tf.square(posterior.loc) * tf.exp(-2 * posterior.log_scale)
        return masked_sum(0.5 * tf.math.log1p(ratio), mask)
