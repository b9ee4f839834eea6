import json
import pathlib
import runpy
import sys

PATH = pathlib.Path(__file__).parents[2] / "examples" / "feature_selection.py"


def test_it_finds_what_matters(tmp_path, monkeypatch, capsys):
    arguments = ["--steps", "900", "--output-dir", str(tmp_path / "plots")]
    monkeypatch.setattr(sys, "argv", [str(PATH), *arguments])
    runpy.run_path(str(PATH), run_name="__main__")
    synthetic, cancer = map(json.loads, capsys.readouterr().out.splitlines())
    assert synthetic["found"] >= 9 and synthetic["false"] <= 1
    assert synthetic["missed"] == 10 - synthetic["found"]
    assert 0 < len(cancer["selected"]) < 15
    assert all(probability >= 0.5 for probability in cancer["selected"].values())
    assert cancer["accuracy_of_selected"] > 0.9
    for name in ("synthetic", "breast_cancer"):
        header = (tmp_path / "plots" / f"{name}.png").read_bytes()[:4]
        assert header == b"\x89PNG"
