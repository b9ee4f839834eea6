import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.calibration import calibration_curve

from keras_bmr.objectives import (
    accuracy,
    expected_calibration_error,
    negative_log_likelihood,
)


def predictions(num_examples, num_classes, seed, sharpness=2.0):
    """Random probabilities and labels that follow them only in part."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(num_examples, num_classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.where(
        rng.random(num_examples) < 0.6,
        probabilities.argmax(-1),
        rng.integers(num_classes, size=num_examples),
    )
    return probabilities, labels


def ece_by_loop(probabilities, labels, num_bins, binning):
    """Bin by bin and example by example, from the definition."""
    confidences = [max(row) for row in probabilities]
    if binning == "equal_width":
        inner = [i / num_bins for i in range(1, num_bins)]
    else:
        # The smallest confidence that a share i / num_bins does not exceed.
        inner = [
            min(
                c
                for c in confidences
                if sum(d <= c for d in confidences) * num_bins >= i * len(confidences)
            )
            for i in range(1, num_bins)
        ]
    edges = [-math.inf, *inner, math.inf]
    total = 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        members = [n for n, c in enumerate(confidences) if low < c <= high]
        if not members:
            continue
        hits = [probabilities[n].tolist().index(confidences[n]) for n in members]
        share_correct = np.mean(hits == labels[members])
        mean_confidence = np.mean([confidences[n] for n in members])
        total += len(members) / len(confidences) * abs(share_correct - mean_confidence)
    return total


@pytest.mark.parametrize("binning", ["quantile", "equal_width"])
@pytest.mark.parametrize("num_bins", [1, 2, 7, 20])
@pytest.mark.parametrize("num_examples", [1, 13, 501])
def test_ece_equals_the_definition(binning, num_bins, num_examples):
    probabilities, labels = predictions(num_examples, 10, seed=num_bins)
    actual = expected_calibration_error(probabilities, labels, num_bins, binning)
    expected = ece_by_loop(probabilities, labels, num_bins, binning)
    assert actual == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("binning", ["quantile", "equal_width"])
def test_ece_equals_scikit_learn_for_two_classes(binning):
    probabilities, labels = predictions(2000, 2, seed=3)
    confidence = probabilities.max(-1)
    correct = probabilities.argmax(-1) == labels
    num_bins = 10
    share_correct, mean_confidence = calibration_curve(
        correct,
        confidence,
        n_bins=num_bins,
        strategy="quantile" if binning == "quantile" else "uniform",
    )
    if binning == "quantile":
        # 2000 distinct confidences fall into ten bins of 200.
        shares = np.full(num_bins, 0.1)
    else:
        counts, _ = np.histogram(confidence, num_bins, range=(0, 1))
        shares = counts[counts > 0] / len(confidence)
    expected = np.sum(shares * np.abs(share_correct - mean_confidence))
    actual = expected_calibration_error(probabilities, labels, num_bins, binning)
    assert actual == pytest.approx(expected, rel=1e-12)


def test_ece_by_hand():
    # Two bins of width 1/2: one example at 1/2 (the left bin, closed on the right)
    # that is right, three at 0.9 of which one is right.
    probabilities = [[0.5, 0.5], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]
    actual = expected_calibration_error(probabilities, [0, 0, 1, 0], 2, "equal_width")
    assert actual == pytest.approx(1 / 4 * 0.5 + 3 / 4 * (0.9 - 1 / 3))


def test_ece_of_a_calibrated_model_is_small_and_of_a_confident_one_is_not():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), size=20000)
    labels = (probabilities.cumsum(-1) > rng.random((20000, 1))).argmax(-1)
    certain = np.eye(5)[probabilities.argmax(-1)]
    # Of the order of sqrt(num_bins * variance / num_examples) = 0.015.
    assert expected_calibration_error(probabilities, labels) < 0.02
    assert expected_calibration_error(certain, labels) == pytest.approx(
        1 - accuracy(certain, labels)
    )


@given(st.integers(0, 2**31), st.integers(2, 30), st.integers(1, 8))
def test_quantile_ece_does_not_depend_on_the_order(seed, num_examples, levels):
    # Few distinct confidences, so that there are ties.
    rng = np.random.default_rng(seed)
    confidence = rng.integers(5, 5 + levels, size=num_examples) / 14
    probabilities = np.stack([confidence, 1 - confidence], axis=-1)
    labels = rng.integers(2, size=num_examples)
    order = rng.permutation(num_examples)
    straight = expected_calibration_error(probabilities, labels, 5)
    assert 0 <= straight <= 1
    assert straight == pytest.approx(
        expected_calibration_error(probabilities[order], labels[order], 5), abs=1e-12
    )
    assert straight == pytest.approx(ece_by_loop(probabilities, labels, 5, "quantile"))


def test_negative_log_likelihood_equals_scipy_and_scikit_learn():
    probabilities, labels = predictions(300, 4, seed=1)
    actual = negative_log_likelihood(probabilities, labels)
    by_scipy = -np.mean(
        [
            scipy.stats.multinomial.logpmf(np.eye(4)[label], 1, row)
            for row, label in zip(probabilities, labels, strict=True)
        ]
    )
    assert actual == pytest.approx(by_scipy, rel=1e-12)
    assert actual == pytest.approx(metrics.log_loss(labels, probabilities), rel=1e-12)


def test_negative_log_likelihood_at_the_extremes():
    assert negative_log_likelihood([[1.0, 0.0]], [1]) == math.inf
    certain = negative_log_likelihood([[1.0, 0.0]], [0])
    assert certain == 0.0 and math.copysign(1, certain) == 1
    tiny = negative_log_likelihood(np.float32([[1e-38, 1.0]]), [0])
    assert tiny == pytest.approx(38 * math.log(10), rel=1e-6)


def test_accuracy():
    probabilities, labels = predictions(100, 3, seed=2)
    assert accuracy(probabilities, labels) == metrics.accuracy_score(
        labels, probabilities.argmax(-1)
    )


@pytest.mark.parametrize(
    "metric", [accuracy, negative_log_likelihood, expected_calibration_error]
)
def test_forms_of_labels_agree(metric):
    probabilities, labels = predictions(50, 10, seed=4)
    expected = metric(probabilities, labels)
    assert isinstance(expected, float)
    for same in (
        labels[:, None],
        np.eye(10)[labels],
        np.eye(10, dtype=bool)[labels],
        labels.astype("float32"),
        labels.astype("uint8"),
        labels.tolist(),
    ):
        assert metric(probabilities, same) == expected


def test_half_precision_probabilities_are_accepted():
    probabilities, labels = predictions(200, 100, seed=5)
    exact = negative_log_likelihood(probabilities, labels)
    half = negative_log_likelihood(probabilities.astype("float16"), labels)
    assert half == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([0.5, 0.5], [0, 1], r"shape \(batch, classes\).*Received.*\(2,\)"),
        (np.ones((3, 2, 1)), [0, 1], "Average samples over their first axis"),
        (np.ones((0, 2)), [], r"neither of them 0.*\(0, 2\)"),
        ([[math.nan, 1.0]], [0], "finite. Received: 1 entries"),
        ([[math.inf, 1.0]], [0], "finite. Received: 1 entries"),
        ([[0.5, 0.5], [2.0, -1.0]], [0, 1], "softmax first.*smallest entry -1"),
        ([[0.5, 0.5], [0.5, 0.7]], [0, 1], "row 1 with sum 1.2"),
        ([[0.5, 0.5]], [0, 1], r"shape \(1,\).*Received: labels.shape=\(2,\)"),
        ([[0.5, 0.5]], [2], "from 0 to 1. Received: values from 2 to 2"),
        ([[0.5, 0.5]], [-1], "from 0 to 1. Received: values from -1 to -1"),
        ([[0.5, 0.5]], [0.5], "must be integers"),
        ([[0.5, 0.5]], [math.nan], "must be integers"),
        ([[0.5, 0.5]], [[0.3, 0.7]], "one-hot"),
        ([[0.5, 0.5]], [[1, 1]], "one-hot"),
        ([[0.5, 0.5]], [[math.nan, 1]], "one-hot"),
    ],
)
def test_invalid_input_is_refused(probabilities, labels, message):
    for metric in (accuracy, negative_log_likelihood, expected_calibration_error):
        with pytest.raises(ValueError, match=message):
            metric(probabilities, labels)


@pytest.mark.parametrize("num_bins", [0, -1, 2.5, True, math.nan, "20"])
def test_invalid_number_of_bins_is_refused(num_bins):
    with pytest.raises(ValueError, match="`num_bins` must be an integer of at least 1"):
        expected_calibration_error([[0.5, 0.5]], [0], num_bins=num_bins)


def test_unknown_binning_is_refused():
    with pytest.raises(ValueError, match="quantile.*equal_width.*binning='uniform'"):
        expected_calibration_error([[0.5, 0.5]], [0], binning="uniform")
