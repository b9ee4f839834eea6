"""Rows of results: read, written, completed by latencies and drawn against costs.

A row has a name, and `NAME_int8.tflite` is its file.
"""

import json
import os
import pathlib

from keras_bmr import figures
from keras_bmr.export import measure_latency

# What rows call it, its unit, and the axis.
COSTS = [
    ("multiply_accumulates", 1e6, "million multiply-accumulates"),
    ("int8_bytes", 1e3, "kB of the int8 file"),
    ("int8_latency_ms", 1.0, "ms of the int8 file"),
]


def read_rows(path: pathlib.Path) -> dict[str, dict]:
    """The rows that are there, by name."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_rows(path: pathlib.Path, rows: dict[str, dict]) -> None:
    """Writes all rows, whole or not at all."""
    temporary = path.with_name(f"writing_{path.name}")
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    os.replace(temporary, path)


def measure(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Adds the latency of all files, which take turns, to the rows."""
    rows = read_rows(path)
    files = {name: folder / f"{name}_int8.tflite" for name in rows}
    files = {name: file for name, file in files.items() if file.exists()}
    for name, seconds in zip(files, measure_latency(list(files.values())), strict=True):
        rows[name]["int8_latency_ms"] = 1e3 * seconds
        print(f"{name}: {1e3 * seconds:.4f} ms")
    write_rows(path, rows)


def plot(rows: dict[str, dict], path: pathlib.Path) -> None:
    """Draws the accuracy of the int8 files against what they cost.

    Rows of one method with equally many epochs are connected; the method, which has a
    colour, is the name up to the first "_". Epochs have markers, hollow for what was
    trained with the rounding of int8 ("_aware").
    """
    lines: dict[tuple[str, int, bool], list[dict]] = {}
    for name, row in rows.items():
        line = name.partition("_")[0], row["epochs"], name.endswith("_aware")
        lines.setdefault(line, []).append(row)
    methods = list(dict.fromkeys(method for method, _, _ in lines))
    epochs_of_markers = sorted({epochs for _, epochs, _ in lines})
    figure = figures.new_figure(11, 5)
    all_axes = figure.subplots(1, len(COSTS), sharey=True)
    all_axes[0].set_ylabel("accuracy of the int8 file (%)")
    for axes, (key, unit, label) in zip(all_axes, COSTS, strict=True):
        axes.set(xlabel=label)
        for (method, epochs, is_aware), of_line in lines.items():
            points = sorted(
                (row[key] / unit, row["int8_accuracy_percent"])
                for row in of_line
                if key in row and "int8_accuracy_percent" in row
            )
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=f"C{methods.index(method)}",
                    marker="osD^v<>"[epochs_of_markers.index(epochs) % 7],
                    fillstyle="none" if is_aware else "full",
                    label=f"{method}, {epochs} epochs{', int8-aware' * is_aware}",
                )
    labels = all_axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper center", ncols=3)
    figures.save(figure, path)
