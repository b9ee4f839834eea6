"""Which weights are pruned together: the granularity of a reduction."""

from collections.abc import Sequence
from typing import Any

from keras_bmr.layers.traversal import layers_named
from keras_bmr.pruning.groups.block_groups import BlockGroups
from keras_bmr.pruning.groups.channel_groups import ChannelGroups
from keras_bmr.pruning.groups.parameter_groups import ParameterGroups
from keras_bmr.pruning.posterior_weights import posterior_source, posterior_weights
from keras_bmr.pruning.weight_reduction import WeightReduction

GRANULARITIES = {
    "weight": ParameterGroups,
    "block": BlockGroups,
    "channel": ChannelGroups,
    "unit": ChannelGroups,
}


def get(granularity: str | type[ParameterGroups]) -> type[ParameterGroups]:
    """Resolves a `granularity=` argument.

    Args:
        granularity: A name out of `GRANULARITIES`, or a class.

    Returns:
        The class of the groups.

    Raises:
        ValueError: If nothing of that name is known.

    Example:
        >>> keras_bmr.pruning.groups.get("block")
    """
    if isinstance(granularity, str) and granularity in GRANULARITIES:
        return GRANULARITIES[granularity]
    if isinstance(granularity, type) and issubclass(granularity, ParameterGroups):
        return granularity
    raise ValueError(
        f"Invalid value for `granularity`: expected one of {sorted(GRANULARITIES)} or "
        f"a subclass of `ParameterGroups`. Received: granularity={granularity!r}"
    )


def considered_groups(
    source: Any, granularity: str | type[ParameterGroups], skip: Sequence[str]
) -> list[ParameterGroups]:
    """The groups that a reduction may prune.

    Args:
        source: A built model with Bayesian layers, or a `PosteriorSource`.
        granularity: As for `get`.
        skip: Names of layers to leave alone.

    Returns:
        At least one; those of one layer one after the other.

    Raises:
        ValueError: If the model has no built Bayesian layer, `skip` names an unknown
            layer, the granularity is unknown, or no weight is left.
    """
    groups_class = get(granularity)
    source = posterior_source(source)
    skipped = layers_named(source.model, skip)
    weights = [WeightReduction(weight) for weight in posterior_weights(source)]
    found = groups_class.partition(source.model, weights, skipped)
    if not found:
        raise ValueError(
            f"Model '{source.model.name}' has no weight left to prune with "
            f"granularity={granularity!r} and skip={skip!r}. Its weights with "
            f"posteriors are {[weight.weight.label for weight in weights]}."
        )
    return found


__all__ = [
    "GRANULARITIES",
    "BlockGroups",
    "ChannelGroups",
    "ParameterGroups",
    "considered_groups",
    "get",
]
