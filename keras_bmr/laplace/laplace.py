"""A Gaussian posterior around the weights of an ordinary trained Keras model."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_bmr.argument_checks import require_positive
from keras_bmr.laplace.curvature import curvature_weights, fit_curvature
from keras_bmr.laplace.laplace_evidence import LaplaceEvidence
from keras_bmr.laplace.laplace_fit import LaplaceFit, laplace_fit
from keras_bmr.laplace.links import link_of
from keras_bmr.laplace.predictive import LaplacePredictive
from keras_bmr.laplace.prior_structures import (
    PRIOR_STRUCTURES,
    unit_axes,
)
from keras_bmr.laplace.weight_posteriors import WeightPosteriors
from keras_bmr.layers.pruned_weights import weight_mask
from keras_bmr.objectives.log_likelihood import likelihood_loss


class Laplace(WeightPosteriors, LaplaceEvidence, LaplacePredictive):
    """Laplace approximation of the posterior of a model's weights, and its evidence.

    Around weights theta with prior N(0, 1/delta) the posterior is N(theta, P^-1) with
    P = H/T + diag(delta), where H is the curvature of the negative log likelihood,
    summed over the data. `fit` computes H once; every prior precision is cheap then.

    Args:
        model: A built Keras model, trained or about to be.
        loss: The Keras loss it is trained with, or its name: a cross-entropy, or
            `keras.losses.MeanSquaredError` for Gaussian noise.
        curvature: "ggn" (exact generalised Gauss-Newton), "ggn_mc" (the same, one
            label sampled per example) or "empirical_fisher".
        structure: "kronecker" (KFAC) or "diagonal".
        prior_structure: What shares a precision: "scalar" (all weights), "layerwise"
            (each weight tensor), "unitwise" (a factor per input and per output unit)
            or "parameterwise" (nothing).
        prior_precision: The precision to begin with; a scalar, a vector with one entry
            per weight tensor, or a list with one array each.
        observation_noise: Standard deviation of Gaussian noise in units of the
            targets.
        temperature: T, positive; below 1 the data count more.
        skip: Names of layers whose weights are taken as certain.

    Raises:
        ValueError: If an argument is invalid, or the model has a layer without a
            curvature rule.

    Example:
        >>> laplace = keras_bmr.laplace.Laplace(model, loss).fit((x_train, y_train))
        >>> laplace.optimize_prior_precision(steps=100)
        >>> laplace.log_marginal_likelihood()
        >>> keras_bmr.ModelReduction(laplace, reduced_prior="point_mass").summary()

    References:
        MacKay, A practical Bayesian framework for backpropagation networks, Neural
        Computation 4, 1992; Immer et al., arXiv 2104.04975; arXiv 2402.15978.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: keras.losses.Loss | str,
        curvature: str = "ggn",
        structure: str = "kronecker",
        prior_structure: str = "layerwise",
        prior_precision: Any = 1.0,
        observation_noise: float = 1.0,
        temperature: float = 1.0,
        skip: Sequence[str] = (),
    ) -> None:
        _require_one_of("curvature", curvature, ("ggn", "ggn_mc", "empirical_fisher"))
        _require_one_of("structure", structure, ("diagonal", "kronecker"))
        _require_one_of("prior_structure", prior_structure, tuple(PRIOR_STRUCTURES))
        require_positive("temperature", temperature)
        self.model = model
        self.loss = likelihood_loss(loss)
        self.temperature = float(temperature)
        self._curvature = curvature
        self._curvature_structure = structure
        self._skip = tuple(skip)
        self._link = link_of(self.loss)
        weights = curvature_weights(model, skip)
        self._names = [(layer, name) for layer, name, _ in weights]
        self._variables = [variable for _, _, variable in weights]
        shapes = [tuple(variable.shape) for variable in self._variables]
        axes = [unit_axes(layer, tuple(v.shape)) for layer, _, v in weights]
        self._prior_structure = PRIOR_STRUCTURES[prior_structure](shapes, axes)
        self._fit: LaplaceFit | None = None
        self.prior_precision = prior_precision
        self.observation_noise = observation_noise

    # --- Settings ---

    @property
    def prior_precision(self) -> Any:
        """The current prior precision, in the shape of the prior structure.

        A scalar, a vector with one entry per weight tensor, or a list with one tensor
        each, all float64. It can be assigned in any of these forms.
        """
        return self._prior_structure.value(self._parameters)

    @prior_precision.setter
    def prior_precision(self, value: Any) -> None:
        parameters = self._prior_structure.parameters_of(value)
        self._parameters = [tf.constant(parameter) for parameter in parameters]

    @property
    def prior_precisions(self) -> list[tf.Tensor]:
        """The same by weight: float64 tensors that broadcast to the weights' shapes."""
        return self._prior_structure.precisions(self._parameters)

    @property
    def observation_noise(self) -> float:
        """Standard deviation of Gaussian noise, in units of the targets."""
        return self._observation_noise

    @observation_noise.setter
    def observation_noise(self, value: float) -> None:
        require_positive("observation_noise", value)
        self._require_noise_allowed(value)
        self._observation_noise = float(value)

    # --- Fitting ---

    def fit(
        self,
        data: Any,
        batch_size: int | None = None,
        seed: int = 0,
        verbose: str | int = "auto",
    ) -> "Laplace":
        """Computes the curvature at the current weights of the model.

        The weights are copied: later training does not change this posterior.

        Args:
            data: (x, y) arrays, or a batched, finite `tf.data.Dataset` of such pairs.
            batch_size: Examples per batch of arrays.
            seed: Non-negative integer for the labels that "ggn_mc" samples.
            verbose: Whether to show a progress bar.

        Returns:
            This object.

        Raises:
            ValueError: If the data are empty or do not fit the model and its loss.
        """
        curvature = fit_curvature(
            self.model,
            self.loss,
            data,
            curvature=self._curvature,
            structure=self._curvature_structure,
            batch_size=batch_size,
            seed=seed,
            verbose=verbose,
            skip=self._skip,
        )
        gaussian_power = 4 if self._curvature == "empirical_fisher" else 2
        self._fit = laplace_fit(
            curvature,
            [variable.value for variable in self._variables],
            [weight_mask(layer, name) for layer, name in self._names],
            noise_power=gaussian_power if self._link.is_gaussian else 0,
            temperature=self.temperature,
        )
        return self

    # --- Internals ---

    def _noise(self) -> tf.Tensor:
        return tf.constant(self.observation_noise, tf.float64)

    def _require_fit(self) -> LaplaceFit:
        if self._fit is None:
            raise RuntimeError(
                f"There is no posterior of model '{self.model.name}' yet. Call "
                "`laplace.fit((x, y))` first."
            )
        return self._fit


def _require_one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")
