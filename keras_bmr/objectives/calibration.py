"""How good predicted probabilities are: accuracy, log likelihood, calibration error."""

import numpy as np
from numpy.typing import ArrayLike

from keras_bmr.argument_checks import require_integer

# Rows of half-precision probabilities sum to 1 only up to this.
_SUM_TOLERANCE = 5e-3
_BINNINGS = ("quantile", "equal_width")


def accuracy(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Share of the examples whose most probable class is the true one.

    Args:
        probabilities: Array of shape (batch, classes), rows that sum to 1. Average
            the samples of `predictive` over its first axis.
        labels: Integers of shape (batch,) or (batch, 1), or one-hot rows of shape
            (batch, classes).

    Returns:
        The accuracy, between 0 and 1. Of equal probabilities the first class counts.

    Raises:
        ValueError: If an argument has the wrong shape or values.

    Example:
        >>> keras_bmr.objectives.accuracy([[0.9, 0.1], [0.8, 0.2]], [0, 1])
        0.5
    """
    probabilities, labels = _checked(probabilities, labels)
    return float(np.mean(np.argmax(probabilities, axis=-1) == labels))


def negative_log_likelihood(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log likelihood of the true classes, in nats per example.

    -1/N sum_n log p_n[y_n]. Nothing is clipped: a true class of probability 0 gives
    infinity, which is what a float32 softmax of very confident logits may call for.

    Args:
        probabilities: Array of shape (batch, classes), rows that sum to 1. Average
            the samples of `predictive` over its first axis.
        labels: Integers of shape (batch,) or (batch, 1), or one-hot rows of shape
            (batch, classes).

    Returns:
        The negative log likelihood; lower is better.

    Raises:
        ValueError: If an argument has the wrong shape or values.

    Example:
        >>> keras_bmr.objectives.negative_log_likelihood([[0.5, 0.5]], [0])
        0.6931471805599453

    References:
        Gneiting and Raftery, Strictly proper scoring rules, prediction, and
        estimation, Journal of the American Statistical Association 102, 2007,
        section 4.1 (the logarithmic score).
    """
    probabilities, labels = _checked(probabilities, labels)
    of_true_class = probabilities[np.arange(len(labels)), labels]
    with np.errstate(divide="ignore"):
        # Adding 0 turns the -0.0 of certain predictions into 0.0.
        return float(-np.mean(np.log(of_true_class)) + 0.0)


def expected_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    num_bins: int = 20,
    binning: str = "quantile",
) -> float:
    """Mean gap between confidence and accuracy over bins of the confidence.

    With confidence c_n = max_k p_n[k], the examples fall into bins B_m, and

        ECE = sum_m |B_m| / N * |accuracy(B_m) - mean confidence(B_m)|

    Bins are open on the left and closed on the right; empty bins count nothing. The
    edges of quantile bins are quantiles of the confidences (the inverse of their
    empirical distribution function), so that bins hold equally many examples; equal
    confidences always share a bin. The error of a perfectly
    calibrated model is positive for finitely many examples and grows with the number
    of bins.

    Args:
        probabilities: Array of shape (batch, classes), rows that sum to 1. Average
            the samples of `predictive` over its first axis.
        labels: Integers of shape (batch,) or (batch, 1), or one-hot rows of shape
            (batch, classes).
        num_bins: Positive integer.
        binning: "quantile" or "equal_width" (on [0, 1]).

    Returns:
        The error, between 0 and 1; lower is better.

    Raises:
        ValueError: If an argument has the wrong shape or values.

    Example:
        >>> keras_bmr.objectives.expected_calibration_error([[0.75, 0.25]] * 2, [0, 1])
        0.25

    References:
        Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks,
        ICML 2017, equation 3 (equal width).
        Nguyen and O'Connor, Posterior calibration and exploratory analysis for
        natural language processing models, EMNLP 2015, section 3 (bins of equal
        counts).
    """
    require_integer("num_bins", num_bins, at_least=1)
    if binning not in _BINNINGS:
        raise ValueError(
            f"`binning` must be one of {_BINNINGS}. Received: binning={binning!r}"
        )
    probabilities, labels = _checked(probabilities, labels)
    confidence = np.max(probabilities, axis=-1)
    correct = np.argmax(probabilities, axis=-1) == labels
    steps = np.arange(1, num_bins)
    if binning == "quantile":
        # Order statistics by integer arithmetic: interpolated quantiles miss the
        # values they should equal by a rounding error, and move these to another bin.
        ranks = -(-steps * len(labels) // num_bins) - 1
        inner_edges = np.sort(confidence)[ranks]
    else:
        inner_edges = steps / num_bins
    bins = np.searchsorted(inner_edges, confidence, side="left")
    # The counts of the weighted mean cancel those of the bins' own means.
    gaps = np.bincount(bins, weights=correct - confidence)
    return float(np.sum(np.abs(gaps)) / len(labels))


def _checked(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Valid probabilities in float64 and integer labels of shape (batch,)."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        hint = (
            " Average samples over their first axis first."
            if probabilities.ndim == 3
            else ""
        )
        raise ValueError(
            "`probabilities` must have the shape (batch, classes), neither of them 0."
            f"{hint} Received: probabilities.shape={probabilities.shape}"
        )
    num_invalid = np.sum(~np.isfinite(probabilities))
    if num_invalid:
        raise ValueError(
            f"`probabilities` must be finite. Received: {num_invalid} entries that are "
            "NaN or infinite"
        )
    sums = np.sum(probabilities, axis=-1)
    worst = np.argmax(np.abs(sums - 1.0))
    if np.min(probabilities) < 0 or abs(sums[worst] - 1.0) > _SUM_TOLERANCE:
        raise ValueError(
            "`probabilities` must be non-negative rows that sum to 1; turn logits into "
            "probabilities with a softmax first. Received: smallest entry "
            f"{np.min(probabilities):.6g}, row {worst} with sum {sums[worst]:.6g}"
        )
    return probabilities, _checked_labels(labels, *probabilities.shape)


def _checked_labels(labels: ArrayLike, batch: int, classes: int) -> np.ndarray:
    """Integer labels of shape (batch,)."""
    labels = np.asarray(labels)
    if labels.shape not in {(batch,), (batch, 1), (batch, classes)}:
        raise ValueError(
            f"`labels` must have the shape ({batch},), ({batch}, 1) or, one-hot, "
            f"({batch}, {classes}), as `probabilities` have the shape "
            f"({batch}, {classes}). Received: labels.shape={labels.shape}"
        )
    if labels.ndim == 2 and classes > 1 and labels.shape[1] == classes:
        if not np.all((labels == 0) | (labels == 1)) or np.any(labels.sum(1) != 1):
            raise ValueError(
                "Two-dimensional `labels` must be one-hot: a single 1 per row, else "
                f"0. Received: labels={labels!r}"
            )
        return np.argmax(labels, axis=-1)
    labels = labels.reshape(batch)
    if not np.all((labels >= 0) & (labels < classes) & (labels == np.floor(labels))):
        raise ValueError(
            f"`labels` must be integers from 0 to {classes - 1}. Received: values from "
            f"{np.min(labels)} to {np.max(labels)}"
        )
    return labels.astype(np.int64)
