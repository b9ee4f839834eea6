"""Zero-mean Normal prior with a scale that is given."""

from collections.abc import Mapping

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_positive
from keras_bmr.priors.prior import Prior


@keras.saving.register_keras_serializable(package="keras_bmr")
class Normal(Prior):
    """The prior w ~ N(0, scale^2), the same for every weight.

    Args:
        scale: Positive float, the standard deviation.

    Raises:
        ValueError: If `scale` is not positive and finite.

    Example:
        >>> keras_bmr.layers.DenseVariational(10, prior=keras_bmr.priors.Normal(0.5))
    """

    def __init__(self, scale: float = 1.0) -> None:
        require_positive("scale", scale)
        self.scale = float(scale)

    def distribution(
        self,
        posterior: tfd.Distribution,
        state: Mapping[str, keras.Variable],
        mask: tf.Tensor,
    ) -> tfd.Normal:
        """See `Prior.distribution`."""
        del state, mask
        return tfd.Normal(
            tf.zeros((), posterior.dtype), tf.constant(self.scale, posterior.dtype)
        )

    def get_config(self) -> dict[str, float]:
        """See `Prior.get_config`."""
        return {"scale": self.scale}
