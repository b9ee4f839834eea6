"""How long a TFLite file takes, measured with LiteRT."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_bmr.export.converter import quiet

_NUM_WARM_UP, _BURST = 5, 10
_MIN_RUNS, _MAX_RUNS, _MIN_SECONDS = 50, 1000, 0.2


def measure_latency(files: Sequence[str | os.PathLike | bytes]) -> list[float]:
    """Measures how long a call of each of several TFLite files takes.

    The files take turns, ten calls each, until each has had at least 50 calls and 0.2
    seconds or 1000 calls. So a change in the load of the machine meets all of them,
    and the ratios of one run mean something. The inputs are random.

    Args:
        files: Paths of files, or their contents.

    Returns:
        The median seconds of one call on one thread, in the order of `files`.

    Raises:
        ImportError: If ai-edge-litert is not installed (extra `litert`).
        ValueError: If `files` is empty, or a single file that is not in a list.
        RuntimeError: If the interpreter refuses a file.

    Example:
        >>> dense, small = keras_bmr.export.measure_latency(
        ...     ["dense.tflite", "small.tflite"]
        ... )
        >>> print(f"{dense / small:.1f} times faster")
    """
    if isinstance(files, str | bytes | os.PathLike) or not len(files):
        raise ValueError(
            "`files` must be a list of paths of TFLite files, or of their contents, "
            f"with at least one entry. Received: {type(files).__name__}"
            f"{'' if isinstance(files, bytes) else f' {files!r}'}"
        )
    interpreters = [load(file) for file in files]
    for interpreter in interpreters:
        _set_random_inputs(interpreter)
    return median_seconds([interpreter.invoke for interpreter in interpreters])


def load(file: str | os.PathLike | bytes) -> Any:
    """Returns an interpreter of a file, on one thread and ready to be called.

    Args:
        file: Path or content.

    Raises:
        ImportError: If ai-edge-litert is not installed.
        FileNotFoundError: If there is no such file.
        RuntimeError: If the interpreter refuses it.
    """
    interpreter_class = litert_interpreter()
    if isinstance(file, bytes):
        source = {"model_content": file}
    else:
        source = {"model_path": os.fspath(file)}
        if not os.path.isfile(file):
            raise FileNotFoundError(f"Expected a TFLite file. Received: {file!r}")
    try:
        with quiet():
            interpreter = interpreter_class(**source, num_threads=1)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"The LiteRT interpreter does not load the file: {error}"
        ) from error
    return interpreter


def litert_interpreter() -> type:
    """Returns LiteRT's `Interpreter`.

    Raises:
        ImportError: If ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "TFLite files are run by the LiteRT interpreter, which is not installed. "
            "Run `pip install keras_bmr[litert]`."
        ) from error
    return Interpreter


def median_seconds(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Returns the median seconds of each function, which take turns.

    Args:
        calls: Functions without arguments.
    """
    seconds = [[] for _ in calls]
    for call in calls:
        for _ in range(_NUM_WARM_UP):
            call()
    while any(_is_short(measured) for measured in seconds):
        for call, measured in zip(calls, seconds, strict=True):
            # The others have filled the caches with their weights.
            call()
            for _ in range(_BURST):
                start = time.perf_counter()
                call()
                measured.append(time.perf_counter() - start)
    return [float(np.median(measured)) for measured in seconds]


def _is_short(seconds: list[float]) -> bool:
    return len(seconds) < _MIN_RUNS or (
        sum(seconds) < _MIN_SECONDS and len(seconds) < _MAX_RUNS
    )


def _set_random_inputs(interpreter: Any) -> None:
    """Fills the inputs: normal floats, zeros and ones for integers."""
    generator = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        if np.issubdtype(detail["dtype"], np.floating):
            values = generator.normal(size=detail["shape"])
        else:
            # Zero and one are valid whatever the size of an embedding.
            values = generator.integers(0, 2, size=detail["shape"])
        interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
