"""The example of structured pruning, on a few digits."""

import importlib.util
import json
import pathlib

import keras
import pytest

from keras_bmr.export import model_cost

SCRIPT = pathlib.Path(__file__).parents[2] / "examples" / "structured_lenet.py"


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("sklearn")
    specification = importlib.util.spec_from_file_location("structured_lenet", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    (x, y), (x_test, y_test) = module.load_data(None)
    module.load_data = lambda path: ((x[:300], y[:300]), (x_test[:100], y_test[:100]))
    return module


def test_it_gets_smaller_and_goes_on_where_it_was(
    example, tmp_path, monkeypatch, capsys
):
    options = {
        "output-dir": tmp_path,
        "epochs": 2,
        "warm-up-epochs": 2,
        "epochs-between": 1,
        "fine-tuning-epochs": 1,
        "share": 0.6,
        "parameters": 0.6,
        "multiply-accumulates": 0.9,
    }
    command = [str(SCRIPT)]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    monkeypatch.setattr("sys.argv", command)
    example.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    small = keras.models.load_model(tmp_path / "digits_0_weights_small.keras")
    cost = model_cost(small)
    assert result["parameters"] == cost.num_parameters
    assert result["multiply_accumulates"] == cost.num_multiply_accumulates
    first, second, inputs, hidden = result["widths"]
    # 3x3 and 2x2 kernels on 8x8 images; the second convolution leaves one place.
    assert inputs == second
    assert cost.num_multiply_accumulates == (
        36 * 9 * first + 4 * 4 * first * second + second * hidden + hidden * 10
    )
    assert cost.num_parameters <= 0.6 * 5002
    assert cost.num_multiply_accumulates <= 0.9 * 16064
    assert (tmp_path / "digits_0_weights_widths.png").stat().st_size > 1000
    # What is there is loaded and not computed again.
    again = example.kept(tmp_path / "digits_0_weights_small.keras", compute=None)
    assert model_cost(again).layers == cost.layers
