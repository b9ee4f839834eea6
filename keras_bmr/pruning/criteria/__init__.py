"""How well a group of weights can be spared."""

from keras_bmr.identifiers import resolve
from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence
from keras_bmr.pruning.criteria.delta_f import DeltaF
from keras_bmr.pruning.criteria.evidence import Evidence
from keras_bmr.pruning.criteria.expected_value import ExpectedValue
from keras_bmr.pruning.criteria.gradients import GradientCriterion
from keras_bmr.pruning.criteria.grasp import GraSP
from keras_bmr.pruning.criteria.inclusion import Inclusion
from keras_bmr.pruning.criteria.magnitude import Magnitude
from keras_bmr.pruning.criteria.opd import OPD
from keras_bmr.pruning.criteria.prior_scale import PriorScale
from keras_bmr.pruning.criteria.random import Random
from keras_bmr.pruning.criteria.signal_to_noise import SignalToNoise
from keras_bmr.pruning.criteria.snip import SNIP
from keras_bmr.pruning.criteria.synflow import SynFlow

CRITERIA = {
    "delta_f": DeltaF,
    "evidence": Evidence,
    "expected_value": ExpectedValue,
    "inclusion": Inclusion,
    "magnitude": Magnitude,
    "prior_scale": PriorScale,
    "opd": OPD,
    "random": Random,
    "signal_to_noise": SignalToNoise,
    "synflow": SynFlow,
}


def get(identifier: str | dict | type | Criterion) -> Criterion:
    """Resolves a `criterion=` argument.

    Args:
        identifier: A name out of `CRITERIA`, a class or an instance.

    Returns:
        The criterion.

    Raises:
        ValueError: If nothing of that name is known.

    Example:
        >>> keras_bmr.pruning.criteria.get("magnitude")
    """
    return resolve(identifier, CRITERIA, Criterion, "criterion")


__all__ = [
    "CRITERIA",
    "OPD",
    "SNIP",
    "Criterion",
    "DeltaF",
    "Evidence",
    "ExpectedValue",
    "GraSP",
    "GradientCriterion",
    "Inclusion",
    "Magnitude",
    "PriorScale",
    "Random",
    "SignalToNoise",
    "SynFlow",
    "WeightEvidence",
    "get",
]
