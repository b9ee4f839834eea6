"""The curvature of a model's loss over a whole data set."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.argument_checks import require_integer
from keras_bmr.laplace.curvature.accumulator import Accumulator
from keras_bmr.laplace.curvature.batch_sums import CURVATURES, STRUCTURES, batch_sums
from keras_bmr.laplace.curvature.batches import (
    batches_of,
    check_repeatable,
    checksum,
)
from keras_bmr.laplace.curvature.blocks import DiagonalBlock, KroneckerBlock
from keras_bmr.laplace.curvature.likelihoods import Likelihood, likelihood_of
from keras_bmr.laplace.curvature.probe import probe
from keras_bmr.laplace.curvature.sizes import check_memory
from keras_bmr.laplace.curvature.targets import prepare_targets
from keras_bmr.laplace.curvature.weights import ruled_layers


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The curvature of the negative log likelihood, summed over a data set.

    Attributes:
        blocks: One block per weight tensor, in the order of `curvature_weights`.
        log_likelihood: Sum over the data in nats, with the constant of a Gaussian.
        num_examples: Number of examples.
        num_outputs: Predictors per example: classes or values, times positions.
    """

    blocks: list[DiagonalBlock] | list[KroneckerBlock]
    log_likelihood: float
    num_examples: int
    num_outputs: int


def fit_curvature(
    model: keras.Model,
    loss: keras.losses.Loss | str,
    data: Any,
    curvature: str = "ggn",
    structure: str = "kronecker",
    batch_size: int | None = None,
    seed: int = 0,
    verbose: str | int = "auto",
    skip: Sequence[str] = (),
) -> Curvature:
    """Computes the curvature of a model's loss, summed over a data set.

    The model runs as outside of training: no dropout, moving statistics in batch
    normalisation. Positions of a sequence or an image share weights and are summed
    before squaring in the diagonal; Kronecker blocks are KFAC in its "expand" form.

    Args:
        model: A built Keras model with one output.
        loss: Keras cross-entropy (its probabilities or logits, sparse, one-hot or
            binary), or `keras.losses.MeanSquaredError` for Gaussian noise with unit
            variance, or the name of one.
        data: (x, y) arrays, or a batched, finite `tf.data.Dataset` of such pairs.
        curvature: "ggn" (generalised Gauss-Newton, which here is the Fisher matrix),
            "ggn_mc" (the same with one label per example drawn from the model) or
            "empirical_fisher" (with the labels of the data).
        structure: "diagonal" or "kronecker".
        batch_size: Examples per batch of arrays; None stands for 256. It changes the
            time and the memory, not the result.
        seed: Non-negative integer for "ggn_mc".
        verbose: 1 shows a progress bar, 2 one line at the end, 0 nothing. "auto" shows
            a bar where someone can see it.
        skip: Names of layers to leave out, as are frozen weights.

    Returns:
        `Curvature`.

    Raises:
        ValueError: If an argument is invalid, a layer has no rule or computes what its
            rule does not say, the data are empty, not finite or do not fit the loss,
            outputs are no probabilities where the loss expects some, or certainly some
            where it expects logits, the model or the data are random, or the factors
            would not fit in memory.

    Example:
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> curvature = keras_bmr.laplace.fit_curvature(model, loss, (x, y))
        >>> curvature.blocks[0].input_factor.shape

    References:
        Martens, arXiv 1412.1193; Martens and Grosse, arXiv 1503.05671; Immer et al.,
        arXiv 2104.04975.
    """
    for name, value, known in (
        ("curvature", curvature, CURVATURES),
        ("structure", structure, STRUCTURES),
    ):
        if value not in known:
            raise ValueError(
                f"`{name}` must be one of {known}. Received: {name}={value!r}"
            )
    require_integer("seed", seed, at_least=0)
    likelihood = likelihood_of(loss)
    layers = ruled_layers(model, skip)
    check_memory(layers, structure)
    batches = batches_of(data, batch_size)
    x_spec, _ = batches.spec
    sums = tf.function(
        batch_sums(model, likelihood, layers, curvature, structure), autograph=False
    )
    accumulator = Accumulator()
    # One stream for all examples, so that the draws do not depend on the batch size.
    generator = np.random.default_rng(seed)
    progress = keras.utils.Progbar(
        batches.num_batches, verbose=_verbosity(verbose), unit_name="batch"
    )
    read: Any = 0.0
    num_examples, log_likelihood, outputs_shape, concrete = 0, 0.0, None, None
    for index, (x, y) in enumerate(batches):
        if outputs_shape is None:
            outputs_shape = probe(model, likelihood, layers, x)
        batch = int(tf.shape(y)[0])
        targets = prepare_targets(
            likelihood, tf.convert_to_tensor(y), tf.TensorShape([batch, *outputs_shape])
        )
        noise = _noise(generator, likelihood, curvature, targets.shape)
        if concrete is None:
            rows_spec = tf.TensorSpec((None, outputs_shape[-1]), targets.dtype)
            concrete = sums.get_concrete_function(
                x_spec, rows_spec, tf.TensorSpec((None, noise.shape[1]), tf.float32)
            )
        values, batch_log_likelihood = concrete(x, targets, noise)
        if not np.isfinite(float(batch_log_likelihood)):
            raise ValueError(
                f"The log likelihood of batch {index} is {float(batch_log_likelihood)}."
                " Expected finite inputs and a model that gives finite outputs."
            )
        log_likelihood += float(batch_log_likelihood)
        num_examples += batch
        read = read + checksum(x) if batches.batch_size is None else read
        accumulator.add(values)
        progress.update(index + 1)
    if not num_examples:
        raise ValueError("`data` must hold at least one example. Received: none")
    check_repeatable(batches, read)
    return Curvature(
        blocks=accumulator.blocks(layers, structure),
        log_likelihood=log_likelihood,
        num_examples=num_examples,
        num_outputs=int(np.prod(outputs_shape)),
    )


def _noise(
    generator: np.random.Generator,
    likelihood: Likelihood,
    curvature: str,
    shape: tuple[int, int],
) -> tf.Tensor:
    """Uniform noise for drawing targets, nothing where none are drawn."""
    num_rows, num_outputs = shape
    if curvature != "ggn_mc":
        num_outputs = 0
    elif likelihood.is_categorical:
        num_outputs = 1
    # From the inside of the interval: the ends have no quantile.
    uniform = generator.integers(1, 1 << 23, size=(num_rows, num_outputs)) / (1 << 23)
    return tf.constant(uniform, tf.float32)


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
