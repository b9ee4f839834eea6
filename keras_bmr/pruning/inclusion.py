"""What of a model with spike-and-slab posteriors is in: weights, nodes, features."""

import os
from typing import Any

import keras
import numpy as np

from keras_bmr import figures
from keras_bmr.layers.traversal import require_variational_layers
from keras_bmr.layers.variational import Variational
from keras_bmr.pruning.criteria.inclusion import check_warm_up_over

# Kernels of shape (..., inputs, units).
_WITH_NODES = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


class InclusionProbabilities:
    """The inclusion probabilities of a model, as they were when it was looked at.

    See `inclusion_probabilities`, which makes it.

    Args:
        log_odds: Maps each layer to the log odds of its weights, arrays by name.
    """

    def __init__(
        self, log_odds: dict[keras.layers.Layer, dict[str, np.ndarray]]
    ) -> None:
        self._log_odds = log_odds

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have inclusion probabilities."""
        return [layer.name for layer in self._log_odds]

    def weights(
        self, layer: str | keras.layers.Layer | None = None, name: str | None = None
    ) -> np.ndarray:
        """The probability that a weight is in.

        Args:
            layer: The layer or its name; None stands for the first.
            name: Name of the weight; None stands for the layer's first.

        Returns:
            Array with the shape of the weight; 0 where it is pruned.

        Raises:
            ValueError: If there is no such weight, or several layers of nested
                models have that name.
        """
        log_odds = self._of(self._find(layer), name)
        return np.exp(-np.logaddexp(0.0, -log_odds))

    def nodes(self, layer: str | keras.layers.Layer | None = None) -> np.ndarray:
        """The probability that any weight into a unit or channel is in.

        It is 1 - prod(1 - phi) over the fan-in, which is far from 0 where many
        weights are improbable.

        Args:
            layer: The layer or its name; None stands for the first.

        Returns:
            Array of shape (units,).

        Raises:
            ValueError: If there is no such layer, or it is neither dense nor a
                convolution.
        """
        log_odds = self._kernel(layer)
        return _any(log_odds, tuple(range(log_odds.ndim - 1)))

    def features(self, layer: str | keras.layers.Layer | None = None) -> np.ndarray:
        """The probability that any weight out of an input is in.

        It is 1 - prod(1 - phi) over the outgoing weights, a measure of importance.
        With many units it exceeds 1/2 where no single weight does, so that features
        are better chosen by `selected_features`.

        Args:
            layer: The layer or its name; None stands for the first, whose inputs are
                the features.

        Returns:
            Array of shape (features,), or (channels,) of a convolution.

        Raises:
            ValueError: As `nodes`.
        """
        log_odds = self._kernel(layer)
        return _any(log_odds, (*range(log_odds.ndim - 2), log_odds.ndim - 1))

    def selected_features(
        self, layer: str | keras.layers.Layer | None = None
    ) -> np.ndarray:
        """Which features the median-probability model uses.

        That model has the weights with a probability of 1/2 and more, and uses a
        feature if it has any weight out of it. For a single unit that is the same as
        `features() >= 0.5`.

        Args:
            layer: As for `features`.

        Returns:
            Boolean array of shape (features,).

        Raises:
            ValueError: As `nodes`.
        """
        is_in = self._kernel(layer) >= 0
        return is_in.any(axis=(*range(is_in.ndim - 2), is_in.ndim - 1))

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Plots the features of the first layer, and the weights of all layers.

        Args:
            path: Image file to write; its suffix chooses the format.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: As `nodes` for the first layer, and if `path` has a suffix
                that matplotlib does not know.
        """
        probabilities, selected = self.features(), self.selected_features()
        figure = figures.new_figure(11, 4)
        of_features, of_weights = figure.subplots(1, 2)
        positions = np.arange(len(probabilities))
        for chosen, color, label in (
            (selected, "tab:orange", "in the median-probability model"),
            (~selected, "tab:blue", "not in it"),
        ):
            of_features.bar(
                positions[chosen], probabilities[chosen], color=color, label=label
            )
        of_features.set(
            xlabel="feature", ylabel="inclusion probability", ylim=(0, 1.02)
        )
        of_features.legend()
        for layer in self._log_odds:
            weights = np.sort(self.weights(layer).ravel())[::-1]
            ranks = np.arange(1, weights.size + 1) / weights.size
            of_weights.plot(ranks, weights, label=layer.name)
        of_weights.axhline(0.5, color="black", linewidth=1)
        of_weights.set(
            xlabel="share of the layer's weights",
            ylabel="inclusion probability",
            ylim=(0, 1.02),
        )
        of_weights.legend()
        if path is not None:
            figures.save(figure, path)
        return figure

    def _find(self, layer: str | keras.layers.Layer | None) -> keras.layers.Layer:
        if layer is None:
            return next(iter(self._log_odds))
        found = [known for known in self._log_odds if layer in (known, known.name)]
        if len(found) != 1:
            raise ValueError(
                f"Expected one of the layers {self.layers}. Where layers of nested "
                f"models share a name, pass the layer itself. Received: {layer!r}"
            )
        return found[0]

    def _of(self, layer: keras.layers.Layer, name: str | None) -> np.ndarray:
        known = self._log_odds[layer]
        if name is None:
            return next(iter(known.values()))
        if name not in known:
            raise ValueError(
                f"Expected one of the weights {sorted(known)} of layer "
                f"'{layer.name}'. Received: name={name!r}"
            )
        return known[name]

    def _kernel(self, layer: str | keras.layers.Layer | None) -> np.ndarray:
        found = self._find(layer)
        if not isinstance(found, _WITH_NODES):
            raise ValueError(
                "Nodes and features are those of dense layers and convolutions. "
                f"Received: layer '{found.name}' of class {type(found).__name__}; its "
                "`weights` have probabilities, too"
            )
        return self._of(found, "kernel")


def inclusion_probabilities(model: keras.Model) -> InclusionProbabilities:
    """The probabilities that weights, nodes and features of a model are in.

    Args:
        model: A built model that has layers with `posterior="spike_and_slab"` or
            `"continuous_spike_and_slab"`; other layers are passed over. Nothing is
            changed.

    Returns:
        The probabilities, with a plot.

    Raises:
        ValueError: If no Bayesian layer of the model has inclusion probabilities, or
            the warm-up of a prior is not over, during which all are 1.

    Example:
        >>> inclusion = keras_bmr.inclusion_probabilities(model)
        >>> np.flatnonzero(inclusion.selected_features())
        >>> inclusion.plot("features.png")

    References:
        Barbieri and Berger, Optimal predictive model selection, Annals of Statistics
        32 (2004), section 2 (the median-probability model).
    """
    log_odds = {
        layer: {name: _log_odds(layer, name) for name in layer.random_weight_names}
        for layer in require_variational_layers(model)
        if layer.has_inclusion_probabilities
    }
    if not log_odds:
        raise ValueError(
            f"No layer of model '{model.name}' has inclusion probabilities. Convert it "
            'with `keras_bmr.to_variational(model, posterior="spike_and_slab")` and '
            "train it; of other posteriors `keras_bmr.ModelReduction` tells what can "
            "be spared."
        )
    return InclusionProbabilities(log_odds)


def _log_odds(layer: Variational, name: str) -> np.ndarray:
    check_warm_up_over(layer.prior(name), f"{layer.name}/{name}")
    return layer.posterior(name).logits.numpy().astype("float64")


def _any(log_odds: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The probability that any entry along the axes is in."""
    return -np.expm1(-np.logaddexp(0.0, log_odds).sum(axis=axes))
