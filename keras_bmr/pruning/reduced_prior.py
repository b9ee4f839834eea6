"""The interface of a reduced prior."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning import defaults


class ReducedPrior:
    """A reduced prior with the log Bayes factor above which it wins.

    Args:
        distribution: A scalar `tfd` distribution, or one that broadcasts to the
            shape of every weight. Its location, if it has one, is 0, which is what
            pruned weights become.

    Raises:
        ValueError: If `distribution` is none, or lies elsewhere.
    """

    def __init__(self, distribution: tfd.Distribution) -> None:
        if (
            not isinstance(distribution, tfd.Distribution)
            or distribution.event_shape.rank != 0
        ):
            raise ValueError(
                "Invalid value for `distribution`: expected a `tfd` distribution of "
                f"scalars. Received: distribution={distribution!r}"
            )
        location = np.asarray(getattr(distribution, "loc", 0.0))
        if np.any(location != 0):
            raise ValueError(
                "A reduced prior must be centred at 0, since weights that are pruned "
                "become 0. For the evidence of another value call "
                "`keras_bmr.reduction.model_reduction` on `layer.posterior(name)` and "
                f"`layer.prior(name)`. Received: {type(distribution).__name__} with "
                f"loc={location}"
            )
        self._distribution = distribution

    @property
    def is_point_mass(self) -> bool:
        """Whether a weight under this prior has a fixed value."""
        return isinstance(self._distribution, tfd.Deterministic)

    def distribution(self, dtype: tf.DType) -> tfd.Distribution:
        """The reduced prior of a weight of the given dtype."""
        del dtype
        return self._distribution

    def distribution_for(self, posterior: tfd.Distribution) -> tfd.Distribution:
        """The reduced prior of a weight with the given posterior.

        Args:
            posterior: The posterior of the weight.

        Returns:
            Distribution that `keras_bmr.reduction.model_reduction` takes with it.

        Raises:
            ValueError: If it does not broadcast to the shape of the weight.
        """
        reduced_prior = self.distribution(posterior.dtype)
        if not _broadcasts(reduced_prior.batch_shape, posterior.batch_shape):
            raise ValueError(
                "A reduced prior must broadcast to the shape of every weight: give "
                "one that is scalar, or reduce the layers one by one by `skip`. "
                f"Received: {type(reduced_prior).__name__} with batch shape "
                f"{reduced_prior.batch_shape} for a weight of shape "
                f"{posterior.batch_shape}"
            )
        return reduced_prior

    def threshold(self, delta_f: np.ndarray) -> float:
        """The log Bayes factor in nats above which a layer's group is pruned.

        Args:
            delta_f: Array of shape (groups,), the log Bayes factors of the groups of
                one layer that are not pruned yet.

        Returns:
            The threshold.
        """
        del delta_f
        return defaults.THRESHOLD


def _broadcasts(shape: tf.TensorShape, target: tf.TensorShape) -> bool:
    """Whether arrays of a shape broadcast to another shape."""
    try:
        return tf.broadcast_static_shape(shape, target) == target
    except ValueError:
        return False
