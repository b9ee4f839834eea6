"""Pictures of a reduction."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_bmr import figures
from keras_bmr.pruning.summary import LayerReduction

# Beyond these quantiles lie weights that are kept or pruned without any doubt; the
# histogram counts them in its first and last bin.
_QUANTILES = (0.01, 0.99)
_NUM_BINS = 100


def plot_reduction(
    delta_f: np.ndarray,
    layers: Sequence[LayerReduction],
    path: str | os.PathLike | None = None,
) -> Any:
    """Plots a histogram of delta_f and the share of each layer that is kept.

    Args:
        delta_f: Array of shape (weights,) in nats.
        layers: The totals of all layers.
        path: Image file to write; its suffix chooses the format.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `path` has a suffix that matplotlib does not know.
    """
    figure = figures.new_figure(11, 4)
    histogram, shares = figure.subplots(1, 2)
    low, high = np.quantile(delta_f, _QUANTILES) if delta_f.size else (-1.0, 1.0)
    low, high = min(low, 0.0), max(high, 0.0)
    bins = np.linspace(low, high, _NUM_BINS + 1) if high > low else _NUM_BINS
    histogram.hist(np.clip(delta_f, low, high), bins=bins)
    histogram.axvline(0.0, color="black", linewidth=1)
    histogram.set(
        xlabel="delta_f in nats, positive favours the reduced model",
        ylabel="weights",
        yscale="log" if delta_f.size else "linear",
    )
    positions = np.arange(len(layers))
    shares.barh(positions, [layer.share_kept for layer in layers])
    shares.set_yticks(positions, [layer.layer for layer in layers])
    shares.invert_yaxis()
    shares.set(xlabel="share of weights kept", xlim=(0, 1))
    if path is not None:
        figures.save(figure, path)
    return figure
