"""Pruning of an ordinary Keras model during training, by a ratio of densities."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from keras_bmr.argument_checks import require_integer, require_positive
from keras_bmr.layers import variational_layers
from keras_bmr.objectives.log_likelihood import LogLikelihood, likelihood_loss
from keras_bmr.pruning import PosteriorSource
from keras_bmr.pruning.prunable_weight import PrunableWeight, ordinary_kernels
from keras_bmr.reduction import model_reduction

_METHODS = ("magnitude", "random")
_PRIOR_TERMS = ("all", "active")


class BayesFactorPruning(keras.callbacks.Callback):
    """Sets a share of the weights to zero after an epoch if the data agree.

    A candidate w' is the weights w with some more at zero. It is accepted if

        log BF = log p(data | w') + log p(w') - log p(data | w) - log p(w)

    exceeds the threshold. What is pruned stays zero in training, and in the saved
    model. Kernels are pruned, biases and frozen layers are not.

    It is a ratio of densities at two points, not one of evidences: nothing is
    integrated over, so that it has no Occam factor, and it is of the order of the
    number of examples. `source` puts a proper log Bayes factor in its place, from
    which the threshold then decides.

    The logs of every epoch gain `log_bayes_factor` in nats, `accepted` (1.0 or 0.0)
    and `sparsity`, the share that is pruned of the weights that may be. The first two
    are 0.0 in epochs without a candidate, once the target is reached.

    Args:
        rate: Share in (0, 1) of the weights still there that a candidate prunes.
        threshold: Smallest log Bayes factor in nats, log beta in the paper.
        method: "magnitude" prunes the smallest weights of all layers together,
            "random" any.
        prior_scale: Standard deviation of the normal prior of each weight, about 0.
        data: `(x, y)` or a `tf.data.Dataset` of such batches that are always the
            same: the training data, or a fixed part of them.
        num_examples: Number of training examples that `data` stands for, by which its
            log likelihood is scaled; None for those that it holds.
        sparsity: Share in (0, 1) at which pruning ends.
        prior_terms: "all" keeps the density of a pruned weight at zero in log p(w');
            "active" counts the weights that are left only, so that each pruned weight
            brings log(prior_scale sqrt(2 pi)) nats more.
        source: None, or a function of the model that returns a `PosteriorSource`, for
            example a Laplace approximation. The log Bayes factor is then
            the sum of delta_f of the weights to prune, with its posterior and prior.
        seed: Seed of "random".

    Raises:
        ValueError: If an argument is invalid. At the start of training, if the model
            is Bayesian, has nothing to prune, or its loss is no likelihood.

    Example:
        >>> pruning = keras_bmr.callbacks.BayesFactorPruning(data=(x_train, y_train))
        >>> history = model.fit(x_train, y_train, epochs=25, callbacks=[pruning])
        >>> history.history["log_bayes_factor"]

    References:
        arXiv 2308.02451.
    """

    def __init__(
        self,
        rate: float = 0.1,
        threshold: float = 0.0,
        method: str = "magnitude",
        prior_scale: float = 0.1,
        data: Any = None,
        num_examples: int | None = None,
        sparsity: float = 0.9,
        prior_terms: str = "all",
        source: Callable[[keras.Model], PosteriorSource] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("rate", rate), ("sparsity", sparsity)):
            if not 0 < value < 1:
                raise ValueError(f"`{name}` must lie in (0, 1). Received: {value!r}")
        for name, value, known in (
            ("method", method, _METHODS),
            ("prior_terms", prior_terms, _PRIOR_TERMS),
        ):
            if value not in known:
                raise ValueError(
                    f"`{name}` must be one of {known}. Received: {name}={value!r}"
                )
        if not math.isfinite(threshold):
            raise ValueError(f"`threshold` must be finite. Received: {threshold}")
        require_positive("prior_scale", prior_scale)
        if num_examples is not None:
            require_integer("num_examples", num_examples, at_least=1)
        if (data is None) == (source is None):
            raise ValueError(
                "Expected either `data`, to compare densities on, or `source`, for "
                f"a proper evidence ratio. Received: data={type(data).__name__}, "
                f"source={source!r}"
            )
        self.rate = rate
        self.threshold = threshold
        self.method = method
        self.prior_scale = prior_scale
        self.sparsity = sparsity
        self.prior_terms = prior_terms
        self.source = source
        self._data = data
        self._num_examples = num_examples
        self._generator = np.random.default_rng(seed)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks the model, and makes training obey the masks."""
        if variational_layers(self.model):
            raise ValueError(
                f"Model '{self.model.name}' has Bayesian layers, which know their log "
                "evidence. Expected an ordinary Keras model; use "
                "`keras_bmr.callbacks.ModelReductionCallback` for this one."
            )
        trainable = {id(variable) for variable in self.model.trainable_variables}
        self._weights = [
            weight
            for weight in ordinary_kernels(self.model)
            if id(weight.variable) in trainable
        ]
        if not self._weights:
            raise ValueError(
                f"Model '{self.model.name}' has no trainable kernel to prune."
            )
        if self.source is None:
            loss = likelihood_loss(self.model.loss)
            self._log_likelihood = LogLikelihood(self.model, self._data, loss)
            in_data = self._log_likelihood.num_examples()
            self._scale = (self._num_examples or in_data) / in_data
        for weight in self._weights:
            weight.prune(np.ones(weight.shape, bool))
        # A training step that was traced before knows nothing of the constraints.
        self.model.make_train_function(force=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Tries a candidate and logs what came of it."""
        logs = {} if logs is None else logs
        alive = [weight.alive() for weight in self._weights]
        keep = self._candidate(alive)
        log_bayes_factor, accepted = 0.0, False
        if keep is not None:
            dropped = [a & ~k for a, k in zip(alive, keep, strict=True)]
            log_bayes_factor = self._log_bayes_factor(dropped)
            # A comparison with NaN is False.
            accepted = log_bayes_factor > self.threshold
        if accepted:
            for weight, mask in zip(self._weights, keep, strict=True):
                weight.prune(mask)
            alive = keep
        logs["log_bayes_factor"] = log_bayes_factor
        logs["accepted"] = float(accepted)
        num_kept = sum(np.count_nonzero(mask) for mask in alive)
        logs["sparsity"] = float(1 - num_kept / sum(mask.size for mask in alive))

    def _candidate(self, alive: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """What the next candidate keeps, or None once the target is reached."""
        flat = np.concatenate([mask.ravel() for mask in alive])
        positions = np.flatnonzero(flat)
        left_to_prune = round(self.sparsity * flat.size) - (flat.size - positions.size)
        num_dropped = min(math.ceil(self.rate * positions.size), left_to_prune)
        if num_dropped <= 0:
            return None
        if self.method == "random":
            dropped = self._generator.choice(positions, num_dropped, replace=False)
        else:
            values = [np.abs(weight.variable.numpy()) for weight in self._weights]
            magnitudes = np.concatenate([value.ravel() for value in values])
            smallest = np.argpartition(magnitudes[positions], num_dropped - 1)
            dropped = positions[smallest[:num_dropped]]
        flat[dropped] = False
        ends = np.cumsum([mask.size for mask in alive])[:-1]
        return [
            part.reshape(mask.shape)
            for part, mask in zip(np.split(flat, ends), alive, strict=True)
        ]

    def _log_bayes_factor(self, dropped: Sequence[np.ndarray]) -> float:
        """The log Bayes factor of pruning the entries of boolean arrays."""
        if self.source is not None:
            return self._log_evidence_ratio(dropped)
        before = self._log_likelihood()
        values = [weight.variable.numpy() for weight in self._weights]
        try:
            for weight, value, drop in zip(self._weights, values, dropped, strict=True):
                weight.variable.assign(np.where(drop, 0, value))
            after = self._log_likelihood()
        finally:
            for weight, value in zip(self._weights, values, strict=True):
                weight.variable.assign(value)
        gain = sum(
            0.5 * np.sum(np.square(value[drop] / self.prior_scale, dtype="float64"))
            for value, drop in zip(values, dropped, strict=True)
        )
        if self.prior_terms == "active":
            num_dropped = sum(np.count_nonzero(drop) for drop in dropped)
            gain += num_dropped * math.log(self.prior_scale * math.sqrt(2 * math.pi))
        return float(self._scale * (after - before) + gain)

    def _log_evidence_ratio(self, dropped: Sequence[np.ndarray]) -> float:
        """The sum of delta_f over the entries, by the posteriors of a source."""
        source = self.source(self.model)
        names = {
            id(PrunableWeight(layer, name).variable): (layer, name)
            for layer, name in source.weights()
        }
        total = 0.0
        for weight, drop in zip(self._weights, dropped, strict=True):
            if not drop.any():
                continue
            if id(weight.variable) not in names:
                raise ValueError(
                    f"`source` returned no posterior for {weight.label}, which is to "
                    f"be pruned. Received: {source!r}"
                )
            layer, name = names[id(weight.variable)]
            posterior, prior = source.posterior(layer, name), source.prior(layer, name)
            zero = tfd.Deterministic(tf.zeros_like(posterior.mean()))
            delta_f = model_reduction(posterior, prior, zero).delta_f
            total += float(np.sum(np.asarray(delta_f)[drop], dtype="float64"))
        return total
