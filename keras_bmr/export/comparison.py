"""Two models side by side: what a reduction has bought."""

import dataclasses
import os
import tempfile
from typing import Any

import keras

from keras_bmr.export.cost import ModelCost, model_cost
from keras_bmr.export.latency import measure_latency
from keras_bmr.export.report import ExportReport
from keras_bmr.export.tflite import export_tflite


@dataclasses.dataclass(frozen=True)
class CostComparison:
    """The costs of two models and of their files. `print(comparison)` shows a table.

    Attributes:
        before: Counts of the first model.
        after: Counts of the second one.
        files_before: The report of the first model's file, by mode of quantisation.
        files_after: The report of the second one's.
        latency_before: Median seconds of a call with one example, by mode.
        latency_after: The same, measured in turns with `latency_before`.
    """

    before: ModelCost
    after: ModelCost
    files_before: dict[str | None, ExportReport]
    files_after: dict[str | None, ExportReport]
    latency_before: dict[str | None, float]
    latency_after: dict[str | None, float]

    def __str__(self) -> str:
        """Returns one line per quantity: before, after and their ratio."""
        rows = [
            (
                label,
                f"{getattr(self.before, name):,}",
                f"{getattr(self.after, name):,}",
                _ratio(getattr(self.before, name), getattr(self.after, name)),
            )
            for label, name in (
                ("parameters", "num_parameters"),
                ("parameters that are not zero", "num_nonzero_parameters"),
                ("multiply-accumulates", "num_multiply_accumulates"),
            )
        ]
        for mode, before in self.files_before.items():
            after, name = self.files_after[mode], mode or "float32"
            rows += [
                (
                    f"{label} of the {name} file",
                    f"{old:,}",
                    f"{new:,}",
                    _ratio(old, new),
                )
                for label, old, new in (
                    ("bytes", before.bytes, after.bytes),
                    ("gzip bytes", before.gzip_bytes, after.gzip_bytes),
                )
            ]
            old, new = self.latency_before[mode], self.latency_after[mode]
            rows.append(
                (
                    f"ms of the {name} file",
                    f"{1e3 * old:.4f}",
                    f"{1e3 * new:.4f}",
                    _ratio(old, new),
                )
            )
        rows.insert(0, ("", "before", "after", "ratio"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}"
            + "".join(
                f"  {cell:>{width}}"
                for cell, width in zip(row[1:], widths[1:], strict=True)
            )
            for row in rows
        )


def compare_cost(
    before: keras.Model,
    after: keras.Model,
    quantize: str | None | tuple[str | None, ...] = None,
    representative_data: Any = None,
) -> CostComparison:
    """Counts and measures what two models cost, for example before and after `shrink`.

    Both are exported to temporary files, which are verified as in `export_tflite`.
    All files take turns in one run of the interpreter, so that their ratios do not
    depend on what else the machine does.

    Args:
        before: A Keras model, see `model_cost`.
        after: Another one.
        quantize: Mode of the files, see `export_tflite`, or a tuple of modes.
        representative_data: Inputs of shape `(num_examples, ...)` that both models
            take; required for "int8".

    Returns:
        The numbers of both.

    Raises:
        ImportError: If ai-edge-litert is not installed (extra `litert`).
        ValueError: If a model cannot be counted or exported.
        RuntimeError: If an exported file disagrees with Keras.

    Example:
        >>> print(keras_bmr.export.compare_cost(model, keras_bmr.shrink(reduced)))
    """
    modes = quantize if isinstance(quantize, tuple) else (quantize,)
    costs = [model_cost(before), model_cost(after)]
    with tempfile.TemporaryDirectory() as folder:
        reports = [
            export_tflite(
                model,
                os.path.join(folder, f"{position}_{mode}.tflite"),
                quantize=mode,
                representative_data=representative_data,
            )
            for position, model in enumerate((before, after))
            for mode in modes
        ]
        seconds = measure_latency([report.path for report in reports])
    num_modes = len(modes)
    return CostComparison(
        *costs,
        dict(zip(modes, reports[:num_modes], strict=True)),
        dict(zip(modes, reports[num_modes:], strict=True)),
        dict(zip(modes, seconds[:num_modes], strict=True)),
        dict(zip(modes, seconds[num_modes:], strict=True)),
    )


def _ratio(before: float, after: float) -> str:
    return f"{before / after:.2f}x" if after else "-"
