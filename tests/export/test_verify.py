"""The comparison itself: what it measures and what it lets pass."""

import numpy as np
import pytest
import tensorflow as tf

from keras_bmr.export import verify


def outputs(scale=1.0):
    return scale * np.random.default_rng(0).normal(size=(200, 10)).astype("float32")


def test_measures():
    expected = outputs(3.0)
    shifted = expected.copy()
    shifted[7] = np.roll(expected[7], 1)
    shifted[9] += 0.5
    comparison = verify.compare([expected], [shifted])
    difference = np.abs(shifted - expected)
    assert comparison.max_difference == pytest.approx(difference.max())
    assert comparison.scaled_difference == pytest.approx(
        difference.max() / np.abs(expected).max()
    )
    assert comparison.relative_difference == pytest.approx(
        np.sqrt(np.mean(difference**2)) / expected.std(), rel=1e-5
    )
    assert comparison.top1_agreement == 199 / 200


def test_worst_output_counts():
    good, bad = outputs(), outputs() + 1e-3
    comparison = verify.compare([outputs(), outputs()], [good, bad])
    assert comparison.max_difference == pytest.approx(1e-3, rel=1e-3)


def test_ties_agree():
    expected = np.zeros((5, 3), "float32")
    output = np.tile(np.array([0, 0, 1e-6], "float32"), (5, 1))
    assert verify.compare([expected], [output]).top1_agreement == 1.0


def test_no_top1_without_classes():
    assert verify.compare([np.ones((4, 1))], [np.ones((4, 1))]).top1_agreement is None


@pytest.mark.parametrize(
    ("quantize", "noise", "accepted"),
    [
        (None, 5e-5, True),
        (None, 1e-3, False),
        ("float16", 1e-3, True),
        ("float16", 0.1, False),
        ("int8", 0.02, True),
        ("int8", 0.4, False),
        ("dynamic", 0.4, False),
        (None, np.nan, False),
        ("int8", np.nan, False),
    ],
)
def test_tolerances(quantize, noise, accepted):
    comparison = verify.compare([outputs()], [outputs() + noise * np.sign(outputs())])
    if accepted:
        verify.check(comparison, quantize, real_inputs=True)
    else:
        with pytest.raises(RuntimeError, match="disagrees with Keras"):
            verify.check(comparison, quantize, real_inputs=True)


def test_predictions_decide_between_the_limits():
    def comparison(relative, agreement):
        return verify.Comparison(1.0, 1.0, relative, agreement)

    verify.check(comparison(0.1, 0.96), "int8", real_inputs=True)
    verify.check(comparison(0.04, 0.9), "int8", real_inputs=True)
    verify.check(comparison(0.1, 0.9), "int8", real_inputs=False)
    verify.check(comparison(0.1, None), "int8", real_inputs=True)
    with pytest.raises(RuntimeError, match="top-1 agreement 0.9"):
        verify.check(comparison(0.1, 0.9), "int8", real_inputs=True)


def test_shapes_and_finiteness():
    with pytest.raises(RuntimeError, match="shapes"):
        verify.compare([outputs()], [outputs()[:, :3]])
    with pytest.raises(RuntimeError, match="own outputs are not finite"):
        verify.compare([outputs() * np.inf], [outputs()])


def test_slow_verification_shows_progress(monkeypatch, capsys):
    monkeypatch.setattr(verify, "_SLOW_SECONDS", 0.0)
    (doubled,) = verify._in_batches(
        lambda batch: [2 * batch[0]], [np.arange(12.0)], batch_size=3
    )
    np.testing.assert_array_equal(doubled, 2 * np.arange(12.0))
    assert "4/4" in capsys.readouterr().out


def test_many_functions_are_none_traced_too_often(caplog):
    """TensorFlow warns of functions from one place in the code as if they were one."""
    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    try:
        for factor in range(8):
            (product,) = verify.run_function(
                lambda x, factor=factor: [factor * x], [outputs()], 150
            )
            np.testing.assert_array_equal(product, factor * outputs())
    finally:
        logger.removeHandler(caplog.handler)
    assert "retracing" not in caplog.text
