"""C sources, read again as text and by compilers."""

import os
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest

from keras_bmr.export import export_tflite, write_c_array

MAIN = """
#include <stdint.h>
#include <stdio.h>
#include "model.h"
#include "model.h"
int main(void) {{
  if (sizeof({name}) != {name}_len || (uintptr_t){name} % 16 != 0) return 1;
  return fwrite({name}, 1, sizeof({name}), stdout) != {name}_len;
}}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    return export_tflite(model, tmp_path_factory.mktemp("c") / "model.tflite")


def content(report):
    with open(report.path, "rb") as file:
        return file.read()


def test_source_has_the_bytes_of_the_file(report, tmp_path):
    report.write_c_array(tmp_path / "net-1.cc")
    assert sorted(os.listdir(tmp_path)) == ["net-1.cc", "net-1.h"]
    source = (tmp_path / "net-1.cc").read_text()
    found = [int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2}),", source)]
    assert bytes(found) == content(report)
    assert f"g_net_1[{report.bytes}]" in source
    assert max(map(len, source.splitlines())) < 80
    header = (tmp_path / "net-1.h").read_text()
    assert header.startswith("#ifndef G_NET_1_H_\n#define G_NET_1_H_\n")
    assert f"extern const unsigned char g_net_1[{report.bytes}];" in header


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")
@pytest.mark.parametrize(
    ("suffix", "command"),
    [(".c", "gcc -std=c11"), (".cc", "g++ -std=c++11"), (".cpp", "g++ -std=c++17")],
)
def test_compiles_and_gives_the_file(suffix, command, report, tmp_path):
    write_c_array(report.path, tmp_path / f"model{suffix}", name="network")
    (tmp_path / f"main{suffix}").write_text(MAIN.format(name="network"))
    subprocess.run(
        f"{command} -Wall -Wextra -Werror -pedantic -o main main{suffix} "
        f"model{suffix}".split(),
        cwd=tmp_path,
        check=True,
    )
    printed = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert printed.stdout == content(report)


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("model.txt", None, "one of the suffixes .c, .cc, .cpp"),
        ("model.h", None, "one of the suffixes"),
        ("model.cc", "3d", "identifier of C"),
        ("model.cc", "my-net", "identifier of C"),
    ],
)
def test_bad_arguments_write_nothing(path, name, message, report, tmp_path):
    with pytest.raises(ValueError, match=message):
        report.write_c_array(tmp_path / path, name)
    assert os.listdir(tmp_path) == []


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "model.npy", np.zeros(3))
    with pytest.raises(ValueError, match="TFL3"):
        write_c_array(tmp_path / "model.npy", tmp_path / "model.cc")
    with pytest.raises(FileNotFoundError):
        write_c_array(tmp_path / "none.tflite", tmp_path / "model.cc")
    assert os.listdir(tmp_path) == ["model.npy"]


def test_older_files_stay_if_writing_fails(report, tmp_path, monkeypatch):
    (tmp_path / "model.cc").write_text("older")

    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        report.write_c_array(tmp_path / "model.cc")
    assert os.listdir(tmp_path) == ["model.cc"]
    assert (tmp_path / "model.cc").read_text() == "older"
