"""Priors learned during `fit`, by the Laplace approximation of the evidence."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_integer
from keras_bmr.callbacks.gaussian_prior import attach_priors, detach_priors
from keras_bmr.laplace import Laplace

_TERMS = ("log_marginal_likelihood", "log_likelihood", "scatter", "log_det_ratio")


class MarginalLikelihood(keras.callbacks.Callback):
    """Trains under a Gaussian prior whose precisions follow the evidence (SpaM).

    While `fit` runs, every weight of `laplace` carries the regulariser

        T / N * sum(delta * theta^2) / 2,

    on top of the user's own, which makes the mean cross-entropy the negative log
    posterior. From time to time the curvature is computed anew and the log evidence
    raised over the prior precisions delta; the regulariser follows. After training
    it is gone, and `laplace` is fitted to the final weights.

    Precisions of weights that are not needed grow without bound. In the loss, the
    factor of theta^2 / 2 is at most 1 / (learning rate) of the current epoch, beyond
    which gradient descent would overshoot zero and diverge.

    The logs of every epoch gain `log_marginal_likelihood`, `log_likelihood`, `scatter`
    and `log_det_ratio`, in nats, of the last time; NaN before the first.

    Args:
        laplace: The posterior of the model to train; it holds curvature, structures,
            temperature and the precisions to begin with.
        data: All training data, (x, y) arrays or a batched, finite `tf.data.Dataset`.
        burn_in: Epochs before precisions change.
        every: Epochs from one time to the next; the first time comes after
            `burn_in + every` epochs.
        steps: Steps of `laplace.optimize_prior_precision` each time.
        learning_rate: Of these steps.
        hyperprior: Scalar distribution of each precision, for example a `tfd.Gamma`.
        learn_observation_noise: Whether Gaussian noise is learned, too.
        patience: Times without a better evidence after which training stops; weights
            and precisions of the best time return. None trains to the end.
        batch_size: Examples per batch of arrays when the curvature is computed.

    Raises:
        ValueError: If an argument is invalid. At the start of training, if the model is
            not that of `laplace`, or its loss is no mean of the same kind.

    Example:
        >>> laplace = keras_bmr.laplace.Laplace(model, loss)
        >>> model.compile("adam", loss=loss)
        >>> evidence = keras_bmr.callbacks.MarginalLikelihood(laplace, (x, y), every=5)
        >>> model.fit(x, y, epochs=100, callbacks=[evidence])
        >>> keras_bmr.reduce_model(laplace, criterion="opd", sparsity=0.9)

    References:
        arXiv 2402.15978, algorithm 1; Immer et al., Scalable marginal likelihood
        estimation for model selection in deep learning, arXiv 2104.04975.
    """

    def __init__(
        self,
        laplace: Laplace,
        data: Any,
        burn_in: int = 0,
        every: int = 5,
        steps: int = 100,
        learning_rate: float = 0.1,
        hyperprior: tfd.Distribution | None = None,
        learn_observation_noise: bool = False,
        patience: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(laplace, Laplace):
            raise ValueError(
                "`laplace` must be a `keras_bmr.laplace.Laplace`. "
                f"Received: laplace={laplace!r}"
            )
        require_integer("burn_in", burn_in, at_least=0)
        require_integer("every", every, at_least=1)
        if patience is not None:
            require_integer("patience", patience, at_least=1)
        self.laplace = laplace
        self.data = data
        self.burn_in = burn_in
        self.every = every
        self.patience = patience
        self._batch_size = batch_size
        self._options = {
            "steps": steps,
            "learning_rate": learning_rate,
            "hyperprior": hyperprior,
            "learn_observation_noise": learn_observation_noise,
        }
        laplace.check_optimization(**self._options)
        self._num_examples = _num_examples(data)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Attaches the regulariser."""
        self._check_model()
        self._terms = dict.fromkeys(_TERMS, math.nan)
        self._best = (-math.inf, None)
        self._times_without_better = 0
        self._is_current = False
        self._priors = attach_priors(self.laplace.variables)
        # A step that was traced before knows nothing of the regulariser.
        self.model.make_train_function(force=True)
        self.model.test_function = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Fits the regulariser to the learning rate."""
        self._follow()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Learns the precisions, if it is time, and logs the evidence."""
        self._is_current = False
        number = epoch + 1 - self.burn_in
        if number > 0 and number % self.every == 0:
            self._learn()
        if logs is not None:
            logs.update(self._terms)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Removes the regulariser; fits `laplace` to the weights that are left."""
        self.detach()
        _, best = self._best
        if self.patience is not None and best is not None:
            weights, precision, noise = best
            self.model.set_weights(weights)
            self.laplace.prior_precision = precision
            self.laplace.observation_noise = noise
            self._is_current = False
        if not self._is_current:
            self._fit_curvature()

    def detach(self) -> None:
        """Removes the regulariser, as the end of training does.

        Call it if training was interrupted, by the keyboard or an error: Keras tells
        callbacks nothing of it, and the regulariser would count from then on.
        """
        detach_priors(self.laplace.variables)
        self.laplace.model.train_function = None
        self.laplace.model.test_function = None

    def _fit_curvature(self) -> None:
        self.laplace.fit(self.data, batch_size=self._batch_size, verbose=0)
        self._is_current = True

    def _learn(self) -> None:
        self._fit_curvature()
        self.laplace.optimize_prior_precision(**self._options)
        terms = self.laplace.evidence_terms()
        evidence = float(terms.log_marginal_likelihood)
        self._terms = {name: float(getattr(terms, name)) for name in _TERMS}
        if not math.isfinite(evidence):
            raise ValueError(
                f"The log evidence became {evidence}, with the terms {self._terms}. "
                "The training has probably diverged: lower its learning rate."
            )
        if evidence > self._best[0]:
            self._times_without_better = 0
            kept = None
            if self.patience is not None:
                laplace = self.laplace
                kept = (
                    self.model.get_weights(),
                    laplace.prior_precision,
                    laplace.observation_noise,
                )
            self._best = (evidence, kept)
            return
        self._times_without_better += 1
        if self.patience is not None and self._times_without_better >= self.patience:
            self.model.stop_training = True

    def _follow(self) -> None:
        """Gives the regularisers the precisions of `laplace`."""
        factor = self.laplace.temperature / (self._num_examples * self._num_terms())
        if isinstance(self.laplace.loss, keras.losses.MeanSquaredError):
            # Keras' loss is not the negative log likelihood, but 2 sigma^2 times it.
            factor *= 2 * self.laplace.observation_noise**2
        learning_rate = float(self.model.optimizer.learning_rate)
        limit = 1 / learning_rate if learning_rate > 0 else math.inf
        for prior, precision in zip(
            self._priors, self.laplace.prior_precisions, strict=True
        ):
            prior.follow(tf.minimum(factor * precision, limit))

    def _num_terms(self) -> int:
        """Over how many terms per example the loss of Keras is a mean."""
        shape = self.model.output_shape[1:]
        independent = keras.losses.MeanSquaredError | keras.losses.BinaryCrossentropy
        terms = shape if isinstance(self.laplace.loss, independent) else shape[:-1]
        if None in terms:
            raise ValueError(
                "The number of positions of an output must be known, since Keras' loss "
                f"is a mean over them. Received: output shape {self.model.output_shape}"
            )
        return int(np.prod(terms))

    def _check_model(self) -> None:
        if self.model is not self.laplace.model:
            raise ValueError(
                f"`laplace` must belong to the model that is trained, "
                f"'{self.model.name}'. Received: that of '{self.laplace.model.name}'"
            )
        loss = keras.losses.get(self.model.loss)
        expected = self.laplace.loss
        reduction = getattr(loss, "reduction", "sum_over_batch_size")
        names = (expected.name, type(expected).__name__)
        name = getattr(loss, "name", None) or getattr(loss, "__name__", None)
        given = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
        is_other = any(
            given.get(key, False) != expected.get_config().get(key, False)
            for key in ("from_logits", "label_smoothing")
        )
        if reduction in (None, "none", "sum") or name not in names or is_other:
            raise ValueError(
                "The model must be compiled with the loss of `laplace` and a mean as "
                f"its reduction. Expected: loss={expected!r}. Received: "
                f"loss={self.model.loss!r}, reduction={reduction!r}"
            )
        self._num_terms()


def _num_examples(data: Any) -> int:
    """Number of training examples, counted where a dataset does not tell."""
    if isinstance(data, tf.data.Dataset):
        if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`data` must be finite. Received: an infinite dataset")
        number = sum(len(keras.tree.flatten(batch)[0]) for batch in data)
    elif isinstance(data, tuple | list) and len(data) == 2:
        number = len(keras.tree.flatten(data[0])[0])
    else:
        raise ValueError(
            "`data` must be a pair (x, y) or a `tf.data.Dataset` of such pairs. "
            f"Received: data of type {type(data).__name__}"
        )
    if number == 0:
        raise ValueError("`data` must have examples. Received: none")
    return number
