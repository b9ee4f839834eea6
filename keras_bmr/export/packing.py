"""The bytes of a TFLite file, without what a converter repeats in it.

The converter gives every tensor zero points of its own, one int64 for each channel, all
of them 0 in int8 kernels and biases, and names each tensor after all operations that
were fused into it. For networks of some ten thousand weights that is a tenth of the
file, and more once they are pruned.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from keras_bmr.export.operators import parse

# Where the schema lets the bytes of constants start.
ALIGNMENT = 16
# The offsets 0 and 1 mean that the bytes of a constant are within the flatbuffer.
_WITHIN = 1


def pack(model: Any) -> bytes:
    """Writes an object tree as the content of a file.

    Vectors with equal numbers (zero points, scales, shapes) are written once and
    referred to from all places. Constants are not: they keep their own bytes, which an
    interpreter may take for the identity of a tensor.

    Args:
        model: `ModelT` of LiteRT's schema.

    Returns:
        The content of the file.
    """
    import flatbuffers

    class Builder(flatbuffers.Builder):
        """Writes vectors once, and the bytes of constants where they may start."""

        def __init__(self) -> None:
            super().__init__(1024)
            self._known: dict[tuple[str, bytes], int] = {}

        def StartVector(self, elemSize, numElems, alignment):
            alignment = ALIGNMENT if elemSize == 1 else alignment
            return super().StartVector(elemSize, numElems, alignment)

        def CreateNumpyVector(self, x):
            if x.itemsize == 1:
                return super().CreateNumpyVector(x)
            key = x.dtype.str, x.tobytes()
            if key not in self._known:
                self._known[key] = super().CreateNumpyVector(x)
            return self._known[key]

    builder = Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def compact(content: bytes) -> bytes:
    """Makes a file smaller without a change of what it computes.

    Equal vectors are shared, see `pack`, and of the operations in the name of a tensor
    the first stays that is no normalisation. Names that differed still do.

    Args:
        content: The file's bytes.

    Returns:
        Those of the smaller file, or the same ones if it would not be smaller.
    """
    _, model, _ = parse(content)
    if any(buffer.offset > _WITHIN for buffer in model.buffers or []):
        # Of a file beyond 2 GB: constants lie behind the flatbuffer.
        return content
    for subgraph in model.subgraphs:
        _shorten_names(subgraph.tensors)
    packed = pack(model)
    return packed if len(packed) < len(content) else content


def short_name(name: bytes) -> bytes:
    """The first operation that a tensor is named after and that is no normalisation.

    Args:
        name: Of a tensor, in any encoding that has ";" and "/" where ASCII has them.
    """
    return operations(name.decode("latin-1"))[0].encode("latin-1")


def _shorten_names(tensors: Sequence[Any]) -> None:
    """Gives tensors short names; a number tells those apart that would be the same."""
    taken = {tensor.name for tensor in tensors if b";" not in (tensor.name or b"")}
    for tensor in tensors:
        if b";" not in (tensor.name or b""):
            continue
        name = short = short_name(tensor.name)
        numbers = itertools.count(1)
        while name in taken:
            name = short + b":%d" % next(numbers)
        taken.add(name)
        tensor.name = name


def operations(name: str) -> list[str]:
    """The operations that a tensor is named after, those of normalisations last.

    Args:
        name: Of a tensor: scopes and operations, with ";" between them if the converter
            fused several into one. A normalisation becomes part of the layer before it,
            which has the weights.
    """
    return sorted(name.split(";"), key=lambda path: "/batchnorm/" in path)
