"""What one pass over the data leaves: a posterior for every prior precision."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bmr.laplace.curvature import Curvature
from keras_bmr.laplace.evidence import (
    EvidenceTerms,
    evidence_terms,
    gaussian_log_likelihood,
)
from keras_bmr.laplace.posterior_precision import (
    DiagonalPrecision,
    KroneckerPrecision,
    posterior_precision,
)


@dataclasses.dataclass(frozen=True)
class LaplaceFit:
    """Weights, their curvature and the likelihood of the data, all of one moment.

    Attributes:
        weights: One float64 tensor per weight, the mode of the posterior.
        masks: One float64 array per weight, 1 or, where it is pruned, 0.
        posteriors: The posterior precision of each.
        log_likelihood: Of all data, for unit noise if it is Gaussian.
        num_targets: Number of scalar targets.
        noise_power: The curvature goes with noise ** -noise_power: 0 without a
            Gaussian likelihood, 2 for a GGN, 4 for an empirical Fisher.
        temperature: Of the posterior.
    """

    weights: Sequence[tf.Tensor]
    masks: Sequence[np.ndarray]
    posteriors: Sequence[DiagonalPrecision | KroneckerPrecision]
    log_likelihood: tf.Tensor
    num_targets: int
    noise_power: int
    temperature: float

    def curvature_scale(self, noise: tf.Tensor) -> tf.Tensor:
        """Factor of the curvature in the posterior precision."""
        return noise**-self.noise_power / self.temperature

    def evidence_terms(
        self, prior_precisions: Sequence[tf.Tensor], noise: tf.Tensor
    ) -> EvidenceTerms:
        """The terms of the log evidence.

        Args:
            prior_precisions: One float64 tensor per weight, broadcasting to its shape.
            noise: Float64 scalar, the standard deviation of Gaussian noise.

        Returns:
            `EvidenceTerms`.
        """
        log_likelihood = self.log_likelihood
        if self.noise_power:
            log_likelihood = gaussian_log_likelihood(
                log_likelihood, self.num_targets, noise
            )
        return evidence_terms(
            log_likelihood / self.temperature,
            self.weights,
            self.posteriors,
            prior_precisions,
            self.curvature_scale(noise),
        )

    def whiten(
        self,
        gradients: Sequence[tf.Tensor],
        prior_precisions: Sequence[tf.Tensor],
        noise: tf.Tensor,
    ) -> list[tf.Tensor]:
        """Gradients in coordinates in which the posterior covariance is the identity.

        Args:
            gradients: One float64 tensor of shape (n, *shape) per weight.
            prior_precisions: As for `evidence_terms`.
            noise: As for `evidence_terms`.

        Returns:
            Matrices of shape (n, size of the weight).
        """
        scale = self.curvature_scale(noise)
        return [
            posterior.whiten(gradient * mask, prior, scale)
            for posterior, gradient, mask, prior in zip(
                self.posteriors, gradients, self.masks, prior_precisions, strict=True
            )
        ]

    def draw(
        self, seed: Any, prior_precisions: Sequence[tf.Tensor], noise: tf.Tensor
    ) -> list[tf.Tensor]:
        """One draw of all weights from the posterior.

        Args:
            seed: Pair of integers.
            prior_precisions: As for `evidence_terms`.
            noise: As for `evidence_terms`.

        Returns:
            One float64 tensor per weight.
        """
        scale = self.curvature_scale(noise)
        drawn = []
        weights = zip(
            self.weights, self.masks, self.posteriors, prior_precisions, strict=True
        )
        for number, (weight, mask, posterior, prior) in enumerate(weights):
            key = tf.random.experimental.stateless_fold_in(seed, number)
            normal = tf.random.stateless_normal(
                weight.shape, key, dtype=tf.float64, alg="philox"
            )
            drawn.append(weight + mask * posterior.draw(normal, prior, scale))
        return drawn


def laplace_fit(
    curvature: Curvature,
    weights: Sequence[tf.Tensor],
    masks: Sequence[np.ndarray],
    noise_power: int,
    temperature: float,
) -> LaplaceFit:
    """Prepares a posterior: each Kronecker factor is eigendecomposed here, once.

    Args:
        curvature: What `fit_curvature` returned.
        weights: Values of the weights at that moment, in the order of the blocks.
        masks: Boolean arrays, False where a weight is pruned.
        noise_power: As for `LaplaceFit`.
        temperature: As for `LaplaceFit`.

    Returns:
        The fit.
    """
    masks = [mask.astype(np.float64) for mask in masks]
    return LaplaceFit(
        # A variable itself would move on with training.
        weights=[tf.cast(tf.identity(weight), tf.float64) for weight in weights],
        masks=masks,
        posteriors=[
            posterior_precision(block, mask)
            for block, mask in zip(curvature.blocks, masks, strict=True)
        ],
        log_likelihood=tf.cast(curvature.log_likelihood, tf.float64),
        num_targets=curvature.num_examples * curvature.num_outputs,
        noise_power=noise_power,
        temperature=temperature,
    )
