"""Which weights of a file are stored in TFLite's sparse encoding, and how.

A fully connected operator has a sparse kernel for blocks of four consecutive inputs of
one output. All other sparse weights are unpacked when the file is loaded: that saves
bytes of the file, not memory or time.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_bmr.export.tflite_file import TFLiteFile, WeightConstant

BLOCK_LENGTH = 4
# The least share of empty blocks from which on the sparse kernel is not slower than the
# dense one: for one or two vectors at a time, and for more, of which the dense kernel
# makes more. On x86 cores they break even at 0.7-0.8, and at 0.9 or a little more.
MIN_EMPTY_BLOCKS, MIN_EMPTY_BLOCKS_OF_MANY_ROWS = 0.8, 0.95
# Single weights that are zero here and there make no empty blocks worth their bytes.
_MAX_BYTES_FOR_SPEED = 2
# What the tensor and operator of an unpacked constant add to a file.
_UNPACKING_BYTES = 256

DENSE = "dense"
SPARSE_KERNEL = "1x4 blocks, sparse kernel"
UNPACKED_BLOCKS = "1x4 blocks, unpacked when loaded"
UNPACKED = "single weights, unpacked when loaded"


@dataclasses.dataclass(frozen=True)
class SparseWeights:
    """Weights in compressed sparse rows.

    Attributes:
        values: The stored values, float32.
        segments: Where each row starts in `indices`, and where the last one ends.
        indices: Position of each entry in its row, in blocks where there are some.
        shape: Shape of the weights.
        block_length: Number of consecutive weights of an entry.
    """

    values: np.ndarray
    segments: np.ndarray
    indices: np.ndarray
    shape: tuple[int, ...]
    block_length: int

    @property
    def num_bytes(self) -> int:
        """Bytes of values, segments and indices."""
        arrays = (self.values, _narrow(self.segments), _narrow(self.indices))
        return sum(array.nbytes for array in arrays)

    def parameters(self, schema: Any) -> Any:
        """Returns TFLite's description of the encoding.

        Args:
            schema: LiteRT's classes.
        """
        in_blocks = self.block_length > 1
        dense, sparse = (
            getattr(schema.DimensionType, name) for name in ("DENSE", "SPARSE_CSR")
        )
        parameters = schema.SparsityParametersT()
        parameters.traversalOrder = np.arange(len(self.shape) + in_blocks, dtype="<i4")
        parameters.blockMap = np.array([len(self.shape) - 1] * in_blocks, "<i4")
        sizes = [*self.shape[:-1], None, *([self.block_length] * in_blocks)]
        parameters.dimMetadata = []
        for size in sizes:
            dimension = schema.DimensionMetadataT()
            dimension.format = sparse if size is None else dense
            if size is not None:
                dimension.denseSize = size
            else:
                for name, array in (
                    ("arraySegments", self.segments),
                    ("arrayIndices", self.indices),
                ):
                    kind, vector = _vector(schema, array)
                    setattr(dimension, name, vector)
                    setattr(dimension, f"{name}Type", kind)
            parameters.dimMetadata.append(dimension)
        return parameters


def compress(values: np.ndarray, block_length: int = 1) -> SparseWeights:
    """Leaves out zeros, or blocks of zeros along the last axis.

    Args:
        values: Weights, float32, in the order of axes that TFLite has.
        block_length: Divides the length of the last axis.

    Returns:
        The encoding. It has at least one entry, since the interpreter takes a constant
        without any bytes for an activation.
    """
    blocks = values.reshape(-1, values.shape[-1] // block_length, block_length)
    kept = np.any(blocks != 0, axis=-1)
    if not kept.any():
        kept[0, 0] = True
    segments = np.concatenate([[0], np.cumsum(kept.sum(axis=-1))])
    return SparseWeights(
        values=blocks[kept].ravel(),
        segments=segments,
        indices=np.nonzero(kept)[1],
        shape=values.shape,
        block_length=block_length,
    )


def encode_sparse(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Stores each weight constant of a float32 file in its fastest or smallest form.

    The sparse kernel comes first where at least 80 % of the blocks are empty, or 95 %
    if a call multiplies by more than two vectors, and where it takes no more than twice
    the bytes of the smallest encoding. Weights that no encoding makes smaller stay as
    they are.

    Args:
        content: Bytes of the dense file.

    Returns:
        The new content, and the encoding of each constant by the tensor's name.
    """
    file = TFLiteFile(content)
    encodings = {}
    for constant in file.weights():
        values = file.values(constant)
        encoding, compressed = choose_encoding(constant, values)
        encodings[constant.name] = encoding
        if compressed is not None:
            file.store_sparse(
                constant,
                compressed.values,
                compressed.parameters(file.schema),
                unpack=encoding != SPARSE_KERNEL,
            )
    if set(encodings.values()) <= {DENSE}:
        return content, encodings
    return file.to_bytes(), encodings


def choose_encoding(
    constant: WeightConstant, values: np.ndarray
) -> tuple[str, SparseWeights | None]:
    """Chooses the encoding of one constant.

    Args:
        constant: Which.
        values: Its weights.

    Returns:
        The name of the encoding, and the encoded weights; None for the dense one.
    """
    single = compress(values)
    candidates = [(single.num_bytes + _UNPACKING_BYTES, UNPACKED, single)]
    if values.shape[-1] % BLOCK_LENGTH == 0:
        blocks = compress(values, BLOCK_LENGTH)
        unpacked = blocks.num_bytes + _UNPACKING_BYTES
        candidates.append((unpacked, UNPACKED_BLOCKS, blocks))
        allowed = min(values.nbytes, _MAX_BYTES_FOR_SPEED * candidates[0][0])
        if blocks.num_bytes < allowed and _kernel_is_faster(constant, blocks):
            return SPARSE_KERNEL, blocks
    num_bytes, name, compressed = min(candidates, key=lambda candidate: candidate[0])
    return (name, compressed) if num_bytes < values.nbytes else (DENSE, None)


def _kernel_is_faster(constant: WeightConstant, blocks: SparseWeights) -> bool:
    """Whether there is a sparse kernel and it is not slower than the dense one."""
    share = 1 - blocks.values.size / math.prod(blocks.shape)
    few_rows = constant.num_rows <= 2
    least = MIN_EMPTY_BLOCKS if few_rows else MIN_EMPTY_BLOCKS_OF_MANY_ROWS
    has_kernel = constant.operator == "FULLY_CONNECTED" and not constant.is_shared
    return has_kernel and share >= least


def _narrow(array: np.ndarray) -> np.ndarray:
    """The array in the smallest of the three types that TFLite has for it."""
    largest = array.max(initial=0)
    for dtype in (np.uint8, np.uint16):
        if largest <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array.astype(np.int32)


def _vector(schema: Any, array: np.ndarray) -> tuple[int, Any]:
    narrow = _narrow(array)
    name = {"uint8": "Uint8Vector", "uint16": "Uint16Vector", "int32": "Int32Vector"}[
        narrow.dtype.name
    ]
    vector = getattr(schema, f"{name}T")()
    vector.values = narrow
    return getattr(schema.SparseIndexVector, name), vector
