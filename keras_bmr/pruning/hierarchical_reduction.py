"""Reduction of flat posteriors to a hierarchical prior, a horseshoe above all."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr import priors
from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.posteriors.sampling import fold_in
from keras_bmr.pruning.posterior_weights import (
    PosteriorSource,
    PosteriorWeight,
    posterior_source,
    posterior_weights,
)
from keras_bmr.pruning.scale_evidence import ScaleEvidence, narrowed
from keras_bmr.reduction import model_reduction

_STEPS_PER_CALL = 100
# The evidence at the end is reported, and deserves more draws than a step.
_NUM_FINAL_DRAWS = 1024


@dataclasses.dataclass
class _Fit:
    """One weight tensor with the scales of its reduced prior."""

    weight: PosteriorWeight
    alive: tf.Tensor
    evidence: ScaleEvidence
    state: dict[str, keras.Variable]


class HierarchicalReduction:
    """The posterior of a flat model as if its prior had been hierarchical.

    The scales s of the hierarchical prior get the posterior that maximises

        E[sum delta_f(w; s)] - KL(q(s) || p(s)),

    a lower bound of the change in log evidence, with the reduced prior of a weight
    being N(0, s^2) times its full prior: a wider one cannot be told from the posterior.
    The fit needs the posterior and prior of the flat model only, no data; the
    hierarchy itself need not be trained. The model is not changed.

    The prior of the flat model should be fixed or that of a layer. One that is fitted
    to every weight leaves a hierarchy nothing to gain.

    It is a source of posteriors, given the expected scales, for `ModelReduction` and
    `reduce_model`; `criterion="prior_scale"` prunes by the scales.

    Args:
        source: A built model with Bayesian layers, or posteriors for the weights of
            an ordinary one; see `PosteriorSource`. All of them Normal.
        prior: The hierarchical prior: a name, a config or a `keras_bmr.priors.Prior`
            that has random scales.
        num_steps: Positive integer, steps of Adam.
        num_particles: Positive integer, draws of the scales in each step.
        learning_rate: Positive float, that of the first step; it falls to zero.
        seed: Integer, of the draws.
        verbose: Whether to show a progress bar.

    Raises:
        ValueError: If an argument is invalid, `prior` is not hierarchical, or a
            posterior or prior is not Normal or has NaN or infinite parameters, or the
            prior has a mean other than 0.

    Example:
        >>> horseshoe = keras_bmr.pruning.HierarchicalReduction(model)
        >>> horseshoe.scales("dense")
        >>> keras_bmr.reduce_model(
        ...     horseshoe, criterion="prior_scale", threshold=6.0, skip=["logits"]
        ... )

    References:
        Markovic, Friston and Kiebel, Bayesian sparsification for deep neural
        networks with Bayesian model reduction, arXiv 2309.12095 (BMR-RHS).
    """

    def __init__(
        self,
        source: keras.Model | PosteriorSource,
        prior: str | dict | priors.Prior = "regularized_horseshoe",
        num_steps: int = 2000,
        num_particles: int = 16,
        learning_rate: float = 0.01,
        seed: int = 0,
        verbose: bool = False,
    ) -> None:
        self._prior = priors.get(prior)
        require_integer("num_steps", num_steps, at_least=1)
        require_integer("num_particles", num_particles, at_least=1)
        require_positive("learning_rate", learning_rate)
        require_integer("seed", seed, at_least=0)
        self._source = posterior_source(source)
        self.model = self._source.model
        self._fits = [self._prepare(weight) for weight in posterior_weights(source)]
        self._optimise(num_steps, num_particles, learning_rate, seed, verbose)
        final_seed = tf.constant([seed, num_steps])
        self._log_evidence = [
            float(self._bound(fit, fold_in(final_seed, index), _NUM_FINAL_DRAWS))
            for index, fit in enumerate(self._fits)
        ]

    def _prepare(self, weight: PosteriorWeight) -> _Fit:
        posterior, prior = weight.posterior(), weight.prior()
        if not isinstance(posterior, tfd.Normal) or not isinstance(prior, tfd.Normal):
            raise ValueError(
                f"Expected a Normal posterior and prior of {weight.label}. Received: "
                f"{type(posterior).__name__} and {type(prior).__name__}"
            )

        def add_weight(name: str, **options: Any) -> keras.Variable:
            # In float64: a scale has to find its way from 1 to 1e-12 and back.
            return keras.Variable(**options, name=name, dtype="float64")

        state = self._prior.add_weights(add_weight, weight.shape)
        scale = self._prior.expected_scale(state)
        if scale is None:
            raise ValueError(
                "`prior` must be hierarchical, with random scales, for example "
                "'regularized_horseshoe' or 'half_cauchy_normal'. Received: "
                f"{type(self._prior).__name__}"
            )
        shape = (1,) * (len(weight.shape) - len(scale.shape)) + tuple(scale.shape)
        try:
            evidence = ScaleEvidence(posterior, prior, shape)
        except ValueError as error:
            raise ValueError(f"Cannot reduce {weight.label}. {error}") from error
        return _Fit(weight, tf.constant(weight.alive()), evidence, state)

    def _bound(self, fit: _Fit, seed: tf.Tensor, num_draws: int) -> tf.Tensor:
        """The lower bound of the change in log evidence, of one weight tensor."""
        scales = self._prior.sample_scale(fit.state, seed, (num_draws,))
        per_draw = tf.reduce_sum(fit.evidence(tf.math.log(scales)), axis=0)
        divergence = self._prior.scale_divergence(fit.state, fit.alive)
        return tf.reduce_mean(per_draw) - divergence

    def _optimise(
        self,
        num_steps: int,
        num_particles: int,
        learning_rate: float,
        seed: int,
        verbose: bool,
    ) -> None:
        variables = [v for fit in self._fits for v in fit.state.values()]
        optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
        )
        optimizer.build(variables)

        @tf.function
        def run(first: tf.Tensor, count: tf.Tensor) -> None:
            for step in tf.range(first, first + count):
                step_seed = tf.stack([tf.constant(seed), step])
                with tf.GradientTape() as tape:
                    loss = -tf.add_n(
                        [
                            self._bound(fit, fold_in(step_seed, index), num_particles)
                            for index, fit in enumerate(self._fits)
                        ]
                    )
                values = [variable.value for variable in variables]
                optimizer.apply(tape.gradient(loss, values), variables)

        progress = keras.utils.Progbar(num_steps, verbose=int(verbose))
        for first in range(0, num_steps, _STEPS_PER_CALL):
            count = min(_STEPS_PER_CALL, num_steps - first)
            run(tf.constant(first), tf.constant(count))
            progress.add(count)

    # --- Results ---

    @property
    def log_evidence_gain(self) -> float:
        """Lower bound in nats of log p(data | hierarchy) - log p(data | flat prior)."""
        return math.fsum(self._log_evidence)

    def scales(
        self, layer: str | keras.layers.Layer, weight: str | None = None
    ) -> np.ndarray:
        """The expected scale of each unit.

        Args:
            layer: The layer or its name.
            weight: Name of the weight; None stands for the layer's first.

        Returns:
            Array of shape (units,), or (1,) if the whole weight has one scale; 0 for
            a unit all of whose weights were pruned before.

        Raises:
            ValueError: If there is no such weight, or several layers of nested
                models have that name.
        """
        found = [
            fit
            for fit in self._fits
            if layer in (fit.weight.layer.name, fit.weight.layer)
            and weight in (None, fit.weight.name)
        ]
        if not found or any(f.weight.layer is not found[0].weight.layer for f in found):
            raise ValueError(
                "Expected a layer and one of its weights out of "
                f"{[fit.weight.label for fit in self._fits]}. Where layers of nested "
                "models share a name, pass the layer itself. Received: "
                f"layer={layer!r}, weight={weight!r}"
            )
        scale = self._prior.expected_scale(found[0].state).numpy()
        alive = np.broadcast_to(scale, found[0].weight.shape) * found[0].weight.alive()
        return alive.max(axis=found[0].evidence.shared_axes).ravel()

    # --- A source of posteriors ---

    def weights(self) -> list[tuple[keras.layers.Layer, str]]:
        """See `PosteriorSource.weights`."""
        return self._source.weights()

    def posterior(self, layer: keras.layers.Layer, name: str) -> tfd.Normal:
        """See `PosteriorSource.posterior`: given the expected scales."""
        weight = PosteriorWeight(layer, name, self._source)
        reduced = self.prior(layer, name)
        return model_reduction(weight.posterior(), weight.prior(), reduced).posterior

    def prior(self, layer: keras.layers.Layer, name: str) -> tfd.Normal:
        """See `PosteriorSource.prior`: the reduced one, at the expected scales."""
        (fit,) = (
            fit
            for fit in self._fits
            if fit.weight.layer is layer and fit.weight.name == name
        )
        prior = self._source.prior(layer, name)
        scale = self._prior.expected_scale(fit.state)
        return narrowed(prior, tf.cast(scale, prior.dtype))
