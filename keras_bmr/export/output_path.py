"""The path of a file that is going to be written."""

import os
import uuid


def check_path(path: str | os.PathLike) -> str:
    """Returns the path of a file that can be written.

    A file of another name is made beside it and removed at once: only that tells
    whether a folder takes a file, whatever its permissions say.

    Args:
        path: As the user gives it.

    Raises:
        TypeError: If it is neither a string nor a path object of one.
        FileNotFoundError: If its folder does not exist.
        OSError: If its folder takes no file of such a name.
        ValueError: If it names no file.
    """
    given = path
    path = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(path, str):
        raise TypeError(
            "`path` must be a string or a `pathlib.Path`; `os.fsdecode` makes a string "
            f"of bytes. Received: path={given!r}"
        )
    if not path or "\0" in path:
        raise ValueError(
            "Expected `path` to name a file, such as 'model.tflite'. Received: "
            f"path={path!r}"
        )
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(
            f"The folder of `path` does not exist; create it first. Received: {path!r}"
        )
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "folder" if os.path.isdir(path) else "device"
        raise ValueError(
            f"Expected `path` to name a file. Received: the {kind} {path!r}"
        )
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb"):
            pass
        os.remove(temporary)
    except OSError as error:
        raise type(error)(
            "The folder of `path` takes no file of that name; choose another folder or "
            f"a shorter name. Received: {path!r} ({error.strerror})"
        ) from error
    return path


def temporary_path(path: str) -> str:
    """A path for what is not finished yet.

    Args:
        path: Where it shall appear in the end.

    Returns:
        A new name in the same folder, so that `os.replace` is one atomic step.
    """
    return f"{path}.{uuid.uuid4().hex}.tmp"
