"""From a model with posteriors to a pruned one."""

from collections.abc import Sequence

import keras
from tensorflow_probability import distributions as tfd

from keras_bmr.layers.conversion import copy_model
from keras_bmr.layers.traversal import variational_layers
from keras_bmr.pruning import criteria, defaults, groups, reduced_priors
from keras_bmr.pruning.checks import check_something_left
from keras_bmr.pruning.dead_paths import remove_dead_paths
from keras_bmr.pruning.model_reduction import ModelReduction
from keras_bmr.pruning.posterior_weights import (
    PosteriorSource,
    posterior_source,
    posterior_weights,
)


def reduce_model(
    source: keras.Model | PosteriorSource,
    reduced_prior: str
    | tfd.Distribution
    | reduced_priors.ReducedPrior = defaults.REDUCED_PRIOR,
    criterion: str | criteria.Criterion = defaults.CRITERION,
    granularity: str | type[groups.ParameterGroups] = defaults.GRANULARITY,
    threshold: float | None = None,
    sparsity: float | None = None,
    skip: Sequence[str] = (),
    write_back: bool = False,
    ranking: str = "global",
) -> keras.Model:
    """Copies a model and prunes the copy by its log evidence.

    The copy of a Bayesian model is Bayesian, that of an ordinary one with posteriors
    from elsewhere is an ordinary one. Pruned weights stay zero when it is fitted, and
    after it was saved and loaded.

    In a Bayesian model, what has no part in its output any more goes, too, see
    `remove_dead_paths`, but not where a share was asked for: `sparsity` is met
    exactly.

    Args:
        source: A built Sequential or Functional model with Bayesian layers, or
            posteriors for one without, see `ModelReduction`. To prune a subclassed
            model in place, use `ModelReduction(model).apply(model)`.
        reduced_prior: See `ModelReduction`.
        criterion: See `ModelReduction`.
        granularity: See `ModelReduction`.
        threshold: See `ModelReduction`.
        sparsity: See `ModelReduction`.
        skip: Names of layers to leave alone.
        write_back: Whether the weights that are kept get their posterior under the
            reduced prior, too, which must then have a density. Without it they keep
            the posterior that training found.
        ranking: "global" or "layer", see `ModelReduction`.

    Returns:
        A new, uncompiled model.

    Raises:
        ValueError: As `ModelReduction`, and if a layer would be left without any
            weight, if `write_back` is asked of a point mass, or if the model is
            subclassed.
        NotImplementedError: If no reduction is known for the distributions.

    Example:
        >>> reduced = keras_bmr.reduce_model(model, sparsity=0.9)
        >>> reduced.compile("adam", loss="mse")
        >>> reduced.fit(x, y, epochs=5)

    References:
        Friston, Parr and Zeidman, Bayesian model reduction, arXiv 1805.07092.
    """
    source = posterior_source(source)
    reduction = ModelReduction(
        source,
        reduced_prior=reduced_prior,
        criterion=criterion,
        granularity=granularity,
        threshold=threshold,
        sparsity=sparsity,
        skip=skip,
        ranking=ranking,
    )
    reduced = copy_model(source.model)
    reduction.apply(reduced, write_back=write_back)
    if sparsity is None and variational_layers(reduced):
        remove_dead_paths(reduced, skip=skip)
        check_something_left(
            (weight, weight.alive()) for weight in posterior_weights(reduced)
        )
    return reduced
