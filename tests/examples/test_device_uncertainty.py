import importlib.util
import pathlib
import re
import sys

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "device_uncertainty.py"


def test_files_know_what_they_do_not_know(monkeypatch, capsys, tmp_path):
    specification = importlib.util.spec_from_file_location("example", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    arguments = ["example", "--epochs", "16", "--output-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()
    printed = capsys.readouterr().out
    draws, *nll = map(float, re.findall(r"NLL ([\d.]+)", printed))
    assert len(nll) == 3
    # Eight draws are few; the moments stand for all of them.
    assert abs(nll[1] / draws - 1) < 0.1
    # A network of the means has half the loss of draws here.
    assert nll[0] < 0.7 * draws
    assert nll[2] < 1.3 * draws
    deviations = re.findall(r": ([\d.]+) on digits, ([\d.]+) on", printed)
    assert len(deviations) == 2
    for known, strange in deviations:
        assert float(strange) > 1.3 * float(known)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"means.tflite", "moments.tflite", "ensemble.tflite"}
