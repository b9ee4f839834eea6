"""What the posterior of a random weight is made of."""

from keras_bmr.identifiers import resolve
from keras_bmr.posteriors.mean_field_normal import MeanFieldNormal
from keras_bmr.posteriors.posterior import Posterior
from keras_bmr.posteriors.sampling import sampling
from keras_bmr.posteriors.spike_and_slab import (
    ContinuousSpikeAndSlab,
    SpikeAndSlab,
)
from keras_bmr.posteriors.truncated_log_normal import TruncatedLogNormal

POSTERIORS = {
    "mean_field_normal": MeanFieldNormal,
    "spike_and_slab": SpikeAndSlab,
    "continuous_spike_and_slab": ContinuousSpikeAndSlab,
    "truncated_log_normal": TruncatedLogNormal,
}


def get(identifier: str | dict | type | Posterior) -> Posterior:
    """Resolves a `posterior=` argument.

    Args:
        identifier: A name out of `POSTERIORS`, a config or an instance.

    Returns:
        The posterior family.

    Raises:
        ValueError: If nothing of that name is known.

    Example:
        >>> keras_bmr.posteriors.get("mean_field_normal")
    """
    return resolve(identifier, POSTERIORS, Posterior, "posterior")


__all__ = [
    "POSTERIORS",
    "ContinuousSpikeAndSlab",
    "MeanFieldNormal",
    "Posterior",
    "SpikeAndSlab",
    "TruncatedLogNormal",
    "get",
    "sampling",
]
