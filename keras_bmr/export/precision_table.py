"""A table of what each weight needs, and of what formats cost it."""

from collections.abc import Sequence

import numpy as np

from keras_bmr.export.rounded_weights import RoundedWeights
from keras_bmr.export.text_table import text_table
from keras_bmr.export.weight_evidence import grid_delta_f, resolved_bits


def precision_table(weights: RoundedWeights, formats: Sequence[str]) -> list[str]:
    """The lines that `WeightPrecision.summary` prints.

    Args:
        weights: The weights of a file.
        formats: Names of the formats to show.

    Returns:
        A row for each weight, below it those that the file cannot hold in a format.
    """
    rows = [("weight", "kept", "bits", *(f"loss {name}" for name in formats))]
    rows[0] += tuple(f"delta_f {name}" for name in formats)
    for label in weights.labels:
        found = weights.labelled(label)[0]
        rounded = [weights.round(found, name) for name in formats]
        bits = resolved_bits(found, 1 / 24)
        rows.append(
            (
                label,
                f"{np.count_nonzero(found.keep):,}",
                f"{bits.min():.1f}-{bits.max():.1f}",
                *(_nats(float(np.sum(item.loss))) for item in rounded),
                *(_nats(grid_delta_f(item)) for item in rounded),
            )
        )
    return [
        *text_table(rows),
        *(
            f"{label}: no constant of its own in the file, stays float32"
            for label in weights.missing
        ),
    ]


def _nats(value: float) -> str:
    """Four digits, and nothing of what is as good as zero."""
    return f"{value:.4g}" if abs(value) >= 1e-4 else "0"
