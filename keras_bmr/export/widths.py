"""A picture of how wide the layers of a network are."""

import os
from typing import Any

import keras
import numpy as np

from keras_bmr import figures
from keras_bmr.export.cost import model_cost


def plot_widths(
    before: keras.Model, after: keras.Model, path: str | os.PathLike | None = None
) -> Any:
    """Plots the widths of the layers of a model before and after a reduction.

    A bar's length is the number of units or channels that a layer with kernels puts
    out, on a logarithmic axis.

    Args:
        before: A Keras model, see `model_cost`.
        after: The smaller one; its layers are found by their names.
        path: Image file to write; its suffix chooses the format.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the models have no layer name in common, or `path` has a suffix
            that matplotlib does not know.

    Example:
        >>> figure = keras_bmr.export.plot_widths(model, small, "widths.png")
    """
    wide, narrow = _widths(before), _widths(after)
    if not set(wide) & set(narrow):
        raise ValueError(
            "Expected two models whose layers have the same names, as `shrink` leaves "
            f"them. Received: layers {sorted(wide)} and layers {sorted(narrow)}"
        )
    # A layer that is gone has no width left.
    old = np.array(list(wide.values()))
    new = np.array([narrow.get(name, 0) for name in wide])
    positions = np.arange(len(old))
    figure = figures.new_figure(7, 1.2 + 0.3 * len(old))
    axes = figure.subplots()
    axes.barh(positions, old, height=0.8, color="lightgray", label="before")
    axes.barh(positions, new, height=0.5, color="tab:blue", label="after")
    for position, label in zip(positions, zip(old, new, strict=True), strict=True):
        axes.annotate(
            f"{label[0]} → {label[1]}",
            (max(label), position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.set_yticks(positions, list(wide))
    axes.invert_yaxis()
    # Room for the numbers beside the longest bar.
    axes.set(xlabel="units or channels", xscale="log", xlim=(0.8, 3 * old.max()))
    figure.legend(loc="outside upper right", ncols=2)
    if path is not None:
        figures.save(figure, path)
    return figure


def _widths(model: keras.Model) -> dict[str, int]:
    """Returns the widths of the layers that multiply, by name."""
    return {
        layer.name: layer.width
        for layer in model_cost(model).layers
        if layer.num_multiply_accumulates
    }
