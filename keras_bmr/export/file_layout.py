"""What the bytes of a TFLite file are, read from its flatbuffer."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from keras_bmr.export.activation_memory import peak_activation_bytes
from keras_bmr.export.operators import parse, present, tensor_type_names
from keras_bmr.export.packing import operations


@dataclasses.dataclass(frozen=True)
class LayerBytes:
    """The bytes of an operator that has constants.

    Attributes:
        name: Of the Keras layer where the file's tensor names tell it, or of the
            part of the graph that the operator comes from.
        operator: TFLite's name of the operator.
        weights: Bytes of the constants that it is the first to read, biases included.
        quantization: Bytes of their scales and zero points, of the indices of sparse
            ones, and of the scales and zero points of what the operator puts out. What
            an earlier operator has, too, counts there.
        encoding: How the largest of them is stored: its type, and whether zeros are
            left out, singly or in blocks. An operator `DENSIFY` or `DEQUANTIZE` turns
            it into ordinary weights when the file is loaded.
    """

    name: str
    operator: str
    weights: int
    quantization: int
    encoding: str = ""


@dataclasses.dataclass(frozen=True)
class FileLayout:
    """What the bytes of a file are. `print(layout)` shows a table.

    Attributes:
        bytes: Size of the file.
        layers: The operators with constants, in the order of execution.
        quantization: Bytes of scales, zero points and sparse indices, those of the
            layers included.
        names: Bytes of the names of tensors.
        metadata: Bytes of metadata, the converter's own included.
        structure: All other bytes: tables, shapes, operators, padding. Together with
            the names it is what a small file cannot fall below.
        peak_activation_bytes: The most bytes that inputs, outputs and activations
            which are needed at one time have; weights that are unpacked when the file
            is loaded are none. The arena of an interpreter on a microcontroller is
            larger: kernels' scratch memory, the interpreter's own structures and gaps
            come on top. None for a file with control flow or shapes that are not
            fixed.
    """

    bytes: int
    layers: tuple[LayerBytes, ...]
    quantization: int
    names: int
    metadata: int
    structure: int
    peak_activation_bytes: int | None

    @property
    def weights(self) -> int:
        """Bytes of all constants."""
        return sum(layer.weights for layer in self.layers)

    def __str__(self) -> str:
        """Returns one line per layer, and what the other bytes are."""
        rows = [("layer", "operator", "encoding", "weights", "quantisation")]
        rows += [
            (
                layer.name,
                layer.operator,
                layer.encoding,
                f"{layer.weights:,}",
                f"{layer.quantization:,}",
            )
            for layer in self.layers
        ]
        between = sum(layer.quantization for layer in self.layers)
        if self.quantization != between:
            rows.append(("others", "", "", "", f"{self.quantization - between:,}"))
        rows += [
            (label, "", "", f"{number:,}", "")
            for label, number in (
                ("names of tensors", self.names),
                ("metadata", self.metadata),
                ("structure", self.structure),
            )
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  "
            f"{row[3]:>{widths[3]}}  {row[4]:>{widths[4]}}".rstrip()
            for row in rows
        )


def file_layout(
    file: str | os.PathLike | bytes, layer_names: Iterable[str] = ()
) -> FileLayout:
    """Reads what the bytes of a TFLite file are.

    Args:
        file: Path of the file, or its content.
        layer_names: Names of the layers of the Keras model, if it is at hand. Without
            them layers have the names of the file, which end in a number of their own.

    Returns:
        The bytes layer by layer, and of everything else.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TFLite file.

    Example:
        >>> print(keras_bmr.export.file_layout("model.tflite"))
    """
    content = file if isinstance(file, bytes) else pathlib.Path(file).read_bytes()
    schema, model, codes = parse(content)
    known = frozenset(layer_names)
    type_names = tensor_type_names(schema)
    sizes = [_buffer_bytes(buffer) for buffer in model.buffers or []]
    counted: set[int] = set()
    vectors: set[int] = set()
    layers = []
    for subgraph in model.subgraphs:
        tensors = subgraph.tensors
        for operator in subgraph.operators or []:
            constants = [
                tensors[index]
                for index in present(operator.inputs)
                if sizes[tensors[index].buffer]
            ]
            constants = [c for c in constants if c.buffer not in counted]
            if not constants:
                continue
            # Tensors with equal values may have one buffer.
            buffers = {constant.buffer for constant in constants}
            counted |= buffers
            outputs = [tensors[index] for index in present(operator.outputs)]
            found = _side_vectors([*constants, *outputs])
            largest = max(constants, key=lambda tensor: sizes[tensor.buffer])
            layers.append(
                LayerBytes(
                    name=_layer_name([largest, *outputs], known),
                    operator=codes[operator.opcodeIndex],
                    weights=sum(sizes[buffer] for buffer in buffers),
                    quantization=sum(
                        size for place, size in found.items() if place not in vectors
                    ),
                    encoding=_encoding(type_names, largest),
                )
            )
            vectors |= found.keys()
    tensors = [tensor for subgraph in model.subgraphs for tensor in subgraph.tensors]
    quantization = sum(_side_vectors(tensors).values())
    names = sum(len(tensor.name or b"") for tensor in tensors)
    metadata = sum(
        sizes[entry.buffer] + len(entry.name or b"") for entry in model.metadata or []
    )
    weights = sum(layer.weights for layer in layers)
    return FileLayout(
        bytes=len(content),
        layers=tuple(layers),
        quantization=quantization,
        names=names,
        metadata=metadata,
        structure=len(content) - weights - quantization - names - metadata,
        peak_activation_bytes=peak_activation_bytes(schema, model, codes, sizes),
    )


def _buffer_bytes(buffer: Any) -> int:
    # Those of very large files lie behind the flatbuffer.
    return len(buffer.data) if buffer.data is not None else int(buffer.size)


def _side_vectors(tensors: Sequence[Any]) -> dict[int, int]:
    """Sizes of the vectors that tell how to read the values of tensors.

    By their places in memory: several tensors may refer to one.
    """
    arrays = []
    for tensor in tensors:
        if tensor.quantization is not None:
            quantization = tensor.quantization
            arrays += [quantization.scale, quantization.min, quantization.max]
            arrays += [quantization.zeroPoint]
        if tensor.sparsity is not None:
            sparsity = tensor.sparsity
            arrays += [sparsity.traversalOrder, sparsity.blockMap]
            for dimension in sparsity.dimMetadata or []:
                for vector in (dimension.arraySegments, dimension.arrayIndices):
                    arrays.append(None if vector is None else vector.values)
    return {a.ctypes.data: a.nbytes for a in arrays if a is not None}


def _encoding(type_names: dict[int, str], tensor: Any) -> str:
    """The type of a constant and how its zeros are left out."""
    name = type_names[tensor.type].lower()
    if tensor.sparsity is None:
        return name
    dimensions, rank = tensor.sparsity.dimMetadata, len(tensor.shape)
    if len(dimensions) == rank:
        return f"{name}, sparse"
    block = "x".join(["1", *(str(item.denseSize) for item in dimensions[rank:])])
    return f"{name}, {block} blocks"


def _layer_name(tensors: Sequence[Any], known: frozenset[str]) -> str:
    """The layer that the names of tensors speak of.

    The converter names a tensor after all operations that went into it, each with the
    scopes it was called in: the layers' names, and a number to tell calls apart.
    """
    names = [(tensor.name or b"?").decode(errors="replace") for tensor in tensors]
    paths = operations(";".join(names))
    for path in paths:
        for scope in reversed(path.split("/")):
            called = re.sub(r"_\d+$", "", scope)
            for candidate in (called, scope):
                if candidate in known:
                    return candidate
    scopes = paths[0].split("/")
    return scopes[-2] if len(scopes) > 1 else scopes[0]
