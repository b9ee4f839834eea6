"""Noise gates that are shut, and opened again, during one `fit`."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr import pruning
from keras_bmr.argument_checks import require_integer
from keras_bmr.layers import MultiplicativeNoise, variational_layers
from keras_bmr.layers.traversal import layers_named
from keras_bmr.pruning import GateGroups, ModelReduction


class ContinuousReduction(keras.callbacks.Callback):
    """Decides after every epoch which noise gates are shut, until the end of training.

    A gate that is shut lets nothing pass in the epochs that follow, yet its posterior
    is trained on: the KL divergence counts, and the gradient of the loss with respect
    to the gate, at 0, is that of its noise. So a unit that turns out to be needed
    returns at the end of a later epoch. What is shut at the end of training is pruned
    for good. At least one gate of a layer stays open, that with the lowest log Bayes
    factor.

    The logs of every epoch gain `closed_gates`, the share of the gates that are shut.

    Args:
        reduced_prior: What the noise is compared with, see `ModelReduction`.
        criterion: What ranks the gates, see `ModelReduction`.
        threshold: See `ModelReduction`.
        sparsity: Share in [0, 1) of the gates to shut, instead of a threshold.
        start: Non-negative integer, number of epochs after which it begins.
        skip: Names of gates or models to leave alone.

    Raises:
        ValueError: If an argument is invalid. At the start of training, if the model
            has no noise gates or an argument of `ModelReduction` is invalid.

    Example:
        >>> callback = keras_bmr.callbacks.ContinuousReduction("bmrs_u8")
        >>> model.fit(x, y, epochs=50, callbacks=[callback])

    References:
        Wright, Igel and Selvan, BMRS: Bayesian model reduction for structured
        pruning, arXiv 2406.01345, section 5.2.
    """

    def __init__(
        self,
        reduced_prior: str
        | tfd.Distribution
        | pruning.reduced_priors.ReducedPrior = "bmrs_n",
        criterion: str | pruning.Criterion = pruning.defaults.CRITERION,
        threshold: float | None = None,
        sparsity: float | None = None,
        start: int = 0,
        skip: Sequence[str] = (),
    ) -> None:
        super().__init__()
        require_integer("start", start, at_least=0)
        self.start = int(start)
        self._options: dict[str, Any] = {
            "reduced_prior": pruning.reduced_priors.get(reduced_prior),
            "criterion": pruning.criteria.get(criterion),
            "granularity": GateGroups,
            "threshold": threshold,
            "sparsity": sparsity,
            "skip": skip,
            "verbose": False,
        }

    def _gates(self) -> list[MultiplicativeNoise]:
        return [
            layer
            for layer in variational_layers(self.model)
            if isinstance(layer, MultiplicativeNoise)
        ]

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Checks the model and the arguments."""
        # Raises for every invalid option before anything is trained.
        ModelReduction(self.model, **self._options)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Shuts and opens gates, and logs how many are shut."""
        if epoch >= self.start:
            self._decide()
        logs = {} if logs is None else logs
        closed = np.concatenate([gate.closed.numpy() for gate in self._gates()])
        logs["closed_gates"] = float(closed.mean())

    def on_train_end(self, logs: dict | None = None) -> None:
        """Prunes what is shut."""
        for gate in self._gates():
            closed = gate.closed.numpy()
            gate.prune("noise", ~closed)
            gate.close(np.zeros_like(closed))

    def _decide(self) -> None:
        skipped = layers_named(self.model, self._options["skip"])
        reduction = ModelReduction(self.model, **self._options)
        for gate in self._gates():
            if id(gate) in skipped:
                continue
            keep = reduction.keep(gate)
            if not keep.any():
                alive = gate.mask("noise").numpy()
                evidence = np.where(alive, reduction.delta_f(gate), np.inf)
                keep = alive & (np.arange(keep.size) == evidence.argmin())
            gate.close(~keep)
