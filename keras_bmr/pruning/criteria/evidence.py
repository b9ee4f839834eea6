"""The criterion that suits the posteriors."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_bmr.pruning.criteria.criterion import Criterion, WeightEvidence
from keras_bmr.pruning.criteria.delta_f import DeltaF
from keras_bmr.pruning.criteria.inclusion import Inclusion
from keras_bmr.pruning.prunable_weight import PrunableWeight


class Evidence(Criterion):
    """What the posteriors say of the evidence for leaving weights out.

    That is `Inclusion` where training has found inclusion probabilities already, and
    `DeltaF` elsewhere.

    Example:
        >>> keras_bmr.reduce_model(model, criterion="evidence")
    """

    is_log_bayes_factor = True

    def __init__(self) -> None:
        self._criterion: Criterion = DeltaF()

    @property
    def natural_threshold(self) -> float | None:
        """See `Criterion`."""
        return self._criterion.natural_threshold

    def prepare(self, model: keras.Model, weights: Sequence[PrunableWeight]) -> None:
        """See `Criterion.prepare`.

        Raises:
            ValueError: If only some of the weights have inclusion probabilities,
                which cannot be ranked together with the others.
        """
        kinds: dict[bool, list[str]] = {True: [], False: []}
        for weight in weights:
            has_spike = getattr(weight.layer, "has_inclusion_probabilities", False)
            kinds[has_spike].append(weight.layer.name)
        if kinds[True] and kinds[False]:
            raise ValueError(
                f"Layers {kinds[True]} have inclusion probabilities and layers "
                f"{kinds[False]} have not, so that they have no evidence in common. "
                "Reduce one kind after the other, with `skip`."
            )
        self._criterion = Inclusion() if kinds[True] else DeltaF()
        self._criterion.prepare(model, weights)

    def statistic(self, evidence: WeightEvidence) -> np.ndarray:
        """See `Criterion.statistic`."""
        return self._criterion.statistic(evidence)

    def score(self, total: np.ndarray, count: np.ndarray) -> np.ndarray:
        """See `Criterion.score`."""
        return self._criterion.score(total, count)
