"""How well a group of weights can be spared."""

from keras_bmr.identifiers import resolve
from keras_bmr.pruning.criteria.criterion import Criterion
from keras_bmr.pruning.criteria.delta_f import DeltaF
from keras_bmr.pruning.criteria.expected_value import ExpectedValue
from keras_bmr.pruning.criteria.magnitude import Magnitude
from keras_bmr.pruning.criteria.signal_to_noise import SignalToNoise

CRITERIA = {
    "delta_f": DeltaF,
    "expected_value": ExpectedValue,
    "magnitude": Magnitude,
    "signal_to_noise": SignalToNoise,
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
    "Criterion",
    "DeltaF",
    "ExpectedValue",
    "Magnitude",
    "SignalToNoise",
    "get",
]
