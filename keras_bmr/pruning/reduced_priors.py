"""What a weight is reduced to, and from which log Bayes factor on."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.distributions import TruncatedLogNormal
from keras_bmr.identifiers import resolve
from keras_bmr.pruning import defaults
from keras_bmr.pruning.noise_reduced_priors import (
    REFERENCE_THRESHOLD,
    BMRSNormal,
    BMRSUniform,
)
from keras_bmr.pruning.reduced_prior import ReducedPrior

# Intermediate results of this many entries stay in the cache of a core.
_CHUNK_SIZE = 2**18


class PointMass(ReducedPrior):
    """A weight that is exactly zero; it wins from equal evidence on.

    The posterior of a noise gate has no density at zero: what stands for zero there is
    the smallest factor, as in `BMRSNormal`.

    Example:
        >>> keras_bmr.reduce_model(model, reduced_prior="point_mass")
    """

    def __init__(self) -> None:
        super().__init__(tfd.Deterministic(0.0))

    def distribution(self, dtype: tf.DType) -> tfd.Deterministic:
        """See `ReducedPrior.distribution`."""
        return tfd.Deterministic(tf.zeros((), dtype))

    def distribution_for(self, posterior: tfd.Distribution) -> tfd.Distribution:
        """See `ReducedPrior.distribution_for`."""
        if isinstance(posterior, TruncatedLogNormal):
            low = posterior.log_low
            scale = tf.fill(tf.shape(low), tf.cast(BMRSNormal().scale, low.dtype))
            return TruncatedLogNormal(low, scale, low, posterior.log_high)
        return super().distribution_for(posterior)


class SpikeAndSlab(PointMass):
    """A point mass at zero whose share of the layer is inferred.

    Each group is kept with probability `pi`, which has the hyperprior
    Beta(concentration1, concentration0) in every layer. Variational inference
    alternates between the groups and `pi`, starting at zeta = 0:

        q_i = sigmoid(zeta - delta_f_i)
        zeta = digamma(concentration1 + sum q) - digamma(concentration0 + sum(1 - q))

    and keeps a group if delta_f_i <= min(zeta, -margin). `zeta` is
    E[log pi] - E[log(1 - pi)]. The margin is not in the paper: it breaks the tie
    between keeping and pruning weights of which the data said nothing, and gives the
    rule a meaning under a prior that is fitted to every weight, for which no
    reduced prior can win.

    Groups that were pruned before do not count. Where the rule is applied again and
    again they would drive `pi`, and with it what is left, to zero.

    Args:
        concentration1: Positive float, counts as so many groups that are kept.
        concentration0: Positive float, counts as so many groups that are pruned.
        num_iterations: Positive integer.
        margin: Non-negative float, the log evidence in nats that a group must bring
            to be kept.

    Raises:
        ValueError: If an argument is out of its range or not finite.

    Example:
        >>> reduced_prior = keras_bmr.pruning.SpikeAndSlab(concentration0=100.0)
        >>> keras_bmr.reduce_model(model, reduced_prior=reduced_prior)

    References:
        Markovic, Friston and Kiebel, Bayesian sparsification for deep neural
        networks with Bayesian model reduction, arXiv 2309.12095.
    """

    def __init__(
        self,
        concentration1: float = 1.0,
        concentration0: float = 1.0,
        num_iterations: int = 4,
        margin: float = defaults.MARGIN,
    ) -> None:
        super().__init__()
        require_positive("concentration1", concentration1)
        require_positive("concentration0", concentration0)
        require_integer("num_iterations", num_iterations, at_least=1)
        require_positive("margin", margin, or_zero=True)
        self.margin = float(margin)
        self.concentration1 = float(concentration1)
        self.concentration0 = float(concentration0)
        self.num_iterations = int(num_iterations)

    def threshold(self, delta_f: np.ndarray) -> float:
        """See `ReducedPrior.threshold`."""
        zeta = 0.0
        for _ in range(self.num_iterations):
            kept = pruned = 0.0
            for start in range(0, delta_f.size, _CHUNK_SIZE):
                logits = tf.constant(zeta - delta_f[start : start + _CHUNK_SIZE])
                # Two sigmoids rather than 1 - q, which rounds to 0 where it is small.
                kept += np.sum(tf.sigmoid(logits).numpy(), dtype=np.float64)
                pruned += np.sum(tf.sigmoid(-logits).numpy(), dtype=np.float64)
            digamma = tf.math.digamma(
                tf.constant(
                    [self.concentration1 + kept, self.concentration0 + pruned],
                    tf.float64,
                )
            )
            zeta = float(digamma[0] - digamma[1])
        return min(zeta, -self.margin)


REDUCED_PRIORS: dict[str, Callable[[], ReducedPrior]] = {
    "point_mass": PointMass,
    "spike_and_slab": SpikeAndSlab,
    "bmrs_n": BMRSNormal,
    "bmrs_n_reference": functools.partial(BMRSNormal, threshold=REFERENCE_THRESHOLD),
    "bmrs_u8": functools.partial(BMRSUniform, p1=8),
    "bmrs_u4": functools.partial(BMRSUniform, p1=4),
}


def get(identifier: str | tfd.Distribution | ReducedPrior) -> ReducedPrior:
    """Resolves a `reduced_prior=` argument.

    Args:
        identifier: A name out of `REDUCED_PRIORS`, a scalar `tfd` distribution, or
            an instance.

    Returns:
        The reduced prior.

    Raises:
        ValueError: If nothing of that name is known.

    Example:
        >>> keras_bmr.pruning.reduced_priors.get("spike_and_slab")
    """
    if isinstance(identifier, tfd.Distribution):
        return ReducedPrior(identifier)
    return resolve(identifier, REDUCED_PRIORS, ReducedPrior, "reduced_prior")
