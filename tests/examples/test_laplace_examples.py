import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch, capsys):
    """Runs an example with arguments and returns it and what it printed."""

    def run(name, *arguments, **settings):
        specification = importlib.util.spec_from_file_location(
            name, EXAMPLES / f"{name}.py"
        )
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, name, module)
        specification.loader.exec_module(module)
        for setting, value in settings.items():
            monkeypatch.setattr(module, setting, value)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        module.main()
        return capsys.readouterr().out

    return run


def test_pruning_of_the_cancer_network(example, tmp_path):
    arguments = ["--epochs", 12, "--every", 3, "--output-dir", tmp_path]
    printed = example("spam_lenet", *arguments, SHARES=(0.8,))
    file = tmp_path / "cancer.json"
    results = json.loads(file.read_text())
    whole = results["rows"]["weight/0/SpaM/opd/0.0"]
    assert whole["accuracy"] > 0.93
    for criterion in ("opd", "delta_f"):
        pruned = results["rows"][f"weight/0/SpaM/{criterion}/0.8"]
        assert abs(pruned["weights"] / 13402 - 0.2) < 0.001
        assert pruned["accuracy"] > whole["accuracy"] - 0.03, printed
    assert "SpaM+opd" in printed
    # Structured, of the networks that are trained already.
    example("spam_lenet", *arguments, "--granularity", "channel", SHARES=(0.5,))
    results = json.loads(file.read_text())
    half = results["rows"]["channel/0/SpaM/opd/0.5"]
    # 30-50-50-2 units are left.
    assert half["weights"] <= 30 * 50 + 50 * 50 + 50 * 2 + 102
    assert half["accuracy"] > 0.8
    # What is there is not computed again.
    results["rows"]["weight/0/SpaM/opd/0.8"]["accuracy"] = 0.123
    file.write_text(json.dumps(results))
    assert "12.30" in example("spam_lenet", *arguments, SHARES=(0.8,))
    with pytest.raises(SystemExit, match="results of other settings"):
        example("spam_lenet", *arguments, "--curvature", "ggn_mc")


def test_regression_of_the_diabetes_data(example):
    printed = example("laplace_regression", "--splits", 1, "--epochs", 20)
    rmse, log_likelihood = (
        float(printed.split(word)[1].split()[0]) for word in ("RMSE", "likelihood")
    )
    # Least squares reach about 54; the mean of the targets, 77 and -5.8.
    assert rmse < 62
    assert -5.6 < log_likelihood < -4.8


def test_spam_in_made_up_messages(example):
    printed = example("laplace_text", "--epochs", 8, "--every", 8, "--verbose", 0)
    line = next(line for line in printed.splitlines() if line.startswith("opd"))
    accuracies = [
        float(cell.split(": ")[1]) for cell in line.split("zeros of ")[1].split(", ")
    ]
    assert accuracies[0] > 95
    assert accuracies[1] > 90
    assert np.isfinite(accuracies).all()
