"""Outputs of a model that is linear in its weights around the posterior mode."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# Jacobians of one chunk of examples stay below this many bytes.
_CHUNK_BYTES = 2**28


class LinearizedOutputs(NamedTuple):
    """A Gaussian over outputs: logits, or predicted values.

    Attributes:
        mean: Array of shape (examples, outputs), what the model itself gives.
        covariance: Array of shape (examples, outputs, outputs).
    """

    mean: np.ndarray
    covariance: np.ndarray


def examples_per_chunk(num_weights: int, num_outputs: int) -> int:
    """How many examples' Jacobians fit into a chunk.

    Args:
        num_weights: Number of scalar weights.
        num_outputs: Number of outputs of an example.

    Returns:
        At least 1.

    Raises:
        ValueError: If not even one fits.
    """
    size = 8 * num_weights * num_outputs
    if size > _CHUNK_BYTES:
        raise ValueError(
            f"The Jacobian of one example has {num_outputs} x {num_weights} entries, "
            f"{size / 2**20:.0f} MiB. Linearised predictions may take "
            f"{_CHUNK_BYTES / 2**20:.0f} MiB. Use `method='monte_carlo'`."
        )
    return _CHUNK_BYTES // size


def compiled_linearization(
    outputs: Callable[[Any, list[tf.Tensor]], tf.Tensor],
    weights: Sequence[tf.Tensor],
    whiten: Callable[[list[tf.Tensor]], list[tf.Tensor]],
    spec: Any,
) -> Callable[[Any], tuple[tf.Tensor, tf.Tensor]]:
    """Mean and covariance of the outputs of a chunk, as a graph.

    Args:
        outputs: Maps inputs and weights to a tensor of shape (examples, outputs).
        weights: The mode of the posterior.
        whiten: Maps gradients, one tensor (n, *shape) per weight, to matrices (n, size)
            with inner products g P^-1 h.
        spec: Type specification of a chunk of inputs.

    Returns:
        Function from inputs to float64 tensors of shapes (examples, outputs) and
        (examples, outputs, outputs).

    References:
        Immer, Korzepa and Bauer, Improving predictions of Bayesian neural nets via
        local linearization, AISTATS 2021, equation 9.
    """

    @tf.function(input_signature=[spec], autograph=False)
    def linearize(inputs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(weights)
            predictors = outputs(inputs, list(weights))
        jacobians = tape.jacobian(predictors, list(weights))
        num_examples, num_outputs = tf.shape(predictors)[0], predictors.shape[1]
        gradients = [
            tf.cast(
                tf.reshape(jacobian, (num_examples * num_outputs, *weight.shape)),
                tf.float64,
            )
            for jacobian, weight in zip(jacobians, weights, strict=True)
        ]
        covariance = tf.zeros((num_examples, num_outputs, num_outputs), tf.float64)
        for whitened in whiten(gradients):
            rows = tf.reshape(whitened, (num_examples, num_outputs, -1))
            covariance += tf.matmul(rows, rows, transpose_b=True)
        return tf.cast(predictors, tf.float64), covariance

    return linearize


def probit_logits(outputs: LinearizedOutputs) -> np.ndarray:
    """Logits whose probabilities are about the mean over Gaussian logits.

    Args:
        outputs: Gaussian logits.

    Returns:
        Array of shape (examples, outputs): logit / sqrt(1 + pi / 8 * variance).

    References:
        MacKay, The evidence framework applied to classification networks, Neural
        Computation 4, 1992, equation 10; Daxberger et al., Laplace redux, arXiv
        2106.14806, section B (its extension to several classes).
    """
    variance = np.diagonal(outputs.covariance, axis1=1, axis2=2)
    return outputs.mean / np.sqrt(1 + np.pi / 8 * variance)


def sample_outputs(
    outputs: LinearizedOutputs, num_samples: int, seed: int
) -> np.ndarray:
    """Draws from the Gaussians, each example on its own.

    Args:
        outputs: Gaussian outputs.
        num_samples: Number of draws.
        seed: Non-negative integer.

    Returns:
        Array of shape (num_samples, examples, outputs).
    """
    values, vectors = np.linalg.eigh(outputs.covariance)
    # Logits of a softmax have a direction without variance, which rounding may turn
    # negative.
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    noise = np.random.default_rng(seed).standard_normal(
        (num_samples, *outputs.mean.shape)
    )
    return outputs.mean + np.einsum("nij,snj->sni", roots, noise)
