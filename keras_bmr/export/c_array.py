"""A TFLite file as an array in C, for devices without a file system."""

import os
import pathlib
import re
import tempfile

from keras_bmr.export.operators import parse

_SUFFIXES = (".c", ".cc", ".cpp")
_NUM = 12  # bytes per line
# What TFLite's schema demands of buffers, and more than any kernel needs.
_ALIGNMENT = 16

_HEADER = """\
#ifndef {guard}
#define {guard}

#ifdef __cplusplus
extern "C" {{
#endif

/* The TFLite file {file}. */
extern const unsigned char {name}[{size}];
extern const unsigned int {name}_len;

#ifdef __cplusplus
}}
#endif

#endif /* {guard} */
"""

_SOURCE = """\
#include "{header}"

#ifdef __cplusplus
#define ALIGNED alignas({alignment})
#else
#define ALIGNED _Alignas({alignment})
#endif

ALIGNED const unsigned char {name}[{size}] = {{
{lines}
}};
const unsigned int {name}_len = {size};
"""


def write_c_array(
    tflite_path: str | os.PathLike, path: str | os.PathLike, name: str | None = None
) -> None:
    """Writes a TFLite file as a constant array in C, with a header beside it.

    The array is aligned to 16 bytes, as an interpreter on a microcontroller needs it
    that reads weights in place. Source and header are valid C11 and C++11, and the
    linker can put the array into read-only memory. `sizeof(name)` and `name_len` are
    its length.

    Args:
        tflite_path: The TFLite file.
        path: Source file to write, with the suffix .c, .cc or .cpp; the header has the
            same name with the suffix .h. Both appear only once they are complete.
        name: Of the array, an identifier of C; None stands for the name of the source
            file behind "g_".

    Raises:
        FileNotFoundError: If there is no such file, or no folder to write to.
        ValueError: If it is no TFLite file, `path` has another suffix, or `name` is no
            identifier.

    Example:
        >>> keras_bmr.export.write_c_array("model.tflite", "model.cc")
    """
    tflite_path, path = pathlib.Path(tflite_path), pathlib.Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"`path` must have one of the suffixes {', '.join(_SUFFIXES)}. The header "
            f"is written beside it. Received: path={str(path)!r}"
        )
    if name is None:
        # With the usual prefix of a global no stem makes a keyword.
        name = "g_" + re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            "`name` must be an identifier of C: letters, digits and underscores, and "
            f"no digit first. Received: name={name!r}"
        )
    content = tflite_path.read_bytes()
    parse(content)
    header = path.with_suffix(".h")
    values = {
        "alignment": _ALIGNMENT,
        "file": tflite_path.name,
        "guard": f"{name.upper()}_H_",
        "header": header.name,
        "lines": "\n".join(
            "  " + " ".join(f"0x{byte:02x}," for byte in content[start : start + _NUM])
            for start in range(0, len(content), _NUM)
        ),
        "name": name,
        "size": len(content),
    }
    texts = {header: _HEADER.format(**values), path: _SOURCE.format(**values)}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # On the same file system, so that each step at the end is atomic.
        for target, text in texts.items():
            pathlib.Path(folder, target.name).write_text(text)
        for target in texts:
            os.replace(pathlib.Path(folder, target.name), target)
