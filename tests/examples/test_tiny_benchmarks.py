import importlib.util
import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")
PATH = pathlib.Path(__file__).parents[2] / "examples" / "tiny_benchmarks.py"


@pytest.fixture(scope="module")
def tiny():
    specification = importlib.util.spec_from_file_location("tiny_benchmarks", PATH)
    module = importlib.util.module_from_spec(specification)
    # Where dataclasses look for the module that they are from.
    sys.modules["tiny_benchmarks"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["tiny_benchmarks"]


def test_area_is_the_share_of_pairs_in_order(tiny):
    rng = np.random.default_rng(0)
    x, outputs = rng.normal(size=(2, 40, 3))
    strange = rng.random(40) < 0.4
    errors = ((outputs - x) ** 2).mean(-1)
    pairs = errors[strange][:, None] > errors[~strange]
    found = tiny.area_under_curve(x, outputs, strange)
    assert found == pytest.approx(100 * pairs.mean())


def test_words_are_the_same_for_every_seed(tiny):
    (x, y), (other_x, other_y) = (tiny.spectrograms(600, seed) for seed in (1, 2))
    assert x.shape == (600, 32, 16, 1)
    means = np.stack([x[y == word].mean(0) for word in range(10)])
    others = np.stack([other_x[other_y == word].mean(0) for word in range(10)])
    distances = ((means[:, None] - others) ** 2).sum((2, 3, 4))
    np.testing.assert_array_equal(distances.argmin(1), np.arange(10))


def test_whole_path(tiny, tmp_path):
    table = tiny.main(
        f"--examples 640 --epochs 20 --output-dir {tmp_path} --tasks anomalies".split()
    )["anomalies"]
    whole, small = table["whole"], table["small"]
    assert small["parameters"] < 0.7 * whole["parameters"]
    assert small["multiply-accumulates"] < 0.7 * whole["multiply-accumulates"]
    assert small["bytes, int8"] < whole["bytes, int8"]
    for row in table.values():
        # Few epochs are little, but better than no idea at all.
        assert row["AUC (%)"] > 75
        assert row["AUC (%), int8"] == pytest.approx(row["AUC (%)"], abs=1)
    size = (tmp_path / "anomalies_small.tflite").stat().st_size
    assert f"g_anomalies[{size}]" in (tmp_path / "anomalies.h").read_text()
