"""Prints the memory that a TFLite file takes in TensorFlow Lite Micro, as JSON.

A program of its own, which imports nothing of the library: the interpreter writes what
it allocates to the standard error, and can crash where an arena is too small.
"""

import json
import os
import re
import sys
import tempfile

from tflite_micro import runtime

# More than any microcontroller has; memory that is not touched costs nothing.
_LARGE = 1 << 29
_ALIGNMENT = 16


def run(path: str, arena_size: int) -> runtime.Interpreter:
    """Runs a file once on inputs of zeros."""
    interpreter = runtime.Interpreter.from_file(path, arena_size=arena_size)
    interpreter.invoke()
    return interpreter


def allocations(interpreter: runtime.Interpreter) -> dict[str, int]:
    """What of an arena is used, in bytes."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        text = file.read().decode()
    found = re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", text)
    return {part: int(size) for part, size in found}


def fits(path: str, arena_size: int) -> bool:
    """Whether a file runs in an arena."""
    try:
        run(path, arena_size)
    except RuntimeError:
        return False
    return True


def smallest_arena(path: str, used: int) -> int:
    """Size in bytes of an arena in which a file runs.

    While an interpreter plans, it needs memory that is free again once it has done so:
    more than `used`, what is allocated in the end, or as much.
    """
    low = -(-used // _ALIGNMENT)
    if fits(path, low * _ALIGNMENT):
        return low * _ALIGNMENT
    high = 2 * low
    while not fits(path, high * _ALIGNMENT):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if fits(path, middle * _ALIGNMENT):
            high = middle
        else:
            low = middle
    return high * _ALIGNMENT


def main() -> None:
    """Prints what an arena must have."""
    path = sys.argv[1]
    used = allocations(run(path, _LARGE))
    used["smallest"] = smallest_arena(path, used["total"])
    print(json.dumps(used))


if __name__ == "__main__":
    main()
