"""The example of int8 files, on digits, without tfmot."""

import importlib.util
import json
import pathlib

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "quantization_aware.py"


def test_int8_files_keep_zeros_and_accuracy(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    specification = importlib.util.spec_from_file_location("quantization", SCRIPT)
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    options = {"epochs": 12, "epochs-pruned": 8, "epochs-int8": 2}
    command = [str(SCRIPT), "--skip-tfmot", f"--output-dir={tmp_path}"]
    command += [f"--{key}={value}" for key, value in options.items()]
    monkeypatch.setattr("sys.argv", command)
    example.main()
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    plain, *rounded = [json.loads(line) for line in lines]
    assert [row["file"] for row in rounded] == [
        "post-training int8",
        "quantization-aware",
    ]
    assert plain["accuracy_percent"] > 85
    for row in rounded:
        assert row["zeros"] >= row["pruned"] == plain["pruned"] > 3000
        assert row["bytes"] < 0.6 * plain["bytes"]
        assert abs(row["accuracy_percent"] - plain["accuracy_percent"]) < 1.5
