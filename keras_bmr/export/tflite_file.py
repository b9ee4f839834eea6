"""A TFLite file whose weights can be stored in another way than its converter's."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_bmr.export.operators import parse
from keras_bmr.export.packing import pack, short_name

# What each operator reads weights from, and which of their axes counts channels.
_WEIGHTS = {
    "FULLY_CONNECTED": (1, 0),
    "CONV_2D": (1, 0),
    "CONV_3D": (1, 4),
    "DEPTHWISE_CONV_2D": (1, 3),
    "TRANSPOSE_CONV": (1, 0),
    "GATHER": (0, 0),
}
# The first versions of the operators that unpack these constants.
_UNPACKING = {"DENSIFY": 1, "DEQUANTIZE": 6}
# Of the fully connected operator that takes sparse weights.
_SPARSE_VERSION = 8


@dataclasses.dataclass(frozen=True)
class WeightConstant:
    """A constant of a TFLite file that holds the weights of an operator.

    Attributes:
        subgraph: Position of its subgraph.
        tensor: Position of the tensor there.
        operator: TFLite's name of the operator that reads it.
        name: Name of the tensor.
        channel_axis: Axis of output channels, or of the rows of an embedding.
        is_shared: Whether operators of several kinds read it.
        num_rows: How many vectors a call multiplies it by, for a fully connected
            operator: the size of a batch, or more in a sequence.
    """

    subgraph: int
    tensor: int
    operator: str
    name: str
    channel_axis: int
    is_shared: bool = False
    num_rows: int = 1


class TFLiteFile:
    """The object tree of a file, float weights of which can be replaced.

    Args:
        content: Bytes of a file with float32 weights.
    """

    def __init__(self, content: bytes) -> None:
        self._schema, self._model, self._codes = parse(content)
        # A buffer may serve several tensors, in several subgraphs.
        self._num_users = np.zeros(len(self._model.buffers), int)
        for subgraph in self._model.subgraphs:
            for tensor in subgraph.tensors:
                self._num_users[tensor.buffer] += 1

    @property
    def schema(self) -> Any:
        """LiteRT's classes of the parts of a file."""
        return self._schema

    def weights(self) -> list[WeightConstant]:
        """The float32 constants that operators read as weights, each once."""
        found: dict[tuple[int, int], WeightConstant] = {}
        for position, subgraph in enumerate(self._model.subgraphs):
            for operator in subgraph.operators or []:
                name = self._codes[operator.opcodeIndex]
                if name not in _WEIGHTS:
                    continue
                argument, axis = _WEIGHTS[name]
                index = int(operator.inputs[argument])
                tensor = subgraph.tensors[index]
                data = self._model.buffers[tensor.buffer].data
                is_float = tensor.type == self._schema.TensorType.FLOAT32
                if not is_float or data is None or not len(data):
                    continue
                key = position, index
                known = found.get(key)
                output = subgraph.tensors[operator.outputs[0]]
                num_rows = math.prod(int(size) for size in output.shape[:-1])
                found[key] = WeightConstant(
                    position,
                    index,
                    name,
                    (tensor.name or b"").decode(errors="replace"),
                    axis,
                    known is not None and (known.is_shared or known.operator != name),
                    max(num_rows, 1 if known is None else known.num_rows),
                )
        return list(found.values())

    def values(self, constant: WeightConstant) -> np.ndarray:
        """The weights, in the order of axes that TFLite has."""
        tensor = self._tensor(constant)
        data = self._model.buffers[tensor.buffer].data
        shape = [int(size) for size in tensor.shape]
        return np.frombuffer(bytes(data), "<f4").reshape(shape)

    def store_sparse(
        self,
        constant: WeightConstant,
        values: np.ndarray,
        sparsity: Any,
        unpack: bool,
    ) -> None:
        """Stores weights in a sparse encoding.

        Args:
            constant: Which.
            values: The values that are stored, float32, in the encoding's order.
            sparsity: `SparsityParametersT` of the schema.
            unpack: Whether to expand them when the file is loaded; otherwise the
                operator must have a sparse kernel.
        """
        data = values.astype("<f4").tobytes()
        if unpack:
            packed = self._packed(constant, self._schema.TensorType.FLOAT32, data)
            packed.sparsity = sparsity
            self._unpack(constant, packed, "DENSIFY")
            return
        tensor = self._tensor(constant)
        tensor.buffer = self._take_buffer(tensor, data)
        tensor.sparsity = sparsity
        for operator in self._model.subgraphs[constant.subgraph].operators:
            if constant.tensor in operator.inputs:
                code = self._model.operatorCodes[operator.opcodeIndex]
                code.version = max(code.version, _SPARSE_VERSION)

    def store_quantized(
        self,
        constant: WeightConstant,
        tensor_type: str,
        codes: np.ndarray,
        scale: np.ndarray | None,
    ) -> None:
        """Stores weights in fewer bits, to be widened when the file is loaded.

        Args:
            constant: Which.
            tensor_type: TFLite's name of the type: FLOAT16, INT16, INT8 or INT4.
            codes: Values of the dtype of that name in the shape of the weights; int8
                for INT4.
            scale: Factor of the codes: one, or one per channel. None for FLOAT16.
        """
        if tensor_type == "INT4":
            data = _in_nibbles(codes)
        else:
            data = codes.astype(codes.dtype.newbyteorder("<")).tobytes()
        code = getattr(self._schema.TensorType, tensor_type)
        packed = self._packed(constant, code, data)
        if scale is not None:
            quantization = self._schema.QuantizationParametersT()
            quantization.scale = scale.astype("<f4").ravel()
            quantization.zeroPoint = np.zeros(scale.size, "<i8")
            # Of a tensor with one scale it is not read.
            quantization.quantizedDimension = constant.channel_axis
            packed.quantization = quantization
        self._unpack(constant, packed, "DEQUANTIZE")

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return pack(self._model)

    def _tensor(self, constant: WeightConstant) -> Any:
        return self._model.subgraphs[constant.subgraph].tensors[constant.tensor]

    def _buffer(self) -> int:
        """Adds an empty buffer and returns its position."""
        self._model.buffers.append(self._schema.BufferT())
        return len(self._model.buffers) - 1

    def _take_buffer(self, tensor: Any, data: bytes) -> int:
        """Returns the buffer that takes new data in the place of a tensor's."""
        self._num_users[tensor.buffer] -= 1
        position = self._buffer() if self._num_users[tensor.buffer] else tensor.buffer
        self._model.buffers[position].data = np.frombuffer(data, np.uint8)
        return position

    def _packed(self, constant: WeightConstant, tensor_type: int, data: bytes) -> Any:
        """Moves the weights into a tensor of another type."""
        tensor = self._tensor(constant)
        packed = self._schema.TensorT()
        packed.name = short_name(tensor.name or b"") + b"_packed"
        packed.shape = tensor.shape
        packed.shapeSignature = tensor.shapeSignature
        packed.hasRank = tensor.hasRank
        packed.type = tensor_type
        packed.buffer = self._take_buffer(tensor, data)
        tensor.buffer = self._buffer()
        self._model.subgraphs[constant.subgraph].tensors.append(packed)
        return packed

    def _unpack(self, constant: WeightConstant, packed: Any, operator: str) -> None:
        """Lets an operator fill the weights from a packed tensor."""
        subgraph = self._model.subgraphs[constant.subgraph]
        unpacking = self._schema.OperatorT()
        unpacking.opcodeIndex = self._code(operator)
        position = next(
            index for index, known in enumerate(subgraph.tensors) if known is packed
        )
        unpacking.inputs = np.array([position], np.int32)
        unpacking.outputs = np.array([constant.tensor], np.int32)
        subgraph.operators.insert(0, unpacking)

    def _code(self, operator: str) -> int:
        """Returns the position of an operator's code, adding it if need be."""
        if operator not in self._codes:
            code = self._schema.OperatorCodeT()
            code.builtinCode = getattr(self._schema.BuiltinOperator, operator)
            code.deprecatedBuiltinCode = code.builtinCode
            code.version = _UNPACKING[operator]
            self._model.operatorCodes.append(code)
            self._codes.append(operator)
        return self._codes.index(operator)


def _in_nibbles(codes: np.ndarray) -> bytes:
    """Two codes of four bits in a byte, the first one in the lower half."""
    flat = codes.ravel().view(np.uint8) & 15
    flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
    return (flat[::2] | (flat[1::2] << 4)).tobytes()
