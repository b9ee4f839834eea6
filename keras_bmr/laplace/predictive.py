"""Predictions under the Laplace posterior, linearised or by samples of weights."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_bmr.argument_checks import array_of_examples, require_integer
from keras_bmr.laplace.laplace_fit import LaplaceFit
from keras_bmr.laplace.linearized import (
    LinearizedOutputs,
    compiled_linearization,
    examples_per_chunk,
    probit_logits,
    sample_outputs,
)
from keras_bmr.laplace.links import Link
from keras_bmr.objectives.chunks import input_chunks


class LaplacePredictive:
    """What a Laplace posterior predicts; the part of `Laplace` that sees inputs."""

    model: keras.Model
    loss: keras.losses.Loss
    prior_precisions: list[tf.Tensor]
    _link: Link
    _variables: list[keras.Variable]

    def predictive(
        self,
        x: Any,
        method: str = "linearized",
        num_samples: int = 100,
        seed: int | None = None,
    ) -> np.ndarray:
        """Predictions under draws from the posterior.

        Args:
            x: Inputs: arrays, or a batched, finite `tf.data.Dataset`.
            method: "linearized" draws outputs of the model that is linear in its
                weights around the mode, each example on its own; it belongs to the
                GGN and is the safer one. "monte_carlo" draws weights.
            num_samples: Number of draws.
            seed: Non-negative integer that makes the result reproducible.

        Returns:
            Array of shape (num_samples, examples, ...): probabilities, or values
            without observation noise. Their mean over the first axis is the
            prediction.

        Raises:
            ValueError: If an argument is invalid, `x` holds NaN or infinite values, or
                a Jacobian is too large.
            RuntimeError: If `fit` was not called.

        Example:
            >>> probabilities = laplace.predictive(x_test).mean(axis=0)

        References:
            Immer, Korzepa and Bauer, AISTATS 2021, equations 9 and 10.
        """
        require_integer("num_samples", num_samples, at_least=1)
        if method not in ("linearized", "monte_carlo"):
            raise ValueError(
                "`method` must be 'linearized' or 'monte_carlo'. "
                f"Received: method={method!r}"
            )
        seed = random.randrange(2**31) if seed is None else seed
        require_integer("seed", seed, at_least=0)
        if method == "linearized":
            samples = sample_outputs(self.linearized(x), num_samples, seed)
        else:
            samples = self._sampled_outputs(x, num_samples, seed)
        return self._link.to_predictions(tf.constant(samples)).numpy()

    def linearized(self, x: Any) -> LinearizedOutputs:
        """Gaussian logits, or predicted values, in closed form.

        Args:
            x: As for `predictive`.

        Returns:
            `LinearizedOutputs(mean, covariance)`, arrays of shapes (examples, outputs)
            and (examples, outputs, outputs). The covariance is that of the posterior;
            `observation_noise` ** 2 comes on top.

        Raises:
            ValueError: If the model's output has another rank, `x` holds NaN or
                infinite values, or a Jacobian is too large.
            RuntimeError: If `fit` was not called.
        """
        shape = _single_output_shape(self.model)
        if len(shape) != 2:
            raise ValueError(
                "Linearised predictions need an output of shape (examples, outputs). "
                f"Use `method='monte_carlo'`. Received: a model whose output has shape "
                f"{shape}"
            )
        fit, priors, noise = self._require_fit(), self.prior_precisions, self._noise()
        num_weights = sum(weight.shape.num_elements() for weight in fit.weights)
        limit = examples_per_chunk(num_weights, shape[1])
        spec, chunks, _ = input_chunks(x, None)
        linearize = compiled_linearization(
            self._outputs,
            self._cast(fit.weights),
            lambda gradients: fit.whiten(gradients, priors, noise),
            spec,
        )
        parts = [
            linearize(part)
            for chunk in _finite(chunks)
            for part in _pieces(chunk, limit)
        ]
        means, covariances = zip(*parts, strict=True)
        return LinearizedOutputs(np.concatenate(means), np.concatenate(covariances))

    def probit(self, x: Any) -> np.ndarray:
        """Class probabilities in closed form, by MacKay's probit approximation.

        Args:
            x: As for `predictive`.

        Returns:
            Array of shape (examples, outputs).

        Raises:
            ValueError: As for `linearized`, and if the likelihood is Gaussian.
            RuntimeError: If `fit` was not called.
        """
        if self._link.is_gaussian:
            raise ValueError(
                "`probit` is for classification; `linearized` has mean and variance of "
                f"a Gaussian likelihood. Received: loss={self.loss!r}"
            )
        logits = probit_logits(self.linearized(x))
        return self._link.to_predictions(tf.constant(logits)).numpy()

    def _sampled_outputs(self, x: Any, num_samples: int, seed: int) -> np.ndarray:
        """Logits or predicted values of shape (num_samples, examples, ...)."""
        _single_output_shape(self.model)
        fit, priors, noise = self._require_fit(), self.prior_precisions, self._noise()
        spec, chunks, _ = input_chunks(x, None)
        outputs = tf.function(self._outputs, autograph=False).get_concrete_function(
            spec, [tf.TensorSpec(v.shape, v.dtype) for v in self._variables]
        )
        draw = tf.function(
            lambda key: self._cast(fit.draw(key, priors, noise)), autograph=False
        )
        chunks = list(_finite(chunks))
        samples = []
        for number in range(num_samples):
            weights = draw(tf.constant([seed, number]))
            parts = [outputs(chunk, weights) for chunk in chunks]
            samples.append(np.concatenate(parts))
        return np.stack(samples)

    def _outputs(self, inputs: Any, weights: list[tf.Tensor]) -> tf.Tensor:
        """Logits or predicted values of the model with certain weights."""
        mapping = list(zip(self._variables, weights, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return self._link.to_predictors(self.model(inputs, training=False))

    def _cast(self, weights: list[tf.Tensor]) -> list[tf.Tensor]:
        return [
            tf.cast(weight, variable.dtype)
            for weight, variable in zip(weights, self._variables, strict=True)
        ]

    def _noise(self) -> tf.Tensor:
        raise NotImplementedError

    def _require_fit(self) -> LaplaceFit:
        raise NotImplementedError


def _single_output_shape(model: keras.Model) -> tuple:
    shape = model.output_shape
    if isinstance(shape, list | dict) or isinstance(shape[0], tuple | list):
        raise ValueError(
            f"Model '{model.name}' must have a single output; make a `keras.Model` of "
            f"the output wanted. Received: outputs of shapes {shape}"
        )
    return tuple(shape)


def _finite(chunks: Iterable[Any]) -> Iterator[Any]:
    """Yields chunks of inputs; raises ValueError where one is not finite."""
    for chunk in chunks:
        keras.tree.map_structure(lambda leaf: array_of_examples(leaf, "x"), chunk)
        yield chunk


def _pieces(chunk: Any, limit: int) -> Iterator[Any]:
    """Cuts a chunk of inputs so that each piece has at most `limit` examples."""
    length = int(tf.shape(keras.tree.flatten(chunk)[0])[0])
    for start in range(0, length, limit):
        yield keras.tree.map_structure(
            lambda array, i=start: array[i : i + limit], chunk
        )
