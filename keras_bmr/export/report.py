"""What an export produced, in numbers."""

import dataclasses
import os
from typing import Any

from keras_bmr import figures
from keras_bmr.export.arena import ArenaSize, arena_size
from keras_bmr.export.c_array import write_c_array
from keras_bmr.export.file_layout import FileLayout
from keras_bmr.export.metadata import Metadata


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Size, agreement with Keras and latency of an exported file.

    Every number is measured on the file that was written. `print(report)` shows two
    tables, the second one with the bytes of each layer.

    Attributes:
        path: The file.
        bytes: Its size.
        gzip_bytes: Its size after gzip (level 9), what an over-the-air update or an
            app package transfers.
        max_difference: Largest absolute difference between an output of the file and
            the same output of Keras.
        relative_difference: Root mean square difference over the standard deviation
            of the Keras output; the largest over the outputs.
        top1_agreement: Share of predictions with the same largest entry along the
            last axis; the smallest over the outputs. None if no output has a last
            axis longer than 1.
        latency_ms: Median milliseconds of one call with `batch_size` examples, one
            thread, on the machine that exported.
        ops: Names of the operators that the file uses, sorted.
        quantize: None, "float16", "dynamic" or "int8".
        sparse: Whether zeros are stored in TFLite's sparse encoding.
        batch_size: Number of examples per call.
        verified_on: The inputs that the comparison used.
        layout: What the bytes of the file are, layer by layer.
        uncertainty: None, "moments" or "ensemble": how the file makes a mean and a
            variance. The differences are those of means and standard deviations then,
            the agreement that of means.
        notes: Remarks a user should read, such as operators left in float.
        metadata: What the file says about its inputs and outputs, or None.
    """

    path: str
    bytes: int
    gzip_bytes: int
    max_difference: float
    relative_difference: float
    top1_agreement: float | None
    latency_ms: float
    ops: tuple[str, ...]
    quantize: str | None
    sparse: bool
    batch_size: int
    verified_on: str
    layout: FileLayout
    uncertainty: str | None = None
    notes: tuple[str, ...] = ()
    metadata: Metadata | None = None

    def __str__(self) -> str:
        """Returns a table of two columns, and one of the layers' bytes."""
        agreement = self.top1_agreement
        rows = [
            ("file", self.path),
            (
                "weights",
                "float32, sparse" if self.sparse else self.quantize or "float32",
            ),
            *([("uncertainty", self.uncertainty)] if self.uncertainty else []),
            ("bytes", f"{self.bytes:,}"),
            ("bytes, gzip", f"{self.gzip_bytes:,}"),
            ("activations", self._activations()),
            ("verified on", self.verified_on),
            ("largest difference", f"{self.max_difference:.3g}"),
            ("relative difference", f"{self.relative_difference:.3g}"),
            ("top-1 agreement", "-" if agreement is None else f"{agreement:.2%}"),
            (
                "latency",
                f"{self.latency_ms:.4g} ms (batch {self.batch_size}, 1 thread)",
            ),
            ("operators", ", ".join(self.ops)),
            *(("note", note) for note in self.notes),
        ]
        if self.metadata is not None and self.metadata.labels:
            rows.append(("labels", ", ".join(self.metadata.labels)))
        width = max(len(label) for label, _ in rows)
        lines = [f"{label:<{width}}  {value}" for label, value in rows]
        return "\n".join([*lines, "", str(self.layout)])

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Plots what the bytes of the file are; the heading has latency and agreement.

        Args:
            path: Image file to write; its suffix chooses the format.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If `path` has a suffix that matplotlib does not know.

        Example:
            >>> figure = report.plot("model.png")
        """
        layout = self.layout
        others = layout.quantization - sum(la.quantization for la in layout.layers)
        bars = [(la.name, la.weights, la.quantization) for la in layout.layers]
        bars += [
            ("others", 0, others),
            ("names of tensors", layout.names, 0),
            ("metadata", layout.metadata, 0),
            ("structure", layout.structure, 0),
        ]
        labels, contents, scales = zip(*bars, strict=True)
        positions = range(len(bars))
        colors = ["tab:blue"] * len(layout.layers) + ["lightgray"] * 4
        figure = figures.new_figure(7, 1.6 + 0.28 * len(bars))
        axes = figure.subplots()
        axes.barh(positions, contents, color=colors)
        axes.barh(positions, scales, left=contents, color="tab:orange")
        for position, (_, content, scale) in enumerate(bars):
            axes.annotate(
                f"{content + scale:,}",
                (content + scale, position),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
        axes.set_yticks(positions, labels)
        axes.invert_yaxis()
        # Room for the numbers beside the longest bar.
        axes.set_xlim(0, 1.15 * max(content + scale for _, content, scale in bars))
        agreement = self.top1_agreement
        heading = [f"{self.bytes:,} bytes", f"{self.latency_ms:.3g} ms"]
        if agreement is not None:
            heading.append(f"top-1 agreement {agreement:.2%}")
        axes.set(
            xlabel="bytes (orange: scales, zero points and sparse indices)",
            title=", ".join(heading),
        )
        if path is not None:
            figures.save(figure, path)
        return figure

    def write_c_array(self, path: str | os.PathLike, name: str | None = None) -> None:
        """Writes the file as a constant array in C, with a header beside it.

        Args:
            path: Source file to write, with the suffix .c, .cc or .cpp.
            name: Of the array; None stands for the name of the source file behind
                "g_".

        Raises:
            FileNotFoundError: If the TFLite file is gone, or there is no folder to
                write to.
            ValueError: As `keras_bmr.export.write_c_array`.

        Example:
            >>> report.write_c_array("model.cc")
        """
        write_c_array(self.path, path, name)

    def arena_size(self) -> ArenaSize:
        """Measures the memory that TensorFlow Lite Micro needs to run the file.

        Returns:
            As `keras_bmr.export.arena_size`.

        Raises:
            FileNotFoundError: If the file is gone.
            ImportError: If tflite-micro is not installed.
            RuntimeError: If TensorFlow Lite Micro cannot run the file.

        Example:
            >>> print(report.arena_size())
            2,560 bytes: activations 368, persistent 1,856
        """
        return arena_size(self.path)

    def _activations(self) -> str:
        peak = self.layout.peak_activation_bytes
        return "-" if peak is None else f"{peak:,} bytes at a time"
