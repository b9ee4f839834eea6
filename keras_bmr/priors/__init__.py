"""Priors of random weights."""

from keras_bmr.identifiers import resolve
from keras_bmr.priors.empirical_bayes_normal import (
    EmpiricalBayesNormal,
    LayerwiseNormal,
)
from keras_bmr.priors.half_cauchy_normal import HalfCauchyNormal
from keras_bmr.priors.log_uniform import LogUniform
from keras_bmr.priors.normal import Normal
from keras_bmr.priors.prior import Prior
from keras_bmr.priors.regularized_horseshoe import RegularizedHorseshoe
from keras_bmr.priors.scale_mixture import ScaleMixtureNormal
from keras_bmr.priors.spike_and_slab import ContinuousSpikeAndSlab, SpikeAndSlab

PRIORS = {
    "normal": Normal,
    "layerwise_normal": LayerwiseNormal,
    "empirical_bayes_normal": EmpiricalBayesNormal,
    "scale_mixture_normal": ScaleMixtureNormal,
    "half_cauchy_normal": HalfCauchyNormal,
    "regularized_horseshoe": RegularizedHorseshoe,
    "spike_and_slab": SpikeAndSlab,
    "continuous_spike_and_slab": ContinuousSpikeAndSlab,
    "log_uniform": LogUniform,
}


def get(identifier: str | dict | type | Prior) -> Prior:
    """Resolves a `prior=` argument.

    Args:
        identifier: A name out of `PRIORS`, a config or an instance.

    Returns:
        The prior.

    Raises:
        ValueError: If nothing of that name is known.

    Example:
        >>> keras_bmr.priors.get("layerwise_normal")
    """
    return resolve(identifier, PRIORS, Prior, "prior")


__all__ = [
    "PRIORS",
    "ContinuousSpikeAndSlab",
    "EmpiricalBayesNormal",
    "HalfCauchyNormal",
    "LayerwiseNormal",
    "LogUniform",
    "Normal",
    "Prior",
    "RegularizedHorseshoe",
    "ScaleMixtureNormal",
    "SpikeAndSlab",
    "get",
]
