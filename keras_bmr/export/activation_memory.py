"""How many bytes of activations a TFLite file needs at one time."""

import math
from collections.abc import Sequence
from typing import Any

from keras_bmr.export.operators import present, tensor_type_names

_BITS = {
    "FLOAT32": 32,
    "FLOAT16": 16,
    "BFLOAT16": 16,
    "FLOAT64": 64,
    "INT64": 64,
    "UINT64": 64,
    "INT32": 32,
    "UINT32": 32,
    "INT16": 16,
    "UINT16": 16,
    "INT8": 8,
    "UINT8": 8,
    "BOOL": 8,
    "INT4": 4,
    "UINT4": 4,
    "INT2": 2,
}
# They turn stored weights into ordinary ones when the file is loaded.
_UNPACKING = ("DENSIFY", "DEQUANTIZE")


def peak_activation_bytes(
    schema: Any, model: Any, codes: Sequence[str], sizes: Sequence[int]
) -> int | None:
    """The largest sum of the sizes of tensors that are alive at one operator.

    Args:
        schema: LiteRT's classes, see `operators.parse`.
        model: The object tree of the file.
        codes: The names of its operator codes.
        sizes: Bytes of each of its buffers.

    Returns:
        Bytes of inputs, outputs and activations; constants, and weights that are
        unpacked, do not count. None for a file with control flow or shapes that are
        not fixed.
    """
    if len(model.subgraphs) != 1:
        return None
    (subgraph,) = model.subgraphs
    operators = subgraph.operators or []
    first = dict.fromkeys(present(subgraph.inputs), 0)
    last: dict[int, int] = {}
    weights = {
        index for index, tensor in enumerate(subgraph.tensors) if sizes[tensor.buffer]
    }
    for step, operator in enumerate(operators):
        inputs = present(operator.inputs)
        if codes[operator.opcodeIndex] in _UNPACKING and weights.issuperset(inputs):
            weights.update(present(operator.outputs))
        for index in present(operator.outputs):
            first[index] = last[index] = step
        for index in inputs:
            last[index] = step
    last.update(dict.fromkeys(present(subgraph.outputs), len(operators) - 1))
    type_names = tensor_type_names(schema)
    alive = [0] * len(operators)
    for index, start in first.items():
        if index in weights:
            continue
        tensor = subgraph.tensors[index]
        bits = _BITS.get(type_names.get(tensor.type))
        shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
        if bits is None or any(size < 0 for size in shape):
            return None
        num_bytes = -(-math.prod(shape) * bits // 8)
        for step in range(start, last.get(index, start) + 1):
            alive[step] += num_bytes
    return max(alive, default=0)
