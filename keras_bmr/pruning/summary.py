"""The totals of a reduction, layer by layer, and their table."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from keras_bmr.pruning.weight_reduction import WeightReduction


@dataclasses.dataclass(frozen=True)
class LayerReduction:
    """What a reduction does to one layer.

    Attributes:
        layer: Name of the layer.
        num_weights: Number of its weights that were considered.
        num_kept: How many of them would be left.
        log_bayes_factor: Log Bayes factor in nats of reducing those that would not;
            weights that were pruned before have no share in it.
    """

    layer: str
    num_weights: int
    num_kept: int
    log_bayes_factor: float

    @property
    def share_kept(self) -> float:
        """Share of the weights that would be left."""
        return self.num_kept / self.num_weights


def layer_totals(weights: Sequence[WeightReduction]) -> list[LayerReduction]:
    """Adds up what happens to the weights of each layer.

    Args:
        weights: Weights that were analysed, those of a layer one after the other.

    Returns:
        One entry per layer, in their order.
    """
    layers = [
        list(group)
        for _, group in itertools.groupby(weights, lambda w: id(w.weight.layer))
    ]
    return [
        LayerReduction(
            layer=of_layer[0].weight.layer.name,
            num_weights=sum(weight.keep.size for weight in of_layer),
            num_kept=sum(int(np.count_nonzero(w.keep)) for w in of_layer),
            log_bayes_factor=sum(weight.log_bayes_factor() for weight in of_layer),
        )
        for of_layer in layers
    ]


def table(layers: Sequence[LayerReduction]) -> list[str]:
    """Lays out the totals of all layers as a table.

    Args:
        layers: At least one.

    Returns:
        The lines, the last of which is the total.
    """
    total = LayerReduction(
        "Total",
        sum(row.num_weights for row in layers),
        sum(row.num_kept for row in layers),
        sum(row.log_bayes_factor for row in layers),
    )
    width = max(len(row.layer) for row in [*layers, total])
    header = (
        f"{'Layer':<{width}}  {'Weights':>12}  {'Kept':>12}  {'Share':>8}  "
        f"{'Delta F (nats)':>16}"
    )
    rows = [
        f"{row.layer:<{width}}  {row.num_weights:>12,}  {row.num_kept:>12,}  "
        f"{row.share_kept:>8.2%}  {row.log_bayes_factor:>16,.1f}"
        for row in [*layers, total]
    ]
    rule = "-" * len(header)
    return [header, rule, *rows[:-1], rule, rows[-1]]
