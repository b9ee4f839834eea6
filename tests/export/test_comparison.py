"""Latency, costs side by side and the picture of the widths."""

import keras
import numpy as np
import pytest

from keras_bmr.export import (
    compare_cost,
    export_tflite,
    measure_latency,
    plot_widths,
)
from keras_bmr.export.latency import median_seconds


def network(width):
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(width, activation="relu", name="hidden"),
            keras.layers.Dense(width, activation="relu", name="second"),
            keras.layers.Dense(4, name="output"),
        ]
    )


@pytest.fixture(scope="module")
def models():
    return network(1024), network(64)


@pytest.fixture(scope="module")
def comparison(models):
    return compare_cost(*models)


def test_comparison_counts_and_measures(comparison):
    before, after = comparison.before, comparison.after
    assert before.num_multiply_accumulates == 64 * 1024 + 1024 * 1024 + 1024 * 4
    assert after.num_multiply_accumulates == 64 * 64 + 64 * 64 + 64 * 4
    # A float file holds its parameters and little else.
    assert comparison.files_before[None].bytes == pytest.approx(
        before.num_bytes, rel=0.01
    )
    # 130 times the work; the factor leaves room for the call itself.
    assert comparison.latency_before[None] > 4 * comparison.latency_after[None]
    lines = str(comparison).splitlines()
    assert lines[3].split()[-3:] == ["1,118,208", "8,448", "132.36x"]
    assert len({len(line) for line in lines}) == 1


def test_latency_of_paths_and_contents(models, tmp_path):
    path = tmp_path / "model.tflite"
    export_tflite(models[1], path)
    from_path, from_content = measure_latency([path, path.read_bytes()])
    assert 1e-7 < from_path < 1e-2
    assert from_path == pytest.approx(from_content, rel=2)


def test_functions_take_turns():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    medians = median_seconds(calls)
    assert all(0 < seconds < 1e-3 for seconds in medians)
    text = "".join(order)
    assert text.startswith("aaaaabbbbb" + "a" * 11 + "b" * 11 + "a" * 11)
    assert text.count("a") == text.count("b")


@pytest.mark.parametrize("files", [[], "model.tflite", b"TFL3"])
def test_files_come_in_a_list(files):
    with pytest.raises(ValueError, match="must be a list of paths"):
        measure_latency(files)


def test_files_that_do_not_load(tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected a TFLite file"):
        measure_latency([tmp_path / "none.tflite"])
    with pytest.raises(RuntimeError, match="does not load the file"):
        measure_latency([b"no model at all"])


def test_widths_before_and_after(models, tmp_path):
    path = tmp_path / "widths.png"
    figure = plot_widths(*models, path)
    (axes,) = figure.axes
    bars = [[bar.get_width() for bar in group] for group in axes.containers]
    np.testing.assert_array_equal(bars, [[1024, 1024, 4], [64, 64, 4]])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["hidden", "second", "output"]
    assert [text.get_text() for text in axes.texts][0] == "1024 → 64"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_models_without_common_layers(models):
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="other")])
    with pytest.raises(ValueError, match="same names"):
        plot_widths(models[0], other)
