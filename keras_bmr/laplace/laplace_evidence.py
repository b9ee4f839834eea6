"""The evidence of a Laplace approximation, asked for and raised over the priors."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_positive
from keras_bmr.laplace.evidence import EvidenceTerms
from keras_bmr.laplace.laplace_fit import LaplaceFit
from keras_bmr.laplace.links import Link
from keras_bmr.laplace.precision_optimization import (
    check_optimization,
    optimize,
    solve,
)
from keras_bmr.laplace.prior_structures import PriorStructure, precisions_of


class LaplaceEvidence:
    """The part of `Laplace` that knows the evidence and what it says of priors."""

    loss: keras.losses.Loss
    observation_noise: float
    prior_precisions: list[tf.Tensor]
    _curvature_structure: str
    _link: Link
    _parameters: list[tf.Tensor]
    _prior_structure: PriorStructure

    def log_marginal_likelihood(
        self, prior_precision: Any = None, observation_noise: Any = None
    ) -> tf.Tensor:
        """The log evidence of a prior precision. It assigns nothing.

        Args:
            prior_precision: As for the constructor, a tensor whose gradient is wanted
                for example; None stands for the current one.
            observation_noise: Scalar; None stands for the current one.

        Returns:
            Float64 scalar in nats.

        Raises:
            ValueError: If an argument has another shape than the weights, or is not
                positive and finite.
            RuntimeError: If `fit` was not called.

        Example:
            >>> with tf.GradientTape() as tape:
            ...     tape.watch(precision)
            ...     evidence = laplace.log_marginal_likelihood(precision)
            >>> tape.gradient(evidence, precision)
        """
        terms = self.evidence_terms(prior_precision, observation_noise)
        return terms.log_marginal_likelihood

    def evidence_terms(
        self, prior_precision: Any = None, observation_noise: Any = None
    ) -> EvidenceTerms:
        """The terms of the log evidence by name.

        Args:
            prior_precision: As for `log_marginal_likelihood`.
            observation_noise: As for `log_marginal_likelihood`.

        Returns:
            `EvidenceTerms(log_likelihood, scatter, log_det_ratio)`, float64 scalars.

        Raises:
            ValueError: As for `log_marginal_likelihood`.
            RuntimeError: If `fit` was not called.
        """
        noise = self.observation_noise
        if observation_noise is not None:
            noise = known = observation_noise
            if tf.is_tensor(noise):
                # None within a `tf.function`, where there is no value to look at.
                known = tf.get_static_value(tf.convert_to_tensor(noise))
            if known is not None:
                require_positive("observation_noise", np.asarray(known)[()])
            self._require_noise_allowed(noise)
        precisions = self.prior_precisions
        if prior_precision is not None:
            precisions = precisions_of(prior_precision, self._prior_structure.shapes)
        return self._require_fit().evidence_terms(
            precisions, tf.cast(noise, tf.float64)
        )

    def optimize_prior_precision(
        self,
        steps: int = 100,
        learning_rate: float = 0.1,
        hyperprior: tfd.Distribution | None = None,
        method: str = "gradient",
        learn_observation_noise: bool = False,
    ) -> np.ndarray:
        """Raises the log evidence over the prior precisions; the weights stay.

        Args:
            steps: Number of steps.
            learning_rate: Of Adam, on the logarithms of the precisions.
            hyperprior: Scalar distribution of each precision (of each factor of a
                unit-wise one), for example `tfd.Gamma(2.0, 1.0)`; None is flat.
            method: "gradient" (Adam) or "fixed_point": the exact optimum at once where
                there is one (a diagonal posterior with a parameter-wise prior), and
                MacKay's iteration elsewhere; not for unit-wise priors.
            learn_observation_noise: Whether the noise is learned, too; only with
                "gradient" and Gaussian noise.

        Returns:
            Array of shape (steps,): what is maximised, before each step. The log
            evidence, with the log density of a hyperprior under "gradient".

        Raises:
            ValueError: If an argument is invalid.
            RuntimeError: If `fit` was not called.

        References:
            arXiv 2402.15978, algorithm 1; MacKay, Bayesian interpolation, 1992.
        """
        self.check_optimization(
            steps, learning_rate, hyperprior, method, learn_observation_noise
        )
        fit = self._require_fit()
        start = [parameter.numpy() for parameter in self._parameters]
        if method == "fixed_point":
            found, history = solve(
                fit, self._prior_structure, start, self._noise(), steps, hyperprior
            )
        else:
            found, log_noise, history = optimize(
                fit,
                self._prior_structure,
                start,
                math.log(self.observation_noise),
                learn_observation_noise,
                steps,
                learning_rate,
                hyperprior,
            )
            if learn_observation_noise:
                self.observation_noise = math.exp(log_noise)
        self._parameters = [tf.constant(parameter) for parameter in found]
        return history

    def check_optimization(
        self,
        steps: int,
        learning_rate: float,
        hyperprior: tfd.Distribution | None = None,
        method: str = "gradient",
        learn_observation_noise: bool = False,
    ) -> None:
        """Checks the arguments of `optimize_prior_precision`; changes nothing.

        Args:
            steps: As for `optimize_prior_precision`.
            learning_rate: As for `optimize_prior_precision`.
            hyperprior: As for `optimize_prior_precision`.
            method: As for `optimize_prior_precision`.
            learn_observation_noise: As for `optimize_prior_precision`.

        Raises:
            ValueError: If one is invalid, or they do not go together.
        """
        check_optimization(steps, learning_rate, hyperprior, method)
        has_fixed_point = self._prior_structure.has_fixed_point(
            is_diagonal=self._curvature_structure == "diagonal"
        )
        if method == "fixed_point" and not has_fixed_point:
            raise ValueError(
                "`method='fixed_point'` needs precisions that each belong to one group "
                "of weights: scalar and layer-wise ones, or parameter-wise ones of a "
                "diagonal posterior. Use `method='gradient'`. Received: "
                f"{type(self._prior_structure).__name__}, "
                f"structure={self._curvature_structure!r}"
            )
        if learn_observation_noise and (
            method != "gradient" or not self._link.is_gaussian
        ):
            raise ValueError(
                "`learn_observation_noise=True` needs `method='gradient'` and "
                "`keras.losses.MeanSquaredError`. Received: "
                f"method={method!r}, loss={self.loss!r}"
            )

    def _require_noise_allowed(self, value: Any) -> None:
        if self._link.is_gaussian or (not tf.is_tensor(value) and value == 1.0):
            return
        raise ValueError(
            "`observation_noise` belongs to the Gaussian likelihood of "
            "`keras.losses.MeanSquaredError`. Received: "
            f"observation_noise={value!r}, loss={self.loss!r}"
        )

    def _noise(self) -> tf.Tensor:
        raise NotImplementedError

    def _require_fit(self) -> LaplaceFit:
        raise NotImplementedError
