import numpy as np
import pytest

from keras_bmr import ModelReduction


def test_plot_shows_all_weights_and_layers(dense_model, tmp_path):
    reduction = ModelReduction(dense_model, threshold=0.0)
    path = tmp_path / "reduction.png"
    figure = reduction.plot(path)
    histogram, shares = figure.axes
    counts = [patch.get_height() for patch in histogram.patches]
    assert sum(counts) == 104
    widths = [patch.get_width() for patch in shares.patches]
    expected = [layer.share_kept for layer in reduction.layers()]
    np.testing.assert_allclose(widths, expected)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_format_leaves_no_file(dense_model, tmp_path):
    with pytest.raises(ValueError, match="not supported"):
        ModelReduction(dense_model).plot(tmp_path / "reduction.txt3")
    assert list(tmp_path.iterdir()) == []
