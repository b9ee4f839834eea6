"""Pruning the weights of a model, all decisions being made."""

from collections.abc import Sequence

import keras

from keras_bmr.layers.cloning import within
from keras_bmr.layers.pruned_weights import renew_training_step, save_constraints
from keras_bmr.pruning.prunable_weight import PrunableWeight
from keras_bmr.pruning.reduced_priors import ReducedPrior
from keras_bmr.pruning.weight_reduction import WeightReduction, reduce_weight


def prune_together(
    model: keras.Model,
    targets: Sequence[PrunableWeight],
    decisions: Sequence[WeightReduction],
    reduced_prior: ReducedPrior | None,
) -> None:
    """Prunes weights of a model.

    Args:
        model: The model; it is changed in place.
        targets: Its weights.
        decisions: For each of them what is known of it, of `model` or of the one that
            it is a copy of.
        reduced_prior: The prior under which weights that are kept get their
            posterior; None leaves it as it is.
    """
    constraints = [target.variable.constraint for target in targets]
    for target, decision in zip(targets, decisions, strict=True):
        assigns = reduced_prior is not None and decision.has_posterior
        if assigns:
            reduced = reduce_weight(decision.weight, reduced_prior).posterior
        if not decision.keep.all():
            target.prune(decision.keep)
        if assigns:
            target.layer.assign_posterior(target.name, reduced)
    for layer in within(model):
        save_constraints(layer)
    changed = any(
        target.variable.constraint is not constraint
        for target, constraint in zip(targets, constraints, strict=True)
    )
    if changed:
        renew_training_step(model)
