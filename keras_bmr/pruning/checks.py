"""What must hold before a model is reduced."""

import math
import numbers
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from keras_bmr.pruning.criteria import Criterion
from keras_bmr.pruning.prunable_weight import PrunableWeight
from keras_bmr.pruning.reduced_priors import ReducedPrior
from keras_bmr.pruning.weight_reduction import WeightReduction, reduce_weight

RANKINGS = ("global", "layer")


def check_rule(
    criterion: Criterion,
    threshold: float | None,
    sparsity: float | None,
    ranking: str,
) -> None:
    """Checks that exactly one rule says how much is pruned.

    Args:
        criterion: The criterion.
        threshold: Score above which a group is pruned.
        sparsity: Share of the weights to prune.
        ranking: Which weights are ranked together to meet the share.

    Raises:
        ValueError: If both are given, an argument is out of its range, or neither is
            given and the criterion has no threshold of its own.
    """
    if threshold is not None and sparsity is not None:
        raise ValueError(
            "Give either `threshold` or `sparsity`, not both. Received: "
            f"threshold={threshold}, sparsity={sparsity}"
        )
    if sparsity is not None and not (
        isinstance(sparsity, numbers.Real) and 0 <= sparsity < 1
    ):
        raise ValueError(
            "`sparsity` must lie in [0, 1), the share of the weights that shall be "
            f"zero. Received: sparsity={sparsity!r}"
        )
    if ranking not in RANKINGS:
        raise ValueError(
            f"`ranking` must be one of {RANKINGS}. Received: ranking={ranking!r}"
        )
    if threshold is not None and not (
        isinstance(threshold, numbers.Real) and not math.isnan(threshold)
    ):
        raise ValueError(
            "`threshold` must be a number, the score above which groups are pruned. "
            f"Received: threshold={threshold!r}"
        )
    has_threshold = (
        criterion.is_log_bayes_factor or criterion.natural_threshold is not None
    )
    if threshold is None and sparsity is None and not has_threshold:
        raise ValueError(
            f"Criterion {type(criterion).__name__} has no natural threshold: give "
            "`sparsity`, the share of the weights to prune, or `threshold`, the score "
            "above which they are. Received: threshold=None, sparsity=None"
        )


def check_something_left(
    masks: Iterable[tuple[PrunableWeight, np.ndarray]],
) -> None:
    """Checks that every layer keeps a weight.

    Args:
        masks: Weights with their masks, which are False where a weight is pruned.

    Raises:
        ValueError: If a layer would be left without any weight.
    """
    # Layers of nested models may share a name.
    left: dict[keras.layers.Layer, bool] = {}
    for weight, mask in masks:
        # A bias alone passes nothing on.
        if not weight.name.endswith(("bias", "beta")):
            left[weight.layer] = left.get(weight.layer, False) or bool(mask.any())
    for name in (layer.name for layer, some in left.items() if not some):
        raise ValueError(
            f"Nothing would be left of layer '{name}', and no signal would pass it. "
            f"Leave it alone with `skip=['{name}']`, or prune less with a higher "
            "`threshold` or a lower `sparsity`. If you did not ask for much, a "
            "variational posterior may have collapsed to the prior: train longer, warm "
            "up with `keras_bmr.callbacks.KLAnnealing`, and check `num_examples`; a "
            "Laplace posterior may have a prior that does not fit: call "
            "`optimize_prior_precision()`, or give `criterion='opd'` and a `sparsity`."
        )


def check_writable(
    weights: Sequence[WeightReduction], reduced_prior: ReducedPrior
) -> None:
    """Checks that the reduced posteriors can be written into the layers.

    Args:
        weights: The weights of a model.
        reduced_prior: The reduced prior.

    Raises:
        ValueError: If the reduced prior is a point mass, or the reduced posterior
            is of another family than the posterior.
    """
    if reduced_prior.is_point_mass:
        raise ValueError(
            "`write_back=True` needs a reduced prior with a density, for example "
            "`reduced_prior=tfd.Normal(0.0, 0.1)`: under a point mass a weight is "
            f"zero or keeps its posterior. Received: {type(reduced_prior).__name__}"
        )
    for weight in (reduction.weight for reduction in weights):
        if not weight.can_be_assigned():
            raise ValueError(
                "`write_back=True` needs a Bayesian model, whose layers store their "
                f"posteriors. Received: {weight.label} with a posterior of "
                f"{type(weight.source).__name__}. Use `write_back=False`."
            )
        posterior = weight.posterior()
        reduced = reduce_weight(weight, reduced_prior).posterior
        if not isinstance(reduced, type(posterior)):
            raise ValueError(
                f"The reduced posterior of {weight.label} is a "
                f"{type(reduced).__name__}, which its {type(posterior).__name__} "
                "posterior cannot hold. Use `write_back=False`."
            )
