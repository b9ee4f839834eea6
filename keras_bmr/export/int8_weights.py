"""The int8 weights of a TFLite file, and whether pruned ones are zero there."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from keras_bmr.export.operators import parse

# Which input holds the weights, and which of their axes counts channels.
_WEIGHTS = {
    "CONV_2D": (1, 0),
    "DEPTHWISE_CONV_2D": (1, 3),
    "FULLY_CONNECTED": (1, 0),
    "TRANSPOSE_CONV": (1, 0),
}


@dataclasses.dataclass(frozen=True)
class Int8Weights:
    """The weights that an operator reads.

    Attributes:
        operator: TFLite's name of the operator.
        codes: int8 array in TFLite's order of axes: `(out, in)` for fully connected
            operators, `(out, height, width, in)` for convolutions and transposed ones,
            `(1, height, width, channels)` for depthwise ones.
        scales: float32 array that broadcasts to the codes. A weight is code times
            scale, so that code 0 is exactly 0.
    """

    operator: str
    codes: np.ndarray
    scales: np.ndarray


def int8_weights(file: str | os.PathLike | bytes) -> list[Int8Weights]:
    """Reads the int8 weights of a TFLite file.

    Args:
        file: Path of the file, or its content.

    Returns:
        The weights of dense and convolution operators in the order of execution;
        those that several operators read, once.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If weights have a zero point other than 0.

    Example:
        >>> weights = keras_bmr.export.int8_weights("model.tflite")
        >>> zeros = sum((item.codes == 0).sum() for item in weights)
    """
    content = file if isinstance(file, bytes) else pathlib.Path(file).read_bytes()
    return list(dict(_read(content)).values())


def _read(content: bytes) -> Iterator[tuple[tuple[int, int], Int8Weights]]:
    """Yields the weights of each operator with the position of their tensor."""
    schema, model, names = parse(content)
    for position, subgraph in enumerate(model.subgraphs):
        for operator in subgraph.operators or []:
            name = names[operator.opcodeIndex]
            if name not in _WEIGHTS:
                continue
            argument, axis = _WEIGHTS[name]
            index = int(operator.inputs[argument])
            tensor = subgraph.tensors[index]
            data = model.buffers[tensor.buffer].data
            if tensor.type != schema.TensorType.INT8 or data is None or not len(data):
                continue
            codes = np.frombuffer(bytes(data), np.int8)
            codes = codes.reshape([int(size) for size in tensor.shape])
            quantization = tensor.quantization
            if np.any(quantization.zeroPoint):
                raise ValueError(
                    f"Expected zero points of 0 for the weights of {name}. Received: "
                    f"{quantization.zeroPoint} in tensor {tensor.name.decode()!r}"
                )
            shape = [1] * codes.ndim
            shape[axis] = -1
            scales = np.asarray(quantization.scale, "float32").reshape(shape)
            yield (position, index), Int8Weights(name, codes, scales)


def in_file_layout(operator: str, kernel: np.ndarray) -> np.ndarray:
    """Brings a kernel of a Keras layer into TFLite's order of axes.

    Args:
        operator: TFLite's name of the operator that the layer becomes.
        kernel: Array in the shape of the layer's kernel.

    Returns:
        Array in the shape of the file's weights.
    """
    if operator == "FULLY_CONNECTED":
        return kernel.T
    if kernel.ndim == 3:
        # A convolution of one row.
        kernel = kernel[None]
    if operator == "DEPTHWISE_CONV_2D":
        return kernel.reshape(1, *kernel.shape[:2], -1)
    if operator == "TRANSPOSE_CONV":
        return kernel.transpose(2, 0, 1, 3)
    return kernel.transpose(3, 0, 1, 2)


def operator_of(layer: keras.layers.Layer) -> str | None:
    """TFLite's name of the operator that a Keras layer becomes.

    Args:
        layer: A layer of Keras or tf_keras.

    Returns:
        The name; None for layers without int8 weights that are known.
    """
    names = {kind.__name__ for kind in type(layer).__mro__}
    for operator, kinds in (
        ("FULLY_CONNECTED", {"Dense"}),
        ("DEPTHWISE_CONV_2D", {"DepthwiseConv1D", "DepthwiseConv2D"}),
        ("TRANSPOSE_CONV", {"Conv1DTranspose", "Conv2DTranspose"}),
        ("CONV_2D", {"Conv1D", "Conv2D"}),
    ):
        if names & kinds:
            return operator
    return None


def check_zeros(content: bytes, kept: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Checks that the weights of a file are zero where those of a model are pruned.

    Weights of one operator and shape are told apart by their zeros alone: each mask
    needs a tensor of its own that has them.

    Args:
        content: Bytes of the file.
        kept: By the name of the layer: operator, and boolean array in the shape of the
            kernel, False where it is pruned.

    Raises:
        RuntimeError: If a pruned weight is not zero, with the name of the layer.
    """
    # One entry per operator: the converter stores equal weights once.
    weights = [item for _, item in _read(content)]
    taken: dict[int, str] = {}

    def fits(name: str, index: int) -> bool:
        operator, mask = kept[name]
        mask = in_file_layout(operator, mask)
        item = weights[index]
        return (
            item.operator == operator
            and item.codes.shape == mask.shape
            and not np.any(item.codes[~mask])
        )

    def assign(name: str, tried: set[int]) -> bool:
        """Gives a layer a tensor; one that has it already may have to move on."""
        for index in range(len(weights)):
            if index in tried or not fits(name, index):
                continue
            tried.add(index)
            if index not in taken or assign(taken[index], tried):
                taken[index] = name
                return True
        return False

    for name, (operator, mask) in kept.items():
        if not np.all(mask) and not assign(name, set()):
            raise RuntimeError(
                f"The pruned weights of layer '{name}' are not all zero in the int8 "
                "file, which was not written. Expected a tensor of "
                f"{operator} with {int(np.sum(~mask))} zeros where they are pruned."
            )
