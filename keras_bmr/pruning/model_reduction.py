"""The reduction of a whole model: what the evidence says, weight by weight."""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from tensorflow_probability import distributions as tfd

from keras_bmr.pruning import (
    checks,
    criteria,
    decisions,
    defaults,
    groups,
    reduced_priors,
)
from keras_bmr.pruning.posterior_weights import PosteriorWeight, posterior_weights
from keras_bmr.pruning.summary import LayerReduction, table
from keras_bmr.pruning.weight_reduction import (
    WeightReduction,
    analyse_weight,
    by_layer,
    reduce_weight,
)

# Below this many weights all is done before a progress bar could be read.
_SILENT_NUM_WEIGHTS = 5_000_000


class ModelReduction:
    """Compares a Bayesian model with its reductions, and changes nothing.

    For each weight with posterior q and prior p, `delta_f` is the log Bayes factor of
    the reduced prior r,

        delta_f = log p(data | r) - log p(data | p) = log E_q[r / p]

    Positive values favour the reduced model. A criterion scores groups of weights
    with the help of it, and a rule chooses those to prune: `threshold`, `sparsity`
    or, if both are None, the rule of the reduced prior.

    Args:
        model: A built model with Bayesian layers.
        reduced_prior: "spike_and_slab" (zero, with a share per layer that is
            inferred), "point_mass" (zero), or a `tfd` distribution of scalars.
        criterion: "delta_f", "signal_to_noise", "magnitude" or a
            `keras_bmr.pruning.Criterion`.
        granularity: "weight", or "block" for four consecutive inputs of one unit of
            a dense layer; weights that have no such blocks are left alone.
        threshold: Groups with a higher score are pruned. In nats for "delta_f".
        sparsity: Share in [0, 1) of all weights considered that shall be zero, those
            that are already included.
        skip: Names of layers to leave alone.
        ranking: How `sparsity` is met: "global" ranks all layers together, "layer"
            prunes each one to the same share.
        verbose: Whether to show a progress bar; "auto" does for large models.

    Raises:
        ValueError: If an argument is invalid, the model has no Bayesian layer, its
            posterior has NaN or infinite parameters or is improper under the reduced
            prior.
        NotImplementedError: If no reduction is known for the distributions.

    Example:
        >>> reduction = keras_bmr.ModelReduction(model, threshold=0.0)
        >>> reduction.summary()
        >>> reduction.apply(model)

    References:
        Friston, Parr and Zeidman, Bayesian model reduction, arXiv 1805.07092,
        equations 3 to 5.
    """

    def __init__(
        self,
        model: keras.Model,
        reduced_prior: str
        | tfd.Distribution
        | reduced_priors.ReducedPrior = defaults.REDUCED_PRIOR,
        criterion: str | criteria.Criterion = defaults.CRITERION,
        granularity: str | type[groups.ParameterGroups] = defaults.GRANULARITY,
        threshold: float | None = None,
        sparsity: float | None = None,
        skip: Sequence[str] = (),
        ranking: str = "global",
        verbose: str | bool = "auto",
    ) -> None:
        self.reduced_prior = reduced_priors.get(reduced_prior)
        self.criterion = criteria.get(criterion)
        self.threshold = threshold
        self.sparsity = sparsity
        groups_class = groups.get(granularity)
        self._ranking = ranking
        checks.check_rule(self.criterion, threshold, sparsity, ranking)
        considered = groups.considered_weights(model, granularity, skip)
        self._layout = _layout(posterior_weights(model))
        # By the position among the weights of the model.
        self._weights: dict[int, WeightReduction] = {}
        num_weights = sum(math.prod(source.shape) for source in considered.values())
        if verbose == "auto":
            verbose = num_weights > _SILENT_NUM_WEIGHTS
        progress = keras.utils.Progbar(num_weights, verbose=int(verbose))
        for index, source in considered.items():
            self._weights[index] = analyse_weight(
                source, self.reduced_prior, self.criterion, groups_class
            )
            progress.add(math.prod(source.shape))
        self._decide()

    def _decide(self) -> None:
        """Chooses the groups to prune."""
        weights = list(self._weights.values())
        if self.sparsity is not None:
            scopes = [weights] if self._ranking == "global" else by_layer(weights)
            chosen = [
                groups_to_prune
                for scope in scopes
                for groups_to_prune in decisions.target_sparsity(scope, self.sparsity)
            ]
        elif self.threshold is not None:
            chosen = decisions.above_thresholds(
                weights, [self.threshold] * len(weights)
            )
        else:
            thresholds: list[float] = []
            for layer in by_layer(weights):
                threshold = self.reduced_prior.threshold(decisions.scores_left(layer))
                thresholds += [threshold] * len(layer)
            chosen = decisions.above_thresholds(weights, thresholds)
        for weight, groups_to_prune in zip(weights, chosen, strict=True):
            weight.prune_groups(groups_to_prune)

    # --- Results ---

    def delta_f(
        self, layer: str | keras.layers.Layer, weight: str | None = None
    ) -> np.ndarray:
        """The log Bayes factor of each weight.

        Args:
            layer: The layer or its name.
            weight: Name of the weight; None stands for the layer's first.

        Returns:
            Array with the shape of the weight, in nats; 0 where a weight was pruned
            before. Positive favours the reduced model.

        Raises:
            ValueError: If there is no such weight, or several layers of nested
                models have that name.
        """
        return self._find(layer, weight).delta_f

    def keep(
        self, layer: str | keras.layers.Layer, weight: str | None = None
    ) -> np.ndarray:
        """Which weights would be left.

        Args:
            layer: The layer or its name.
            weight: Name of the weight; None stands for the layer's first.

        Returns:
            Boolean array with the shape of the weight, False where it is to be
            pruned or was before.

        Raises:
            ValueError: If there is no such weight, or several layers of nested
                models have that name.
        """
        return self._find(layer, weight).keep

    def layers(self) -> list[LayerReduction]:
        """Totals of each layer.

        Returns:
            One entry per layer that was considered, in the order of the model.
        """
        return [
            LayerReduction(
                layer=weights[0].source.layer.name,
                num_weights=sum(weight.keep.size for weight in weights),
                num_kept=sum(int(np.count_nonzero(w.keep)) for w in weights),
                log_bayes_factor=sum(weight.log_bayes_factor() for weight in weights),
            )
            for weights in by_layer(list(self._weights.values()))
        ]

    @property
    def log_bayes_factor(self) -> float:
        """Log Bayes factor in nats of the model with all chosen weights reduced."""
        return sum(layer.log_bayes_factor for layer in self.layers())

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Prints a table of the layers.

        Args:
            print_fn: Called with each line.
        """
        for line in table(self.layers()):
            print_fn(line)

    def plot(self, path: str | pathlib.Path | None = None) -> Any:
        """Plots a histogram of delta_f and the share of each layer that is kept.

        Args:
            path: Image file to write; its suffix chooses the format.

        Returns:
            The `matplotlib.figure.Figure`.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If `path` has a suffix that matplotlib does not know.
        """
        from keras_bmr.pruning.plots import plot_reduction

        left = [weight.delta_f[weight.alive] for weight in self._weights.values()]
        return plot_reduction(np.concatenate(left), self.layers(), path)

    # --- Applying ---

    def apply(self, model: keras.Model, write_back: bool = False) -> None:
        """Prunes a model in place.

        Args:
            model: The model that was analysed, or a copy of it.
            write_back: Whether the weights that are kept get their posterior under
                the reduced prior, too.

        Raises:
            ValueError: If `model` has other layers, a layer would be left without
                any weight, or `write_back` is asked of a point mass. The model is
                not changed then.
        """
        targets = posterior_weights(model)
        if _layout(targets) != self._layout:
            raise ValueError(
                f"Model '{model.name}' is not the one that was analysed. Expected the "
                f"weights {self._layout}. Received: {_layout(targets)}"
            )
        weights = list(self._weights.values())
        checks.check_something_left((weight.source, weight.keep) for weight in weights)
        if write_back:
            checks.check_writable(weights, self.reduced_prior)
        for index, weight in self._weights.items():
            target = targets[index]
            if write_back:
                reduced = reduce_weight(target, self.reduced_prior).posterior
            target.prune(weight.keep)
            if write_back:
                target.assign_posterior(reduced)

    def _find(
        self, layer: str | keras.layers.Layer, name: str | None
    ) -> WeightReduction:
        found = [
            weight
            for weight in self._weights.values()
            if layer in (weight.source.layer.name, weight.source.layer)
            and name in (None, weight.source.name)
        ]
        if not found or any(w.source.layer is not found[0].source.layer for w in found):
            known = [weight.source.label for weight in self._weights.values()]
            raise ValueError(
                f"Expected a layer and one of its weights out of {known}. Where layers "
                "of nested models share a name, pass the layer itself. Received: "
                f"layer={layer!r}, weight={name!r}"
            )
        return found[0]


def _layout(sources: Sequence[PosteriorWeight]) -> list[tuple[str, tuple[int, ...]]]:
    return [(source.label, source.shape) for source in sources]
