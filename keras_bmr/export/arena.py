"""The memory that TensorFlow Lite Micro needs for a file."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import platform
import subprocess
import sys

from keras_bmr.export.operators import parse

_PROGRAM = pathlib.Path(__file__).with_name("micro_interpreter.py")


@dataclasses.dataclass(frozen=True)
class ArenaSize:
    """Memory of TensorFlow Lite Micro's interpreter, beside the file itself.

    Attributes:
        bytes: Size of the smallest arena in which the file runs, a multiple of 16.
        activation_bytes: Of these, what inputs, outputs, activations and the scratch
            memory of kernels take, planned so that they share it.
        persistent_bytes: Of these, what the interpreter and the kernels keep: their
            structures and scales. The rest is only needed while the interpreter plans.
    """

    bytes: int
    activation_bytes: int
    persistent_bytes: int

    def __str__(self) -> str:
        """Returns a line."""
        return (
            f"{self.bytes:,} bytes: activations {self.activation_bytes:,}, "
            f"persistent {self.persistent_bytes:,}"
        )


def arena_size(tflite_path: str | os.PathLike) -> ArenaSize:
    """Measures the memory that TensorFlow Lite Micro needs to run a file.

    The file is run once by the interpreter for microcontrollers, built for this machine
    (package tflite-micro), in a process of its own. On a microcontroller with addresses
    of 32 bits, structures take less; kernels that are written for a processor, such as
    CMSIS-NN, may need more scratch memory than the portable ones here.

    Args:
        tflite_path: The TFLite file.

    Returns:
        An `ArenaSize`.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If tflite-micro is not installed, which has builds for Linux on
            x86_64.
        RuntimeError: If TensorFlow Lite Micro cannot run the file, with its own words:
            it has fewer operators and types than TFLite.
        ValueError: If it is no TFLite file.

    Example:
        >>> print(keras_bmr.export.arena_size("model.tflite"))
        2,560 bytes: activations 368, persistent 1,856
    """
    path = pathlib.Path(tflite_path)
    parse(path.read_bytes())
    if importlib.util.find_spec("tflite_micro") is None:
        raise ImportError(
            "The memory of a microcontroller is measured by the package tflite-micro, "
            "which is not installed: pip install keras_bmr[micro]. It has builds for "
            f"Linux on x86_64. Received: {sys.platform}, {platform.machine()}"
        )
    # -P: modules beside the program must not hide those of Python.
    done = subprocess.run(
        [sys.executable, "-P", str(_PROGRAM), str(path)], capture_output=True, text=True
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = "\n".join(line for line in lines if not line.startswith("  "))
        raise RuntimeError(
            "TensorFlow Lite Micro cannot run the file. It has fewer operators and "
            "types than TFLite; quantize='int8' and static shapes suit it best. "
            f"Received: {str(path)!r}, exit status {done.returncode}, and the "
            f"message:\n{reason}"
        )
    used = json.loads(done.stdout)
    return ArenaSize(used["smallest"], used["head"], used["tail"])
