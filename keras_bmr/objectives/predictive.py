"""The posterior predictive: what a model says under draws of its weights."""

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.argument_checks import require_integer
from keras_bmr.layers.checks import check_finite
from keras_bmr.layers.traversal import require_variational_layers
from keras_bmr.objectives.chunks import input_chunks
from keras_bmr.objectives.logits import check_logits
from keras_bmr.posteriors.sampling import sampling


class PredictiveMoments(NamedTuple):
    """Mean and variance over the posterior, both of shape (examples, ...)."""

    mean: np.ndarray
    variance: np.ndarray


def predictive(
    model: keras.Model,
    x: Any,
    num_samples: int = 100,
    batch_size: int | None = None,
    seed: int | None = None,
    from_logits: bool = False,
    verbose: str | int = "auto",
) -> np.ndarray:
    """Outputs of a model under draws of its weights from their posteriors.

    A sample is one draw of all weights, the same for all of `x` however it is cut
    into chunks. Batch normalisation and dropout stay in inference mode, and no state
    of theirs changes. The inputs are processed in chunks; what grows with their
    number is the result alone.

    Args:
        model: A built model with Bayesian layers and one output.
        x: Array of shape (examples, ...), a dict, list or tuple of such arrays, or a
            batched, finite `tf.data.Dataset` of inputs or (inputs, targets).
        num_samples: Positive integer, the number of draws.
        batch_size: Examples per chunk, 1024 unless given. For arrays only; a dataset
            has batches of its own. Lower it where memory is short.
        seed: Non-negative integer that makes the result of this model reproducible;
            None takes a new one.
        from_logits: Whether the model's outputs are logits. If so a softmax over the
            last axis turns each sample into probabilities, whose mean over the samples
            is the predictive distribution; a mean of logits is not.
        verbose: 1 shows a progress bar, 2 one line at the end, 0 nothing. "auto" shows
            the bar on a terminal and in a notebook.

    Returns:
        Array of shape (num_samples, examples, ...).

    Raises:
        ValueError: If an argument is invalid, `x` holds no examples, the model has
            no Bayesian layer or more than one output, an output is NaN, or
            `from_logits` is set for a single logit, whose softmax is always 1, or for
            a model that ends in a softmax itself.

    Example:
        >>> samples = keras_bmr.predictive(model, x_test, from_logits=True)
        >>> probabilities = samples.mean(axis=0)

    References:
        Blundell, Cornebise, Kavukcuoglu and Wierstra, Weight uncertainty in neural
        networks, ICML 2015, section 3 (the expectation estimated here).
    """
    chunks = _draws_by_chunk(
        model, x, num_samples, batch_size, seed, from_logits, verbose
    )
    return np.concatenate([np.stack(list(draws)) for draws in chunks], axis=1)


def predictive_moments(
    model: keras.Model,
    x: Any,
    num_samples: int = 100,
    batch_size: int | None = None,
    seed: int | None = None,
    from_logits: bool = False,
    verbose: str | int = "auto",
) -> PredictiveMoments:
    """Mean and variance of a model's outputs over its posterior.

    As the mean and the variance of `predictive` over its first axis, without ever
    holding more than one sample of a chunk.

    Args:
        model: A built model with Bayesian layers and one output.
        x: As for `predictive`.
        num_samples: Integer, at least 2.
        batch_size: As for `predictive`.
        seed: As for `predictive`; the same seed means the same draws.
        from_logits: As for `predictive`.
        verbose: As for `predictive`.

    Returns:
        `PredictiveMoments(mean, variance)`, arrays of shape (examples, ...). The
        variance is in squared units of the output and unbiased (divided by
        num_samples - 1). It is that of the weights' posterior; the noise of a
        likelihood comes on top.

    Raises:
        ValueError: As for `predictive`, and if `num_samples` is 1.

    Example:
        >>> mean, variance = keras_bmr.objectives.predictive_moments(model, x_test)

    References:
        Welford, Note on a method for calculating corrected sums of squares and
        products, Technometrics 4, 1962.
    """
    require_integer("num_samples", num_samples, at_least=2)
    chunks = _draws_by_chunk(
        model, x, num_samples, batch_size, seed, from_logits, verbose
    )
    means, variances = zip(*map(_moments, chunks), strict=True)
    return PredictiveMoments(np.concatenate(means), np.concatenate(variances))


def _moments(draws: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Welford's running mean and unbiased variance over the draws of a chunk."""
    mean = next(draws).copy()
    squares = np.zeros_like(mean)
    for count, draw in enumerate(draws, start=2):
        deviation = draw - mean
        mean += deviation / count
        squares += deviation * (draw - mean)
    return mean, squares / (count - 1)


def _draws_by_chunk(
    model: keras.Model,
    x: Any,
    num_samples: int,
    batch_size: int | None,
    seed: int | None,
    from_logits: bool,
    verbose: str | int,
) -> Iterator[Iterator[np.ndarray]]:
    """Yields, for each chunk of the inputs, the iterator over its draws."""
    require_integer("num_samples", num_samples, at_least=1)
    if seed is None:
        # The source of Keras' own default seeds, set by keras.utils.set_random_seed.
        seed = random.randrange(2**31)
    require_integer("seed", seed, at_least=0)
    require_variational_layers(model)
    spec, chunks, num_chunks = input_chunks(x, batch_size)
    draw = _compiled_draw(model, spec, from_logits)
    seeds = sample_seeds(seed, num_samples)
    target = None if num_chunks is None else num_chunks * num_samples
    progress = keras.utils.Progbar(target, verbose=_verbosity(verbose))

    def draws_of(chunk: Any) -> Iterator[np.ndarray]:
        for sample_seed in seeds:
            outputs = draw(chunk, tf.constant(sample_seed)).numpy()
            _check_outputs(model, outputs)
            yield outputs
            progress.add(1)

    num_seen = 0
    for chunk in chunks:
        yield draws_of(chunk)
        num_seen += 1
    if num_seen == 0:
        raise ValueError("`x` holds no examples. Received: an empty dataset")
    if target is None:
        progress.target = num_seen * num_samples
        progress.update(progress.target)


def sample_seeds(seed: int, num_samples: int) -> np.ndarray:
    """The seeds of the draws that `predictive` makes.

    Args:
        seed: Its seed.
        num_samples: Number of draws.

    Returns:
        Integers, each for a `keras_bmr.posteriors.sampling` scope of its own.
    """
    return np.random.default_rng(seed).integers(2**63 - 1, size=num_samples)


def _check_outputs(model: keras.Model, outputs: np.ndarray) -> None:
    """Refuses NaN, which averages would spread without a word."""
    num_bad = np.count_nonzero(np.isnan(outputs))
    if num_bad:
        check_finite(model)
        raise ValueError(
            f"Model '{model.name}' has finite weights and gives NaN in {num_bad} of "
            f"{outputs.size} outputs of a chunk. Check `x` for NaN and infinite values "
            "and for numbers too large for the precision of the model."
        )


def _compiled_draw(model: keras.Model, spec: Any, from_logits: bool) -> Callable:
    """One call of the model under one draw of its weights, as a graph."""

    def draw(inputs: Any, seed: tf.Tensor) -> tf.Tensor:
        with sampling(seed=seed):
            outputs = model(inputs, training=False)
        if not tf.is_tensor(outputs):
            raise ValueError(
                f"Model '{model.name}' must have a single tensor as its output; make "
                "a `keras.Model` of the output wanted. Received: outputs of type "
                f"{type(outputs).__name__}"
            )
        if outputs.dtype in (tf.float16, tf.bfloat16):
            # Moments and softmax overflow or round badly in half precision.
            outputs = tf.cast(outputs, tf.float32)
        if not from_logits:
            return outputs
        check_logits(model, outputs.shape)
        return tf.nn.softmax(outputs, axis=-1)

    # With the batch axis unknown a smaller last chunk needs no second trace. Not
    # compiled by XLA, which takes seconds and made draws of dense layers no faster.
    return tf.function(
        draw, input_signature=[spec, tf.TensorSpec((), tf.int64)], autograph=False
    )


def _verbosity(verbose: str | int) -> int:
    """Resolves "auto" as a person would: a bar only where someone can see it."""
    if verbose == "auto":
        seen = sys.stdout.isatty() or "ipykernel" in sys.modules
        return int(seen and keras.config.is_interactive_logging_enabled())
    if verbose not in (0, 1, 2):
        raise ValueError(
            f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}"
        )
    return int(verbose)
