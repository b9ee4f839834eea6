"""What an export produced, in numbers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Size, agreement with Keras and latency of an exported file.

    Every number is measured on the file that was written. `print(report)` shows a
    table.

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
        uncertainty: None, "moments" or "ensemble": how the file makes a mean and a
            variance. The differences are those of means and standard deviations then,
            the agreement that of means.
        notes: Remarks a user should read, such as operators left in float.
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
    uncertainty: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns the report as a table of two columns."""
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
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
