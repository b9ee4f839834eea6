"""Pruning whole channels, and how many there are."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_bmr.layers.pruned_weights import prune_weight, renew_training_step
from keras_bmr.layers.variable_paths import variable_at
from keras_bmr.pruning.channels.graph import ChannelGraph

# What no training changes by its gradient is nothing that could be pruned.
_STATISTICS = ("moving_mean", "moving_variance", "closed")


def prune_channels(
    model: keras.Model, groups: Sequence[int], graph: ChannelGraph | None = None
) -> None:
    """Prunes all weights of groups of channels, in place.

    The weights are masked; `shrink` makes the model smaller then.

    Args:
        model: A built Sequential or Functional model, Bayesian or not.
        groups: Indices of groups of the graph.
        graph: The channels of the model; None finds them.

    Raises:
        ValueError: If there is no such group, or as `ChannelGraph`.

    Example:
        >>> keras_bmr.pruning.channels.prune_channels(model, [0, 3])
        >>> small = keras_bmr.shrink(model)
    """
    if graph is None:
        graph = ChannelGraph(model)
    groups = np.asarray(groups, int).reshape(-1)
    if groups.size and not 0 <= groups.min() <= groups.max() < graph.num_groups:
        raise ValueError(
            f"`groups` must be indices of the {graph.num_groups} groups of channels "
            f"of model '{model.name}'. Received: groups={groups.tolist()}"
        )
    gone = np.zeros(graph.num_groups + 1, bool)
    gone[groups] = True
    kept: dict[tuple, tuple] = {}
    for axis in graph.axes:
        pruned = gone[axis.groups]
        if axis.name in _STATISTICS or not pruned.any():
            continue
        shape = variable_at(axis.layer, axis.name).shape
        layout = [1] * len(shape)
        layout[axis.axis] = pruned.size
        _, _, keep = kept.setdefault(
            (id(axis.layer), axis.name), (axis.layer, axis.name, np.ones(shape, bool))
        )
        keep &= ~pruned.reshape(layout)
    for layer, name, keep in kept.values():
        prune_weight(layer, name, keep)
    renew_training_step(model)


def widths(model: keras.Model) -> dict[str, int]:
    """How many channels each layer makes that makes any.

    Args:
        model: A built Sequential or Functional model.

    Returns:
        Units, filters and the like by the name of the layer.

    Raises:
        ValueError: As `ChannelGraph`.

    Example:
        >>> keras_bmr.pruning.channels.widths(model)
        {'conv2d': 20, 'conv2d_1': 50, 'dense': 500, 'dense_1': 10}
    """
    return ChannelGraph(model).widths
