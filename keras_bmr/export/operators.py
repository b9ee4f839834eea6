"""Which operators a TFLite file holds, read from its flatbuffer.

The interpreter lists only the main subgraph; the body of a recurrent layer's loop is
a subgraph of its own, so the flatbuffer itself is read.
"""

from collections.abc import Iterable
from typing import Any

# Kernels that draw random numbers: such a network is not deterministic.
RANDOM_OPERATORS = frozenset(
    {"MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM"}
)


def parse(content: bytes):
    """Reads a file's flatbuffer.

    Args:
        content: The file's bytes.

    Returns:
        LiteRT's schema, the object tree, and the names of its operator codes.

    Raises:
        ValueError: If it is no TFLite file.
    """
    if content[4:8] != b"TFL3":
        raise ValueError(
            "Expected the content of a TFLite file, which has the identifier b'TFL3' "
            f"behind its first four bytes. Received: {content[:8]!r}"
        )
    from ai_edge_litert import schema_py_generated as schema

    names = {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if isinstance(code, int)
    }
    model = schema.ModelT.InitFromPackedBuf(content)
    operators = []
    for code in model.operatorCodes or []:
        # Codes above 127 do not fit the older one-byte field.
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = names.get(builtin, f"BUILTIN_{builtin}")
        if name == "CUSTOM":
            name = f"CUSTOM:{(code.customCode or b'?').decode()}"
        operators.append(name)
    return schema, model, operators


def present(indices: Iterable[int] | None) -> list[int]:
    """Positions of the tensors that an operator or subgraph has.

    Args:
        indices: Its inputs or outputs; inputs that it does not have are -1.
    """
    return [] if indices is None else [int(index) for index in indices if index >= 0]


def tensor_type_names(schema: Any) -> dict[int, str]:
    """TFLite's names of the types of tensors, by their codes.

    Args:
        schema: LiteRT's classes, see `parse`.
    """
    return {
        code: name
        for name, code in vars(schema.TensorType).items()
        if isinstance(code, int)
    }


def operator_names(content: bytes) -> tuple[str, ...]:
    """Returns the sorted operator names of all subgraphs.

    Args:
        content: The file's bytes.

    Returns:
        Names of TFLite's `BuiltinOperator`; custom operators, Flex operators (run by
        TensorFlow) among them, as `"CUSTOM:<name>"`.
    """
    _, model, operators = parse(content)
    return tuple(
        sorted(
            {
                operators[operator.opcodeIndex]
                for subgraph in model.subgraphs
                for operator in subgraph.operators or []
            }
        )
    )


def check_operators(names: tuple[str, ...]) -> None:
    """Refuses operators that an interpreter without TensorFlow cannot run.

    Args:
        names: Result of `operator_names`.

    Raises:
        ValueError: If there is a custom or Flex operator, or one that draws random
            numbers.
    """
    custom = [name.removeprefix("CUSTOM:") for name in names if "CUSTOM:" in name]
    if custom:
        raise ValueError(
            "The converted model needs operators that are no TFLite builtins and that "
            "a plain interpreter refuses; expected builtin operators only. Replace "
            f"the layer that uses them. Received: {', '.join(custom)}"
        )
    random = sorted(RANDOM_OPERATORS.intersection(names))
    if random:
        raise ValueError(
            "The model draws random numbers at inference; expected a deterministic "
            "network. Remove the layer that samples, or make it sample in training "
            f"only. Received: {', '.join(random)}"
        )


def has_control_flow(content: bytes) -> bool:
    """Returns whether the file holds more subgraphs than the main one."""
    _, model, _ = parse(content)
    return len(model.subgraphs) > 1


def float_operators(content: bytes) -> tuple[str, ...]:
    """Returns the sorted names of operators that compute in float32.

    Args:
        content: Bytes of a fully quantised file; its conversions at the inputs and
            outputs do not count.
    """
    schema, model, operators = parse(content)
    found = set()
    for subgraph in model.subgraphs:
        for operator in subgraph.operators or []:
            name = operators[operator.opcodeIndex]
            types = {subgraph.tensors[index].type for index in operator.outputs}
            if name != "DEQUANTIZE" and schema.TensorType.FLOAT32 in types:
                found.add(name)
    return tuple(sorted(found))
