"""The totals of a reduction, layer by layer, and their table."""

import dataclasses
from collections.abc import Sequence


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
