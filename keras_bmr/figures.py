"""Figures of matplotlib, which is an optional dependency."""

import os
import pathlib
import tempfile
from typing import Any


def new_figure(width: float, height: float) -> Any:
    """An empty figure.

    Args:
        width: In inches.
        height: In inches.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        # Not pyplot, which would choose a backend for the whole process.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib. Install it with `pip install keras_bmr[plots]`."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: str | os.PathLike) -> None:
    """Writes a figure to a file, whole or not at all.

    Args:
        figure: The `matplotlib.figure.Figure`.
        path: Image file; its suffix chooses the format.

    Raises:
        ValueError: If `path` has a suffix that matplotlib does not know.
    """
    path = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        figure.savefig(temporary)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
