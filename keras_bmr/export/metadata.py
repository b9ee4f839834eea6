"""What a device must know besides the network, kept in the file itself."""

import dataclasses
import json
import math
import numbers
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_bmr.export.operators import parse
from keras_bmr.export.packing import ALIGNMENT

# The name of the entry in the table `metadata` of a TFLite model.
METADATA_NAME = "keras_bmr.metadata.json"
_BUFFERS, _METADATA = 4, 6  # fields of the table Model in TFLite's schema


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a TFLite file says about its inputs and outputs, besides their shapes.

    The network takes `input_scale * raw + input_offset`, where `raw` is what a sensor
    or a decoder yields.

    Args:
        labels: Names of the classes, in the order of the outputs.
        input_scale: Factor of raw inputs, or one per channel.
        input_offset: What is added to them then, or one per channel.
        description: What the network does, in a sentence.

    Raises:
        ValueError: If labels are not distinct strings, or a number is not finite.

    Example:
        >>> metadata = keras_bmr.export.Metadata(
        ...     labels=["cat", "dog"], input_scale=1 / 255, description="Pets"
        ... )
        >>> keras_bmr.export_tflite(model, "pets.tflite", metadata=metadata)
        >>> keras_bmr.export.read_metadata("pets.tflite").labels
        ('cat', 'dog')
    """

    labels: Sequence[str] = ()
    input_scale: float | Sequence[float] = 1.0
    input_offset: float | Sequence[float] = 0.0
    description: str = ""

    def __post_init__(self) -> None:
        """Checks the arguments."""
        # A single string is a sequence of strings, too.
        labels = (self.labels,) if isinstance(self.labels, str) else tuple(self.labels)
        if isinstance(self.labels, str) or not all(
            isinstance(label, str) and label for label in labels
        ):
            raise ValueError(
                "`labels` must be a sequence of strings, one per class. Received: "
                f"labels={self.labels!r}"
            )
        if len(set(labels)) != len(labels):
            raise ValueError(
                f"`labels` must differ from each other. Received: labels={labels}"
            )
        if not isinstance(self.description, str):
            raise ValueError(
                "`description` must be a string. Received: "
                f"description={self.description!r}"
            )
        object.__setattr__(self, "labels", labels)
        for name in ("input_scale", "input_offset"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        factors = self.input_scale
        if 0 in (factors if isinstance(factors, tuple) else (factors,)):
            raise ValueError(
                "`input_scale` must not be zero, which would leave nothing of the "
                f"inputs. Received: input_scale={factors}"
            )


def _numbers(name: str, value: Any) -> float | tuple[float, ...]:
    """A finite number, or a tuple of such."""
    is_sequence = not isinstance(value, str) and isinstance(value, Iterable)
    values = tuple(value) if is_sequence else (value,)
    if not values or not all(
        isinstance(number, numbers.Real)
        and not isinstance(number, bool)
        and math.isfinite(number)
        for number in values
    ):
        raise ValueError(
            f"`{name}` must be a finite number, or a sequence with one for each "
            f"channel. Received: {name}={value!r}"
        )
    found = tuple(float(number) for number in values)
    return found if is_sequence else found[0]


def check_metadata(metadata: Metadata, output_shapes: Sequence[tuple]) -> None:
    """Refuses labels that cannot be those of an output.

    Args:
        metadata: The metadata.
        output_shapes: Shapes of the outputs with the batch axis.

    Raises:
        TypeError: If `metadata` is something else.
        ValueError: If no output has one entry for each label along its last axis.
    """
    if not isinstance(metadata, Metadata):
        raise TypeError(
            "`metadata` must be a `keras_bmr.export.Metadata`. Received: "
            f"metadata={metadata!r}"
        )
    classes = [shape[-1] for shape in output_shapes if len(shape) > 1]
    if metadata.labels and len(metadata.labels) not in classes:
        raise ValueError(
            "Expected as many labels as an output of the model has entries along its "
            f"last axis: {classes}. Received: {len(metadata.labels)} labels"
        )


def with_metadata(content: bytes, metadata: Metadata) -> bytes:
    """Adds metadata to a TFLite file that has none.

    Everything that is in the file stays byte for byte as it is, and behind it the
    offsets of a new root table and of new lists of buffers and metadata are put in
    front. So the alignment of weights is kept, too.

    Args:
        content: The file's bytes.
        metadata: What to add.

    Returns:
        The bytes of the new file.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import number_types

    text = json.dumps(dataclasses.asdict(metadata), ensure_ascii=False).encode()
    old = schema.Model.GetRootAs(content, 0)
    content += bytes(-len(content) % ALIGNMENT)
    builder = flatbuffers.Builder(0)
    # A builder grows towards the front. Its offsets count from the end of the file.
    builder.Bytes, builder.head = bytearray(content), 0

    def known(position: int) -> int:
        return len(content) - position

    builder.StartVector(1, len(text), ALIGNMENT)
    builder.head -= len(text)
    builder.Bytes[builder.head : builder.head + len(text)] = text
    data = builder.EndVector()
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    buffer = schema.BufferEnd(builder)
    name = builder.CreateString(METADATA_NAME)
    schema.MetadataStart(builder)
    schema.MetadataAddName(builder, name)
    schema.MetadataAddBuffer(builder, old.BuffersLength())
    entry = schema.MetadataEnd(builder)

    def extended(start: Callable, length: int, get: Callable, new: int) -> int:
        start(builder, length + 1)
        builder.PrependUOffsetTRelative(new)
        for index in reversed(range(length)):
            builder.PrependUOffsetTRelative(known(get(index)._tab.Pos))
        return builder.EndVector()

    buffers = extended(
        schema.ModelStartBuffersVector, old.BuffersLength(), old.Buffers, buffer
    )
    entries = extended(
        schema.ModelStartMetadataVector, old.MetadataLength(), old.Metadata, entry
    )
    # All fields of the root but the version are offsets of other objects.
    vtable = old._tab.Pos - old._tab.Get(number_types.SOffsetTFlags, old._tab.Pos)
    num_fields = (old._tab.Get(number_types.VOffsetTFlags, vtable) - 4) // 2
    builder.StartObject(max(num_fields, _METADATA + 1))
    schema.ModelAddVersion(builder, old.Version())
    for slot in range(1, num_fields):
        field = old._tab.Offset(4 + 2 * slot)
        if field and slot not in (_BUFFERS, _METADATA):
            target = known(old._tab.Indirect(old._tab.Pos + field))
            builder.PrependUOffsetTRelativeSlot(slot, target, 0)
    builder.PrependUOffsetTRelativeSlot(_BUFFERS, buffers, 0)
    builder.PrependUOffsetTRelativeSlot(_METADATA, entries, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    return bytes(builder.Output())


def read_metadata(file: str | os.PathLike | bytes) -> Metadata | None:
    """Reads the metadata that `export_tflite` put into a file.

    Args:
        file: Path of the TFLite file, or its content.

    Returns:
        The metadata, or None if the file has none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TFLite file.

    Example:
        >>> keras_bmr.export.read_metadata("pets.tflite").labels
        ('cat', 'dog')
    """
    content = file if isinstance(file, bytes) else pathlib.Path(file).read_bytes()
    _, model, _ = parse(content)
    for entry in model.metadata or []:
        if entry.name == METADATA_NAME.encode():
            text = bytes(model.buffers[entry.buffer].data).decode()
            return Metadata(**json.loads(text))
    return None
