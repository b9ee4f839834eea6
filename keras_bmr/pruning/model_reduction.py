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
from keras_bmr.pruning.counterparts import counterparts
from keras_bmr.pruning.posterior_weights import PosteriorSource, posterior_source
from keras_bmr.pruning.prune_together import prune_together
from keras_bmr.pruning.scored_groups import members_of, score_groups
from keras_bmr.pruning.summary import LayerReduction, layer_totals, table
from keras_bmr.pruning.weight_reduction import WeightReduction

# Below this many weights all is done before a progress bar could be read.
_SILENT_NUM_WEIGHTS = 5_000_000


class ModelReduction:
    """Compares a model with its reductions by their evidence, and changes nothing.

    For each weight with posterior q and prior p, `delta_f` is the log Bayes factor of
    the reduced prior r,

        delta_f = log p(data | r) - log p(data | p) = log E_q[r / p]

    Positive values favour the reduced model. A criterion scores groups of weights
    with the help of it, and a rule chooses those to prune: `threshold`, `sparsity`
    or, if both are None, that of the criterion or of the reduced prior.

    Args:
        source: A built model with Bayesian layers, or posteriors for the weights of
            an ordinary one, such as a fitted `keras_bmr.laplace.Laplace`; see
            `PosteriorSource`.
        reduced_prior: "spike_and_slab" (zero, with a share per layer that is
            inferred), "point_mass" (zero), or a `tfd` distribution of scalars.
        criterion: One of `keras_bmr.pruning.criteria.CRITERIA`, such as "delta_f",
            "opd" or "magnitude", or a `keras_bmr.pruning.Criterion`.
        granularity: "weight"; "block" for four consecutive inputs of one unit of a
            dense layer, where all other weights are left alone; "channel" or "unit"
            for all that makes or reads a channel, biases and normalisation included.
        threshold: Groups with a higher score are pruned. In nats for "delta_f".
        sparsity: Share in [0, 1) of all weights considered that shall be zero, those
            that are already included. Considered are weights with a posterior; of
            channels with a noise gate the gates.
        skip: Names of layers to leave alone.
        ranking: How `sparsity` is met: "global" ranks all layers together, "layer"
            prunes each one to the same share; of its channels, if these are pruned.
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
        source: keras.Model | PosteriorSource,
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
        checks.check_rule(self.criterion, threshold, sparsity, ranking)
        source = posterior_source(source)
        found = groups.considered_groups(source, granularity, skip)
        self._members = members_of(found)
        self._model = source.model
        num_weights = sum(math.prod(weight.shape) for weight in self._evident())
        if verbose == "auto":
            verbose = num_weights > _SILENT_NUM_WEIGHTS
        progress = keras.utils.Progbar(num_weights, verbose=int(verbose))
        scored = score_groups(
            source.model, found, self.reduced_prior, self.criterion, progress.add
        )
        chosen = decisions.choose(
            scored, self.reduced_prior, self.criterion, threshold, sparsity, ranking
        )
        for groups_of_layer, pruned in zip(scored, chosen, strict=True):
            for member in groups_of_layer.groups.members:
                kept = groups_of_layer.groups.expand(member, ~pruned)
                member.keep = member.keep & kept

    def _evident(self) -> list[WeightReduction]:
        """The weights that have posteriors; others go along with them."""
        return [member for member in self._members if member.has_posterior]

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
        return layer_totals(self._evident())

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

        left = [weight.delta_f[weight.alive] for weight in self._evident()]
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
        targets = counterparts(
            [member.weight for member in self._members], self._model, model
        )
        checks.check_something_left(
            (member.weight, member.keep) for member in self._members
        )
        if write_back:
            checks.check_writable(self._evident(), self.reduced_prior)
        prune_together(
            model,
            targets,
            self._members,
            self.reduced_prior if write_back else None,
        )

    def _find(
        self, layer: str | keras.layers.Layer, name: str | None
    ) -> WeightReduction:
        found = [
            weight
            for weight in self._members
            if layer in (weight.weight.layer.name, weight.weight.layer)
            and name in (None, weight.weight.name)
        ]
        if not found or any(w.weight.layer is not found[0].weight.layer for w in found):
            known = [weight.weight.label for weight in self._members]
            raise ValueError(
                f"Expected a layer and one of its weights out of {known}. Where layers "
                "of nested models share a name, pass the layer itself. Received: "
                f"layer={layer!r}, weight={name!r}"
            )
        return found[0]
